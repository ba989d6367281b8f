"""Whatever a file is, it ends as a row: kept, rejected or failed, with a reason, and the sums agree."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from data_pipeline.pipeline import curate
from data_pipeline.recipe import CurateRecipe
from groundwork.ray_session import ray_session
from groundwork.storage import Storage, open_storage
from tests.support.corpus.graded import Recording
from tests.support.corpus.record import damage, record, record_audio
from tests.support.signals import panned

SIZE = Recording(width=128, height=96, fps=16, gop=8)
EIGHT_K = replace(SIZE, codec="mpeg4", width=7680, height=4320)
DEEP = replace(SIZE, codec="libx265", pixel_format="yuv420p10le")
NOT_UTF8 = os.fsdecode(b"latin_\xe9.mp4")


def film(path: Path, recording: Recording = SIZE, *, seed: int, frames: int = 24) -> None:
    small = panned(seed, count=frames, step=2.0, height=min(96, recording.height), width=min(128, recording.width))
    size = (recording.width, recording.height)
    record(path, [cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST) for frame in small], recording)


def halved(path: Path, *, seed: int) -> None:
    film(path, seed=seed)
    path.write_bytes(damage(path.read_bytes(), "truncated", name=""))


def spoilt(path: Path, *, seed: int) -> None:
    film(path, seed=seed, frames=48)
    path.write_bytes(damage(path.read_bytes(), "corrupt", name=""))


def without_time(path: Path, *, seed: int) -> None:
    """An mp4 whose frames are all due at once: the table of their durations holds zeros."""
    film(path, replace(SIZE, codec="mpeg4"), seed=seed)
    data = bytearray(path.read_bytes())
    place = data.index(b"stts") + 8
    (entries,) = struct.unpack(">I", data[place : place + 4])
    for entry in range(entries):
        data[place + 8 + 8 * entry : place + 12 + 8 * entry] = bytes(4)
    path.write_bytes(data)


def shown(recording: Recording, frames: int = 24) -> Callable[..., None]:
    return lambda path, *, seed: film(path, recording, seed=seed, frames=frames)


@dataclass(frozen=True)
class Odd:
    """`status` of its row; the reason why it failed, or why its clips are rejected (empty: they are kept); and the size
    at which it is shown."""

    make: Callable[..., None]
    status: str = "ok"
    reason: str = ""
    size: tuple[int, int] = (128, 96)


FILES = {
    "empty.mp4": Odd(lambda path, seed: path.touch(), "failed", "damaged"),
    "truncated.mp4": Odd(halved, "failed", "damaged"),
    "text.mp4": Odd(lambda path, seed: path.write_text("no film"), "failed", "damaged"),
    "sound_only.mp4": Odd(lambda path, seed: record_audio(path, seconds=1.0), "failed", "damaged"),
    NOT_UTF8: Odd(lambda path, seed: film(path, seed=seed), "failed", "unreadable"),
    "corrupt.mp4": Odd(spoilt, reason="too_short"),
    "without_time.mp4": Odd(without_time, reason="too_few_frames"),
    "one_frame.mp4": Odd(shown(SIZE, 1), reason="too_short"),
    "really_matroska.mp4": Odd(shown(replace(SIZE, container="matroska"))),
    "variable_rate.mp4": Odd(shown(replace(SIZE, variable_rate=True))),
    "odd_size.mp4": Odd(shown(replace(SIZE, width=97, height=63, pixel_format="yuv444p")), size=(97, 63)),
    "rotated.mp4": Odd(shown(replace(SIZE, rotation=90)), size=(96, 128)),
    "anamorphic.mp4": Odd(shown(replace(SIZE, pixel_aspect=(2, 1))), size=(256, 96)),
    "ten_bit.mp4": Odd(shown(DEEP)),
    "hdr.mp4": Odd(shown(replace(DEEP, high_dynamic_range=True))),
    "alpha.mov": Odd(shown(replace(SIZE, codec="qtrle", container="mov", pixel_format="argb"))),
    "eight_k.mp4": Odd(shown(EIGHT_K, 1), reason="too_short", size=(7680, 4320)),
    "left/same_name.mp4": Odd(shown(SIZE)),
    "right/same_name.mp4": Odd(shown(SIZE)),
}


@pytest.fixture(scope="module")
def made(quick_recipe: CurateRecipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Storage, Any]]:
    """All of them curated at once."""
    folder, out = tmp_path_factory.mktemp("odd"), tmp_path_factory.mktemp("made")
    for number, (name, odd) in enumerate(FILES.items()):
        (folder / name).parent.mkdir(exist_ok=True)
        odd.make(folder / name, seed=number)
    with ray_session():
        yield open_storage(out), curate(quick_recipe, inputs=[str(folder)], out=str(out))


def shown_name(name: str) -> str:
    """As tables can hold it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@pytest.mark.parametrize("name", FILES, ids=shown_name)
def test_a_file_is_a_row_with_its_fate(made: tuple[Storage, Any], name: str) -> None:
    odd, (out, _) = FILES[name], made
    (row,) = [row for row in out.read_table("videos").to_pylist() if row["uri"].endswith(f"/{shown_name(name)}")]
    rejected = [one for one in out.read_table("rejected").to_pylist() if one["video_id"] == row["video_id"]]
    clips = [one["clip_id"] for one in out.read_table("clips").to_pylist() if one["video_id"] == row["video_id"]]
    reasons = {one["clip_id"]: one["reason"] for one in out.read_table("decisions").to_pylist()}
    assert row["status"] == odd.status
    if odd.status == "failed":
        assert (row["reason"], clips) == (odd.reason, [])
        assert [(one["stage"] != "", one["failed"], one["reason"]) for one in rejected] == [(True, True, odd.reason)]
    else:
        assert (row["width"], row["height"]) == odd.size
        assert {reasons[clip] for clip in clips} == {odd.reason}
        assert rejected == []


def test_in_is_kept_and_rejected_and_failed(made: tuple[Storage, Any]) -> None:
    out, summary = made
    told, clips = summary["videos"], summary["clips"]
    assert told["read"] == len(FILES) == told["ok"] + told["failed"] + told["duplicate"]
    assert clips["found"] == clips["kept"] + sum(clips["rejected"].values()) + clips["failed"]
    assert (clips["failed"], told["failed"]) == (0, sum(odd.status == "failed" for odd in FILES.values()))
    decided = Counter(row["kept"] for row in out.read_table("decisions").to_pylist())
    assert (decided[True], sum(decided.values())) == (clips["kept"], clips["found"] - clips["failed"])
