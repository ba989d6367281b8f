"""Training heads: parts that share no film, weights and a stop per head, thresholds that hold, cards that fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from data_pipeline.labels.heads import (
    CARD,
    POLICY,
    WEIGHTS,
    EncoderCard,
    Heads,
    HeadsCard,
    label_scores,
    read_card,
    read_heads,
    write_heads,
)
from data_pipeline.labels.names import LABELS, TITLES, column
from data_pipeline.labels.settings import TrainingSettings
from data_pipeline.labels.targets import read_targets
from data_pipeline.labels.train import policy_of
from data_pipeline.labels.training import HELD_OUT, STOP, TRAIN, fit, judge, split
from data_pipeline.policy import load_policy
from groundwork.errors import InputError, WeightsError
from groundwork.storage import Storage, open_storage

EDITING, STATIC, LECTURE = (LABELS.index(label) for label in (LABELS[0], LABELS[1], "lecture_type"))


def drawn(films: int = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Clips of films: the first value of a vector tells editing, the second one (a rare) stillness, none a lecture."""
    numbers = np.random.default_rng(seed)
    groups = [f"film {film}" for film in range(films) for _ in range(5)]
    vectors = numbers.normal(size=(len(groups), 16)).astype(np.float32)
    targets = np.full((len(groups), len(LABELS)), np.nan)
    targets[:, EDITING] = vectors[:, 0] > 0
    targets[:, STATIC] = vectors[:, 1] > 1.3
    targets[:, LECTURE] = 0
    return vectors, targets, groups


@pytest.mark.parametrize("seed", [0, 1])
def test_no_film_is_on_two_sides_and_every_part_gets_its_share(seed: int) -> None:
    _, targets, groups = drawn()
    settings = TrainingSettings(seed=seed)
    parts = split(groups, targets, settings=settings)
    for film in set(groups):
        assert len({part for part, name in zip(parts, groups, strict=True) if name == film}) == 1
    for part, share in ((TRAIN, 0.65), (STOP, 0.15), (HELD_OUT, 0.2)):
        assert (parts == part).mean() == pytest.approx(share, abs=0.05)
        rare = targets[:, STATIC] == 1
        assert (parts[rare] == part).mean() == pytest.approx(share, abs=0.12)
    order = np.random.default_rng(seed).permutation(len(groups))
    again = split([groups[one] for one in order], targets[order], settings=settings)
    assert again.tolist() == parts[order].tolist()
    other = split(groups, targets, settings=settings.model_copy(update={"seed": seed + 7}))
    assert other.tolist() != parts.tolist()


def test_two_films_are_too_few() -> None:
    with pytest.raises(InputError, match=r"2 film\(s\)"):
        split(["a", "b", "b"], np.zeros((3, 6)), settings=TrainingSettings())
    assert sorted(split(["a", "b", "c"], np.zeros((3, 6)), settings=TrainingSettings())) == [0, 1, 2]


@pytest.mark.parametrize("hidden", [0, 8])
def test_heads_learn_what_can_be_learnt_and_say_what_cannot(hidden: int) -> None:
    vectors, targets, groups = drawn()
    settings = TrainingSettings(hidden=hidden)
    parts = split(groups, targets, settings=settings)
    trained = fit(vectors, targets, parts, settings)
    assert trained.labels == (LABELS[EDITING], LABELS[STATIC])
    assert trained.untrained["lecture_type"] == "no clip with it in the part 'train'"
    thresholds, metrics = judge(trained, vectors, targets, parts, precision=0.9)
    assert metrics["editing"]["half"]["accuracy"]["value"] > 0.8
    assert metrics[LABELS[STATIC]]["half"]["recall"]["value"] > 0.6  # rare, and weighed up
    assert metrics["editing"]["half"]["clips"] == (parts == HELD_OUT).sum()
    found = thresholds["editing"]
    assert found is not None
    score = label_scores(trained.heads, trained.labels, vectors)["editing"]
    fires = (score > found["threshold"]) & (parts == STOP)
    assert targets[fires, EDITING].mean() >= 0.9
    again = fit(vectors, targets, parts, settings)
    assert all(
        torch.equal(one, other)
        for one, other in zip(trained.heads.state_dict().values(), again.heads.state_dict().values(), strict=True)
    )


def test_a_head_does_not_depend_on_the_others_and_unknown_labels_teach_nothing() -> None:
    vectors, targets, groups = drawn()
    settings = TrainingSettings(dropout=0.0)
    parts = split(groups, targets, settings=settings)
    both = label_scores(*_heads(fit(vectors, targets, parts, settings)), vectors)
    alone = targets.copy()
    alone[:, STATIC] = np.nan
    one = label_scores(*_heads(fit(vectors, alone, parts, settings)), vectors)
    np.testing.assert_allclose(one["editing"], both["editing"], atol=2e-3)
    assert np.isnan(one[LABELS[STATIC]]).all()
    with pytest.raises(InputError, match="No label can be trained"):
        fit(vectors, np.full_like(targets, np.nan), parts, settings)


def _heads(trained) -> tuple[Heads, tuple[str, ...]]:
    return trained.heads, trained.labels


def card(**changes) -> HeadsCard:
    encoder = EncoderCard(model="folder", version="abc", num_frames=8, short_side=336, width=4)
    facts = {
        "encoder": encoder, "labels": ("editing", "text_dominated"), "untrained": {"lecture_type": "no clip"},
        "hidden": 0, "thresholds": {"editing": {"threshold": 0.75}, "text_dominated": None}, "wanted_precision": 0.95,
        "metrics": {}, "split": {}, "training": {}, "label_file": {"sha256": "feed"}, "dataset": {},
    }  # fmt: skip
    return HeadsCard(**{**facts, **changes})


def test_heads_come_back_from_storage_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = Heads(4, count=2, hidden=0)
    torch.nn.init.normal_(heads.outer)
    uri = str(tmp_path / "heads")
    written = write_heads(uri, heads, card(), policy=policy_of(card()))
    found, read_back = read_heads(uri)
    assert read_back == written
    vectors = np.array([[1, 2, 3, 4], [np.nan] * 4], np.float32)
    scores = label_scores(found, read_back.labels, vectors)
    assert scores["editing"][0] == pytest.approx(heads(torch.tensor(vectors[:1])).sigmoid()[0, 0].item(), abs=1e-4)
    assert np.isnan(scores["editing"][1])
    assert np.isnan(scores["noisy_screenshots"]).all()
    policy = load_policy(str(tmp_path / "heads" / POLICY))
    assert {reason: (rule.score, rule.above) for reason, rule in policy.rules.items()} == {
        "editing": (column("editing"), 0.75)
    }
    assert {one.asks for one in policy.not_covered} == {"label text_dominated", "label lecture_type"}
    weights = tmp_path / "heads" / WEIGHTS
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(WeightsError, match="not the file that its card was written for"):
        read_heads(uri)


def test_a_card_of_something_else_is_refused_before_any_weight_is_read(tmp_path: Path) -> None:
    uri = str(tmp_path)
    with pytest.raises(WeightsError, match="holds no trained heads"):
        read_card(uri)
    said = card(labels=("editing", "boring")).model_dump(mode="json")
    (tmp_path / CARD).write_text(json.dumps(said))
    with pytest.raises(WeightsError, match="not known: boring"):
        read_card(uri)
    (tmp_path / CARD).write_text(json.dumps({**said, "schema_version": 9}))
    with pytest.raises(WeightsError, match="of version 9"):
        read_card(uri)
    write_heads(uri, Heads(4, count=2, hidden=0), card(encoder=replace_width(7)), policy="")
    with pytest.raises(WeightsError, match="does not fit its card"):
        read_heads(uri)


def replace_width(width: int) -> EncoderCard:
    return card().encoder.model_copy(update={"width": width})


@pytest.fixture
def dataset(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "dataset")


def test_a_session_names_all_that_is_wrong_and_aliases_say_what_reasons_mean(dataset: Storage) -> None:
    lines = [{"clip_id": "a", "labels": ["good"]}, {"clip_id": "b", "labels": ["editing", "blurry", "ugly"]}]
    dataset.write_bytes("labels/mine.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    with pytest.raises(InputError, match="'blurry' is none of the six labels") as caught:
        read_targets(dataset, "mine", aliases={"ugly": "none"})
    assert "--alias blurry=LABEL" in caught.value.hint
    found = read_targets(dataset, "mine", aliases={"ugly": "none", "blurry": "low_quality"})
    assert found.clip_ids == ("a", "b")
    assert found.targets.tolist() == [[0] * 6, [1, 0, 1, 0, 0, 0]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_may_leave_labels_open(suffix: str, dataset: Storage, tmp_path: Path) -> None:
    values = {"clip_id": ["a", "b"], "label_editing": [1, None], "lecture_type": [True, False], "note": ["x", "y"]}
    path = tmp_path / f"labels.{suffix}"
    if suffix == "csv":
        path.write_text("clip_id,label_editing,lecture_type,note\na,1,true,x\nb,,false,y\n")
    else:
        pa.parquet.write_table(pa.table(values), path)
    found = read_targets(dataset, str(path), aliases={})
    np.testing.assert_array_equal(found.targets[:, EDITING], [1, np.nan])
    np.testing.assert_array_equal(found.targets[:, LECTURE], [1, 0])
    assert np.isnan(found.targets[:, STATIC]).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip_id,editing,label_boring\na,1,1\n", "label_boring is none of the six"),
        ("clip_id,note\na,1\n", "needs a column clip_id"),
        ("clip_id,editing\na,2\n", "2 is neither 1 nor 0"),
        ("clip_id,editing\na,1\na,0\n", "labels clip a twice"),
        ("clip_id,editing\na,yes\n", "column editing"),
    ],
)
def test_a_table_that_is_off_is_told_by_column(text: str, said: str, dataset: Storage, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_targets(dataset, str(tmp_path / "labels.csv"), aliases={})


def test_the_six_have_their_names_of_table_14() -> None:
    assert set(TITLES) == set(LABELS)
    assert len(LABELS) == 6
