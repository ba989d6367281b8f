"""A shard of a dataset becomes the clips to export: facts, captions, values, and the film where there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import UInt16

from data_pipeline.cut import MEDIA, MEDIA_TABLE
from data_pipeline.fingerprint import short_hash
from data_pipeline.stored import read
from groundwork.errors import InputError
from groundwork.latents import TEXTS, LatentDataset
from groundwork.records import Latent, text_id
from groundwork.shard import read_footer, read_rows
from groundwork.storage import Storage, open_storage

Contents = Literal["latents", "media", "both"]
_CLIP_COLUMNS = ("clip_id", "video_id", "start_seconds", "stop_seconds")
_HINT = "Run the curation again: it makes damaged files anew."


@dataclass(frozen=True)
class ExportedClip:
    """One clip. `values`: bfloat16 as uint16 by name (latent, log_variance, text_embedding, text_embedding_1, …), empty
    where only media are asked for; `film`: an mp4, or None."""

    facts: Mapping[str, Any]
    captions: tuple[str, ...]
    values: Mapping[str, UInt16[np.ndarray, " ..."]]
    film: bytes | None

    @property
    def clip_id(self) -> str:
        return str(self.facts["clip_id"])


@dataclass(frozen=True)
class Unit:
    """What becomes one file of the export: a shard of the dataset, `clips` of one `bucket`."""

    shard: str
    bucket: str
    clips: int
    sha256: str

    @property
    def name(self) -> str:
        """Bucket and shard, as one word."""
        return f"{self.bucket}-{self.shard.rpartition('/')[2].removesuffix('.parquet')}"


@dataclass(frozen=True)
class Exportable:
    """A finished dataset, and what of it is to be exported."""

    dataset: Storage
    manifest: Mapping[str, Any]
    contents: Contents

    def units(self) -> list[Unit]:
        """The shards in order. Raises InputError where media are asked for and the dataset has none."""
        if self.contents != "latents" and not any(path.startswith(f"{MEDIA}/") for path in self.manifest["files"]):
            hint = "Run the curation with --media.mode copy or encode, or export --with latents."
            raise InputError(f"{self.dataset.uri} holds no media files.", hint)
        found = [Unit(one["path"], one["bucket"], one["clips"], one["sha256"]) for one in self.manifest["shards"]]
        return sorted(found, key=lambda unit: unit.name)

    def key(self, unit: Unit) -> str:
        """What changes when anything changes that the unit's clips are exported with."""
        footer = read_footer(self.dataset, unit.shard)
        ids, tokens = (footer.rows.column(name).to_pylist() for name in ("clip_id", "tokens"))
        facts = [self._facts(clip_id, count, unit) for clip_id, count in zip(ids, tokens, strict=True)]
        films = [] if self.contents == "latents" else [self._film_entry(clip_id)["sha256"] for clip_id in ids]
        return short_hash(unit.sha256, self.contents, facts, films)

    def clips(self, unit: Unit) -> Iterator[ExportedClip]:
        """The clips of a shard, one in memory at a time. Raises InputError where it is not the manifest's."""
        with self.dataset.local_path(unit.shard) as local:
            copy, name = open_storage(local.parent), local.name
            if copy.checksum(name) != unit.sha256:
                raise InputError(f"{self.dataset.uri}/{unit.shard} is damaged: its checksum is another.", _HINT)
            footer = read_footer(copy, name)
            for row in read_rows(copy, name, footer, Latent, range(len(footer.rows))):
                yield self._clip(row, unit)

    def _clip(self, row: Latent, unit: Unit) -> ExportedClip:
        captions = (row.caption, *row.alternatives)
        values = {} if self.contents == "media" else self._values(row)
        film = None
        if self.contents != "latents":
            film = self.dataset.read_bytes(self._film_entry(row.clip_id)["path"])
        return ExportedClip(self._facts(row.clip_id, row.tokens, unit), captions, values, film)

    def _values(self, row: Latent) -> dict[str, UInt16[np.ndarray, " ..."]]:
        values = {"latent": _array(row.latent, row.latent_shape)}
        if row.log_variance:
            values["log_variance"] = _array(row.log_variance, row.latent_shape)
        values["text_embedding"] = _array(row.text_embedding, row.text_shape)
        for number, text in enumerate(row.alternatives, start=1):
            values[f"text_embedding_{number}"] = self._texts.text(text_id(text)).reshape(row.text_shape)
        return values

    def _facts(self, clip_id: str, video_tokens: int, unit: Unit) -> dict[str, Any]:
        place = self._place_of[clip_id]
        (clip,) = self._tables.slice(place, 1).to_pylist()
        num_frames, height, width = (int(part) for part in unit.bucket.split("x"))
        video = self._videos[clip["video_id"]]
        return {
            **clip,
            "uri": video["uri"],
            "licence": video["licence"],
            "metadata": json.loads(video["metadata"] or "{}"),
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "fps": self.manifest["recipe"]["clips"]["fps"],
            "video_tokens": video_tokens,
            "variant": self.manifest["variant"],
            "scale_factor": self.manifest["models"]["scale_factor"],
        }

    def _film_entry(self, clip_id: str) -> dict[str, Any]:
        entry = self._films.get(clip_id)
        if entry is None:
            raise InputError(f"{self.dataset.uri} has no media file of clip {clip_id}.", _HINT)
        return entry

    @cached_property
    def _tables(self) -> pa.Table:
        return read(self.dataset, self.manifest, "clips", _CLIP_COLUMNS).combine_chunks()

    @cached_property
    def _place_of(self) -> dict[str, int]:
        return {clip_id: row for row, clip_id in enumerate(self._tables.column("clip_id").to_pylist())}

    @cached_property
    def _videos(self) -> dict[str, dict[str, Any]]:
        rows = read(self.dataset, self.manifest, "videos", ("video_id", "uri", "licence", "metadata")).to_pylist()
        return {row["video_id"]: row for row in reversed(rows)}  # of equal bytes the first one, which was read

    @cached_property
    def _films(self) -> dict[str, dict[str, Any]]:
        return {row["clip_id"]: row for row in self.dataset.read_table(MEDIA_TABLE).to_pylist()}

    @cached_property
    def _texts(self) -> LatentDataset:
        for path, entry in self.manifest["files"].items():
            if path.startswith(f"{TEXTS}/") and self.dataset.checksum(path) != entry["sha256"]:
                raise InputError(f"{self.dataset.uri}/{path} is damaged: its checksum is another.", _HINT)
        return LatentDataset(self.dataset, ())


def _array(data: bytes, shape: list[int]) -> UInt16[np.ndarray, " ..."]:
    return np.frombuffer(data, np.uint16).reshape(shape)
