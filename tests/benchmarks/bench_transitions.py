"""Films that dissolve, or look as if, measured and judged: `… CORPUS` of `tests.support.corpus --transitions HALF`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import neural_cuts
from data_pipeline.analysis import analyse
from data_pipeline.recipe import NeuralSettings, ShotSettings
from data_pipeline.shots import find_shots
from data_pipeline.signals import transition
from groundwork import media
from tests.support.corpus import labels
from tests.support.corpus.graded import DISSOLVE, HARD
from tests.support.corpus.judge import BESIDE, TOLERANCE, Rows, rates

SHOTS = ShotSettings(min_shot_seconds=0.3)
SCORE = 0.8  # of transition_score, from which the policies reject
_WINDOW_SECONDS, _STEP_SECONDS = 2.0, 1.0  # of the passages that are judged like clips
_SHOWN, _SEEN = 100, 50  # frames that the network is shown at once, and those in the middle that it judges

Series = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """`cuts`: frames that begin a shot at a blow; `passages`: first and last frame (exclusive) of gradual changes."""

    cuts: list[int]
    passages: list[tuple[int, int]]


def measure(path: Path, *, neural: bool) -> dict[str, np.ndarray]:
    """The columns of a film, and what TransNetV2 says of every frame where it is asked."""
    series = dict(analyse(path, header=media.probe(path)).series())
    if neural:
        series |= whole_network(path)
    return series


def whole_network(path: Path) -> dict[str, np.ndarray]:
    """`cut_probability` of every frame: windows of 100 frames of which the middle 50 count, as its authors do."""
    import torch

    started = time.process_time()
    tiny = [media.cover(frame.image, height=27, width=48) for frame in media.read_frames(path, short_side=27)]
    count = len(tiny)
    edge = (_SHOWN - _SEEN) // 2
    padded = np.stack([tiny[0]] * edge + tiny + [tiny[-1]] * (edge + _SEEN))
    told = []
    for first in range(0, count, _SEEN):
        with torch.inference_mode():
            scores, _ = neural_cuts._network()(torch.from_numpy(padded[first : first + _SHOWN])[None])
        told.append(torch.sigmoid(scores)[0, edge : edge + _SEEN, 0].numpy())
    return {
        neural_cuts.COLUMN: np.concatenate(told)[:count],
        "network_milliseconds": np.full(count, 1000 * (time.process_time() - started) / count),
    }


def boundaries(series: Series, settings: ShotSettings) -> Found:
    """What the shots of a film say."""
    shots = find_shots(series, settings)
    cuts = [int(index) for index in np.flatnonzero(shots.starts & ~shots.between) if index]
    edges = np.flatnonzero(np.diff(shots.between, prepend=False, append=False)).tolist()
    return Found(cuts, list(zip(edges[::2], edges[1::2], strict=True)))


def judge(found: Mapping[str, Found], truth: Rows) -> dict[str, Any]:
    """Hard cuts within one frame; a dissolve or fade by one boundary within half its length of its middle."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    false: Counter[str] = Counter()
    by_file: dict[str, Rows] = defaultdict(list)
    for row in truth:
        by_file[row["file"]].append(row)
    for file, one in found.items():
        cuts, middles = list(one.cuts), [((first + stop) // 2, first, stop) for first, stop in one.passages]
        for row in by_file[file]:
            hard = row["kind"] in HARD
            kind = "hard" if hard else DISSOLVE if row["kind"] == DISSOLVE else "fades"
            if hard:
                near = [(cut, cut, cut) for cut in cuts if abs(cut - row["frame"]) <= TOLERANCE]
                cuts = [cut for cut in cuts if (cut, cut, cut) not in near[:1]]
            else:
                near = [passage for passage in middles if row["first"] <= passage[0] <= row["stop"]]
                near = near or [(cut, cut, cut) for cut in cuts if row["first"] <= cut <= row["stop"]]
                middles = [one for one in middles if one not in near[:1]]
                cuts = [cut for cut in cuts if (cut, cut, cut) not in near[:1]]
            counts[kind]["hit" if near else "missed"] += 1
        counts["hard"]["wrong"] += len(cuts)
        counts[DISSOLVE]["wrong"] += len(middles)
        false[file.rpartition("_")[0]] += len(cuts) + len(middles)
    return {
        **{kind: rates(count["hit"], count["wrong"], count["missed"]) for kind, count in counts.items()},
        "false_by_kind": dict(false),
        "films_by_kind": dict(Counter(file.rpartition("_")[0] for file in found)),
    }


def windows(series: Series, rows: Rows) -> Iterator[tuple[bool, float]]:
    """Of passages of two seconds, whatever the shots: whether a gradual change is in it, and its `transition_score`."""
    seconds = series["seconds"]
    for start in np.arange(0.0, max(0.0, float(seconds[-1]) - _WINDOW_SECONDS), _STEP_SECONDS):
        first, stop = np.searchsorted(seconds, [start, start + _WINDOW_SECONDS])
        inside = [min(stop, row["stop"]) - max(first, row["first"]) for row in rows if row["kind"] not in HARD]
        longest = max(inside, default=0)
        if not 0 < longest <= BESIDE:
            score = transition.score({name: values[first:stop] for name, values in series.items()})
            yield longest > BESIDE, score["transition_score"]


def passages(measured: Mapping[str, Series], truth: Rows) -> dict[str, Any]:
    """Precision and recall of the rule on `transition_score` over all windows."""
    counts: Counter[str] = Counter()
    for file, series in measured.items():
        for meant, score in windows(series, [row for row in truth if row["file"] == file]):
            fires = score > SCORE
            counts["hit" if meant and fires else "missed" if meant else "wrong" if fires else "right"] += 1
    return {**rates(counts["hit"], counts["wrong"], counts["missed"]), "right": counts["right"]}


def cascade(series: Series, threshold: float) -> Found:
    """Cuts and gradual changes by TransNetV2 alone, asked about every frame."""
    sure = np.concatenate([[False], series[neural_cuts.COLUMN] >= threshold, [False]])
    edges = np.flatnonzero(np.diff(sure)).tolist()
    runs = list(zip(edges[::2], edges[1::2], strict=True))
    return Found([stop for first, stop in runs if stop - first <= 2], [run for run in runs if run[1] - run[0] > 2])


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """For people."""
    lines = [f"{'':<40}{'precision':>10}{'recall':>9}{'F1':>9}   hit wrong missed"]
    for way, found in figures.items():
        for name in (name for name, row in found.items() if isinstance(row, Mapping) and "f1" in row):
            row = found[name]
            shares = (row[key] for key in ("precision", "recall", "f1"))
            numbers = "".join(f"{'-' if share is None else format(share, '.3f'):>9}" for share in shares)
            lines.append(f"{f'{way}: {name}':<40}{numbers}   {row['hit']:>3} {row['wrong']:>5} {row['missed']:>6}")
        if "false_by_kind" in found:
            lines.append(f"    false boundaries {found['false_by_kind']} of films {found['films_by_kind']}")
    return "\n".join(lines)


def measured_films(corpus: Path, files: Sequence[str], *, neural: bool, processes: int) -> dict[str, Series]:
    """All films, side by side."""
    work: Callable[[Path], dict[str, np.ndarray]] = partial(measure, neural=neural)
    with ProcessPoolExecutor(processes) as pool:
        return dict(zip(files, pool.map(work, [corpus / "films" / file for file in files]), strict=True))


def main() -> None:
    """Print the table on standard error and the figures as JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_transitions", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--neural", action="store_true", help="ask TransNetV2 about every frame too")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    truth = labels.read(options.corpus / "labels")
    files = [row["file"] for row in truth["files"] if not row["damage"]]
    measured = measured_films(options.corpus, files, neural=options.neural, processes=options.processes)
    ways = {"shots": SHOTS, "without dissolves": SHOTS.model_copy(update={"dissolves": False})}
    figures: dict[str, Any] = {
        way: judge({file: boundaries(series, settings) for file, series in measured.items()}, truth["boundaries"])
        for way, settings in ways.items()
    }
    figures["passages of 2 s"] = {"transition": passages(measured, truth["boundaries"])}
    if options.neural:
        threshold = NeuralSettings().threshold
        told = {file: cascade(series, threshold) for file, series in measured.items()}
        figures["TransNetV2 on all frames"] = judge(told, truth["boundaries"])
        spent = np.concatenate([series["network_milliseconds"] for series in measured.values()])
        figures["TransNetV2 on all frames"]["milliseconds_per_frame"] = round(float(spent.mean()), 2)
    print(table(figures), file=sys.stderr)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
