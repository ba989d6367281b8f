"""Frames become how much and whereto the picture moves: dense DIS optical flow between neighbours."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.signals.picture import Picture

COLUMNS = ("flow", "flow_x", "flow_y", "zoom")


class Motion:
    """Per frame, against the one before, in shares of the short side: mean flow length, median flow right and down.

    `zoom` is the least-squares growth of the picture about its centre per frame (0.01: one per cent larger).
    """

    columns = COLUMNS

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._before: UInt8[np.ndarray, "h w"] | None = None

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame; zeros for the first."""
        before, self._before = self._before, picture.small_luma
        if before is None or before.shape != picture.small_luma.shape:
            return dict.fromkeys(COLUMNS, 0.0)
        return flow_values(self._flow.calc(before, picture.small_luma, None))


def flow_values(flow: Float[np.ndarray, "h w 2"]) -> dict[str, float]:
    """A flow field in pixels (x right, y down) as the four values of `Motion`."""
    height, width = flow.shape[:2]
    short = min(height, width)
    rows = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    columns = (np.arange(width, dtype=np.float32) - (width - 1) / 2)[None, :]
    outward = float((flow[..., 0] * columns).mean() + (flow[..., 1] * rows).mean())
    spread = float((columns**2).mean() + (rows**2).mean())
    return {
        "flow": float(np.hypot(flow[..., 0], flow[..., 1]).mean()) / short,
        "flow_x": float(np.median(flow[..., 0])) / short,
        "flow_y": float(np.median(flow[..., 1])) / short,
        "zoom": outward / spread,
    }


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """`motion_score`: per cent of the short side that the picture moves per second, on average. 0: frozen.

    `pan_score`, `tilt_score`: the same, signed, for its median movement right and down; `zoom_score`: per cent of
    growth per second. The first frame of a clip is compared with a frame outside it and so left out.
    """
    seconds = series["seconds"]
    if len(seconds) < 2:
        return {"motion_score": 0.0, "pan_score": 0.0, "tilt_score": 0.0, "zoom_score": 0.0}
    per_second = 100.0 / float(seconds[-1] - seconds[0])
    names = {"motion_score": "flow", "pan_score": "flow_x", "tilt_score": "flow_y", "zoom_score": "zoom"}
    return {name: float(series[column][1:].sum()) * per_second for name, column in names.items()}
