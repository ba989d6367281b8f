"""The labels of a run: a model looks at what the rules before it keep, and every row says who speaks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from data_pipeline.assessed import ClipTable
from data_pipeline.labels import models, step
from data_pipeline.labels.encoder import FrozenEncoder, model_version
from data_pipeline.labels.heads import EncoderCard, Heads, HeadsCard, label_scores, write_heads
from data_pipeline.labels.models import Span, labeller
from data_pipeline.labels.names import COLUMNS, LABELS
from data_pipeline.labels.settings import ClassifierSettings, LabelSettings, ZeroShotSettings
from data_pipeline.labels.store import read_facts
from data_pipeline.labels.worker import LabelClips
from data_pipeline.outcome import FAILED, Outcome, to_row
from data_pipeline.policy import Rule
from data_pipeline.recipe import Bucket, CurateRecipe
from groundwork.errors import PlatformError, RecipeError, WeightsError
from groundwork.media import write_video
from groundwork.records import Clip, to_table
from groundwork.storage import Storage, open_storage
from tests.support.tiny_vlms import save_qwen2_5_vl, save_siglip

BUCKET = Bucket(num_frames=9, height=96, width=144)
DARK, EDITED, STATIC = (
    Rule(score="luma_mean", below=30.0),
    Rule(score="label_editing", above=0.5),
    Rule(score="motion_score", below=1.0),
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_siglip(tmp_path_factory.mktemp("siglip")))


@pytest.fixture(scope="module")
def trained(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Heads for two labels, at random."""
    width = 64
    torch.manual_seed(0)
    heads = Heads(width, count=2, hidden=0)
    torch.nn.init.normal_(heads.outer)
    card = HeadsCard(
        encoder=EncoderCard(
            model=encoder,
            version=model_version(encoder, revision="", setting=""),
            num_frames=3,
            short_side=40,
            width=width,
        ),
        labels=("editing", "lecture_type"),
        **{key: {} for key in ("untrained", "thresholds", "metrics", "split", "training", "label_file", "dataset")},
        hidden=0,
        wanted_precision=0.9,
    )
    uri = str(tmp_path_factory.mktemp("heads"))
    write_heads(uri, heads, card, policy="")
    return uri


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "noise.mp4"
    pictures = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), dtype=np.uint8)
    write_video(path, np.repeat(pictures, 10, axis=0), fps=10.0)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "dataset")


def classified(heads: str, **rules: Rule) -> CurateRecipe:
    labels = LabelSettings(mode="classifier", classifier=ClassifierSettings(heads=heads))
    return CurateRecipe(buckets=(BUCKET,), rules=rules, labels=labels)


def table(**lumas: float) -> ClipTable:
    """Clips of one film, a second each, with their brightness."""
    rows = [
        Clip(name, "v", 0, 10, 1, 10, float(number), number + 1.0, 10, 64, 48, 10.0)
        for number, name in enumerate(lumas)
    ]
    count = len(rows)
    scores = {"luma_mean": np.array(list(lumas.values())), "motion_score": np.full(count, 9.0)}
    scores |= {"seconds": np.full(count, 1.0), "bucket_frames": np.full(count, 9.0)}
    return ClipTable(to_table(rows, Clip).append_column("bucket", pa.array([BUCKET.folder] * count)), scores)


def looked_at(out: Storage, recipe: CurateRecipe, film: Path, spans: list[Span]) -> list[dict[str, Any]]:
    worker = LabelClips(out=out.uri, settings=recipe.labels.model_dump(mode="json"))
    row = to_row({"folder": str(film.parent), "name": film.name, "jobs": [asdict(span) for span in spans]})
    return [json.loads(one["payload"]) for one in worker(row)]


def test_a_model_looks_at_what_the_rules_before_it_keep_and_every_row_names_it(
    trained: str, encoder: str, film: Path, out: Storage
) -> None:
    recipe = classified(trained, dark=DARK, edited=EDITED, static=STATIC)
    clips = table(a=100.0, b=3.0, c=100.0, d=100.0, e=100.0)
    jobs = step.label_jobs(out, clips, clips.scores, recipe)
    assert sorted(jobs) == ["a", "c", "d", "e"]
    seen = [jobs["a"], jobs["c"], Span("beyond", 90.0, 91.0)]
    assert [one["status"] for one in looked_at(out, recipe, film, seen)] == ["ok"] * 3
    assert sorted(step.label_jobs(out, clips, clips.scores, recipe)) == ["d", "e"]
    failed = {"d": Outcome("d", FAILED, "crashed", "the worker died")}
    found = step.labels(out, clips, clips.scores, recipe, failed=failed, key="feed")
    assert found is not None
    assert found.absent.to_pylist() == ["", "rejected before: dark", "", "the worker died", "not looked at"]
    rows = found.table(clips.clip_ids).to_pylist()
    assert {(row["source"], row["model"], row["fingerprint"]) for row in rows} == {("classifier", encoder, "feed")}
    assert [row["status"] for row in rows] == ["ok", "absent", "ok", "absent", "absent"]
    np.testing.assert_equal(found.milliseconds > 0, [True, False, True, False, False])
    assert {row["label_low_quality"] for row in rows} == {None}  # no head
    assert {row["label_editing"] is None for row in rows[1::2]} == {True}

    frames = models.spread_frames(film, start_seconds=0.0, stop_seconds=1.0, num_frames=3, short_side=40)
    heads, card = models.read_heads(trained)
    both = [frames, models.spread_frames(film, start_seconds=2.0, stop_seconds=3.0, num_frames=3, short_side=40)]
    expected = label_scores(heads, card.labels, FrozenEncoder(encoder, num_frames=3).vectors(both))
    np.testing.assert_allclose([rows[0]["label_editing"], rows[2]["label_editing"]], expected["editing"], atol=2e-4)
    kept = {row["clip_id"]: row for row in read_facts(out, labeller(recipe.labels).key).to_pylist()}
    assert kept["beyond"]["error"].startswith("damaged: noise.mp4: holds no frame")


def test_new_heads_on_the_same_encoder_need_no_new_look(trained: str, film: Path, out: Storage, tmp_path: Path) -> None:
    recipe = classified(trained)
    clips = table(a=100.0)
    looked_at(out, recipe, film, list(step.label_jobs(out, clips, clips.scores, recipe).values()))
    first = step.labels(out, clips, clips.scores, recipe, failed={}, key="")
    heads, card = models.read_heads(trained)
    heads.bias.data += 3.0
    write_heads(str(tmp_path / "new"), heads, card, policy="")
    other = classified(str(tmp_path / "new"))
    assert step.label_jobs(out, clips, clips.scores, other) == {}
    second = step.labels(out, clips, clips.scores, other, failed={}, key="")
    assert first is not None
    assert second is not None
    assert second.scores["label_editing"][0] > first.scores["label_editing"][0]
    assert second.given["version"] != first.given["version"]
    assert step.fingerprints(recipe) != step.fingerprints(other)


def test_a_video_model_is_asked_and_says_so(film: Path, out: Storage, tmp_path: Path) -> None:
    model = str(save_qwen2_5_vl(tmp_path / "vlm"))
    asked = ZeroShotSettings(model=model, num_frames=2, short_side=56, least_answer_share=0.0)
    recipe = CurateRecipe(buckets=(BUCKET,), labels=LabelSettings(mode="zero_shot", zero_shot=asked))
    clips = table(a=100.0, b=100.0)
    looked_at(out, recipe, film, list(step.label_jobs(out, clips, clips.scores, recipe).values()))
    found = step.labels(out, clips, clips.scores, recipe, failed={}, key="")
    assert found is not None
    assert found.given["source"] == "zero_shot"
    values = np.stack([found.scores[name] for name in COLUMNS])
    assert ((values > 0) & (values < 1)).all()
    strict = asked.model_copy(update={"least_answer_share": 0.9})  # nothing is asked again, and nothing was answered
    recipe = recipe.model_copy(update={"labels": LabelSettings(mode="zero_shot", zero_shot=strict)})
    assert step.label_jobs(out, clips, clips.scores, recipe) == {}
    unsure = step.labels(out, clips, clips.scores, recipe, failed={}, key="")
    assert unsure is not None
    assert all(np.isnan(unsure.scores[name]).all() for name in COLUMNS)


def test_measured_labels_need_no_model_and_off_gives_no_table(out: Storage) -> None:
    recipe = CurateRecipe(buckets=(BUCKET,))
    clips = table(a=100.0, b=10.0)
    assert step.label_jobs(out, clips, clips.scores, recipe) == {}
    found = step.labels(out, clips, clips.scores, recipe, failed={}, key="k")
    assert found is not None
    rows = found.table(clips.clip_ids).to_pylist()
    assert [row["source"] for row in rows] == ["measured"] * 2
    assert rows[1]["label_low_quality"] > 0.5 > rows[0]["label_low_quality"]
    assert {row["label_lecture_type"] for row in rows} == {None}
    off = recipe.model_copy(update={"labels": LabelSettings(mode="off")})
    assert step.labels(out, clips, clips.scores, off, failed={}, key="") is None
    assert step.fingerprints(off) == {}


@pytest.mark.parametrize(
    ("labels", "kind", "said"),
    [
        ({"mode": "classifier"}, RecipeError, "labels.classifier.heads is empty"),
        ({"mode": "classifier", "classifier": {"heads": "nowhere"}}, WeightsError, "holds no trained heads"),
        ({"mode": "zero_shot"}, RecipeError, "labels.zero_shot.model is empty"),
        ({"mode": "zero_shot", "zero_shot": {"model": "no/folder"}}, WeightsError, "without a commit"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_read(
    labels: dict[str, Any], kind: type[PlatformError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        step.require(CurateRecipe(buckets=(BUCKET,), labels=LabelSettings.model_validate(labels)))


def test_heads_refuse_another_encoder_and_rules_labels_that_nobody_gives(
    trained: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = str(save_siglip(tmp_path / "other", seed=5))
    recipe = classified(trained)
    wrong = LabelSettings(mode="classifier", classifier=ClassifierSettings(heads=trained, encoder=other))
    with pytest.raises(WeightsError, match="trained on another encoder"):
        step.require(recipe.model_copy(update={"labels": wrong}))
    poor = Rule(score="label_low_quality", above=0.5, absent="reject")
    with pytest.raises(RecipeError, match=r"rules\.poor\.score: 'label_low_quality' is not given"):
        step.require(classified(trained, poor=poor))
    step.require(classified(trained, edited=EDITED, poor=poor.model_copy(update={"absent": "keep"})))
    given = {mode: step.labels_given(_mode(mode)) for mode in ("off", "measured")}
    assert given["off"] == frozenset()
    assert given["measured"] == set(LABELS) - {"lecture_type", "noisy_screenshots", "text_dominated"}


def _mode(mode: Any) -> CurateRecipe:
    return CurateRecipe(buckets=(BUCKET,), labels=LabelSettings(mode=mode))
