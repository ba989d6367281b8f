"""A dataset becomes training data for other trainers, file by file; run again, it writes only what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline.export import clips as clips_module
from data_pipeline.export import formats
from data_pipeline.export.clips import Contents, Exportable, ExportedClip, Unit
from data_pipeline.export.formats import write_parquet, write_tar
from data_pipeline.export.lance import LanceTable
from data_pipeline.fingerprint import short_hash, source_hash
from groundwork.errors import InputError, UsageError
from groundwork.latents import read_manifest
from groundwork.run_lock import only_run
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import Progress

Format = Literal["webdataset", "parquet", "lance"]
MANIFEST, NAMES = "export.json", "shards.txt"
_ENDINGS = {"webdataset": "tar", "parquet": "parquet", "lance": "lance"}
_LANCE = "clips.lance"


def export(dataset: str, *, to: Format, out: str, contents: Contents = "latents") -> dict[str, Any]:
    """Write the dataset's kept clips to `out` and return the summary.

    Each shard becomes one file (of Lance: one commit), named for the shard's content: what stands is kept, what the
    dataset no longer holds is removed, and `export.json` tells every file with its checksum. Raises InputError for an
    unfinished dataset, a damaged shard, missing media, or a folder with another export; UsageError without Lance.
    """
    source, target = open_storage(dataset), open_storage(out)
    if source.uri == target.uri:
        raise UsageError("--out is the dataset itself.", "Name another folder or URI.")
    exportable = Exportable(source, read_manifest(source), contents)
    with only_run(target):
        before = _manifest_of(target, to)
        named = _named(exportable)
        facts = {"format": to, "with": contents, "dataset": source.uri}
        # What this run may leave behind if it is killed is told first: a later one removes what it does not need.
        known = {_file(stem, to): {} for stem in named} | before.get("files", {})
        target.write_json(MANIFEST, {**before, **facts, "files": known, "complete": False})
        is_lance = to == "lance"
        told = _to_lance(target, exportable, named) if is_lance else _to_files(target, exportable, named, known, to)
        counts = {"clips": sum(unit.clips for unit in named.values()), "units": len(named)}
        origin = exportable.manifest["dataset_hash"]
        manifest = {**facts, **counts, "files": told.files, "dataset_hash": origin, "complete": True}
        target.write_json(MANIFEST, manifest)
    return {
        "out": target.uri,
        "format": to,
        **counts,
        "bytes": sum(entry["bytes"] for entry in told.files.values()),
        "written": told.written,
        "kept": len(named) - told.written,
    }


def _manifest_of(target: Storage, to: Format) -> dict[str, Any]:
    """What an earlier export to this folder left. Raises InputError when that was one of another format."""
    before: dict[str, Any] = target.read_json(MANIFEST) if target.exists(MANIFEST) else {}
    if before.get("format", to) != to:
        raise InputError(f"{target.uri} holds an export as {before['format']}.", "Choose another folder for --out.")
    return before


@dataclass(frozen=True)
class Told:
    """What stands in the export now: files with size and checksum, and how many units were written for it."""

    files: Mapping[str, Any]
    written: int


def _to_files(
    target: Storage, exportable: Exportable, named: Mapping[str, Unit], known: Mapping[str, Any], to: Format
) -> Told:
    """One file per unit: a name that is there stands for its content."""
    standing = set(target.list())
    files: dict[str, Any] = {}
    written = 0
    with _progress(named) as progress:
        for stem, unit in named.items():
            name = _file(stem, to)
            if name in standing:
                progress.update(unit.clips)
            else:
                with target.new_file(name) as local:
                    _write(to, local, _counted(exportable.clips(unit), progress), shard=stem)
                written += 1
            size = known.get(name) or {"bytes": target.size(name), "sha256": target.checksum(name)}
            files[name] = {**size, "clips": unit.clips, "bucket": unit.bucket, "shard": unit.shard}
    for name in set(known) - set(files):
        target.delete(name)
    target.write_bytes(NAMES, "".join(f"{name}\n" for name in files).encode())
    return Told(files, written)


def _to_lance(target: Storage, exportable: Exportable, named: Mapping[str, Unit]) -> Told:
    """One commit per unit. Lance names its files by chance: they differ from run to run."""
    table = LanceTable(target.path(_LANCE) if target.is_local else target.child(_LANCE).uri)
    table.keep(named)
    there = table.shards()
    with _progress(named) as progress:
        for stem, unit in named.items():
            if stem in there:
                progress.update(unit.clips)
            else:
                table.append(_counted(exportable.clips(unit), progress), shard=stem)
    paths = target.list(_LANCE)
    files = {path: {"bytes": target.size(path), "sha256": target.checksum(path)} for path in paths}
    return Told(files, len(named.keys() - there))


def _named(exportable: Exportable) -> dict[str, Unit]:
    """The units by name: bucket, place among the ids, and a hash of all that the unit is exported with."""
    code = [source_hash(module) for module in (clips_module, formats)]
    return {f"{unit.name}-{short_hash(exportable.key(unit), code)[:12]}": unit for unit in exportable.units()}


def _file(stem: str, to: Format) -> str:
    return f"{stem}.{_ENDINGS[to]}"


def _progress(named: Mapping[str, Unit]) -> Progress:
    return Progress("export", total=sum(unit.clips for unit in named.values()), unit="clips")


def _write(to: Format, local: Path, clips: Iterator[ExportedClip], *, shard: str) -> None:
    if to == "webdataset":
        write_tar(local, clips)
    else:
        write_parquet(local, clips, shard=shard)


def _counted(clips: Iterator[ExportedClip], progress: Progress) -> Iterator[ExportedClip]:
    for clip in clips:
        yield clip
        progress.update()
