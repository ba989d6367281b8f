"""The report: each threshold shows the clips nearest to it on its two sides, the funnel's rows add up."""

from __future__ import annotations

import re
from typing import Any

from data_pipeline.report.contents import Contents, ShownClip
from data_pipeline.report.sections import cost_panel, duplicates, funnel, thresholds, worst_files
from groundwork.records import Clip, Decision, Duplicate, Video

RULES = [
    {"reason": "dark", "score": "luma_mean", "below": 30.0, "above": None},
    {"reason": "ugly", "score": "aesthetic_score", "below": 4.5, "above": None},
]


def clip(number: int, luma: float, *, reason: str = "") -> ShownClip:
    """A clip of two seconds."""
    own = Clip(f"clip{number:02d}", f"video{number % 2}", 0, 50, 1, 25, 0.0, 2.0, 50, 640, 360, 25.0)
    decision = Decision(own.clip_id, not reason, reason, "", None, None)
    state = "rejected" if reason else "kept"
    spent = {"cpu": 100.0, "motion": 40.0}
    return ShownClip(own, state, decision, "", "", b"%d" % number, {"luma_mean": luma, "aesthetic_score": None}, spent)


def contents(**more: Any) -> Contents:
    clips = [clip(number, 5.0 * number, reason="dark" if number < 6 else "") for number in range(20)]
    videos = [
        Video("video0", "a.mp4", 1, "mov", "h264", 25.0, 20.0, 640, 360, "", "ok", "", ""),
        Video("video1", "b.mp4", 1, "", "", 0.0, 0.0, 0, 0, "", "failed", "damaged", "<cut off>"),
    ]
    manifest = {"policy": {"rules": RULES}, "hours": {"found": 40 / 3600}}
    return Contents(manifest, videos, clips, more.get("duplicates", []))


def test_a_threshold_shows_the_nearest_clips_on_both_sides() -> None:
    panel = thresholds(contents())
    stopped, passed = re.findall(r'badge \w+">(?:stopped|passed)</span>(.*?)</div></div>', panel)
    assert re.findall(r"<figcaption>([\d.]+)<", stopped) == ["5", "10", "15", "20", "25"]
    assert re.findall(r"<figcaption>([\d.]+)<", passed) == ["30", "35", "40", "45", "50"]
    assert "No clip has this score: the rule decides nothing" in panel


def test_the_funnel_counts_down_rule_by_rule() -> None:
    rows = re.findall(r"<tr.*?</tr>", funnel(contents()))
    dark, ugly = rows[1:]
    assert re.findall(r"<td>([^<]*)</td>", dark) == ["luma_mean below 30", "6", "12.0 s", "0.6 s", "14"]
    assert "class=faint" in ugly


def test_worst_files_costs_and_copies_are_told() -> None:
    told = worst_files(contents())
    assert told.index("b.mp4") < told.index("a.mp4")
    assert "&lt;cut off&gt;" in told
    assert "motion" in cost_panel(contents())
    assert duplicates(contents()) == ""
    rows = [
        Duplicate("clip07", "video1", "clip07", 0, "clip07", 1.0, 0.0, "hash"),
        Duplicate("clip08", "video0", "clip07", 1, "clip07", 0.97, 0.0, "hash"),
    ]
    assert "1 groups of 2 clips" in duplicates(contents(duplicates=rows))
