"""The clip planner: 4N + 1 frames, inside the shot, consecutive, the longest that fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.buckets import choose_bucket, upscale
from data_pipeline.clips import Timeline, clip_id, end_pts, end_seconds, plan_clips
from data_pipeline.recipe import Bucket, ClipSettings

LONG, SHORT = Bucket(num_frames=17, height=96, width=144), Bucket(num_frames=9, height=96, width=144)
SIZE = {"height": 272, "width": 640}


def timeline(num_frames: int, cuts: list[int], *, fps: float = 25.0) -> Timeline:
    seconds = np.arange(num_frames) / fps
    return Timeline(np.round(seconds * 12800).astype(np.int64), seconds, [0, *cuts])


def test_the_bikes_film_is_cut_as_worked_out_by_hand() -> None:
    spans = list(plan_clips(timeline(250, [30, 76, 137, 187, 242]), ClipSettings(), [LONG, SHORT], **SIZE))
    assert [(s.start, s.stop, s.bucket.num_frames if s.bucket else 0) for s in spans] == [
        (0, 29, 9),
        (31, 60, 9),
        (77, 131, 17),
        (138, 167, 9),
        (188, 241, 17),
        (243, 250, 0),
    ]


@settings(max_examples=60, deadline=None)
@given(
    fps=st.sampled_from([7.5, 8.0, 23.976, 25.0, 29.97, 60.0]),
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    trim=st.integers(0, 3),
)
def test_every_clip_lies_in_one_shot_and_holds_all_its_instants(fps: float, lengths: list[int], trim: int) -> None:
    cuts = list(np.cumsum(lengths[:-1]))
    line = timeline(sum(lengths), [int(cut) for cut in cuts], fps=fps)
    plan = ClipSettings(trim_frames=trim)
    spans = list(plan_clips(line, plan, [LONG, SHORT], **SIZE))
    last = 0
    for span in spans:
        assert span.start >= last
        last = span.stop
        assert sum(first <= span.start and span.stop <= stop for first, stop in line.shots()) == 1
        if span.bucket is not None:
            final_instant = line.seconds[span.start] + (span.bucket.num_frames - 1) / plan.fps
            assert final_instant < end_seconds(line, span.stop) + 1e-9
            assert span.bucket.num_frames % 4 == 1
    for first, stop in line.shots():
        assert any(first <= span.start and span.stop <= stop for span in spans), "every shot is accounted for"


def test_a_stride_begins_clips_at_fixed_times_also_where_they_overlap() -> None:
    spans = list(plan_clips(timeline(150, []), ClipSettings(stride_seconds=1.0, trim_frames=0), [LONG, SHORT], **SIZE))
    assert [span.start for span in spans] == [0, 25, 50, 75, 100]
    assert [span.bucket.num_frames for span in spans if span.bucket] == [17, 17, 17, 17, 9]
    assert spans[0].stop > spans[1].start


def test_shots_shorter_than_the_least_length_give_no_clip_but_a_row() -> None:
    plan = ClipSettings(min_seconds=3.0, trim_frames=0)
    spans = list(plan_clips(timeline(150, [60]), plan, [LONG, SHORT], **SIZE))
    assert (spans[0].start, spans[0].stop, spans[0].bucket) == (0, 60, None)
    assert all(span.bucket is not None for span in spans[1:])


def test_clips_are_no_longer_than_the_greatest_length() -> None:
    spans = list(plan_clips(timeline(150, []), ClipSettings(max_seconds=1.5, trim_frames=0), [LONG, SHORT], **SIZE))
    assert {span.bucket.num_frames for span in spans if span.bucket} == {9}


def test_a_shot_one_instant_too_short_has_no_bucket() -> None:
    assert choose_bucket([SHORT], seconds=1.0, fps=8, height=96, width=144) is None
    assert choose_bucket([SHORT], seconds=1.002, fps=8, height=96, width=144) == SHORT


def test_of_equal_lengths_the_nearest_shape_is_taken() -> None:
    wide, tall = Bucket(num_frames=9, height=64, width=128), Bucket(num_frames=9, height=128, width=64)
    assert choose_bucket([wide, tall], seconds=5, fps=8, height=1080, width=1920) == wide
    assert choose_bucket([wide, tall], seconds=5, fps=8, height=1920, width=1080) == tall
    assert upscale(wide, height=32, width=128) == pytest.approx(2.0)


def test_the_id_depends_on_what_the_clip_is_and_on_nothing_else() -> None:
    same = {"start_pts": 5, "stop_pts": 9, "time_base": (1, 12800)}
    assert clip_id("v", **same) == clip_id("v", **same)
    others = [
        clip_id("w", **same),
        clip_id("v", **{**same, "stop_pts": 10}),
        clip_id("v", **{**same, "time_base": (1, 90000)}),
    ]
    assert clip_id("v", **same) not in others
    assert len(set(others)) == 3


def test_the_last_clip_ends_one_frame_after_the_last_time_stamp() -> None:
    line = timeline(10, [])
    assert end_pts(line, 10) == 10 * 512
    assert end_seconds(line, 10) == pytest.approx(0.4)
