"""Both routes through their stages, without Ray: what each part is asked, what is noted, retried, resumed and lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.captions import notes, routes, stage
from data_pipeline.captions.asks import FAILED, REFUSED, Answer, Ask, Sampling
from data_pipeline.captions.routes import SeenClip, part_keys
from data_pipeline.captions.settings import CaptionerSettings, ModelSettings, RuleSettings
from data_pipeline.captions.stage import AskModel, DecodeFrames, outcomes_of, to_row
from groundwork.storage import open_storage

GOOD = "A rabbit leaves its burrow under a tree and stretches in the morning light."


class Scripted:
    """A model whose answers a function gives; it keeps what it was asked."""

    version = "scripted"
    asked: list[Ask]

    def __init__(self, script: Any) -> None:
        self._script, self.asked, self.sampled = script, [], []

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:
        self.asked += asks
        self.sampled.append(sampling)
        return [self._script(ask) for ask in asks]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Scripted]:
    """Part's model name → its model, taken in place of one that would be loaded."""
    found: dict[str, Scripted] = {}
    monkeypatch.setattr(stage, "load_model", lambda settings, device: found[settings.model])
    return found


def clips(footage: Path, count: int = 3) -> list[SeenClip]:
    return [
        SeenClip(f"clip{number}", str(footage), "bunny.mp4", number * 1.2, number * 1.2 + 1.2, "1.2 seconds")
        for number in range(count)
    ]


def captioner(route: str, **changes: Any) -> CaptionerSettings:
    names = {part: ModelSettings(model=part, backend="python", num_frames=4) for part in ("video", "image", "language")}
    image = names["image"].model_copy(update={"frames": "spaced", "spacing_seconds": 0.5, "short_side": 90})
    return CaptionerSettings.model_validate(
        {"name": "it", "route": route, **names, "image": image, "batch_clips": 3, **changes}
    )


def run(settings: CaptionerSettings, batch: Sequence[SeenClip], out: Path) -> dict[str, Any]:
    """The batch through all stages of the captioner, as Ray would hand it on."""
    said, keys = settings.model_dump(mode="json"), part_keys(settings)
    row = DecodeFrames(captioner=said)(to_row(batch))
    for part in routes.parts_of(settings):
        row = AskModel(out=str(out), captioner=said, part=part, key=keys[part], device="cpu")(row)
    return row


def known(settings: CaptionerSettings, batch: Sequence[SeenClip], out: Path) -> list[SeenClip]:
    """The clips with what was noted about them."""
    found = notes.read_answers(open_storage(out), part_keys(settings))
    return [replace(clip, answers=found.get(clip.clip_id, {})) for clip in batch]


def test_a_draft_that_breaks_a_rule_is_asked_for_again_with_another_seed(
    footage: Path, tmp_path: Path, scripts: dict[str, Scripted]
) -> None:
    model = scripts["video"] = Scripted(lambda ask: Answer(GOOD if len(model.asked) > 4 else "I cannot see it."))
    settings, batch = captioner("video"), clips(footage)
    row = run(settings, batch, tmp_path)
    assert [outcome.status for outcome in outcomes_of(row)] == ["ok"] * 3
    assert row["pictures"] == b""
    assert [len(ask.frames) for ask in model.asked] == [4] * 6
    assert [sampling.temperature for sampling in model.sampled] == [0.0, 0.7]
    assert len({ask.seed for ask in model.asked}) == 6
    (again,) = known(settings, batch[:1], tmp_path)
    caption = routes.to_caption(settings, again)
    assert (caption.text, caption.status, caption.tries, caption.version) == (GOOD, "ok", 2, "scripted")
    made_by = json.loads(routes.made_by(settings))
    assert made_by["parts"]["video"]["prompt"].startswith("Describe what can be seen")


def test_a_caption_that_never_keeps_the_rules_is_rejected_and_not_asked_for_for_ever(
    footage: Path, tmp_path: Path, scripts: dict[str, Scripted]
) -> None:
    model = scripts["video"] = Scripted(lambda ask: Answer("I cannot see it."))
    settings, batch = captioner("video", retries=1), clips(footage, 1)
    run(settings, batch, tmp_path)
    (clip,) = known(settings, batch, tmp_path)
    assert len(model.asked) == 2
    assert routes.wanting(settings, "video", clip) == []
    caption = routes.to_caption(settings, clip)
    assert (caption.status, caption.reason, caption.text, caption.draft) == (
        "rejected",
        "refusal",
        "",
        "I cannot see it.",
    )
    patient = settings.model_copy(update={"retries": 2})
    assert part_keys(patient) == part_keys(settings)
    assert routes.wanting(patient, "video", clip) == [2]  # one more try, none repeated


def test_other_rules_judge_the_same_drafts_again_without_asking(
    footage: Path, tmp_path: Path, scripts: dict[str, Scripted]
) -> None:
    scripts["video"] = Scripted(lambda ask: Answer(f"{GOOD} It eats a leaf of clover."))
    settings, batch = captioner("video"), clips(footage, 1)
    run(settings, batch, tmp_path)
    strict = settings.model_copy(update={"rules": RuleSettings(max_words=14)})
    assert part_keys(strict) == part_keys(settings)
    (clip,) = known(strict, batch, tmp_path)
    assert routes.wanting(strict, "video", clip) == []
    assert routes.to_caption(strict, clip).text == GOOD


def test_the_papers_route_sums_up_a_short_caption_and_frames_in_order(
    footage: Path, tmp_path: Path, scripts: dict[str, Scripted]
) -> None:
    scripts["video"] = Scripted(lambda ask: Answer("A rabbit wakes.", input_tokens=7))
    scripts["image"] = Scripted(lambda ask: Answer(f"A rabbit at {ask.seconds[0]:g}.", output_tokens=3, cost=0.5))
    scripts["language"] = Scripted(lambda ask: Answer("Seven rabbits." if "clip" in ask.prompt else GOOD))
    settings, batch = captioner("summary"), clips(footage, 2)
    outcomes = outcomes_of(run(settings, batch, tmp_path))
    assert [outcome.status for outcome in outcomes] == ["ok", "ok"]
    assert {min(frame.shape[:2]) for ask in scripts["image"].asked for frame in ask.frames} == {90}
    assert [ask.seconds[0] for ask in scripts["image"].asked] == [0.0, 0.5, 1.0] * 2
    asked = scripts["language"].asked[0]
    assert asked.prompt == (
        "The whole: A rabbit wakes.\nsecond 0: A rabbit at 0.\nsecond 0.5: A rabbit at 0.5.\nsecond 1: A rabbit at 1."
    )
    assert "at most 100 words" in asked.system
    assert not asked.frames
    caption = routes.to_caption(settings, known(settings, batch, tmp_path)[0])
    assert caption.frame_captions == ["A rabbit at 0.", "A rabbit at 0.5.", "A rabbit at 1."]
    assert caption.frame_seconds == [0.0, 0.5, 1.0]
    assert (caption.short_text, caption.text) == ("A rabbit wakes.", GOOD)
    assert (caption.input_tokens, caption.output_tokens, caption.cost) == (7, 9, 1.5)


def test_another_summary_prompt_asks_the_language_model_alone_and_decodes_nothing(
    footage: Path, tmp_path: Path, scripts: dict[str, Scripted]
) -> None:
    for part in ("video", "image", "language"):
        scripts[part] = Scripted(lambda ask: Answer(GOOD))
    settings, batch = captioner("summary"), clips(footage, 2)
    run(settings, batch, tmp_path)
    before = {part: len(model.asked) for part, model in scripts.items()}
    language = settings.language.model_copy(update={"system": "Sum up in verse."})
    changed = settings.model_copy(update={"language": language})
    again = known(changed, batch, tmp_path)
    moved = [replace(clip, name="gone.mp4") for clip in again]  # the source is not even opened
    outcomes = outcomes_of(run(changed, moved, tmp_path))
    assert [outcome.status for outcome in outcomes] == ["ok", "ok"]
    after = {part: len(model.asked) - before[part] for part, model in scripts.items()}
    assert after == {"video": 0, "image": 0, "language": 2}


def test_numbers_in_a_summary_must_come_from_what_it_sums_up(
    footage: Path, tmp_path: Path, scripts: dict[str, Scripted]
) -> None:
    scripts["video"] = Scripted(lambda ask: Answer("Four rabbits wake."))
    scripts["image"] = Scripted(lambda ask: Answer("A rabbit."))
    drafts = iter(["Nine rabbits wake up under a tree.", "Four rabbits wake up under a tree."])
    scripts["language"] = Scripted(lambda ask: Answer(next(drafts)))
    settings, batch = captioner("summary"), clips(footage, 1)
    run(settings, batch, tmp_path)
    caption = routes.to_caption(settings, known(settings, batch, tmp_path)[0])
    assert (caption.text, caption.tries) == ("Four rabbits wake up under a tree.", 2)


def test_what_gives_no_answer_loses_its_clip_alone_and_is_asked_again_by_the_next_run(
    footage: Path, tmp_path: Path, scripts: dict[str, Scripted]
) -> None:
    settings, batch = captioner("video"), clips(footage)
    numbers = iter(range(9))
    scripts["video"] = Scripted(lambda ask: Answer("", FAILED, "HTTP 500") if next(numbers) == 1 else Answer(GOOD))
    outcomes = {outcome.key: outcome for outcome in outcomes_of(run(settings, batch, tmp_path))}
    assert [outcomes[clip.clip_id].status for clip in batch] == ["ok", "failed", "ok"]
    lost = outcomes["clip1"]
    assert (lost.stage, lost.reason, lost.detail, lost.lasting) == ("captions", "no_answer", "it: HTTP 500", False)
    again = known(settings, batch, tmp_path)
    assert [routes.wanting(settings, "video", clip) for clip in again] == [[], [0], []]


def test_a_model_that_breaks_over_one_clip_captions_the_others(
    footage: Path, tmp_path: Path, scripts: dict[str, Scripted]
) -> None:
    settings, batch = captioner("video"), clips(footage)
    light = {}

    class Breaking(Scripted):
        def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:
            light.setdefault("first", float(asks[0].frames[0].mean()))
            if any(float(ask.frames[0].mean()) == light["first"] for ask in asks):
                raise MemoryError("too large")
            return super().answer(asks, sampling)

    scripts["video"] = Breaking(lambda ask: Answer(GOOD))
    outcomes = {outcome.key: outcome for outcome in outcomes_of(run(settings, batch, tmp_path))}
    assert [outcomes[clip.clip_id].status for clip in batch] == ["failed", "ok", "ok"]
    assert "MemoryError: too large" in outcomes["clip0"].detail


def test_a_refusal_stops_the_run_and_a_missing_source_costs_its_clips(
    footage: Path, tmp_path: Path, scripts: dict[str, Scripted]
) -> None:
    scripts["video"] = Scripted(lambda ask: Answer("", REFUSED, "HTTP 401"))
    settings, batch = captioner("video"), clips(footage)
    batch[0] = replace(batch[0], name="gone.mp4")
    outcomes = {outcome.key: outcome for outcome in outcomes_of(run(settings, batch, tmp_path))}
    assert outcomes["clip0"].status == "failed"
    assert {outcomes[name].status for name in ("clip1", "clip2")} == {"aborted"}
    assert "HTTP 401" in outcomes["clip1"].detail
