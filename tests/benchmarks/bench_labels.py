"""Heads on a frozen encoder beside the measured labels, on held-out films of a graded corpus: `… CORPUS OUT`.

The corpus' injected defects stand for those of the six labels that they truly are. Two tables: films parted as `curate
label train` parts them, and footage parted, so that no head has seen the place, people or camera of a held-out clip.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.labels import measured
from data_pipeline.labels.heads import read_card
from data_pipeline.labels.models import encoder_key
from data_pipeline.labels.names import LABELS
from data_pipeline.labels.settings import TrainingSettings
from data_pipeline.labels.store import read_vectors
from data_pipeline.labels.train import TrainJob, train_heads
from data_pipeline.labels.training import HELD_OUT, Trained, fit, judge, split, table_row
from data_pipeline.report.calibration import table_lines
from data_pipeline.stored import read_clips, read_manifest
from groundwork.storage import Storage, open_storage
from tests.benchmarks.bench_curation_accuracy import finish
from tests.support.corpus import labels as truths
from tests.support.corpus.dataset import Truth, read_films, read_spans
from tests.support.corpus.footage import scene
from tests.support.corpus.judge import FLAT, Span
from tests.support.lite import save_lite

RECIPE = """
name: labels
variant: toy
shots: {detector: adaptive, threshold: 3.0, min_content: 15.0, min_shot_seconds: 0.3}
clips: {fps: 8, trim_frames: 1, max_clips: 1}
buckets: [{num_frames: 9, height: 96, width: 144}]
signals: {text: true}
workers: {analyse: 2, encode: 1, cpus: 0.5}
"""
MEANT = {
    "editing": ({"transition", "flashing"}, set()),
    "lack_of_motion_connectivity": ({"static"}, FLAT | {"slow_pan"}),
    "low_quality": ({"blur", "blocky"}, FLAT | {"whip_pan"}),
    "text_dominated": ({"subtitles"}, {"scene_text"}),
}
"""Label → defects of the corpus that it names, and those of which nobody can say whether it does. The corpus holds no
lectures and no screenshots. Subtitles are text over the picture, not text as the main content: the nearest it has."""


def target(span: Span, label: str) -> float:
    """1: has the defect, 0: has not, NaN: nobody can say."""
    if label not in MEANT:
        return np.nan
    named, open_ = MEANT[label]
    if named & span.labels or (label == "editing" and span.crosses):
        return 1.0
    return np.nan if open_ & span.labels else 0.0


def write_labels(path: Path, spans: Sequence[Span]) -> None:
    """The label file, as a table of clips and labels."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["clip_id", *LABELS])
        for span in spans:
            values = [target(span, label) for label in LABELS]
            rows.writerow([span.clip_id, *("" if np.isnan(value) else int(value) for value in values)])


def graded_spans(out: Storage, corpus: Path) -> list[Span]:
    """The clips that fill a bucket, with what was injected into them."""
    truth = truths.read(corpus / "labels")
    films = read_films(out, out.read_table("videos").to_pylist())
    return [span for span in read_spans(out, films, Truth(truth)) if span.reason != "too_short" and span.take]


def side_by_side(
    trained: Trained,
    vectors: np.ndarray,
    targets: np.ndarray,
    parts: np.ndarray,
    scores: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Heads and measured labels on the same held-out clips, both at a score of 0.5; no score flags nothing."""
    _, metrics = judge(trained, vectors, targets, parts, precision=0.9)
    rows: dict[str, Any] = {}
    for label in trained.labels:
        truth = targets[:, LABELS.index(label)]
        held = (parts == HELD_OUT) & ~np.isnan(truth)
        rows[label] = {
            "classifier": metrics[label]["half"],
            "measured": table_row(scores[label][held] > 0.5, truth[held] == 1),
        }
    return rows


def curated(corpus: Path, out: Path) -> Storage:
    """The corpus' dataset, made unless it stands."""
    import os
    import subprocess

    if not (out / "manifest.json").exists():
        recipe = out.with_name(f"{out.name}.yaml")
        recipe.write_text(RECIPE)
        command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--json", "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command += ["--input", str(corpus / "films")]
        finish(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return open_storage(out)


def figures(corpus: Path, out: Path, encoder: str, *, num_frames: int, seed: int) -> dict[str, Any]:
    """Train through the command's own function, then again on the same vectors with the footage parted."""
    dataset = curated(corpus, out / "dataset")
    spans = graded_spans(dataset, corpus)
    write_labels(out / "labels.csv", spans)
    settings = TrainingSettings(seed=seed)
    labels, heads = str(out / "labels.csv"), str(out / "heads")
    job = TrainJob(dataset.uri, labels, encoder, heads, num_frames=num_frames, settings=settings)
    started = time.monotonic()
    first = train_heads(job)
    seconds = [time.monotonic() - started]
    started = time.monotonic()
    assert train_heads(job)["version"] == first["version"], "equal inputs give equal heads"
    seconds.append(time.monotonic() - started)
    kept = read_vectors(dataset, encoder_key(read_card(heads).encoder))
    vectors = {clip_id: vector for ids, rows in kept for clip_id, vector in zip(ids, rows, strict=True)}
    spans = [span for span in spans if span.clip_id in vectors]
    matrix = np.stack([vectors[span.clip_id] for span in spans])
    targets = np.array([[target(span, label) for label in LABELS] for span in spans])
    clips = read_clips(dataset, read_manifest(dataset))
    order = [clips.clip_ids.to_pylist().index(span.clip_id) for span in spans]
    scores = measured.label_scores({k: v[order] for k, v in clips.scores.items()}, count=len(spans))
    result: dict[str, Any] = {"clips": len(spans), "seconds": [round(one, 1) for one in seconds]}
    for name, groups in (("films", [s.file for s in spans]), ("footage", [scene(s.take) for s in spans])):
        parts = split(groups, targets, settings=settings)
        rows = side_by_side(fit(matrix, targets, parts, settings), matrix, targets, parts, scores)
        held = {group for group, part in zip(groups, parts, strict=True) if part == HELD_OUT}
        result[name] = {"groups": len(set(groups)), "held_out": len(held), "rows": rows}
    return result


def main() -> None:
    """Print the tables on standard error and the figures as JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_labels", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path, help="dataset, label file and heads; what stands there is used")
    parser.add_argument("--encoder", help="folder that AutoModel opens; default: EfficientNet-Lite0 from its package")
    parser.add_argument("--num-frames", type=int, default=4, help="of a clip; 0: as the encoder has it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    encoder = options.encoder or str(save_lite(options.out / "encoder"))
    result = figures(options.corpus, options.out, encoder, num_frames=options.num_frames, seed=options.seed)
    for name in ("films", "footage"):
        rows = result[name]["rows"]
        named = [(f"{label}, {source}", rows[label][source]) for label in rows for source in rows[label]]
        print(f"\n{result[name]['held_out']} of {result[name]['groups']} {name} held out", file=sys.stderr)
        print("\n".join(table_lines(named)), file=sys.stderr)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
