"""Encoded clips become shards per bucket, further captions a table of texts: staged one by one, then merged.

Which rows share a shard follows from their ids alone: rows are divided by the bits of a hash of the id, until no part
is larger than the target. So equal datasets have equal files whatever came first, and a new clip changes the one shard
that it falls into.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

from data_pipeline.encode import EncodeJob
from data_pipeline.fingerprint import short_hash
from data_pipeline.texts import distinct_texts, drop_staged_texts, staged_folder
from groundwork.errors import InputError
from groundwork.latents import LATENTS, TEXTS
from groundwork.records import Latent, Text, text_id
from groundwork.shard import Footer, read_footer, read_rows, read_value, write_shard
from groundwork.storage import Storage
from groundwork.telemetry import get_logger

_STAGED = "work/encoded"
_MADE, _EMBEDDED, _KEYS = "encode_fingerprint", "text_fingerprint", "keys"
_HASH_BITS = 64

Member = TypeVar("Member")


@dataclass(frozen=True)
class Shard:
    """One finished file of `clips` clips."""

    path: str
    bucket: str
    clips: int


@dataclass(frozen=True)
class Prints:
    """Fingerprints of what makes latents, and of what makes text embeddings."""

    encode: str
    text: str


@dataclass(frozen=True)
class Found:
    """What lies on storage already: (file, row) of latents by clip_id and of embeddings by text_id; the keys of each
    shard that these fingerprints made, and of each file of texts."""

    latents: Mapping[str, tuple[str, int]]
    texts: Mapping[str, tuple[str, int]]
    shards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def staged_path(job: EncodeJob, fingerprint: str) -> str:
    """Where a worker leaves the row of one clip."""
    return f"{_STAGED}/{fingerprint}/{job.key}.parquet"


def stage(out: Storage, job: EncodeJob, latent: Latent, *, fingerprint: str) -> None:
    """Leave one row; readers see it whole or not at all."""
    write_shard(out, staged_path(job, fingerprint), [latent], Latent)


def find_encoded(out: Storage, jobs: Collection[EncodeJob], prints: Prints) -> Found:
    """What of the jobs stands: staged, or in shards of an earlier run. Latents and texts are looked for apart."""
    wanted = {job.key: job.clip_id for job in jobs}
    texts_wanted = distinct_texts(jobs)
    latents, texts, shards = dict[str, tuple[str, int]](), dict[str, tuple[str, int]](), {}
    for path, footer in _sound(out, out.list(LATENTS, suffix=".parquet")):
        keys = tuple(footer.metadata.get(_KEYS, "").split())
        if len(keys) != len(footer.rows):
            continue
        if footer.metadata.get(_MADE) == prints.encode:
            latents |= {wanted[key]: (path, row) for row, key in enumerate(keys) if key in wanted}
        if footer.metadata.get(_EMBEDDED) == prints.text:
            ids = map(text_id, footer.rows.column("caption").to_pylist())
            texts |= {key: (path, row) for row, key in enumerate(ids) if key in texts_wanted}
            if footer.metadata.get(_MADE) == prints.encode:
                shards[path] = keys
    for path, footer in _sound(out, out.list(TEXTS, suffix=".parquet")):
        if footer.metadata.get(_EMBEDDED) == prints.text:
            shards[path] = tuple(footer.rows.column("text_id").to_pylist())
            texts |= {key: (path, row) for row, key in enumerate(shards[path]) if key in texts_wanted}
    for path, footer in _sound(out, out.list(staged_folder(prints.text), suffix=".parquet")):
        ids = footer.rows.column("text_id").to_pylist()
        texts |= {key: (path, row) for row, key in enumerate(ids) if key in texts_wanted}
    staged = out.list(f"{_STAGED}/{prints.encode}", suffix=".parquet")
    by_key = {path.rpartition("/")[2].removesuffix(".parquet"): path for path in staged}
    latents |= {clip_id: (by_key[key], 0) for key, clip_id in wanted.items() if key in by_key}
    return Found(latents, texts, shards)


def write_shards(
    out: Storage, jobs: Sequence[EncodeJob], found: Found, prints: Prints, *, shard_bytes: int
) -> tuple[list[Shard], list[str]]:
    """Merge rows into shards by bucket, and further captions into texts/: the shards, and the paths of the texts.

    A shard that stands already is kept. Its name says which clips it holds and how they were made.
    """
    by_bucket: dict[str, list[EncodeJob]] = defaultdict(list)
    for job in jobs:
        by_bucket[job.bucket.folder].append(job)
    read = _Reader(out)
    shards: list[Shard] = []
    for _, members in sorted(by_bucket.items()):
        shards += _bucket(read, members, found, prints, shard_bytes)
    further = distinct_texts(replace(job, captions=job.captions[1:]) for job in jobs)
    return shards, list(_texts(read, further, found, prints, shard_bytes))


def parts(members: Mapping[str, Member], most: int) -> list[tuple[str, list[Member]]]:
    """Divide members (by id) into parts of at most `most`, by the bits of a hash of the id: (bits, members by id).

    What a part holds depends on the ids that begin with its bits, and on no other: history leaves no trace.
    """
    order = sorted((_hash(key), key) for key in members)

    def divided(low: int, high: int, bits: str) -> list[tuple[str, list[Member]]]:
        if high - low <= most or len(bits) == _HASH_BITS:
            chosen = sorted(key for _, key in order[low:high])
            return [(bits or "all", [members[key] for key in chosen])] if chosen else []
        border = int(f"{bits}1", 2) << (_HASH_BITS - 1 - len(bits))
        middle = bisect_left(order, (border, ""), low, high)
        return divided(low, middle, bits + "0") + divided(middle, high, bits + "1")

    return divided(0, len(order), "")


def drop_staged(out: Storage) -> None:
    """Remove the rows that shards hold now."""
    out.delete_tree(_STAGED)
    drop_staged_texts(out)


def without_clips(out: Storage, path: str, clip_ids: frozenset[str]) -> bool:
    """Write a shard again without some clips; one that holds no other is removed. False: it held none of them."""
    footer = read_footer(out, path)
    ids = footer.rows.column("clip_id").to_pylist()
    left = [row for row, clip_id in enumerate(ids) if clip_id not in clip_ids]
    if len(left) == len(ids):
        return False
    if not left:
        out.delete(path)
        return True
    keys = footer.metadata.get(_KEYS, "").split()
    metadata = {**footer.metadata, **({_KEYS: " ".join(keys[row] for row in left)} if keys else {})}
    write_shard(out, path, read_rows(out, path, footer, Latent, left), Latent, metadata=metadata)
    return True


def drop_unused_texts(out: Storage) -> set[str]:
    """Take out of texts/ what no clip carries any more; returns the files that changed or went."""
    used: set[str] = set()
    for path in out.list(LATENTS, suffix=".parquet"):
        carried = read_footer(out, path).rows.column("alternatives").to_pylist()
        used |= {text_id(text) for texts in carried for text in texts}
    changed = set()
    for path in out.list(TEXTS, suffix=".parquet"):
        footer = read_footer(out, path)
        ids = footer.rows.column("text_id").to_pylist()
        left = [row for row, key in enumerate(ids) if key in used]
        if len(left) == len(ids):
            continue
        changed.add(path)
        if left:
            write_shard(out, path, read_rows(out, path, footer, Text, left), Text, metadata=footer.metadata)
        else:
            out.delete(path)
    return changed


class _Reader:
    """Rows out of files whose footers are read once."""

    def __init__(self, out: Storage) -> None:
        self.out = out
        self.footer = lru_cache(maxsize=64)(lambda path: read_footer(out, path))

    def latent(self, place: tuple[str, int]) -> Latent:
        """A row without its text."""
        path, row = place
        (found,) = read_rows(self.out, path, self.footer(path), Latent, [row])
        return replace(found, text_embedding=b"", text_shape=[], caption="", alternatives=[])

    def text(self, place: tuple[str, int]) -> tuple[bytes, list[int]]:
        """An embedding and its shape."""
        path, row = place
        footer = self.footer(path)
        shape = footer.rows.column("text_shape")[row].as_py()
        return bytes(read_value(self.out, path, footer.places["text_embedding"][row])), shape


def _bucket(
    read: _Reader, jobs: Sequence[EncodeJob], found: Found, prints: Prints, shard_bytes: int
) -> Iterator[Shard]:
    first = jobs[0]
    latent = read.latent(found.latents[first.clip_id])
    size = len(latent.latent) + len(latent.log_variance) + len(read.text(found.texts[text_id(first.captions[0])])[0])
    bucket = first.bucket.folder
    for bits, members in parts({job.clip_id: job for job in jobs}, max(1, shard_bytes // size)):
        keys = tuple(job.key for job in members)
        content = short_hash(prints.encode, prints.text, keys, [job.captions for job in members])[:12]
        path = f"{LATENTS}/{bucket}/part-{bits}-{content}.parquet"
        if found.shards.get(path) != keys:
            metadata = {_MADE: prints.encode, _EMBEDDED: prints.text, _KEYS: " ".join(keys)}
            write_shard(read.out, path, (_row(read, job, found) for job in members), Latent, metadata=metadata)
        yield Shard(path, bucket, len(members))


def _row(read: _Reader, job: EncodeJob, found: Found) -> Latent:
    caption, *alternatives = job.captions
    embedding, shape = read.text(found.texts[text_id(caption)])
    row = read.latent(found.latents[job.clip_id])
    return replace(row, text_embedding=embedding, text_shape=shape, caption=caption, alternatives=alternatives)


def _texts(read: _Reader, texts: Mapping[str, str], found: Found, prints: Prints, shard_bytes: int) -> Iterator[str]:
    if not texts:
        return
    size = len(read.text(found.texts[next(iter(texts))])[0])

    def row(key: str) -> Text:
        embedding, shape = read.text(found.texts[key])
        return Text(key, texts[key], embedding, shape)

    for bits, members in parts({key: key for key in texts}, max(1, shard_bytes // size)):
        path = f"{TEXTS}/part-{bits}-{short_hash(prints.text, members)[:12]}.parquet"
        if found.shards.get(path) != tuple(members):
            write_shard(read.out, path, map(row, members), Text, metadata={_EMBEDDED: prints.text})
        yield path


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[: _HASH_BITS // 8], "big")


def _sound(out: Storage, paths: Iterable[str]) -> Iterator[tuple[str, Footer]]:
    """The files with their footers; damaged ones, and those of older versions, are left out."""
    for path in paths:
        try:
            yield path, read_footer(out, path)
        except InputError as error:
            get_logger("shards").warning("%s will be made again: %s", path, error.message)
