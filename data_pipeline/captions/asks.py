"""What a model is asked and what it answers: plain values that every backend takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

ANSWERED, FAILED, REFUSED = "answered", "failed", "refused"
"""refused: whoever runs the model will answer nothing at all, so asking on is of no use."""


@dataclass(frozen=True)
class Ask:
    """One request: words, and frames with their seconds from the clip's beginning. No frames: a language model."""

    prompt: str
    system: str = ""
    frames: Sequence[UInt8[np.ndarray, "h w 3"]] = ()
    seconds: Sequence[float] = ()
    seed: int = 0


@dataclass(frozen=True)
class Sampling:
    """How words are drawn: temperature 0 takes the likeliest each time."""

    max_new_tokens: int = 384
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Answer:
    """What came back. `cut_off`: the limit of tokens ended it. `detail` says why there is none, where status is failed
    or refused. `requests`: how often the request was sent. `by`: the version of what gave it, once it is noted."""

    text: str
    status: str = ANSWERED
    detail: str = ""
    cut_off: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    requests: int = 1
    by: str = ""


class Model(Protocol):
    """A loaded model. Answers come in the order of the asks; equal asks, seeds and sampling give equal answers, as far
    as the machinery behind it does."""

    @property
    def version(self) -> str:
        """The libraries, weights or service behind the answers."""
        ...

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]: ...
