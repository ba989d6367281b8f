"""URIs (folders, files, globs) become source rows: what is there, which bytes, which are the same."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from data_pipeline.fingerprint import DIGITS
from groundwork.errors import InputError, StorageError
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import get_logger

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
        *(".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    }
)
SOURCES_FILE = "work/sources.json"
_WILDCARDS = "*?["


@dataclass(frozen=True)
class Source:
    """A file found. `video_id` hashes its bytes; `duplicate_of` is the URI of an equal file that came first."""

    uri: str
    folder: str
    name: str
    bytes: int
    modified: int
    video_id: str = ""
    duplicate_of: str = ""

    @property
    def storage(self) -> Storage:
        """The folder the file lies in."""
        return open_storage(self.folder)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """All videos named by the inputs, without doubles, sorted by URI.

    A folder is searched with all below it for files with a video suffix; a file or a glob is taken as it is.
    Raises InputError when an input does not exist or when nothing is found at all.
    """
    if not inputs:
        raise InputError("No input is given.", "Name a folder, a file or a glob: --input URI")
    found = {source.uri: source for given in inputs for source in _sources_of(given)}
    if not found:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES))
        raise InputError(f"No video found in {', '.join(inputs)}.", f"Looked for files that end with {suffixes}.")
    return [found[uri] for uri in sorted(found)]


def identify(sources: Sequence[Source], *, out: Storage) -> list[Source]:
    """The sources with ids from their bytes, equal files marked. Ids of unchanged files come from the last run."""
    known = _known_ids(out)
    with ThreadPoolExecutor(max_workers=4) as pool:
        ids = list(pool.map(lambda source: known.get(_stamp(source)) or _hash(source), sources))
    first: dict[str, str] = {}
    named = []
    for source, video_id in zip(sources, ids, strict=True):
        original = first.setdefault(video_id, source.uri)
        duplicate_of = "" if original == source.uri else original
        named.append(Source(**{**asdict(source), "video_id": video_id, "duplicate_of": duplicate_of}))
    stamps = {_stamp(source): source.video_id for source in named}
    if stamps != known:
        out.write_json(SOURCES_FILE, stamps)
    return named


def _sources_of(given: str) -> Iterable[Source]:
    address, query = _split_query(given)
    storage, pattern = open_storage(given), ""
    kind = storage.filesystem.get_file_info(storage.path()).type
    if kind == pafs.FileType.NotFound:  # a file may have brackets in its name, so a glob comes second
        base, pattern = _split_glob(address)
        storage = open_storage(base + query)
        kind = storage.filesystem.get_file_info(storage.path()).type if pattern else kind
    if kind == pafs.FileType.NotFound:
        raise InputError(f"Input {given!r} does not exist.", "Check the path or URI.")
    if kind == pafs.FileType.File:
        parent, _, name = address.rstrip("/").rpartition("/")
        return [_source(open_storage((parent or ".") + query), name)]
    names = storage.list()
    if pattern:
        taken = [name for name in names if fnmatch.fnmatch(name, pattern)]
    else:
        taken = [name for name in names if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES]
        if len(taken) < len(names):
            get_logger("ingest").info("%s: %d files are not videos by name", given, len(names) - len(taken))
    return [_source(storage, name) for name in taken]


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
    status = storage.filesystem.get_file_info(storage.path(name))
    if status.type != pafs.FileType.File:
        raise StorageError(f"{storage.uri}/{name} vanished while it was listed.")
    folder, _, base = storage.path(name).rpartition("/")
    if storage.is_local:
        return Source(f"{folder}/{base}", folder or "/", base, int(status.size), int(status.mtime_ns or 0))
    inner, _, leaf = name.rpartition("/")
    parent = storage.child(inner) if inner else storage
    uri = f"{parent.uri.partition('?')[0]}/{leaf}"
    return Source(uri, parent.uri, leaf, int(status.size), int(status.mtime_ns or 0))


def _stamp(source: Source) -> str:
    return f"{source.uri}|{source.bytes}|{source.modified}"


def _known_ids(out: Storage) -> dict[str, str]:
    return dict(out.read_json(SOURCES_FILE)) if out.exists(SOURCES_FILE) else {}


def _hash(source: Source) -> str:
    try:
        return source.storage.checksum(source.name)[:DIGITS]
    except StorageError:
        # An unreadable file still gets a row: its id is that of its address.
        return hashlib.sha256(source.uri.encode()).hexdigest()[:DIGITS]
