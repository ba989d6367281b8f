"""What a dataset's encoded clips say of its buckets: a table of clips, tokens and waste, and a histogram of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pyarrow as pa

from cogvideox import shape
from cogvideox.variants import VARIANTS
from data_pipeline.bucket_plan.waste import Size
from data_pipeline.buckets import shape_losses
from data_pipeline.report.charts import histogram
from data_pipeline.report.contents import Contents
from data_pipeline.stored import align, numbers, read
from groundwork.latents import read_index

_HEAD = ("bucket", "clips", "tokens each", "of all tokens", "padded", "cropped", "upscaled", "shrunk")


@dataclass(frozen=True)
class BucketRow:
    """A bucket's clips: text and video `tokens` of each; shares of its clips' pixels, above the largest bucket's size
    not counted, that are cropped away, invented or given up; `padded`: share of its tokens that hold nothing."""

    name: str
    clips: int
    tokens: int
    padded: float
    cropped: float
    upscaled: float
    shrunk: float


def buckets(contents: Contents) -> str:
    """The section; empty where no clip was encoded."""
    rows = bucket_rows(contents)
    if not rows:
        return ""
    total = sum(row.clips * row.tokens for row in rows)
    head = "".join(f"<th>{title}</th>" for title in _HEAD)
    body = "".join(_line(row, total) for row in rows)
    tokens = np.repeat([float(row.tokens) for row in rows], [row.clips for row in rows])
    plot = histogram(tokens, np.array([]), thresholds=())
    note = (
        '<p class="soft">Frames x rows x columns. Waste: tokens that hold nothing; pixels outside the bucket\'s shape; '
        "pixels invented where a source is smaller. Shrunk: detail that a larger bucket would have kept. "
        "<code>curate buckets DATASET</code> names those that lose least, and counts what shots lose at their ends.</p>"
    )
    caption = f'<p class="soft">Clips by their tokens, text and video; {total:,} in all.</p>'
    return f'<h2>Buckets</h2>{note}<div class="panel scroll"><table><tr>{head}</tr>{body}</table>{caption}{plot}</div>'


def bucket_rows(contents: Contents) -> list[BucketRow]:
    """One row per bucket that holds clips, from the smallest."""
    index = read_index(contents.dataset) if contents.manifest["shards"] else ()
    if not index:
        return []
    names = pa.array([clip.clip_id for clip in index])
    sizes = align(read(contents.dataset, contents.manifest, "clips").select(["clip_id", "width", "height"]), names)
    width, height = (numbers(sizes.column(name)) for name in ("width", "height"))
    held = np.array([clip.bucket for clip in index])
    tokens = {clip.bucket: clip.num_tokens for clip in index}
    found = {name: _size(name) for name in tokens}
    largest = float(max(rows * columns for _, rows, columns in found.values()))
    made = []
    for name, size in sorted(found.items(), key=lambda one: (tokens[one[0]], one[0])):
        inside = held == name
        lost = shape_losses(size[1], size[2], height=height[inside], width=width[inside], largest=largest)
        worth = float(np.minimum(height[inside] * width[inside], largest).sum())
        shares = (float(part.sum()) / worth for part in (lost.cropped, lost.upscaled, lost.shrunk))
        padded = _padded(size, str(contents.manifest["variant"]))
        made.append(BucketRow(name, int(inside.sum()), tokens[name], padded, *shares))
    return made


def _line(row: BucketRow, total: int) -> str:
    shares: Sequence[float] = (row.padded, row.cropped, row.upscaled, row.shrunk)
    cells = [f"<code>{escape(row.name)}</code>", f"{row.clips:,}", f"{row.tokens:,}"]
    cells += [f"{share:.1%}" for share in (row.clips * row.tokens / total, *shares)]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _size(name: str) -> Size:
    frames, rows, columns = (int(word) for word in name.split("x"))
    return frames, rows, columns


def _padded(size: Size, variant: str) -> float:
    """Share of a clip's tokens that hold nothing: an odd number of latent frames where a token holds two."""
    patch = VARIANTS[variant].denoiser.patch_frames if variant in VARIANTS else 1
    frames = shape.latent_frames(size[0])
    return 1 - frames / shape.padded_latent_frames(frames, patch_frames=patch)
