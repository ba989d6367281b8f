"""Frames become how much of the coder's 8 x 8 grid shows, looked for at full size: scaling would wipe it out."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.signals.picture import Picture, Sampling

_BLOCK = 8
_LOOKS_PER_SECOND = 2.0
_SIDE = 512  # pixels of the middle that are looked at
_FLOOR = 0.5  # levels of luma: steps between pixels smaller than this show nowhere


class Blockiness:
    """Per frame: `block_energy` (see `blockiness`), measured twice a second and held in between."""

    columns = ("block_energy",)

    def __init__(self) -> None:
        self._sampling = Sampling(_LOOKS_PER_SECOND)
        self._held = 0.0

    def update(self, picture: Picture) -> dict[str, float]:
        """The value of one more frame."""
        if self._sampling.due(picture):
            self._held = blockiness(picture.coded_luma)
        return {"block_energy": self._held}


def blockiness(luma: UInt8[np.ndarray, "h w"]) -> float:
    """How much larger the steps of luma are across the block grid than elsewhere, relative to these. 0: no grid.

    The grid may start anywhere, as a picture may have been cropped after it was coded.
    """
    height, width = luma.shape
    top, left = max(0, (height - _SIDE) // 2), max(0, (width - _SIDE) // 2)
    crop = luma[top : top + _SIDE, left : left + _SIDE]
    across, along = cv2.absdiff(crop[:, 1:], crop[:, :-1]), cv2.absdiff(crop[1:], crop[:-1])
    return (_grid(across.mean(axis=0)) + _grid(along.mean(axis=1))) / 2


def _grid(steps: Float[np.ndarray, " n"]) -> float:
    whole = len(steps) // _BLOCK * _BLOCK
    if not whole:
        return 0.0
    phases = np.sort(np.median(steps[:whole].reshape(-1, _BLOCK), axis=0))
    usual = float(np.median(phases[:-1]))
    return (float(phases[-1]) - usual) / (usual + _FLOOR)


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """`blockiness_score`: median over the frames; 0.1 and less is clean, from about 0.5 on blocks are seen."""
    return {"blockiness_score": float(np.median(series["block_energy"]))}
