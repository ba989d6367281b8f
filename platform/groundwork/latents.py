"""An encoded dataset becomes clips read by number or in shuffled order: for our trainer and for any other.

Nothing here needs torch or Ray. A clip costs one or two byte ranges of its shard, wherever that lies; no shard is
downloaded.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, UInt16

from groundwork.errors import InputError, StorageError
from groundwork.records import text_id
from groundwork.shard import Footer, checked, read_footer
from groundwork.storage import Storage, open_storage

LATENTS, TEXTS = "latents", "texts"
_THREADS = 8
_TASK_BYTES = 1 << 20
_GAP_BYTES = 1 << 16  # two values so close are fetched by one request


@dataclass(frozen=True, slots=True)
class IndexedClip:
    """Where a clip lies and how large it is; `video_tokens` and `text_tokens` are its share of a row.

    `latent_at`, `text_at`, `log_variance_at`: first bytes in the shard; `log_variance_at` is 0 where there is none.
    `alternatives`: keys of further captions in `texts/`.
    """

    clip_id: str
    shard: str
    row_group: int
    bucket: str
    latent_shape: tuple[int, ...]
    text_shape: tuple[int, ...]
    video_tokens: int
    latent_at: int = 0
    text_at: int = 0
    log_variance_at: int = 0
    alternatives: tuple[str, ...] = ()

    @property
    def text_tokens(self) -> int:
        return self.text_shape[0]

    @property
    def num_tokens(self) -> int:
        """Tokens of the clip in a row, text and video together."""
        return self.video_tokens + self.text_tokens

    @property
    def num_captions(self) -> int:
        """Captions to choose from, the first one included."""
        return 1 + len(self.alternatives)


@dataclass(frozen=True)
class StoredClip:
    """A clip as stored: bfloat16 values as uint16. `float32` and `to_torch` turn them into numbers.

    `log_variance` is there where the dataset holds moments: then `latent` is the mean.
    """

    clip_id: str
    latent: UInt16[np.ndarray, "c t h w"]
    text_embedding: UInt16[np.ndarray, "n d"]
    log_variance: UInt16[np.ndarray, "c t h w"] | None = None

    @property
    def num_bytes(self) -> int:
        return self.latent.nbytes * (1 if self.log_variance is None else 2) + self.text_embedding.nbytes


def float32(values: UInt16[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """bfloat16 bits as float32: exact."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def to_torch(values: UInt16[np.ndarray, " ..."]) -> Any:
    """bfloat16 bits as a torch tensor that shares their memory."""
    import torch

    return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)


def open_dataset(uri: str | Path | Storage) -> LatentDataset:
    """The finished dataset at a path or URI. Raises InputError when there is none, or a shard is damaged."""
    storage = uri if isinstance(uri, Storage) else open_storage(uri)
    return LatentDataset(storage, read_index(storage))


def read_manifest(dataset: Storage) -> dict[str, Any]:
    """The dataset's manifest. Raises InputError when there is none or the dataset is unfinished."""
    if not dataset.exists("manifest.json"):
        raise InputError(f"{dataset.uri} holds no manifest.json.", "Is it a finished dataset? Run the curation first.")
    manifest = dataset.read_json("manifest.json")
    if not isinstance(manifest, dict) or not manifest.get("complete"):
        raise InputError(f"{dataset.uri} is not finished.", "Run the curation again: it goes on where it stopped.")
    return manifest


def read_index(dataset: Storage) -> tuple[IndexedClip, ...]:
    """Every encoded clip, sorted by id, from the footers of the shards alone.

    Raises InputError for a damaged shard or a clip that occurs twice.
    """
    found = [clip for path, footer in _footers(dataset, LATENTS) for clip in _clips(path, footer)]
    found.sort(key=lambda clip: clip.clip_id)
    for before, after in pairwise(found):
        if before.clip_id == after.clip_id:
            raise InputError(f"Clip {after.clip_id} is in {before.shard} and in {after.shard} of {dataset.uri}.")
    return tuple(found)


def shuffled(count: int, *, seed: int, epoch: int) -> list[int]:
    """The numbers below `count` in an order that is a pure function of seed and epoch."""
    order = list(range(count))
    random.Random(f"{seed}/order/{epoch}").shuffle(order)
    return order


class LatentDataset:
    """The clips of a dataset, or those of an `index` that was chosen from it. Reading is safe from several threads."""

    def __init__(self, storage: Storage, index: Sequence[IndexedClip]) -> None:
        self.storage, self.index = storage, tuple(index)
        self._captions = lru_cache(maxsize=64)(self._read_captions)

    def __len__(self) -> int:
        return len(self.index)

    def read(self, number: int, *, caption: int = 0) -> StoredClip:
        """A clip with the embedding of one of its captions (0: the first).

        Raises InputError when its shard is damaged or has changed since the index was read, ValueError for a caption
        that the clip does not have.
        """
        clip = self.index[number]
        if not 0 <= caption < clip.num_captions:
            raise ValueError(f"caption={caption}: clip {clip.clip_id} has {clip.num_captions}, counted from 0")
        size, text_size = 2 * math.prod(clip.latent_shape), 2 * math.prod(clip.text_shape)
        wanted = [(clip.latent_at, size)]
        if caption == 0:
            wanted.append((clip.text_at, text_size))
        if clip.log_variance_at:
            wanted.append((clip.log_variance_at, size))
        try:
            values = self._values(clip.shard, wanted)
            text = values[1] if caption == 0 else self.text(clip.alternatives[caption - 1])
        except (InputError, StorageError) as error:
            raise InputError(f"Clip {clip.clip_id}: {error.message}", error.hint) from error
        return StoredClip(
            clip_id=clip.clip_id,
            latent=values[0].reshape(clip.latent_shape),
            text_embedding=text.reshape(clip.text_shape),
            log_variance=values[-1].reshape(clip.latent_shape) if clip.log_variance_at else None,
        )

    def text(self, key: str) -> UInt16[np.ndarray, " n"]:
        """The embedding of a further caption by its `text_id`, flat. Raises InputError when there is none."""
        if key not in self._texts:
            raise InputError(f"{self.storage.uri}/{TEXTS} lacks the text {key}.", "Run the curation again.")
        path, at, size = self._texts[key]
        return self._values(path, [(at, size)])[0]

    def captions(self, number: int) -> tuple[str, ...]:
        """The captions of a clip, the first one first."""
        clip = self.index[number]
        return self._captions(clip.shard)[clip.row_group]

    def iterate(
        self,
        *,
        seed: int | None = 0,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        prefetch: int = 32,
        threads: int = 4,
    ) -> Iterator[StoredClip]:
        """Every clip of this rank once, `prefetch` of them read ahead by `threads`; from the `start`-th on.

        The order is a pure function of (seed, epoch): the same whatever `threads`, and rank r of `world` takes the
        r-th, r+world-th, … of it. `seed` None: in the order of ids.
        """
        order = range(len(self)) if seed is None else shuffled(len(self), seed=seed, epoch=epoch)
        numbers = order[rank::world][start:]
        few = self._clips_per_task(prefetch)
        with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
            waiting: deque[Future[list[StoredClip]]] = deque()
            try:
                for first in range(0, len(numbers), few):
                    waiting.append(pool.submit(self._read_all, numbers[first : first + few]))
                    if len(waiting) * few > prefetch:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _clips_per_task(self, prefetch: int) -> int:
        """Clips that one task of a thread reads: handing over small ones costs more than reading them."""
        if not self.index:
            return 1
        clip = self.index[0]
        size = 2 * (math.prod(clip.latent_shape) + math.prod(clip.text_shape))
        return max(1, min(_TASK_BYTES // size, prefetch // 2))

    def _read_all(self, numbers: Sequence[int]) -> list[StoredClip]:
        return [self.read(number) for number in numbers]

    def _values(self, path: str, wanted: Sequence[tuple[int, int]]) -> list[UInt16[np.ndarray, " n"]]:
        """Values of one row, each (first byte, bytes): neighbours by one request."""
        runs: list[list[int]] = []  # first byte (its length stands before it), end
        for at, size in sorted(wanted):
            if runs and at - 4 - runs[-1][1] <= _GAP_BYTES:
                runs[-1][1] = at + size
            else:
                runs.append([at - 4, at + size])
        data = {
            start: memoryview(self.storage.read_range(path, start=start, length=stop - start)) for start, stop in runs
        }
        values = []
        for at, size in wanted:
            start = next(start for start, stop in runs if start < at < stop or (size == 0 and at == stop))
            part = checked(data[start][at - 4 - start : at - start + size], where=f"{self.storage.uri}/{path}")
            values.append(np.frombuffer(part, np.uint16))
        return values

    @cached_property
    def _texts(self) -> dict[str, tuple[str, int, int]]:
        """text_id → shard, first byte, bytes."""
        return {
            key: (path, int(at), int(size))
            for path, footer in _footers(self.storage, TEXTS)
            for key, (at, size) in zip(
                footer.rows.column("text_id").to_pylist(), footer.places["text_embedding"], strict=True
            )
        }

    def _read_captions(self, path: str) -> list[tuple[str, ...]]:
        rows = read_footer(self.storage, path).rows.select(["caption", "alternatives"]).to_pylist()
        return [(row["caption"], *row["alternatives"]) for row in rows]


def _footers(dataset: Storage, folder: str) -> list[tuple[str, Footer]]:
    paths = dataset.list(folder, suffix=".parquet")
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="footer") as pool:
        return list(zip(paths, pool.map(lambda path: read_footer(dataset, path), paths), strict=True))


def _clips(path: str, footer: Footer) -> Iterator[IndexedClip]:
    bucket = path.split("/")[1]
    try:
        columns = ["clip_id", "latent_shape", "text_shape", "tokens", "alternatives"]
        rows = footer.rows.select(columns).to_pylist()
        latents, texts, variances = (footer.places[name] for name in ("latent", "text_embedding", "log_variance"))
    except (KeyError, pa.ArrowException) as error:
        raise InputError(f"{path} lacks the column {error}.", "Run the curation again.") from error
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal shapes are one object: there are millions
    for group, row in enumerate(rows):
        latent_shape, text_shape = (tuple(row[name]) for name in ("latent_shape", "text_shape"))
        if latents[group, 1] != 2 * math.prod(latent_shape) or texts[group, 1] != 2 * math.prod(text_shape):
            raise InputError(f"{path}: the values of clip {row['clip_id']} have not the size of their shapes.")
        yield IndexedClip(
            clip_id=row["clip_id"],
            shard=path,
            row_group=group,
            bucket=bucket,
            latent_shape=shapes.setdefault(latent_shape, latent_shape),
            text_shape=shapes.setdefault(text_shape, text_shape),
            video_tokens=row["tokens"],
            latent_at=int(latents[group, 0]),
            text_at=int(texts[group, 0]),
            log_variance_at=int(variances[group, 0]) if variances[group, 1] else 0,
            alternatives=tuple(text_id(text) for text in row["alternatives"]),
        )
