"""Frames become how much and whereto the picture moves, the camera apart from the subject: dense DIS optical flow."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.signals.picture import Picture

COLUMNS = ("flow", "flow_x", "flow_y", "zoom", "moving", "camera", "subject")
_GRID = 8  # the camera's movement is fitted on every eighth pixel
_ROUNDS = 3  # of the robust fit; more change nothing visible
_NOISE_PIXELS = 0.2  # movement between two frames that the flow cannot tell from noise
_MOVING_SPEED = 0.02  # of the short side per second: a pixel that moves
_SHAKE_SECONDS = 0.5  # what the camera does within this time is a shake, not a course


class Motion:
    """Per frame, against the one before, in shares of the short side: mean flow length, median flow right and down.

    `zoom`: least-squares growth of the picture about its centre (0.01: one per cent larger). `moving`: share (0 to 1)
    of pixels that move faster than 2 % of the short side per second. `camera`: mean length of the one movement (shift,
    zoom and turn) that most of the picture takes part in; `subject`: mean length of what is left of the flow.
    """

    columns = COLUMNS

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._before: UInt8[np.ndarray, "h w"] | None = None
        self._seconds = 0.0

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame; zeros for the first."""
        before, self._before = self._before, picture.small_luma
        passed, self._seconds = picture.seconds - self._seconds, picture.seconds
        if before is None or before.shape != picture.small_luma.shape:
            return dict.fromkeys(COLUMNS, 0.0)
        return flow_values(self._flow.calc(before, picture.small_luma, None), seconds=passed)


def flow_values(flow: Float[np.ndarray, "h w 2"], *, seconds: float) -> dict[str, float]:
    """A flow field in pixels (x right, y down), over so many seconds, as the values of `Motion`."""
    height, width = flow.shape[:2]
    short = min(height, width)
    rows, columns = _centred(height)[:, None], _centred(width)[None, :]
    outward = float((flow[..., 0] * columns).mean() + (flow[..., 1] * rows).mean())
    spread = float((columns**2).mean() + (rows**2).mean())
    lengths = cv2.magnitude(flow[..., 0], flow[..., 1])
    camera, subject = camera_and_subject(flow)
    return {
        "flow": float(lengths.mean()) / short,
        "flow_x": float(np.median(flow[..., 0])) / short,
        "flow_y": float(np.median(flow[..., 1])) / short,
        "zoom": outward / spread,
        "moving": float((lengths > max(_NOISE_PIXELS, _MOVING_SPEED * short * seconds)).mean()),
        "camera": camera / short,
        "subject": subject / short,
    }


def camera_and_subject(flow: Float[np.ndarray, "h w 2"]) -> tuple[float, float]:
    """Mean length, in pixels, of the shift, zoom and turn that fit most of the flow, and of the rest.

    Fitted by least squares reweighted by the distance from the fit (Cauchy weights), from the median flow on: what
    moves by itself weighs little.
    """
    first = _GRID // 2
    sparse = flow[first::_GRID, first::_GRID].astype(np.float64)
    rows, columns = (_centred(size)[first::_GRID] for size in flow.shape[:2])
    y, x = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
    right, down = sparse[..., 0].ravel(), sparse[..., 1].ravel()
    zero, one = np.zeros_like(x), np.ones_like(x)
    design = np.concatenate([np.stack([one, zero, x, -y]), np.stack([zero, one, y, x])], axis=1)
    target = np.concatenate([right, down])
    fitted = np.repeat([np.median(right), np.median(down)], len(x))
    for _ in range(_ROUNDS):
        rest = np.hypot(*(target - fitted).reshape(2, -1))
        scale = max(_NOISE_PIXELS, 1.5 * float(np.median(rest)))
        weighted = design * np.tile(1 / (1 + (rest / scale) ** 2), 2)
        # The small ridge keeps pictures of a single grid point solvable.
        fitted = np.linalg.solve(weighted @ design.T + 1e-9 * np.eye(4), weighted @ target) @ design
    rest = np.hypot(*(target - fitted).reshape(2, -1))
    return float(np.hypot(*fitted.reshape(2, -1)).mean()), float(rest.mean())


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """Speeds in per cent of the short side per second, on average; 0: frozen.

    `motion_score`: of all pixels. `pan_score`, `tilt_score`: signed, of the median pixel right and down. `zoom_score`:
    per cent of growth per second. `camera_score`, `subject_score`: of the movement that is common to most of the
    picture, and of what moves against it. `moving_share`: share (0 to 1) of pixels that move. `jitter_score`: how far
    the camera strays from its course of half a second, in per cent of the short side; 0.1 is steady, 1 a shaky hand.
    The first frame of a clip is compared with a frame outside it and so left out.
    """
    names = {
        "motion_score": "flow",
        "pan_score": "flow_x",
        "tilt_score": "flow_y",
        "zoom_score": "zoom",
        "camera_score": "camera",
        "subject_score": "subject",
    }
    seconds = series["seconds"]
    if len(seconds) < 2:
        return {**dict.fromkeys(names, 0.0), "moving_share": 0.0, "jitter_score": 0.0}
    per_second = 100.0 / float(seconds[-1] - seconds[0])
    return {
        **{name: float(series[column][1:].sum()) * per_second for name, column in names.items()},
        "moving_share": float(series["moving"][1:].mean()),
        "jitter_score": 100 * jitter(series["flow_x"][1:], series["flow_y"][1:], seconds=seconds[1:]),
    }


def jitter(right: Float[np.ndarray, " t"], down: Float[np.ndarray, " t"], *, seconds: Float[np.ndarray, " t"]) -> float:
    """Mean distance of the camera's path from its moving average, in the unit of the steps; 0 for too short a path."""
    frame_seconds = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    window = 2 * round(_SHAKE_SECONDS / (2 * frame_seconds)) + 1 if frame_seconds else 1
    if window < 3 or window >= len(seconds):
        return 0.0
    half, mean = window // 2, np.full(window, 1 / window)
    paths = (np.cumsum(steps, dtype=np.float64) for steps in (right, down))
    strays = [path[half:-half] - np.convolve(path, mean, mode="valid") for path in paths]
    return float(np.hypot(*strays).mean())


def _centred(size: int) -> Float[np.ndarray, " n"]:
    centred: Float[np.ndarray, " n"] = np.arange(size, dtype=np.float32) - (size - 1) / 2
    return centred
