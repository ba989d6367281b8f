"""A dataset's latent shards become an index of clips, and rows of it become tensors."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from groundwork.errors import InputError
from groundwork.records import Latent, from_table
from groundwork.storage import Storage

LATENTS = "latents"
_INDEX_COLUMNS = ["clip_id", "latent_shape", "text_shape", "tokens"]
_CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class IndexedClip:
    """Where a clip lies and how large it is; `video_tokens` and `text_tokens` are its share of a row."""

    clip_id: str
    shard: str
    row_group: int
    bucket: str
    latent_shape: tuple[int, ...]
    text_shape: tuple[int, ...]
    video_tokens: int

    @property
    def text_tokens(self) -> int:
        return self.text_shape[0]

    @property
    def num_tokens(self) -> int:
        """Tokens of the clip in a row, text and video together."""
        return self.video_tokens + self.text_tokens


@dataclass(frozen=True)
class EncodedClip:
    """A clip as the denoiser sees it: scaled latent and text embedding, both bfloat16 as stored."""

    latent: Float[Tensor, "c t h w"]
    text_embedding: Float[Tensor, "n d"]

    @property
    def num_bytes(self) -> int:
        return self.latent.nbytes + self.text_embedding.nbytes


def read_manifest(dataset: Storage) -> dict[str, Any]:
    """The dataset's manifest. Raises InputError when there is none or the dataset is unfinished."""
    if not dataset.exists("manifest.json"):
        raise InputError(f"{dataset.uri} holds no manifest.json.", "Is it a finished dataset? Run the curation first.")
    manifest = dataset.read_json("manifest.json")
    if not isinstance(manifest, dict) or not manifest.get("complete"):
        raise InputError(f"{dataset.uri} is not finished.", "Run the curation again: it goes on where it stopped.")
    return manifest


def read_index(dataset: Storage) -> tuple[IndexedClip, ...]:
    """Every encoded clip, sorted by id, from the shards' headers and narrow columns: no latent is read.

    Raises InputError for a damaged shard, rows that are not one per row group, or a clip that occurs twice.
    """
    found: list[IndexedClip] = []
    for path in dataset.list(LATENTS, suffix=".parquet"):
        found += _index_shard(dataset, path)
    found.sort(key=lambda clip: clip.clip_id)
    for before, after in pairwise(found):
        if before.clip_id == after.clip_id:
            raise InputError(f"Clip {after.clip_id} is in {before.shard} and in {after.shard} of {dataset.uri}.")
    return tuple(found)


def _index_shard(dataset: Storage, path: str) -> list[IndexedClip]:
    try:
        with pq.ParquetFile(dataset.path(path), filesystem=dataset.filesystem) as file:
            missing = [name for name in Latent.SCHEMA.names if name not in file.schema_arrow.names]
            if missing:
                raise InputError(f"{dataset.uri}/{path} lacks the columns {', '.join(missing)}.")
            rows = file.read(columns=_INDEX_COLUMNS).to_pylist()
            groups = file.metadata.num_row_groups
    except (pa.ArrowInvalid, OSError) as error:
        hint = "Run the curation again: it makes damaged shards anew."
        raise InputError(f"{dataset.uri}/{path} is damaged: {error}", hint) from error
    if groups != len(rows):
        raise InputError(f"{dataset.uri}/{path} has {groups} row groups for {len(rows)} clips: must be one each.")
    return [
        IndexedClip(
            clip_id=row["clip_id"],
            shard=path,
            row_group=group,
            bucket=path.split("/")[1],
            latent_shape=tuple(row["latent_shape"]),
            text_shape=tuple(row["text_shape"]),
            video_tokens=row["tokens"],
        )
        for group, row in enumerate(rows)
    ]


class ClipReader:
    """Reads clips of an index by number; the most recently used stay in memory."""

    def __init__(self, dataset: Storage, index: tuple[IndexedClip, ...], *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._dataset, self._index = dataset, index
        self._cache: OrderedDict[int, EncodedClip] = OrderedDict()
        self._cached_bytes, self._cache_bytes = 0, cache_bytes

    def read(self, number: int) -> EncodedClip:
        """The clip's tensors. Raises InputError when its row is damaged or is not what the index says."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        clip = self._read(self._index[number])
        self._cache[number] = clip
        self._cached_bytes += clip.num_bytes
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.num_bytes
        return clip

    def _read(self, clip: IndexedClip) -> EncodedClip:
        try:
            with pq.ParquetFile(self._dataset.path(clip.shard), filesystem=self._dataset.filesystem) as file:
                (row,) = from_table(file.read_row_group(clip.row_group), Latent)
            if row.clip_id != clip.clip_id:
                raise InputError(f"{clip.shard} changed while it was read: clip {clip.clip_id} has moved.")
            return EncodedClip(
                latent=_bfloat16(row.latent, clip.latent_shape),
                text_embedding=_bfloat16(row.text_embedding, clip.text_shape),
            )
        except (pa.ArrowInvalid, OSError, ValueError, RuntimeError) as error:
            raise InputError(f"Clip {clip.clip_id} in {self._dataset.uri}/{clip.shard} is damaged: {error}") from error


def _bfloat16(data: bytes, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.bfloat16).reshape(shape)
