"""Why a source or a clip failed: the reasons, and which of them a later run need not try again."""

from __future__ import annotations

DAMAGED, UNREADABLE, ERROR, CRASHED = "damaged", "unreadable", "error", "crashed"
TIMEOUT, OUT_OF_MEMORY = "timeout", "out_of_memory"
TOO_MANY_FRAMES, TOO_MANY_PIXELS = "too_many_frames", "too_many_pixels"
BAD_ROW = "bad_row"
"""A row of a manifest that names no source."""
FORGOTTEN = "forgotten"
"""A source that `curate forget` took out: it is known, and never read again."""

CAPTION_REJECTED = "caption_rejected"
"""What every captioner wrote of a clip breaks a rule; asking again would give the same."""

NO_CAPTION_GIVEN = "no_caption_given"
"""The clip's source came without a caption, and the recipe asks for nobody else's."""

LIMITED = frozenset({TIMEOUT, OUT_OF_MEMORY, TOO_MANY_FRAMES, TOO_MANY_PIXELS})
"""Reasons that the recipe's limits give: other limits, and the source is tried again."""
LASTING = frozenset({DAMAGED, BAD_ROW, FORGOTTEN, CAPTION_REJECTED, NO_CAPTION_GIVEN}) | LIMITED
"""Reasons that stay as they are; the others may pass, so a later run tries those sources again."""
