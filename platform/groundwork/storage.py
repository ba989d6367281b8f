"""The one door to disk, S3, GCS and the web: a URI becomes a folder that is read, listed and written atomically."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from groundwork.errors import StorageError

_TEMPORARY_SUFFIX = ".partial"
_OPEN_FILES = 256


def open_storage(uri: str | Path) -> Storage:
    """The folder at `uri`: a path, file://, s3://, gs://, or any protocol fsspec knows (http:// and https:// for
    reading; the query of such an address goes with every file). Nothing is created yet.

    An S3-compatible server is named in the URI (`s3://bucket/x?endpoint_override=http://127.0.0.1:9000`) or by
    AWS_ENDPOINT_URL. Raises StorageError when the URI cannot be understood.
    """
    return Storage(str(uri))


class Storage:
    """A folder on any file system. Paths are relative, with forward slashes. Every OSError becomes a StorageError."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") if "?" not in uri else uri
        self._files: dict[str, pa.NativeFile] = {}
        self._lock = threading.Lock()

    @cached_property
    def _place(self) -> tuple[pafs.FileSystem, str]:
        scheme = urlsplit(self.uri).scheme
        if self._on_the_web:
            return _through_fsspec(self.uri.partition("?")[0])
        if scheme in ("", "file"):
            path = unquote(urlsplit(self.uri).path) if scheme else self.uri
            return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
        with self._errors("open", ""):
            try:
                filesystem, root = pafs.FileSystem.from_uri(self.uri)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                return _through_fsspec(self.uri)
            return filesystem, root.rstrip("/")

    @property
    def _on_the_web(self) -> bool:
        return urlsplit(self.uri).scheme in ("http", "https")

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.uri,)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system, for readers that take one (Ray Data, pyarrow.dataset)."""
        return self._place[0]

    @property
    def root(self) -> str:
        """The folder's path inside `filesystem`."""
        return self._place[1]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, relative: str = "") -> str:
        """Where `relative` lies inside `filesystem`. Raises ValueError for a path that climbs out of the folder."""
        if ".." in relative.split("/"):
            raise ValueError(f"path {relative!r} must not contain '..'")
        path = f"{self.root}/{relative}" if relative else self.root
        mark, query = self.uri.partition("?")[1:] if self._on_the_web else ("", "")
        return path + mark + query

    def child(self, relative: str) -> Storage:
        """The folder below this one."""
        base, _, query = self.uri.partition("?")
        return Storage(f"{base.rstrip('/')}/{relative}" + (f"?{query}" if query else ""))

    @contextmanager
    def _errors(self, verb: str, relative: str) -> Iterator[None]:
        try:
            with _web_errors() if self._on_the_web else nullcontext():
                yield
        except FileNotFoundError as error:
            raise StorageError(f"Cannot {verb} {self.uri}/{relative}: not found.", "Check the address.") from error
        except OSError as error:
            full = error.errno == errno.ENOSPC
            hint = "The disk is full: free space, then run the same command again." if full else ""
            raise StorageError(f"Cannot {verb} {self.uri}/{relative}: {error}", hint) from error

    def exists(self, relative: str = "") -> bool:
        with self._errors("look up", relative):
            return bool(self.filesystem.get_file_info(self.path(relative)).type != pafs.FileType.NotFound)

    def size(self, relative: str) -> int:
        """Bytes of a file. Raises StorageError when it is missing."""
        with self._errors("look up", relative):
            status = self.filesystem.get_file_info(self.path(relative))
            if status.type != pafs.FileType.File:
                raise FileNotFoundError(relative)
            return int(status.size or 0)  # a web server may not say

    def version(self, relative: str) -> str:
        """What changes when a file changes: its time of modification, or what a web server says in its place. Empty
        where nothing is known. Raises StorageError when the file is missing."""
        with self._errors("look up", relative):
            if self._on_the_web:
                found = self.filesystem.handler.fs.info(self.path(relative))
                return str(found.get("ETag") or found.get("Last-Modified") or "")
            status = self.filesystem.get_file_info(self.path(relative))
            if status.type != pafs.FileType.File:
                raise FileNotFoundError(relative)
            return str(status.mtime_ns or "")

    def list(self, prefix: str = "", *, suffix: str = "") -> list[str]:
        """Relative paths of all files below `prefix` whose names end with `suffix`, sorted; empty for none."""
        with self._errors("list", prefix):
            selector = pafs.FileSelector(self.path(prefix), recursive=True, allow_not_found=True)
            found = self.filesystem.get_file_info(selector)
            files = (f.path for f in found if f.type == pafs.FileType.File and not f.path.endswith(_TEMPORARY_SUFFIX))
            skip = len(self.root) + 1
            return sorted(path[skip:] for path in files if path.endswith(suffix))

    def read_bytes(self, relative: str) -> bytes:
        with self._errors("read", relative), self.filesystem.open_input_stream(self.path(relative)) as stream:
            return bytes(stream.read())

    def read_range(self, relative: str, *, start: int, length: int) -> bytearray:
        """`length` bytes of a file from `start` on, by one request. Raises StorageError when it ends before that."""
        data = bytearray(length)
        with self._errors("read", relative):
            if self.is_local:
                file = os.open(self.path(relative), os.O_RDONLY)
                try:
                    got = os.preadv(file, [data], start)
                finally:
                    os.close(file)
            else:
                found = self._opened(relative).read_at(length, start)
                got, data[: len(found)] = len(found), found
            if got < length:
                raise OSError(f"it ends at byte {start + got}, not at {start + length}")
        return data

    def _opened(self, relative: str) -> pa.NativeFile:
        """A remote file, which stays open while it is among the last used: opening costs a request."""
        with self._lock:
            file = self._files.pop(relative, None)
        file = file or self.filesystem.open_input_file(self.path(relative))
        with self._lock:
            self._files[relative] = file
            while len(self._files) > _OPEN_FILES:
                del self._files[next(iter(self._files))]
        return file

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a whole file: readers see the old content or the new one, never a part."""
        with self._errors("write", relative):
            if not self.is_local:
                with self.filesystem.open_output_stream(self.path(relative)) as stream:
                    stream.write(data)
                return
            with self._replacing(relative) as temporary:
                temporary.write_bytes(data)

    @contextmanager
    def _replacing(self, relative: str) -> Iterator[Path]:
        """A temporary file beside the target, synced and renamed over it on success, removed on failure."""
        target = Path(self.path(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}")
        try:
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def new_file(self, relative: str) -> Iterator[Path]:
        """A local path to write a file of any size to; without an error it becomes `relative`, whole, else nothing."""
        with self._errors("write", relative):
            if self.is_local:
                with self._replacing(relative) as temporary:
                    yield temporary
                return
            with tempfile.TemporaryDirectory(prefix="cvx-") as folder:
                local = Path(folder) / "file"
                yield local
                self.filesystem.create_dir(self.path(relative).rpartition("/")[0], recursive=True)
                pafs.copy_files(str(local), self.path(relative), destination_filesystem=self.filesystem)

    def read_json(self, relative: str) -> Any:
        data = self.read_bytes(relative)
        try:
            return json.loads(data)
        except ValueError as error:
            raise StorageError(f"{self.uri}/{relative} is not valid JSON: {error}") from error

    def write_json(self, relative: str, value: Any) -> None:
        self.write_bytes(relative, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")

    def read_table(self, relative: str, *, columns: Sequence[str] | None = None) -> pa.Table:
        """One Parquet file, or all of them below a folder in name order. Raises StorageError when there is none.

        `columns`: read only these, as far as a file has them.
        """
        names = [relative] if relative.endswith(".parquet") else self.list(relative, suffix=".parquet")
        if not names:
            raise StorageError(f"No Parquet file below {self.uri}/{relative}.", "Has the stage that writes it run?")
        with self._errors("read", relative):
            try:
                tables = [self._read_parquet(name, columns) for name in names]
            except pa.ArrowInvalid as error:
                raise StorageError(f"A Parquet file below {self.uri}/{relative} is damaged: {error}") from error
        return pa.concat_tables(tables, promote_options="default")

    def _read_parquet(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        with pq.ParquetFile(self.path(name), filesystem=self.filesystem) as file:
            have = file.schema_arrow.names
            return file.read(columns=None if columns is None else [column for column in columns if column in have])

    @contextmanager
    def open_table(self, relative: str) -> Iterator[pq.ParquetFile]:
        """One Parquet file, to read parts of it. Raises StorageError when it is missing or damaged."""
        with self._errors("read", relative):
            try:
                with pq.ParquetFile(self.path(relative), filesystem=self.filesystem) as file:
                    yield file
            except pa.ArrowInvalid as error:
                raise StorageError(f"{self.uri}/{relative} is damaged: {error}") from error

    def write_table(self, relative: str, table: pa.Table, *, row_group_size: int | None = None) -> None:
        """Write one Parquet file atomically; equal tables give equal bytes."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
        self.write_bytes(relative, sink.getvalue().to_pybytes())

    def checksum(self, relative: str) -> str:
        """sha256 of a file, in hex, read as a stream."""
        with self._errors("read", relative), self.filesystem.open_input_stream(self.path(relative)) as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()

    def delete(self, relative: str) -> None:
        """Remove a file; a missing one is no error."""
        with self._errors("delete", relative):
            if self.exists(relative):
                self.filesystem.delete_file(self.path(relative))

    def delete_tree(self, relative: str) -> None:
        """Remove a folder and all below it; a missing one is no error."""
        with self._errors("delete", relative):
            if self.exists(relative):
                self.filesystem.delete_dir(self.path(relative))

    def upload(self, local: Path, relative: str) -> None:
        """Copy a local file, or a local folder with all below it, to `relative`."""
        for source in [local] if local.is_file() else sorted(p for p in local.rglob("*") if p.is_file()):
            target = relative if local.is_file() else f"{relative}/{source.relative_to(local).as_posix()}"
            with self._errors("write", target):
                if self.is_local:
                    with self._replacing(target) as temporary:
                        shutil.copyfile(source, temporary)
                else:
                    pafs.copy_files(str(source), self.path(target), destination_filesystem=self.filesystem)

    @contextmanager
    def local_path(self, relative: str = "") -> Iterator[Path]:
        """A file or folder as a local path: itself on a local disk, else a copy that is removed afterwards."""
        if self.is_local:
            yield Path(self.path(relative))
            return
        with tempfile.TemporaryDirectory(prefix="cvx-") as folder:
            target = Path(folder) / (relative.rsplit("/", 1)[-1] or "copy")
            with self._errors("read", relative):
                if self.filesystem.get_file_info(self.path(relative)).type == pafs.FileType.Directory:
                    target.mkdir()  # pyarrow makes only the folders inside it
                pafs.copy_files(self.path(relative), str(target), source_filesystem=self.filesystem)
            yield target


@contextmanager
def _web_errors() -> Iterator[None]:
    """The web client's own errors are no OSErrors."""
    import aiohttp

    try:
        yield
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from error


def _through_fsspec(uri: str) -> tuple[pafs.FileSystem, str]:
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise StorageError(f"Cannot open {uri}: {error}", "Use a path, file://, s3:// or gs://.") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), root.rstrip("/")
