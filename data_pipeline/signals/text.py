"""Looks at a clip become how much text is laid over it, and how much belongs to the scene: detection, no reading."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from groundwork.errors import RecipeError

Boxes = Float[np.ndarray, "n 4"]
"""Left, top, right and bottom of each line of text, in shares of the picture."""
Detect = Callable[[UInt8[np.ndarray, "h w 3"]], Boxes]

PACKAGE = "rapidocr_onnxruntime"
_SAME_PLACE = 0.9  # intersection over union, as in cosmos-curate's filter of artificial text
_JITTER = 0.006  # of the picture: the detector places the same line anew by so much
_CAPTION_TOP, _CAPTION_OFF_CENTRE = 0.72, 0.12  # captions lie below this and about the middle
_CAPTION_WIDTH = 0.15


class Text:
    """Scores of a clip from up to three looks at it (RapidOCR's PP-OCRv4 detector, weights in the package)."""

    def __init__(self, detect: Detect | None = None) -> None:
        self._detect = detect or load_detector()

    def score(self, looks: Iterator[UInt8[np.ndarray, "h w 3"]]) -> dict[str, float]:
        """See `text_scores`. The looks begin with the middle of the clip: without text there, the rest is not taken."""
        seen: list[Boxes] = []
        for image in looks:
            seen.append(self._detect(image))
            if not len(seen[0]):
                break
        return text_scores(seen)


def require() -> None:
    """Raises RecipeError when the detector is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise RecipeError(
            "signals.text: the text detector is not installed.",
            "pip install 'cogvideox-platform[text]' && pip install --no-deps rapidocr-onnxruntime==1.4.4",
        )


def version() -> str:
    """Of the detector, which holds its weights."""
    return importlib.metadata.version(PACKAGE)


def load_detector() -> Detect:
    """The detector as a function from an RGB picture to its lines of text."""
    require()
    from pathlib import Path

    import rapidocr_onnxruntime
    import yaml
    from rapidocr_onnxruntime.ch_ppocr_det.text_detect import TextDetector

    folder = Path(rapidocr_onnxruntime.__file__).parent
    settings = yaml.safe_load((folder / "config.yaml").read_text())["Det"]
    # "max": pictures are looked at as they are; by default they would be blown up to 736 rows, at four times the cost.
    settings |= {"limit_type": "max", "intra_op_num_threads": 1, "inter_op_num_threads": 1}
    detector = TextDetector({**settings, "model_path": str(folder / settings["model_path"])})

    def detect(image: UInt8[np.ndarray, "h w 3"]) -> Boxes:
        found, _ = detector(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if found is None or not len(found):
            return np.zeros((0, 4))
        corners = np.asarray(found, np.float64) / (image.shape[1], image.shape[0])
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).clip(0, 1)

    return detect


def text_scores(looks: Sequence[Boxes]) -> dict[str, float]:
    """`overlay_text_share`, `scene_text_share`: share (0 to 1) of the picture under lines of text, mean over the looks;
    `text_lines`: lines in a look, on average.

    Overlay is what keeps its place in all looks (intersection over union of 0.9, less the detector's own jitter), and
    what stands where captions stand. The rest moves with the scene. Where nothing at all moves, a sign in the scene
    looks like an overlay.
    """
    overlay = scene = 0.0
    for number, boxes in enumerate(looks):
        others = [other for index, other in enumerate(looks) if index != number]
        laid_over = in_caption_zone(boxes) | (keep_place(boxes, others) if others else False)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        overlay += float(areas[laid_over].sum())
        scene += float(areas[~laid_over].sum())
    count = max(1, len(looks))
    return {
        "overlay_text_share": min(1.0, overlay / count),
        "scene_text_share": min(1.0, scene / count),
        "text_lines": sum(len(boxes) for boxes in looks) / count,
    }


def keep_place(boxes: Boxes, others: Sequence[Boxes]) -> Bool[np.ndarray, " n"]:
    """Which boxes lie in the same place in every one of the other looks."""
    kept = np.ones(len(boxes), bool)
    for other in others:
        kept &= (overlap(boxes, other) >= _SAME_PLACE).any(axis=1)
    return kept


def overlap(left: Boxes, right: Boxes) -> Float[np.ndarray, "n m"]:
    """Intersection over union of each pair; edges nearer than the detector's jitter count as one."""
    a, b = left[:, None], right[None]
    b = np.where(np.abs(b - a) <= _JITTER, a, b)
    a = np.broadcast_to(a, b.shape)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clip(0).prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    found: Float[np.ndarray, "n m"] = shared / np.maximum(areas - shared, 1e-12)
    return found


def in_caption_zone(boxes: Boxes) -> Bool[np.ndarray, " n"]:
    """Which boxes stand where captions do: low, in the middle, wide."""
    centre = (boxes[:, 0] + boxes[:, 2]) / 2
    wide = boxes[:, 2] - boxes[:, 0] >= _CAPTION_WIDTH
    found: Bool[np.ndarray, " n"] = (boxes[:, 1] >= _CAPTION_TOP) & (abs(centre - 0.5) <= _CAPTION_OFF_CENTRE) & wide
    return found
