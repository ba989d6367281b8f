"""The report: each threshold shows the clips nearest to it on its two sides, the funnel's rows add up."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.report.contents import Contents, read_contents
from data_pipeline.report.page import render
from data_pipeline.report.sections import cost_panel, duplicates, funnel, thresholds, worst_files
from groundwork.errors import StorageError
from groundwork.records import Caption, Clip, Decision, Duplicate, Rejected, Video, to_table
from groundwork.storage import Storage, open_storage

RULES = [
    {"reason": "dark", "score": "luma_mean", "below": 30.0, "above": None},
    {"reason": "ugly", "score": "aesthetic_score", "below": 4.5, "above": None},
]
COPIES = [
    Duplicate("clip07", "video1", "clip07", 0, "clip07", 1.0, 0.0, "hash"),
    Duplicate("clip08", "video0", "clip07", 1, "clip07", 0.97, 0.0, "hash"),
]


def write(out: Storage, *, copies: list[Duplicate]) -> Contents:
    """Twenty clips of two seconds, from the darkest to the brightest, in two parts; the last one failed."""
    clips = [Clip(f"clip{n:02d}", f"video{n % 2}", 0, 50, 1, 25, 0.0, 2.0, 50, 640, 360, 25.0) for n in range(20)]
    ids = [clip.clip_id for clip in clips]
    dark = [Decision(name, n >= 6, "" if n >= 6 else "dark", "luma_mean", 5.0 * n, 30.0) for n, name in enumerate(ids)]
    videos = [
        Video("video0", "a.mp4", 1, "mov", "h264", 25.0, 20.0, 640, 360, "", "ok", "", ""),
        Video("video1", "b.mp4", 1, "", "", 0.0, 0.0, 0, 0, "", "failed", "damaged", "<cut off>"),
    ]
    lost = [Rejected("video1", "clip19", "b.mp4", "encode", "damaged", "no frame", failed=True)]
    spent = {"cpu_milliseconds": np.full(20, 100.0), "motion_milliseconds": np.full(20, 40.0)}
    tables = {
        "clips": to_table(clips, Clip),
        "decisions/p": to_table(dark, Decision),
        "captions/measured": to_table([Caption(n, f"says {n}", "", [], "measured", "1") for n in ids[6:]], Caption),
        "signals/exposure": pa.table({"clip_id": ids, "luma_mean": 5.0 * np.arange(20)}),
        "timings": pa.table({"clip_id": ids, **spent}),
        "thumbnails": pa.table({"clip_id": ids, "jpeg": [b"%d" % n for n in range(20)]}),
        "duplicates": to_table(copies, Duplicate),
        "videos": to_table(videos, Video),
        "rejected": to_table(lost, Rejected),
    }
    for folder, table in tables.items():
        for number, first in enumerate(range(0, max(1, len(table)), 12)):
            out.write_table(f"{folder}/part-{number:05d}.parquet", table.slice(first, 12), row_group_size=5)
    files = dict.fromkeys(path for path in out.list() if path.endswith(".parquet"))
    hours = {"read": 0.1, "found": 40 / 3600, "kept": 0.01, "rejected": 0.01, "failed": 0.0}
    manifest = {
        "name": "made up", "variant": "toy", "recipe": {}, "recipe_hash": "r", "dataset_hash": "d", "shards": [],
        "policy": {"name": "p", "rules": RULES}, "hours": hours, "seconds": {"analyse": 1.0}, "files": files,
        "videos": {"read": 2, "ok": 1, "failed": 1, "duplicate": 0},
        "clips": {"found": 20, "kept": 13, "rejected": {"dark": 6}, "failed": 1},
    }  # fmt: skip
    return read_contents(out, manifest)


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    return write(open_storage(tmp_path), copies=COPIES)


def test_a_threshold_shows_the_nearest_clips_on_both_sides(contents: Contents) -> None:
    panel = thresholds(contents)
    stopped, passed = re.findall(r'badge \w+">(?:stopped|passed)</span>(.*?)</div></div>', panel)
    assert re.findall(r"<figcaption>([\d.]+)<", stopped) == ["5", "10", "15", "20", "25"]
    assert re.findall(r"<figcaption>([\d.]+)<", passed) == ["30", "35", "40", "45", "50"]
    assert [base64.b64decode(picture) for picture in re.findall(r"base64,([^\"]+)", passed)] == [
        b"6", b"7", b"8", b"9", b"10",
    ]  # fmt: skip
    assert "No clip has this score: the rule decides nothing" in panel


def test_the_funnel_counts_down_rule_by_rule(contents: Contents) -> None:
    rows = re.findall(r"<tr.*?</tr>", funnel(contents))
    dark, ugly, failed = rows[1:]
    assert re.findall(r"<td>([^<]*)</td>", dark) == ["luma_mean below 30", "6", "12.0 s", "0.6 s", "14"]
    assert "class=faint" in ugly
    assert re.findall(r"<td>([^<]*)</td>", failed) == ["", "1", "2.0 s", "0.1 s", "13"]


def test_worst_files_costs_and_copies_are_told(contents: Contents, tmp_path: Path) -> None:
    told = worst_files(contents)
    assert told.index("b.mp4") < told.index("a.mp4")
    assert "dark 3" in told
    assert "&lt;cut off&gt;" in told
    assert "motion" in cost_panel(contents)
    assert "1 groups of 2 clips" in duplicates(contents)
    assert "hash 0.970" in duplicates(contents)
    assert duplicates(write(open_storage(tmp_path / "none"), copies=[])) == ""


def test_the_page_shows_each_clip_by_its_own_picture_caption_and_reason(contents: Contents) -> None:
    page = render(contents)
    assert page.count("<figure>") == 20
    for number in (6, 18):
        picture = base64.b64encode(b"%d" % number).decode()
        assert re.search(rf"<figure><img[^>]*base64,{picture}\"><figcaption><p>says clip{number:02d}</p>", page)
    assert "luma_mean 5 &lt; 30" in page
    assert "failed</span> damaged: no frame" in page


def test_tables_that_do_not_fit_together_are_an_error(contents: Contents) -> None:
    out = contents.dataset
    path = "thumbnails/part-00000.parquet"
    out.write_table(path, out.read_table(path).slice(1))
    with pytest.raises(StorageError, match="do not name the same clips"):
        contents.shown([3])
