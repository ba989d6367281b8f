"""Manifests and the web as inputs: every row is a source or says why not, on disk and over HTTP."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.ingest import SOURCES_FILE, Source, find_sources, identify
from groundwork.errors import InputError
from groundwork.storage import open_storage


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    (folder / "inner").mkdir(parents=True)
    for name, data in {"a.mp4": b"one", "inner/b.mp4": b"two", "c film.mp4": b"one"}.items():
        (folder / name).write_bytes(data)
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if "forbidden" in self.path:
            self.send_error(403)
        else:
            super().do_GET()

    do_HEAD = do_GET


@pytest.fixture
def web(films: Path) -> Iterator[str]:
    """The films on a web server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(films)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def told(sources: list[Source]) -> list[tuple[str, str, str, str]]:
    return [(Path(source.uri).name, source.licence, source.metadata, source.reason) for source in sources]


ROWS = [
    {"uri": "a.mp4", "licence": "CC0-1.0", "title": "A", "year": 1906},
    {"uri": "inner/b.mp4", "licence": None, "title": None, "year": None},
    {"uri": "", "licence": "CC0-1.0", "title": "nobody", "year": None},
    {"uri": "missing.mp4", "licence": None, "title": None, "year": None},
]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "csv":
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in ROWS]
        path.write_text("\n".join(["uri,licence,title,year", *lines]))
    else:
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


@pytest.mark.parametrize(("kind", "year", "line"), [("parquet", "1906", 3), ("csv", '"1906"', 4), ("jsonl", "1906", 3)])
def test_a_manifest_names_sources_beside_it_and_says_what_is_known_of_them(
    films: Path, kind: str, year: str, line: int
) -> None:
    manifest = write(films, kind)
    assert told(find_sources([str(manifest)])) == [
        ("a.mp4", "CC0-1.0", f'{{"title": "A", "year": {year}}}', ""),
        ("b.mp4", "", "", ""),
        (f"list.{kind}#{line}", "", "", "bad_row"),
        ("missing.mp4", "", "", "unreadable"),
    ]


def test_rows_that_cannot_be_read_say_where_and_why(films: Path) -> None:
    lines = [b'{"uri": "a.mp4"}', b"{", b"[1]", b"", b'{"uri": 5}', b'{"uri": "x\xff.mp4"}']
    (films / "list.jsonl").write_bytes(b"\n".join(lines))
    (films / "list.csv").write_text('uri,title\na.mp4,A,more\ninner/b.mp4,"two\nlines"\n')
    found = [source for source in find_sources([str(films / "list.jsonl"), str(films / "list.csv")]) if source.reason]
    assert [source.detail for source in found] == [
        "line 2: it has more fields than the first line names",
        "line 2: it is not valid JSON",
        "line 3: it is not a JSON object",
        "line 5: its 'uri' is empty",
        "line 6: it is not UTF-8",
    ]
    (films / "other.csv").write_text("path\na.mp4\n")
    with pytest.raises(InputError, match="no column 'uri'"):
        find_sources([str(films / "other.csv")])
    (films / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        find_sources([str(films / "broken.parquet")])


def test_failed_rows_have_ids_of_their_own_and_equal_bytes_are_found(films: Path, tmp_path: Path) -> None:
    (films / "list.jsonl").write_text("{\n{\n" + '{"uri": "a.mp4"}\n{"uri": "c film.mp4"}')
    found = identify(find_sources([str(films / "list.jsonl")]), out=open_storage(tmp_path / "out"))
    assert len({source.video_id for source in found}) == 3
    assert [bool(source.duplicate_of) for source in found] == [False, True, False, False]


def test_a_name_that_is_not_utf8_is_a_row(films: Path) -> None:
    (Path(str(films)) / b"bad\xff.mp4".decode("utf-8", "surrogateescape")).write_bytes(b"three")
    odd = next(source for source in find_sources([str(films)]) if source.reason)
    assert odd.uri.endswith("bad\\xff.mp4")
    assert odd.detail == "its name is not UTF-8: rename it"


def test_the_web_is_read_file_by_file_folder_by_folder_and_through_manifests(
    films: Path, web: str, tmp_path: Path
) -> None:
    out = open_storage(tmp_path / "out")
    (found,) = identify(find_sources([f"{web}/a.mp4?key=1"]), out=out)
    (same,) = identify(find_sources([str(films / "a.mp4")]), out=open_storage(tmp_path / "other"))
    assert (found.video_id, found.uri, found.bytes) == (same.video_id, f"{web}/a.mp4?key=1", 3)
    assert found.storage.read_bytes(found.name) == b"one"
    with found.storage.local_path(found.name) as path:
        assert path.read_bytes() == b"one"
    assert list(out.read_json(SOURCES_FILE).values()) == [found.video_id]
    assert next(source.name for source in find_sources([f"{web}/"])) == "a.mp4"
    (films / "list.jsonl").write_text('{"uri": "inner/b.mp4"}\n{"uri": "forbidden.mp4"}\n{"uri": "gone.mp4"}')
    assert told(find_sources([f"{web}/list.jsonl"])) == [
        ("forbidden.mp4", "", "", "unreadable"),
        ("gone.mp4", "", "", "unreadable"),
        ("b.mp4", "", "", ""),
    ]


def test_a_file_on_the_web_that_changed_gets_a_new_id(films: Path, web: str, tmp_path: Path) -> None:
    import os

    out = open_storage(tmp_path / "out")
    (before,) = identify(find_sources([f"{web}/a.mp4"]), out=out)
    (films / "a.mp4").write_bytes(b"new")
    os.utime(films / "a.mp4", (1, 1))
    (after,) = identify(find_sources([f"{web}/a.mp4"]), out=out)
    assert before.video_id != after.video_id


def test_any_file_system_that_fsspec_knows_is_an_input() -> None:
    folder = open_storage("memory://films")
    folder.write_bytes("x/a.mp4", b"one")
    (found,) = find_sources(["memory://films"])
    assert found.storage.read_bytes(found.name) == b"one"
