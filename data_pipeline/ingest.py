"""URIs (folders, files, globs, manifests) become source rows: what is there, which bytes, which are the same."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from data_pipeline import reach
from data_pipeline.failures import BAD_ROW, UNREADABLE
from data_pipeline.fingerprint import DIGITS
from data_pipeline.manifests import SUFFIXES as MANIFEST_SUFFIXES
from data_pipeline.manifests import ManifestRow, read_manifest
from groundwork.errors import InputError, StorageError
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import get_logger

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
        *(".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    }
)
IMAGE_SUFFIXES = frozenset({".avif", ".jpeg", ".jpg", ".png", ".webp"})
SOURCES_FILE = "work/sources.json"
_WILDCARDS = "*?["
_THREADS = 8  # that wait for storage


@dataclass(frozen=True)
class Source:
    """A file found, or named by a manifest. `video_id` hashes its bytes; `duplicate_of` is the URI of an equal file
    that came first. `version` changes when the file does. `reason`, `detail`: why it cannot even be looked at.
    `licence` and `metadata` (a JSON object) are what a manifest says of it."""

    uri: str
    folder: str
    name: str
    bytes: int = 0
    version: str = ""
    video_id: str = ""
    duplicate_of: str = ""
    licence: str = ""
    metadata: str = ""
    reason: str = ""
    detail: str = ""

    @property
    def storage(self) -> Storage:
        """The folder the file lies in."""
        return _storage(self.folder)


def find_sources(inputs: Sequence[str], *, images: bool = False, private_hosts: bool = False) -> list[Source]:
    """All videos named by the inputs, without doubles, sorted by URI.

    A folder is searched with all below it for files with a video suffix, with `images` also for those of an image; a
    file or a glob is taken as it is; a manifest names sources in its column `uri`, relative to itself, but without
    `private_hosts` none on hosts that only this machine reaches (`reach`). What a manifest or a folder names and cannot
    be looked at becomes a source with a `reason`. Raises InputError when an input does not exist or when nothing is
    found at all.
    """
    if not inputs:
        raise InputError("No input is given.", "Name a folder, a file, a glob or a manifest: --input URI")
    suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES if images else VIDEO_SUFFIXES
    found: dict[str, Source] = {}
    for given in inputs:
        for source in _sources_of(given, suffixes=suffixes, private_hosts=private_hosts):
            found.setdefault(source.uri, source)
    if not found:
        looked_for = " ".join(sorted(suffixes))
        raise InputError(f"No video found in {', '.join(inputs)}.", f"Looked for files that end with {looked_for}.")
    return [found[uri] for uri in sorted(found)]


def identify(sources: Sequence[Source], *, out: Storage) -> list[Source]:
    """The sources with ids from their bytes, equal files marked. Ids of unchanged files come from the last run."""
    known = _known_ids(out)
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        ids = list(pool.map(lambda source: known.get(_stamp(source)) or _hash(source), sources))
    first: dict[str, str] = {}
    named = []
    for source, video_id in zip(sources, ids, strict=True):
        original = first.setdefault(video_id, source.uri)
        duplicate_of = "" if original == source.uri else original
        named.append(replace(source, video_id=video_id, duplicate_of=duplicate_of))
    stamps = {_stamp(source): source.video_id for source in named if source.version}
    if stamps != known:
        out.write_json(SOURCES_FILE, stamps)
    return named


def _sources_of(given: str, *, suffixes: frozenset[str], private_hosts: bool) -> Iterable[Source]:
    address, query = _split_query(given)
    storage, pattern = _storage(given), ""
    kind = _kind(storage)
    if kind == pafs.FileType.NotFound:  # a file may have brackets in its name, so a glob comes second
        base, pattern = _split_glob(address)
        storage = _storage(base + query)
        kind = _kind(storage) if pattern else kind
    if kind == pafs.FileType.NotFound:
        raise InputError(f"Input {given!r} does not exist.", "Check the path or URI.")
    on_the_web = urlsplit(given).scheme in ("http", "https")
    if kind == pafs.FileType.File and not (on_the_web and (pattern or address.endswith("/"))):
        parent, _, name = address.rstrip("/").rpartition("/")
        folder = _storage((parent or ("/" if address.startswith("/") else ".")) + query)
        return (
            _from_manifest(folder, name, private_hosts=private_hosts)
            if name.endswith(MANIFEST_SUFFIXES)
            else [_source(folder, name)]
        )
    names = list(_names(storage))
    if pattern:
        taken = [name for name in names if fnmatch.fnmatch(name, pattern)]
    else:
        taken = [name for name in names if PurePosixPath(name).suffix.lower() in suffixes]
        if len(taken) < len(names):
            get_logger("ingest").info("%s: %d files are not videos by name", given, len(names) - len(taken))
    return [_source(storage, name) for name in taken]


def _names(storage: Storage) -> Iterator[str]:
    """Relative paths of all files; on a local disk also those whose names are not UTF-8, which Arrow cannot list."""
    if not storage.is_local:
        yield from storage.list()
        return
    for folder, _, files in os.walk(storage.root):
        inner = os.path.relpath(folder, storage.root)
        yield from (name if inner == "." else f"{inner}/{name}" for name in files)


def _from_manifest(folder: Storage, name: str, *, private_hosts: bool) -> Iterable[Source]:
    rows = read_manifest(folder, name)
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return list(pool.map(lambda row: _from_row(folder, name, row, private_hosts=private_hosts), rows))


def _from_row(folder: Storage, manifest: str, row: ManifestRow, *, private_hosts: bool) -> Source:
    if row.problem:
        place = f"{folder.uri.partition('?')[0]}/{manifest}"
        return Source(f"{place}#{row.line}", "", "", reason=BAD_ROW, detail=f"line {row.line}: {row.problem}")
    address, query = _split_query(row.uri)
    if not urlsplit(row.uri).scheme and not address.startswith(("/", "~")):
        base, mark, own = folder.uri.partition("?")
        scheme, slashes, path = base.rpartition("://")
        address, query = scheme + slashes + posixpath.normpath(f"{path}/{address}"), mark + own
    parent, _, name = address.rpartition("/")
    refused = "" if private_hosts else reach.refusal(address, named_by=folder.uri)
    if refused:
        return Source(
            address + query, "", "", reason=UNREADABLE, detail=refused, licence=row.licence, metadata=row.metadata
        )
    try:
        source = _source(_storage((parent or "/") + query), name)
    except StorageError as error:
        source = Source(address, parent + query, name, reason=UNREADABLE, detail=error.message)
    return replace(source, licence=row.licence, metadata=row.metadata)


def _split_query(given: str) -> tuple[str, str]:
    """An object store's URI may end in a query (`?endpoint_override=…`); in a local path a `?` is a wildcard."""
    if urlsplit(given).scheme in ("", "file"):
        return given, ""
    address, mark, query = given.partition("?")
    return address, mark + query


def _split_glob(address: str) -> tuple[str, str]:
    """`/a/b/*.mp4` → (`/a/b`, `*.mp4`); without a wildcard the pattern is empty."""
    parts = address.split("/")
    for index, part in enumerate(parts):
        if any(sign in part for sign in _WILDCARDS):
            return "/".join(parts[:index]) or ("/" if address.startswith("/") else "."), "/".join(parts[index:])
    return address, ""


def _source(storage: Storage, name: str) -> Source:
    """The file `name` in a folder. Raises StorageError when it is missing."""
    base, mark, query = storage.uri.partition("?")
    inner, _, leaf = name.rpartition("/")
    if storage.is_local:
        base, mark, query = storage.root, "", ""
    folder = (f"{base.rstrip('/')}/{inner}" if inner else base) or "/"
    shown = f"{folder.rstrip('/')}/{leaf}" + (mark + query if base.startswith("http") else "")
    try:
        shown.encode()
    except UnicodeEncodeError:
        readable = shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return Source(readable, "", "", reason=UNREADABLE, detail="its name is not UTF-8: rename it")
    size, version = storage.size(name), storage.version(name)
    return Source(shown, folder + mark + query, leaf, size, version)


@lru_cache(maxsize=256)
def _storage(uri: str) -> Storage:
    """One file system per folder: opening an object store costs a request or more."""
    return open_storage(uri)


def _kind(storage: Storage) -> pafs.FileType:
    return storage.filesystem.get_file_info(storage.path()).type


def _stamp(source: Source) -> str:
    return f"{source.uri}|{source.bytes}|{source.version}"


def _known_ids(out: Storage) -> dict[str, str]:
    return dict(out.read_json(SOURCES_FILE)) if out.exists(SOURCES_FILE) else {}


def _hash(source: Source) -> str:
    try:
        if not source.reason:
            return source.storage.checksum(source.name)[:DIGITS]
    except StorageError:
        get_logger("ingest").warning("%s cannot be read", source.uri)
    # An unreadable file still gets a row: its id is that of its address.
    return hashlib.sha256(source.uri.encode()).hexdigest()[:DIGITS]
