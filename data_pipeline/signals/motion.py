"""Frames become how much and whereto the picture moves, the camera apart from the subject: dense DIS optical flow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipeline.signals.picture import Picture, Sampling

COLUMNS = ("flow_seconds", "flow", "flow_x", "flow_y", "zoom", "moving", "camera", "subject")
_LOOKS_PER_SECOND = 32.0  # every frame of a film, every second one of slow motion
_THIN = 4  # means and medians are taken from every fourth pixel: the flow is made of patches of eight
_GRID = 8  # the camera's movement is fitted on every eighth pixel
_LEAST_SEEN = 0.05  # share of the grid that must have texture before a camera is looked for
_ROUNDS = 2  # of the robust fit; more change nothing visible
_RIDGE = 1e-9 * np.eye(4)
_NOISE_PIXELS = 0.2  # movement between two frames that the flow cannot tell from noise
_SIDE = 9  # pixels of the neighbourhood that the next two are means of
_CHANGE_LEVELS = 1  # of luma from frame to frame: less is coding noise
_TEXTURE_LEVELS = 2  # of luma from pixel to pixel: with less, nothing is there whose movement could be seen
_MOVING_SPEED = 0.02  # of the short side per second: a pixel that moves
_SHAKE_SECONDS = 0.5  # what the camera does within this time is a shake, not a course


class Motion:
    """Per frame, against the one before, in shares of the short side: mean flow length, median flow right and down.

    Of slow motion 32 frames a second are looked at, each against the look before; the others hold zeros.
    `flow_seconds`: the time from look to look, 0 in the others too.
    `zoom`: least-squares growth of the picture about its centre (0.01: one per cent larger). `moving`: share (0 to 1)
    of pixels that move faster than 2 % of the short side per second. `camera`: mean length of the one movement (shift,
    zoom and turn) that most of the picture takes part in; `subject`: mean length of what is left of the flow.
    Where the light stays as it was, flow is a guess of the method and counts as no movement; where there is no texture
    it has no say in the camera's.
    """

    columns = COLUMNS

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._before: UInt8[np.ndarray, "h w"] | None = None
        self._seconds = 0.0
        self._sampling = Sampling(_LOOKS_PER_SECOND)

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame; zeros for the first."""
        if not self._sampling.due(picture):
            return dict.fromkeys(COLUMNS, 0.0)
        before, self._before = self._before, picture.small_luma
        passed, self._seconds = picture.seconds - self._seconds, picture.seconds
        if before is None or before.shape != picture.small_luma.shape:
            return dict.fromkeys(COLUMNS, 0.0)
        flow = self._flow.calc(before, picture.small_luma, None)
        seen, textured = changed(before, picture.small_luma), has_texture(picture.small_luma)
        return {"flow_seconds": passed, **flow_values(flow, seen=seen, textured=textured, seconds=passed)}


def changed(before: UInt8[np.ndarray, "h w"], after: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Around which pixels the light changes by more than coding noise."""
    return _at_least(cv2.absdiff(before, after), _CHANGE_LEVELS)


def has_texture(luma: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Around which pixels there is something whose movement could be seen."""
    return _at_least(cv2.absdiff(luma, np.roll(luma, 1, axis=1)), _TEXTURE_LEVELS)


def _at_least(change: UInt8[np.ndarray, "h w"], levels: int) -> Bool[np.ndarray, "h w"]:
    sums = cv2.boxFilter(change, cv2.CV_16U, (_SIDE, _SIDE), normalize=False)
    marked: Bool[np.ndarray, "h w"] = sums >= levels * _SIDE**2
    return marked


def flow_values(
    flow: Float[np.ndarray, "h w 2"],
    *,
    seen: Bool[np.ndarray, "h w"],
    textured: Bool[np.ndarray, "h w"],
    seconds: float,
) -> dict[str, float]:
    """A flow field in pixels (x right, y down), over so many seconds, as the values of `Motion`. `seen`: where the
    picture changes; `textured`: where one could see that it does not."""
    height, width = flow.shape[:2]
    short = min(height, width)
    right, down = (np.ascontiguousarray(flow[::_THIN, ::_THIN, part]) for part in (0, 1))
    rows, columns = _centred(height)[::_THIN], _centred(width)[::_THIN]
    outward = float(right.mean(axis=0) @ columns) / columns.size + float(down.mean(axis=1) @ rows) / rows.size
    spread = float((columns**2).mean() + (rows**2).mean())
    # Not cv2.magnitude: it rounds by where its arrays lie in memory, and equal films gave unequal bytes.
    lengths = np.sqrt(right * right + down * down) * seen[::_THIN, ::_THIN]
    camera, subject = camera_and_subject(flow, seen=seen, textured=textured)
    return {
        "flow": float(lengths.mean()) / short,
        "flow_x": _median(right) / short,
        "flow_y": _median(down) / short,
        "zoom": outward / spread,
        "moving": np.count_nonzero(lengths > max(_NOISE_PIXELS, _MOVING_SPEED * short * seconds)) / lengths.size,
        "camera": camera / short,
        "subject": subject / short,
    }


def camera_and_subject(
    flow: Float[np.ndarray, "h w 2"], *, seen: Bool[np.ndarray, "h w"], textured: Bool[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Mean length, in pixels, of the shift, zoom and turn that fit most of the flow, and of the rest.

    Fitted by least squares reweighted by the distance from the fit (Cauchy weights), from the median flow on: what
    moves by itself weighs little.
    """
    first = _GRID // 2
    design = _design(*flow.shape[:2])
    count = design.shape[1] // 2
    there = textured[first::_GRID, first::_GRID].ravel()
    if np.count_nonzero(there) < _LEAST_SEEN * count:
        return 0.0, float((np.sqrt(flow[..., 0] ** 2 + flow[..., 1] ** 2) * seen).mean())
    target = flow[first::_GRID, first::_GRID].reshape(count, 2).T.astype(np.float64)
    fitted = np.array([[_median(part[there])] for part in target])
    for _ in range(_ROUNDS):
        squares = ((target - fitted) ** 2).sum(axis=0)
        scale = max(_NOISE_PIXELS**2, 2.25 * _median(squares[there]))
        weighted = design * np.concatenate([there / (1 + squares / scale)] * 2)
        # The small ridge keeps pictures of few grid points solvable.
        fitted = (np.linalg.solve(weighted @ design.T + _RIDGE, weighted @ target.ravel()) @ design).reshape(2, count)
    told = there | seen[first::_GRID, first::_GRID].ravel()
    return float(np.hypot(*fitted).mean()), float((np.hypot(*(target - fitted)) * told).mean())


@lru_cache(maxsize=8)
def _design(height: int, width: int) -> Float[np.ndarray, "4 n"]:
    """What shifts right and down, growth and a turn do to the grid points: all movements right, then all down."""
    first = _GRID // 2
    y, x = np.meshgrid(_centred(height)[first::_GRID], _centred(width)[first::_GRID], indexing="ij")
    x, y = x.ravel().astype(np.float64), y.ravel().astype(np.float64)
    zero, one = np.zeros_like(x), np.ones_like(x)
    return np.concatenate([np.stack([one, zero, x, -y]), np.stack([zero, one, y, x])], axis=1)


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """Speeds in per cent of the short side per second, on average; 0: frozen.

    `motion_score`: of all pixels. `pan_score`, `tilt_score`: signed, of the median pixel right and down. `zoom_score`:
    per cent of growth per second. `camera_score`, `subject_score`: of the movement that is common to most of the
    picture, and of what moves against it. `moving_share`: share (0 to 1) of pixels that move. `jitter_score`: how far
    the camera strays from its course of half a second, in per cent of the short side; 0.1 is steady, 1 a shaky hand.
    A look that is compared with a frame outside the clip is left out.
    """
    names = {
        "motion_score": "flow",
        "pan_score": "flow_x",
        "tilt_score": "flow_y",
        "zoom_score": "zoom",
        "camera_score": "camera",
        "subject_score": "subject",
    }
    inside = looks(series)
    if not inside.any():
        return {**dict.fromkeys(names, 0.0), "moving_share": 0.0, "jitter_score": 0.0}
    seen = {column: series[column][inside] for column in ("seconds", *COLUMNS)}
    per_second = 100.0 / float(seen["flow_seconds"].sum())
    return {
        **{name: float(seen[column].sum()) * per_second for name, column in names.items()},
        "moving_share": float(seen["moving"].mean()),
        "jitter_score": 100 * jitter(seen["flow_x"], seen["flow_y"], seconds=seen["seconds"]),
    }


def looks(series: Mapping[str, Float[np.ndarray, " t"]]) -> Bool[np.ndarray, " t"]:
    """Which frames of a clip were compared with a frame of the same clip."""
    seconds, passed = series["seconds"], series["flow_seconds"]
    inside: Bool[np.ndarray, " t"] = (passed > 0) & (seconds - passed >= seconds[0] - 1e-4)
    return inside


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


def _median(values: Float[np.ndarray, "*n"]) -> float:
    """The (upper) median, without numpy's care for NaN and even counts, which takes longer than the search."""
    middle = values.size // 2
    return float(np.partition(values, middle, axis=None)[middle])


def _centred(size: int) -> Float[np.ndarray, " n"]:
    centred: Float[np.ndarray, " n"] = np.arange(size, dtype=np.float32) - (size - 1) / 2
    return centred
