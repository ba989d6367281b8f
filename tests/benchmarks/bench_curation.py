"""CPU seconds per hour of video of our curation and of three peers, on the same films in one run.

python -m tests.benchmarks.bench_curation [--data-juicer VENV] [--nemo VENV] [--seconds 60] [--rounds 1]

Each is a command whose whole process tree is measured (bench_curation_meter says how), one after the other in every
round, with one thread per decoder. A command is run on two tiny films too: what that takes is its start, told
apart and taken off, so that the rest grows with the hours of video. `ratio` is peer / ours: above 1, ours is cheaper.
Peers live in environments of their own: without a path they are left out and the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_curation_films import make_films
from tests.benchmarks.bench_curation_meter import Measured, measure
from tests.support.corpus.__main__ import footage_folder

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RECIPE = {
    "name": "bench",
    "buckets": [{"num_frames": 17, "height": 96, "width": 144}],
    "workers": {"analyse": 2, "encode": 1, "cpus": 0.5},
}
NOTHING_KEPT = {"rules": {"nothing_is_kept": {"score": "luma_mean", "below": 1e9}}}
# The least that is more than one, of the thirteen clips that forty seconds give; latents are part of it.
A_TENTH_KEPT = {"clips": {"max_clips": 2}, "duplicates": {"mode": "off"}, "media": {"mode": "copy"}}


@dataclass(frozen=True)
class Contender:
    """`commands(films, folder)`: run one after the other they do the work; `per_film`: one command per film, so that
    its start is paid for each."""

    name: str
    commands: Callable[[Sequence[str], Path], list[list[str]]]
    per_film: bool = False


@dataclass(frozen=True)
class Cost:
    """CPU seconds on the films, of the start alone; what the films add by kind of process; peak memory."""

    cpu_seconds: float
    start_seconds: float
    grown_by_kind: dict[str, float]
    peak_bytes: int


def contenders(options: argparse.Namespace) -> list[Contender]:
    """Ours, our loops without Ray, the common practice, and those peers whose environment is given."""
    found = [
        Contender("ours", _curate(NOTHING_KEPT)),
        Contender("ours with clips", _curate(A_TENTH_KEPT)),
        *(Contender(name, _loop(name)) for name in ("bare", "detect", "analyse")),
        Contender("scenedetect", _scenedetect, per_film=True),
        *(Contender(name, _loop(name)) for name in ("blur", "motion", "hash", "borders", "cut")),
    ]
    if options.data_juicer:
        words = ("detect", "motion", "header", "split", *(("motion-default",) if options.slow else ()))
        found += [Contender(f"data-juicer {word}", _data_juicer(options.data_juicer, word)) for word in words]
    if options.nemo:
        found.append(Contender("nemo", _script(options.nemo, "bench_curation_nemo.py")))
    return [contender for contender in found if not options.only or contender.name in options.only.split(",")]


def _curate(settings: Mapping[str, Any]) -> Callable[[Sequence[str], Path], list[list[str]]]:
    def commands(films: Sequence[str], folder: Path) -> list[list[str]]:
        recipe = folder / "recipe.yaml"
        recipe.write_text(json.dumps({**RECIPE, **settings}))
        words = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--json", "--out", str(folder / "dataset")]
        return [words + [word for film in films for word in ("--input", film)]]

    return commands


def _loop(name: str) -> Callable[[Sequence[str], Path], list[list[str]]]:
    return lambda films, folder: [[sys.executable, "-m", "tests.benchmarks.bench_curation_loops", name, *films]]


def _scenedetect(films: Sequence[str], folder: Path) -> list[list[str]]:
    command = [str(Path(sys.executable).parent / "scenedetect"), "-q", "-o", str(folder)]
    return [[*command, "-i", film, "detect-adaptive", "list-scenes", "-q"] for film in films]


def _script(venv: Path, name: str, *words: str) -> Callable[[Sequence[str], Path], list[list[str]]]:
    return lambda films, folder: [[str(venv / "bin" / "python"), str(HERE / name), *words, *films]]


def _data_juicer(venv: Path, word: str) -> Callable[[Sequence[str], Path], list[list[str]]]:
    return _script(venv, "bench_curation_data_juicer.py", word)


def run(contender: Contender, films: Sequence[str], options: argparse.Namespace) -> Measured:
    """All its commands on the films, added up. Each has a folder and a home of its own."""
    with tempfile.TemporaryDirectory(prefix="cvx-bench-", dir="/tmp" if Path("/tmp").is_dir() else None) as name:
        environment = {word: value for word, value in os.environ.items() if not word.startswith("RAY_")}
        environment |= {"PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", "HOME": name}
        environment |= {"OPENCV_FFMPEG_CAPTURE_OPTIONS": "threads;1"}
        if options.tools:
            environment["PATH"] = f"{options.tools}{os.pathsep}{environment['PATH']}"
        made = [measure(c, cwd=ROOT, environment=environment) for c in contender.commands(films, Path(name))]
        kinds = {kind: sum(m.by_kind[kind] for m in made) for kind in made[0].by_kind}
        return Measured(sum(m.cpu_seconds for m in made), kinds, max(m.peak_bytes for m in made))


def costs(options: argparse.Namespace, tiny: Sequence[Path], films: Sequence[Path]) -> dict[str, Cost]:
    """Round by round, each contender in turn; medians."""
    starts: dict[str, list[float]] = {}
    begun: dict[str, Measured] = {}
    totals: dict[str, list[Measured]] = {}
    for _ in range(options.rounds):
        for contender in contenders(options):
            begin = [str(film) for film in tiny]
            begun[contender.name] = run(contender, begin, options)
            start = begun[contender.name].cpu_seconds
            whole = run(contender, [*begin, *(str(film) for film in films)], options)
            # One command per film: each film of the longer run pays for its start again.
            start *= (len(begin) + len(films)) / len(begin) if contender.per_film else 1
            starts.setdefault(contender.name, []).append(start)
            totals.setdefault(contender.name, []).append(whole)
            print(f"{contender.name:<24}{whole.cpu_seconds:8.1f} CPU s, start {start:5.1f}", file=sys.stderr)
    return {
        name: Cost(
            statistics.median(one.cpu_seconds for one in totals[name]),
            statistics.median(starts[name]),
            {kind: round(own - begun[name].by_kind[kind], 2) for kind, own in totals[name][-1].by_kind.items()},
            max(one.peak_bytes for one in totals[name]),
        )
        for name in totals
    }


def profiles(found: dict[str, Cost], *, hours: float) -> dict[str, Any]:
    """CPU seconds per hour of video, and ratios to ours, per profile. Sums of single filters decode once for each."""

    def per_hour(*names: str) -> float | None:
        if not all(name in found for name in names):
            return None
        return round(sum(max(0.0, found[name].cpu_seconds - found[name].start_seconds) for name in names) / hours, 1)

    filters = ("scenedetect", "blur", "motion", "hash", "borders")
    peers = {
        "detect": {"scenedetect": per_hour("scenedetect"), "data-juicer": per_hour("data-juicer detect")},
        "detect and filters": {
            "scenedetect and a decode per filter": per_hour(*filters),
            "data-juicer": per_hour("data-juicer detect", "data-juicer motion", "data-juicer header"),
            "data-juicer, motion as it comes": per_hour("data-juicer detect", "data-juicer motion-default"),
        },
        "detect, filters and clips": {
            "scenedetect and a decode per filter": per_hour(*filters, "cut"),
            "data-juicer": per_hour("data-juicer split", "data-juicer motion", "data-juicer header"),
            "nemo": per_hour("nemo"),
        },
    }
    # The command measures all signals always, so detection alone is the loop without Ray. Peers write the clips of
    # all shots, as their pipelines cut before they filter; ours writes the tenth that is kept.
    ours = {"detect": per_hour("detect"), "detect and filters": per_hour("ours")}
    ours["detect, filters and clips"] = per_hour("ours with clips")
    return {profile: _profile(ours.get(profile), values) for profile, values in peers.items()}


def _profile(ours: float | None, peers: dict[str, float | None]) -> dict[str, Any]:
    measured = {name: value for name, value in peers.items() if value is not None}
    return {
        "ours_cpu_seconds_per_hour": ours,
        **{
            name: {"cpu_seconds_per_hour": value, **({"ratio": round(value / ours, 2)} if ours else {})}
            for name, value in measured.items()
        },
        "not_measured": sorted(set(peers) - set(measured)),
    }


def overhead(found: dict[str, Cost]) -> dict[str, float]:
    """What Ray and our rows add to the same pass in a plain loop, and what the signals add to the bare decode."""
    if not {"ours", "analyse", "bare"} <= set(found):
        return {}
    grown = {name: found[name].cpu_seconds - found[name].start_seconds for name in ("ours", "analyse", "bare")}
    return {
        "ray_and_rows_over_loop": round(grown["ours"] / grown["analyse"] - 1, 4),
        "decoding_process_over_loop": round(found["ours"].grown_by_kind["decoding"] / grown["analyse"] - 1, 4),
        "signals_over_bare_decode": round(grown["analyse"] / grown["bare"] - 1, 4),
        "ours_start_cpu_seconds": round(found["ours"].start_seconds, 1),
    }


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_curation", description=__doc__)
    parser.add_argument("--data-juicer", type=Path, help="environment with py-data-juicer 1.6.1")
    parser.add_argument("--nemo", type=Path, help="environment with nemo-curator 1.4.0")
    parser.add_argument("--tools", type=Path, help="folder with ffmpeg and ffprobe, which both peers call")
    parser.add_argument("--slow", action="store_true", help="data-juicer's motion filter at full size too")
    parser.add_argument("--only", default="", help="these contenders alone, by name, with commas between")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the films, all together")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--films", type=Path, help="folder that keeps the films from run to run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cvx-bench-films-") as name:
        folder = options.films or Path(name)
        tiny, films, seconds = make_films(folder, seconds=options.seconds, footage=footage_folder(None))
        found = costs(options, tiny, films)
        result = {
            "video_seconds": seconds,
            "rounds": options.rounds,
            "contenders": {
                name: {
                    "cpu_seconds": round(cost.cpu_seconds, 2),
                    "start_cpu_seconds": round(cost.start_seconds, 2),
                    "grown_by_kind": cost.grown_by_kind,
                    "peak_mib": cost.peak_bytes >> 20,
                }
                for name, cost in found.items()
            },
            "profiles": profiles(found, hours=seconds / 3600),
            "overhead": overhead(found),
        }
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
