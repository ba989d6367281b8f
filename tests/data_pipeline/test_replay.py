"""Replay: stored scores and another policy give new decisions, and say what enters and leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipeline.__main__ import main
from data_pipeline.policy import load_policy
from data_pipeline.recipe import RECIPES, CurateRecipe
from data_pipeline.replay import replay
from data_pipeline.rules import decide
from groundwork.config import load_recipe
from groundwork.errors import InputError, RecipeError
from groundwork.records import Decision, from_table
from groundwork.storage import Storage, open_storage
from tests.support.synthetic import SCORES, write_dataset

TOY = load_recipe(CurateRecipe, "toy", folder=RECIPES)


@pytest.fixture
def dataset(tmp_path: Path) -> Storage:
    out = open_storage(tmp_path / "dataset")
    write_dataset(out, TOY, clips=500, clips_per_part=200)
    return out


@pytest.fixture
def policy(tmp_path: Path) -> str:
    """Stricter on light, blind to motion, and with a score that the dataset does not hold."""
    rules = {
        "too_dark": {"score": "luma_mean", "below": 90},
        "blurry": {"score": "sharpness_score", "below": 15},
        "too_small": {"score": "upscale", "above": 1.0},
        "greenish": {"score": "colour_green", "above": 0.5},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"name": "mine", "rules": rules}))
    return str(path)


def rows(out: Storage, path: str) -> list[Decision]:
    return from_table(out.read_table(path), Decision)


def test_replay_agrees_with_deciding_every_clip_by_itself(dataset: Storage, policy: str) -> None:
    result = replay(dataset.uri, rules_from=policy)
    stages = {stage: dataset.read_table(f"signals/{stage}").to_pylist() for stage in SCORES}
    expected = []
    for index, clip in enumerate(stages["clip"]):
        scores = {name: row[index][name] for stage, row in stages.items() for name in SCORES[stage]}
        if clip["bucket_frames"]:
            scores["colour_green"] = None
            expected.append(decide(clip["clip_id"], scores, load_policy(policy).rules))
        else:
            expected.append(Decision(clip["clip_id"], False, "too_short", "seconds", clip["seconds"], 1.0))
    assert rows(dataset, result["decisions"]) == expected
    assert result["now"]["clips"]["kept"] == sum(row.kept for row in expected)


def test_replay_says_what_enters_and_leaves_and_why(dataset: Storage, policy: str) -> None:
    manifest = dataset.read_bytes("manifest.json")
    result = replay(dataset.uri, rules_from=policy)
    before = {row.clip_id: row for row in rows(dataset, f"decisions/{result['before']['hash']}")}
    now = {row.clip_id: row for row in rows(dataset, result["decisions"])}
    entered = {key for key, row in now.items() if row.kept and not before[key].kept}
    left = {key for key, row in now.items() if not row.kept and before[key].kept}
    assert (result["enter"]["clips"], result["leave"]["clips"]) == (len(entered), len(left))
    assert set(result["enter"]["by_reason"]) == {before[key].reason for key in entered}
    assert set(result["leave"]["by_reason"]) == {"too_dark"}
    for group in result["enter"]["by_reason"].values():
        assert set(group["ids"]) <= entered
    kept = sum(row.kept for row in now.values())
    assert result["now"]["clips"] | {"rejected": 0} == {"found": 500, "kept": kept, "rejected": 0}
    assert sum(result["now"]["clips"]["rejected"].values()) == 500 - kept
    assert result["absent"]["greenish"] >= kept
    assert dataset.read_bytes("manifest.json") == manifest


def test_replaying_the_own_policy_changes_nothing(dataset: Storage) -> None:
    result = replay(dataset.uri, rules_from="toy")
    assert (result["enter"]["clips"], result["leave"]["clips"]) == (0, 0)
    assert result["now"] == {key: result["before"][key] for key in ("clips", "hours")}


def test_the_command_prints_json_and_exit_codes(
    dataset: Storage, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", dataset.uri, "--rules", policy, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"]["name"] == "mine"
    assert main(["replay", dataset.uri, "--rules", policy]) == 0
    assert "now rejected as too_dark" in capsys.readouterr().out
    assert main(["replay", dataset.uri]) == 2
    assert main(["policies"]) == 0
    with pytest.raises(InputError, match="no finished dataset"):
        replay(str(tmp_path / "nothing"), rules_from="toy")
    with pytest.raises(RecipeError, match="No recipe"):
        replay(dataset.uri, rules_from="no such policy")
