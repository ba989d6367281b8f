"""What a manifest says of its sources becomes captions by the captioner `given`: kept as it came, judged by no rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from data_pipeline.captions.settings import GIVEN
from groundwork.records import Caption, to_table

MODEL, VERSION = GIVEN, "1"
"""The words are somebody else's: the version is that of this reading of them."""


def given_captions(clips: Sequence[tuple[str, str]], metadata: Mapping[str, str]) -> pa.Table:
    """Rows of `Caption` for those of the clips (clip_id, video_id) whose source came with a caption, in their order."""
    return to_table([to_caption(clip_id, text) for clip_id, text in told_of(clips, metadata).items()], Caption)


def told_of(clips: Sequence[tuple[str, str]], metadata: Mapping[str, str]) -> dict[str, str]:
    """By clip_id, what came with the sources of the clips (clip_id, video_id), where something came.

    `metadata`: by video_id, the JSON object of what a manifest says. A caption of a whole film is that of each clip.
    """
    told = {video_id: text for video_id, said in metadata.items() if (text := caption_of(said))}
    return {clip_id: told[video] for clip_id, video in clips if video in told}


def to_caption(clip_id: str, text: str) -> Caption:
    """The words as they came."""
    return Caption(clip_id, text, text, [], MODEL, VERSION)


def caption_of(metadata: str) -> str:
    """The caption among what a manifest says, white space made plain; empty for none."""
    said = json.loads(metadata) if metadata else {}
    text = said.get("caption")
    return " ".join(text.split()) if isinstance(text, str) else ""
