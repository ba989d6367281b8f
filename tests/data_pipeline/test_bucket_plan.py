"""Planned buckets are as good as the best there are, keep the model's bounds, and lose what the clip planner loses."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from cogvideox import shape
from data_pipeline.__main__ import main
from data_pipeline.bucket_plan.cost import Cost
from data_pipeline.bucket_plan.footage import Footage, Shot, films
from data_pipeline.bucket_plan.plan import plan_for, plan_text
from data_pipeline.bucket_plan.search import Space, candidate_shapes, search
from data_pipeline.bucket_plan.settings import PlanSettings
from data_pipeline.bucket_plan.waste import Limits, Losses, losses
from data_pipeline.buckets import Weights, choose_bucket, shape_losses
from data_pipeline.clips import Timeline, plan_clips
from data_pipeline.recipe import Bucket, ClipSettings, CurateRecipe

WEIGHTS = Weights()
SMALL = Space(
    shapes=((96, 144), (144, 96), (112, 112), (64, 96), (80, 176)), frames=(9, 17, 33, 49), allows=lambda _: True
)
LIMITS = Limits(SMALL.frames, 1, 96.0 * 144)


def drawn(seed: int) -> Footage:
    random = np.random.default_rng(seed)
    sizes = [(1920, 1080), (1080, 1920), (720, 720), (160, 120), (640, 480), (96, 64)]
    shares = random.dirichlet(np.ones(len(sizes)))
    shots = [
        Shot(*sizes[random.choice(len(sizes), p=shares)], float(seconds))
        for seconds in random.lognormal(np.log(3.5), 0.8, 300).clip(0.3, 60)
    ]
    return films(shots, fps=8, longest=49)


@pytest.mark.parametrize("seed", range(6))
def test_the_plan_is_the_best_of_all_lists_of_so_many_buckets(seed: int) -> None:
    footage = drawn(seed)
    cost = Cost(footage, SMALL.shapes, LIMITS, WEIGHTS)
    best = min(cost.of(frozenset(chosen)) for chosen in itertools.combinations(SMALL.sizes(), 3))
    found = search(footage, SMALL, LIMITS, WEIGHTS, count=3)
    assert len(found) <= 3
    assert cost.of(frozenset(found)) <= 1.005 * best
    assert found == search(footage, SMALL, LIMITS, WEIGHTS, count=3)


def test_the_quick_cost_is_the_weighted_sum_of_the_losses_told() -> None:
    random = np.random.default_rng(1)
    weights = Weights(padded=0.7, cropped=0.9, dropped=1.1, upscaled=1.3, shrunk=0.4, shortened=0.6)
    limits = Limits((9, 17, 33, 49), 2, 96.0 * 144)
    footage = drawn(7)
    cost = Cost(footage, SMALL.shapes, limits, weights)
    for _ in range(40):
        chosen = [SMALL.sizes()[index] for index in random.choice(20, size=random.integers(1, 7), replace=False)]
        told = losses(footage, chosen, limits)
        if len({size[1:] for size in chosen}) == 1:
            assert cost.of(frozenset(chosen)) == pytest.approx(told.cost(weights))
        full = [(frames, *size[1:]) for frames in (17, 33) for size in chosen]
        same = losses(footage, full, limits).cost(weights)  # where all shapes have the same lengths, all keep theirs
        assert cost.of(frozenset(full)) == pytest.approx(same)
        assert sum(getattr(told, name) for name in ("cropped", "dropped", "shrunk")) <= 1 + 1e-9


def told_by_the_clip_planner(shots: list[Shot], buckets: list[Bucket]) -> Losses:
    """The losses counted from the very clips that `plan_clips` cuts out of 80 frames a second."""
    found, total, clips = Counter[str](), 0.0, Counter[str]()
    largest = float(max(bucket.height * bucket.width for bucket in buckets))
    for shot in shots:
        stamps = np.arange(round(shot.seconds * 80))
        timeline = Timeline(stamps, stamps / 80, [0])
        worth = min(shot.height * shot.width, largest)
        spans = plan_clips(timeline, ClipSettings(fps=8), buckets, height=shot.height, width=shot.width)
        used = 0.0
        for bucket in (span.bucket for span in spans if span.bucket is not None):
            own = shape_losses(bucket.height, bucket.width, height=shot.height, width=shot.width, largest=largest)
            used += bucket.num_frames
            found["cropped"] += bucket.num_frames * own.cropped
            found["upscaled"] += bucket.num_frames * own.upscaled
            clips["clips"] += 1
        found["dropped"] += worth * (shot.seconds * 8 - used)
        total += worth * shot.seconds * 8
    cropped, upscaled, dropped = (found[name] / total for name in ("cropped", "upscaled", "dropped"))
    return Losses(0, cropped, dropped, upscaled, 0, 0, clips["clips"], 0)


def test_the_waste_told_is_that_of_the_clips_the_pipeline_cuts() -> None:
    random = np.random.default_rng(3)
    sizes = [(1920, 1080), (1080, 1920), (160, 120)]
    # Whole numbers of frames of the wanted rate, where counting frames and counting seconds agree.
    shots = [Shot(*sizes[index % 3], float(frames) / 8) for index, frames in enumerate(random.integers(3, 200, 60))]
    sizes_ = [(49, 96, 144), (17, 96, 144), (33, 144, 96), (9, 64, 96)]
    buckets = [Bucket(num_frames=f, height=h, width=w) for f, h, w in sizes_]
    told = losses(films(shots, fps=8, longest=49), sizes_, LIMITS)
    counted = told_by_the_clip_planner(shots, buckets)
    assert counted.clips == told.clips > 100
    assert counted.dropped == pytest.approx(told.dropped, abs=1e-6)
    assert counted.cropped == pytest.approx(told.cropped, abs=1e-6)
    assert counted.upscaled == pytest.approx(told.upscaled, abs=1e-6)


@pytest.mark.parametrize("variant", ["cogvideox-2b", "cogvideox1.5-5b", "cogvideox-5b-i2v"])
def test_planned_buckets_suit_their_model_and_go_into_a_recipe(variant: str) -> None:
    shots = [Shot(1920, 1080, 7.0, 5), Shot(720, 1280, 3.1, 3), Shot(1080, 1080, 9.0), Shot(640, 480, 2.2, 2)]
    images = [Shot(1024, 768, 0, 4), Shot(500, 800, 0, 2), Shot(300, 300, 0)]
    settings = PlanSettings(variant=variant, count=4, max_seconds=6, aspect_from=0.5, aspect_to=2)
    result = plan_for([*shots, *images], settings, basis="drawn")
    given = yaml.safe_load(plan_text(result).partition("\nbuckets:\n")[2])
    buckets = CurateRecipe(variant=variant, buckets=given).buckets
    moving = [bucket for bucket in buckets if bucket.num_frames > 1]
    still = [bucket for bucket in buckets if bucket.num_frames == 1]
    assert 1 <= len(moving) <= 4
    assert 1 <= len(still) <= 3
    step = 8 if "1.5" in variant else 4
    most = {"cogvideox-2b": 17_550, "cogvideox-5b-i2v": 17_550, "cogvideox1.5-5b": 85_680}[variant]
    for bucket in buckets:
        assert (bucket.num_frames - 1) % step == 0
        assert bucket.height % 16 == bucket.width % 16 == 0
        assert 0.5 <= bucket.width / bucket.height <= 2
        patch = 2 if "1.5" in variant else 1
        assert shape.num_video_tokens(bucket.num_frames, bucket.height, bucket.width, patch_frames=patch) <= most
    if variant == "cogvideox-5b-i2v":  # learned positions: one size, one length
        assert {(b.num_frames, b.height, b.width) for b in moving} == {(49, 480, 720)}
    else:
        film = result["waste"][0]["table"]
        assert film[0]["waste"] <= min(row["waste"] for row in film if row["count"] <= 5) + 1e-9


def test_shapes_are_multiples_of_16_within_the_aspects_and_the_largest_area() -> None:
    shapes = candidate_shapes(largest=480 * 720, aspects=(0.5, 2.0))
    assert (480, 720) in shapes
    assert all(not (h % 16 or w % 16) and 0.5 <= w / h <= 2 and h * w <= 480 * 720 for h, w in shapes)


def test_images_take_buckets_of_one_frame_and_film_never_does() -> None:
    one, many = Bucket(num_frames=1, height=96, width=144), Bucket(num_frames=9, height=96, width=144)
    size = {"height": 720, "width": 1280}
    assert choose_bucket([one, many], seconds=0.04, fps=8, still=True, **size) == one
    assert choose_bucket([one, many], seconds=9.0, fps=8, **size) == many
    assert choose_bucket([one, many], seconds=0.5, fps=8, **size) is None
    assert choose_bucket([many], seconds=0.04, fps=8, still=True, **size) is None


def test_small_sources_take_the_small_bucket_of_their_shape() -> None:
    large, small = Bucket(num_frames=9, height=480, width=720), Bucket(num_frames=9, height=240, width=368)
    assert choose_bucket([large, small], seconds=3, fps=8, height=240, width=360) == small
    assert choose_bucket([large, small], seconds=3, fps=8, height=1080, width=1620) == large


def test_the_command_plans_from_headers(capsys: pytest.CaptureFixture[str], footage: Path) -> None:
    argv = ["buckets", "--input", str(footage), "--variant", "toy", "--count", "2", "--json"]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["basis"] == "headers"
    assert len(result["buckets"]) <= 2
    assert main(["buckets"]) == 2
