"""Frames become the words that can be read in them: PP-OCRv4 from the package rapidocr_onnxruntime, weights inside."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import cv2

from data_pipeline.captions.asks import Answer, Ask, Sampling
from data_pipeline.signals import text

MODEL = "rapidocr"
_SURE = 0.85  # of the recogniser, in a line
_SEEN_AGAIN = 2  # frames that must show a line, where there are more than two


class TextReader:
    """Each answer is the lines read in an ask's frames, in order from above, one per line of text."""

    def __init__(self) -> None:
        text.require()
        from rapidocr_onnxruntime import RapidOCR

        self._read: Any = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
        self._busy = threading.Lock()

    @property
    def version(self) -> str:
        return f"rapidocr_onnxruntime {text.version()}"

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:  # noqa: ARG002
        """The words of each ask's frames; the question is not looked at, and nothing is drawn."""
        return [Answer("\n".join(self._lines(ask))) for ask in asks]

    def _lines(self, ask: Ask) -> list[str]:
        """Lines that are read surely and, in a clip of more frames, not in one of them alone: noise does not last."""
        seen: dict[str, int] = {}
        for frame in ask.frames:
            with self._busy:
                found, _ = self._read(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            for line in dict.fromkeys(str(words).strip() for _, words, sure in found or [] if float(sure) >= _SURE):
                seen[line] = seen.get(line, 0) + 1
        least = _SEEN_AGAIN if len(ask.frames) > _SEEN_AGAIN else 1
        return [line for line, count in seen.items() if line and count >= least]
