"""Subtitles burned into real shots, signs painted on them, bare shots: what counts as laid over? `[HALF]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import cv2
import numpy as np

from data_pipeline.recipe import CurateRecipe
from data_pipeline.signals.text import Text
from tests.support.corpus.__main__ import footage_folder
from tests.support.corpus.effects import picture
from tests.support.corpus.footage import Reel, find_films
from tests.support.corpus.graded import CLEAN, Recording, Segment
from tests.support.corpus.judge import rates
from tests.support.corpus.transitions import HALVES, takes

LABELS = ("subtitles", "scene_text", CLEAN)
SIZES = ((640, 360), (426, 240))
_QUALITY, _FRAMES = 75, (24, 5, 43)  # of JPEG, in place of a film's coding; middle, beginning and end of two seconds


def looks(segment: Segment, recording: Recording, reel: Reel) -> Iterator[np.ndarray]:
    """Three frames of a clip as a closer look sees them."""
    for index in _FRAMES:
        image = picture(segment, index, recording, reel)
        _, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        yield np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])


def measure(half: str, *, clips: int, footage: str | None) -> list[dict[str, Any]]:
    """Scores of so many clips of each label, from one half of the footage."""
    found = find_films(footage_folder(footage), HALVES[half])
    reel, text, rng = Reel(found), Text(), Random(0)
    shots = takes({name: spans for name, spans in HALVES[half].items() if name in found}, rng)
    rows = []
    for number in range(clips * len(LABELS)):
        width, height = SIZES[number // len(LABELS) % len(SIZES)]
        recording = Recording(width=width, height=height, fps=24)
        label = LABELS[number % len(LABELS)]
        segment = Segment(next(shots), 48, label=label, strength=rng.choice([0.8, 1.0, 1.2]))
        scores = text.score(looks(segment, recording, reel))
        rows.append({"label": label, "take": segment.take.name, "strength": segment.strength, **scores})
    return rows


def figures(rows: list[dict[str, Any]], threshold: float) -> dict[str, Any]:
    """Precision and recall of the rule: subtitles are meant, signs and bare shots are not."""
    fires = {
        label: [row["overlay_text_share"] > threshold for row in rows if row["label"] == label] for label in LABELS
    }
    hit, wrong = sum(fires["subtitles"]), sum(fires["scene_text"]) + sum(fires[CLEAN])
    return {"threshold": threshold, **rates(hit, wrong, len(fires["subtitles"]) - hit)}


def main() -> None:
    """Print the figures at the threshold of the cogvideox policy, and at others around it, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_overlay_text", description=__doc__)
    parser.add_argument("half", nargs="?", choices=HALVES, default="judging")
    parser.add_argument("--clips", type=int, default=16, help="of each label")
    parser.add_argument("--footage")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rows = measure(options.half, clips=options.clips, footage=options.footage)
    buckets = ({"num_frames": 9, "height": 32, "width": 48},)
    own = CurateRecipe.model_validate({"buckets": buckets, "policy": "cogvideox"}).rules["text_dominated"].above
    assert own is not None
    odd = [row for row in rows if (row["label"] == "subtitles") != (row["overlay_text_share"] > own)]
    found = [figures(rows, threshold) for threshold in sorted({own, 0.01, 0.02, 0.03, 0.05})]
    print(json.dumps({"half": options.half, "policy": own, "figures": found, "wrong_or_missed": odd}, indent=2))


if __name__ == "__main__":
    main()
