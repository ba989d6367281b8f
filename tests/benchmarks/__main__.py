"""Runs every benchmark with its peer in one go: benchmarks.json, and a table of the ratios."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = {
    "autoencoder, toy": ["bench_autoencoder", "--size", "toy"],
    "denoiser, 2B width, one layer": ["bench_denoiser", "--layers", "1", "--size", "2x24x32", "--threads", "1"],
    "training step, against a plain loop": ["bench_training", "--shapes", "C", "--dtypes", "fp32", "--rounds", "2"],
    "curation, against scenedetect and a decode per filter": ["bench_curation", "--seconds", "20"],
}


def measure(words: list[str]) -> dict[str, Any]:
    """Run one benchmark in a process of its own; its standard output is one JSON document."""
    command = [sys.executable, "-m", f"tests.benchmarks.{words[0]}", *words[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def ratios(value: Any, path: str = "") -> dict[str, float]:
    """Every number of a result whose name says that it is a ratio to the peer."""
    if isinstance(value, list):
        value = {
            str(row.get("dtype", index)) + " " + str(row.get("direction", "")): row for index, row in enumerate(value)
        }
    if not isinstance(value, dict):
        return {path: value} if "ratio" in path.rsplit(".", 1)[-1] else {}
    found: dict[str, float] = {}
    for name, inner in value.items():
        found |= ratios(inner, f"{path}.{name}" if path else str(name))
    return found


def main() -> None:
    """Write benchmarks.json and print the table; above 1 means that ours is faster or smaller."""
    results = {name: measure(words) for name, words in BENCHMARKS.items()}
    Path("benchmarks.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, result in results.items():
        print(f"\n{name} (peer / ours: above 1, ours is faster or smaller)")
        for path, ratio in ratios(result).items():
            print(f"  {path:<48} {ratio:8.2f}")


if __name__ == "__main__":
    main()
