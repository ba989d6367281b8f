"""A long video's header and index become the parts it is measured in, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WARM_UP_FRAMES = 100
WARM_UP_SECONDS = 2.5
"""Both at least are decoded in front of a part, so that signals know what came before: none may look back further."""

_DELAY_SECONDS = 0.5  # by how much a keyframe may be shown later than its place in the index says


@dataclass(frozen=True)
class Part:
    """Frames from `start_seconds` (inclusive) to `stop_seconds` (exclusive; None: to the end), decoded from the
    keyframe at or before `read_from_seconds` on."""

    start_seconds: float = 0.0
    stop_seconds: float | None = None
    read_from_seconds: float = 0.0


WHOLE = Part()


def plan_parts(
    keyframe_seconds: Sequence[float], *, duration_seconds: float, fps: float, split_seconds: float
) -> list[Part]:
    """Parts of about `split_seconds` (0: one part), each beginning just behind a keyframe so that little is decoded
    twice. A film that the index or the header says nothing of stays whole."""
    warm_up = max(WARM_UP_SECONDS, WARM_UP_FRAMES / fps if fps > 0 else 0.0)
    cuts: list[Part] = []
    if split_seconds > 0:
        last = 0.0
        for keyframe in keyframe_seconds:
            start = keyframe + _DELAY_SECONDS + warm_up
            if start - last >= split_seconds and duration_seconds - start >= max(split_seconds / 2, warm_up):
                cuts.append(Part(start_seconds=start, read_from_seconds=keyframe + _DELAY_SECONDS))
                last = start
    stops = [part.start_seconds for part in cuts]
    return [
        Part(part.start_seconds, stop, part.read_from_seconds)
        for part, stop in zip([WHOLE, *cuts], [*stops, None], strict=True)
    ]
