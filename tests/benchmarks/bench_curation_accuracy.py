"""Curates a graded corpus with the real command on Ray and prints how right it was: `… CORPUS [--policy NAME]`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from groundwork.storage import Storage, open_storage
from tests.support.corpus import judge, labels
from tests.support.corpus.dataset import Truth, read_films, read_groups, read_spans

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name: graded
variant: toy
shots: {{detector: adaptive, threshold: 3.0, min_content: 15.0, min_shot_seconds: 0.3}}
clips: {{fps: 8, trim_frames: 1, max_clips: {max_clips}}}
buckets:
  - {{num_frames: 17, height: 96, width: 144}}
  - {{num_frames: 9, height: 96, width: 144}}
policy: {policy}
workers: {{analyse: 2, encode: 1, cpus: 0.5}}
"""
NOT_COMPARED = ("work/", "timings/", "report/", "manifest.json", "card.md")


def curation(inputs: Sequence[str], out: Path, *, policy: str, max_clips: int) -> subprocess.Popen[str]:
    """Start the real command in a process group of its own; its standard output is the summary."""
    recipe = out.with_name(f"{out.name}.yaml")
    recipe.write_text(RECIPE.format(policy=policy, max_clips=max_clips))
    command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--json", "--out", str(out)]
    command += [word for given in inputs for word in ("--input", given)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def finish(run: subprocess.Popen[str]) -> dict[str, Any]:
    """The summary of a run that ends well."""
    text, _ = run.communicate()
    if run.returncode:
        raise RuntimeError(f"curation ended with {run.returncode}")
    summary: dict[str, Any] = json.loads(text)
    return summary


def judge_dataset(out: Storage, corpus: Path, *, only: set[str] | None = None) -> dict[str, Any]:
    """All figures of a finished dataset; `only` these files of the corpus were curated."""
    truth = labels.read(corpus / "labels")
    if only is not None:
        truth = {name: [row for row in rows if row["file"] in only] for name, rows in truth.items()}
    videos = out.read_table("videos").to_pylist()
    rules = out.read_json("manifest.json")["policy"]["rules"]
    films = read_films(out, videos)
    spans = read_spans(out, films, Truth(truth))
    whole = {row["file"] for row in truth["files"] if not row["damage"]}
    return {
        "cuts": judge.cut_figures([f for f in films if f.file in whole and f.status == "ok"], truth["boundaries"]),
        "kept_across": judge.crossing_figures(spans),
        "labels": judge.label_figures(spans),
        "reasons": judge.reason_figures(spans, rules),
        "near_copies": judge.copy_figures(spans, truth["files"], read_groups(out)),
        "exact_copies": judge.exact_copy_figures(truth["files"], videos),
        "lost": judge.loss_figures(out, truth["files"], videos),
    }


def content(out: Storage) -> dict[str, str]:
    """Checksum of every file that must be equal from run to run."""
    return {path: out.checksum(path) for path in out.list() if not path.startswith(NOT_COMPARED)}


def staged(folder: Path) -> dict[str, int]:
    """Finished pieces of work and when each was written."""
    pieces = (path for path in (folder / "work").rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in pieces if "analysis" in path.parts}


def kill_and_resume(films: list[str], out: Path, *, share: float, policy: str, max_clips: int) -> dict[str, Any]:
    """Kill -9 when `share` of the films are measured, run again: what was done twice?"""
    run = curation(films, out, policy=policy, max_clips=max_clips)
    while len(staged(out)) < share * len(films):
        if run.poll() is not None:
            raise RuntimeError("the run ended before it could be killed")
        time.sleep(0.05)
    started = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.wait()
    psutil.wait_procs(started, timeout=60)  # what Ray started ends by itself when its head is gone
    before = staged(out)
    summary = finish(curation(films, out, policy=policy, max_clips=max_clips))
    after = staged(out)
    return {
        "killed_at": share,
        "done_before": len(before),
        "done_twice": sum(after.get(path) != stamp for path, stamp in before.items()),
        "dataset_hash": summary["dataset_hash"],
    }


def resume_figures(films: list[str], folder: Path, *, policy: str, max_clips: int) -> dict[str, Any]:
    """Two runs byte for byte, and runs killed at 25, 50 and 75 per cent."""
    runs = [folder / "first", folder / "second"]
    hashes = [finish(curation(films, run, policy=policy, max_clips=max_clips))["dataset_hash"] for run in runs]
    equal = hashes[0] == hashes[1] and content(open_storage(runs[0])) == content(open_storage(runs[1]))
    killed = [
        kill_and_resume(films, folder / f"killed_{round(100 * share)}", share=share, policy=policy, max_clips=max_clips)
        for share in (0.25, 0.5, 0.75)
    ]
    return {
        "files": len(films),
        "second_run_equal": equal,
        "killed": [{**one, "equal": one.pop("dataset_hash") == hashes[0]} for one in killed],
    }


def corpus_files(corpus: Path) -> list[str]:
    """The films in the order of the plan: the first ones hold a little of everything."""
    return [row["file"] for row in pq.read_table(corpus / "labels" / "files.parquet").to_pylist()]


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'':<24}{'precision':>10}{'recall':>9}{'F1':>8}   hit wrong missed"]
    rows = {f"cuts: {name}": figures["cuts"][name] for name in ("hard", "jump_cuts", "fades", "dissolves")}
    rows |= {f"rule: {name}": row for name, row in figures["reasons"].items()}
    rows |= {"exact copies": figures["exact_copies"], "near copies": figures["near_copies"]}
    for name, row in rows.items():
        numbers = "".join(
            f"{'–' if row[key] is None else format(row[key], '.3f'):>9}" for key in ("precision", "recall", "f1")
        )
        lines.append(f"{name:<24}{numbers}   {row['hit']:>3} {row['wrong']:>5} {row['missed']:>6}")
    for name, row in figures["labels"].items():
        lines.append(f"label {name:<18} {row['rejected']:>4} of {row['clips']:>4} clips rejected  {row['reasons']}")
    lines += [f"kept across cuts   {figures['kept_across']}", f"lost               {figures['lost']}"]
    if "resume" in figures:
        lines.append(f"resume             {figures['resume']}")
    return "\n".join(lines)


def main() -> None:
    """Print the table on standard error and the figures as JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_curation_accuracy", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--policy", default="toy")
    parser.add_argument("--max-clips", type=int, default=8, help="kept clips that are encoded; all are judged")
    parser.add_argument("--dataset", type=Path, help="judge this dataset of the corpus instead of making one")
    parser.add_argument("--resume-files", type=int, default=16, help="films for the killed runs; 0: none")
    options = parser.parse_args()
    settings = {"policy": options.policy, "max_clips": options.max_clips}
    with tempfile.TemporaryDirectory(prefix="cvx-accuracy-") as folder:
        out = options.dataset or Path(folder) / "all"
        if options.dataset is None:
            finish(curation([str(options.corpus / "films")], out, **settings))
        figures = judge_dataset(open_storage(out), options.corpus)
        if options.resume_files:
            films = [str(options.corpus / "films" / name) for name in corpus_files(options.corpus)]
            figures["resume"] = resume_figures(films[: options.resume_files], Path(folder), **settings)
    print(table(figures), file=sys.stderr)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
