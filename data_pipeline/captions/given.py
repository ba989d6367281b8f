"""What a manifest says of its sources becomes captions by the captioner `given`: kept as it came."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from groundwork.records import Caption, to_table

MODEL, VERSION = "given", "1"
"""The words are somebody else's: the version is that of this reading of them."""


def given_captions(clips: Sequence[tuple[str, str]], metadata: Mapping[str, str]) -> pa.Table:
    """Rows of `Caption` for those of the clips (clip_id, video_id) whose source came with a caption, in their order.

    `metadata`: by video_id, the JSON object of what a manifest says. A caption of a whole film is that of each clip.
    """
    told = {video_id: text for video_id, said in metadata.items() if (text := caption_of(said))}
    rows = [Caption(clip_id, told[video], told[video], [], MODEL, VERSION) for clip_id, video in clips if video in told]
    return to_table(rows, Caption)


def caption_of(metadata: str) -> str:
    """The caption among what a manifest says, white space made plain; empty for none."""
    said = json.loads(metadata) if metadata else {}
    text = said.get("caption")
    return " ".join(text.split()) if isinstance(text, str) else ""
