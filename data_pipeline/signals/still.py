"""Frames become whether anything new is shown: repeated frames, still pictures that jump, true frame rate."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from data_pipeline.signals.phash import hamming
from data_pipeline.signals.picture import Picture

_LEVELS = 3  # a pixel that changes by more, of 255, is not just coded anew
_REPEATED_SHARE = 0.0005  # of changed pixels, in a frame that repeats the one before
_STILL_SECONDS = 0.4  # a run of repeated frames at least so long is a still picture
_OTHER_BITS = 14  # of 64, between the hashes of two pictures
_BLENDED = 0.7  # how much like a dissolve the change between two still pictures looks at least


class Still:
    """Per frame, against the one before: `difference`, mean change of luma (0 to 255), and `changed`, share (0 to 1)
    of pixels that change by more than 3 levels."""

    columns = ("difference", "changed")

    def __init__(self) -> None:
        self._before: UInt8[np.ndarray, "h w"] | None = None

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame; the first counts as all new."""
        before, self._before = self._before, picture.small_luma
        if before is None or before.shape != picture.small_luma.shape:
            return {"difference": 255.0, "changed": 1.0}
        change = cv2.absdiff(before, picture.small_luma)
        return {
            "difference": cv2.mean(change)[0],
            "changed": cv2.countNonZero(cv2.compare(change, _LEVELS, cv2.CMP_GT)) / change.size,
        }


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """What a clip shows that is new; shares are 0 to 1, the first frame is left out.

    `duplicate_share`: share of frames that repeat the one before. `picture_fps`: pictures per second that are new,
    which a file of a higher rate can hide. `still_share`: share of the time in which the picture stands for 0.4 s or
    longer. `slideshow_score`: `still_share`, where most such stands follow each other by a jump or a blend to
    another picture; else 0. It takes the hashes of `phash` and what looks like a dissolve.
    """
    seconds = series["seconds"]
    if len(seconds) < 2:
        return {"duplicate_share": 0.0, "picture_fps": 0.0, "still_share": 0.0, "slideshow_score": 0.0}
    repeated = series["changed"][1:] < _REPEATED_SHARE
    still = in_long_runs(repeated, seconds=seconds)
    lengths = np.diff(seconds)
    still_share = float(lengths[still].sum() / lengths.sum())
    return {
        "duplicate_share": float(repeated.mean()),
        "picture_fps": float((~repeated).sum() / lengths.sum()),
        "still_share": still_share,
        "slideshow_score": still_share if slide_share(still, series) >= 0.5 else 0.0,
    }


def in_long_runs(repeated: Bool[np.ndarray, " t"], *, seconds: Float[np.ndarray, " t+1"]) -> Bool[np.ndarray, " t"]:
    """Which steps from frame to frame lie in a run of repetitions of 0.4 s or longer."""
    edges = np.flatnonzero(np.diff(repeated, prepend=False, append=False))
    found = np.zeros_like(repeated)
    for first, stop in edges.reshape(-1, 2):
        found[first:stop] = seconds[stop] - seconds[first] >= _STILL_SECONDS - 1e-6
    return found


def slide_share(still: Bool[np.ndarray, " t"], series: Mapping[str, Shaped[np.ndarray, " t+1"]]) -> float:
    """How many of the times between two still runs change the picture by a jump or a blend; 0 without two runs."""
    edges = np.flatnonzero(np.diff(still, prepend=False, append=False)).reshape(-1, 2)
    gaps = list(zip(edges[:-1, 1], edges[1:, 0], strict=True))
    blended, hashes = series["dissolve"] >= _BLENDED, series["phash"]
    slides = [
        (stop - first == 1 or blended[first + 1 : stop + 1].any())
        and hamming(hashes[[first]], hashes[[stop]])[0] >= _OTHER_BITS
        for first, stop in gaps
    ]
    return float(np.mean(slides)) if slides else 0.0
