"""The captioning step: several captioners, fallbacks, clips that none captions, resumption, fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.slow_captioner import answer_of

from data_pipeline.captions import routes, stage
from data_pipeline.captions.asks import FAILED, REFUSED, Answer, Ask, Sampling
from data_pipeline.captions.routes import SeenClip
from data_pipeline.captions.settings import CaptionerSettings, CaptionSettings, ModelSettings
from data_pipeline.captions.stage import AskModel, DecodeFrames, Row, outcomes_of
from data_pipeline.captions.step import Captioned, KeptClips, caption_clips, fingerprints, plan_batches, require
from data_pipeline.outcome import ABORTED, Outcome
from data_pipeline.signals.palette import COLOURS
from groundwork.errors import RecipeError, RunError
from groundwork.records import Caption, from_table
from groundwork.storage import open_storage

SCORES = {
    **dict.fromkeys([f"colour_{name}" for name in COLOURS], 0.0),
    "colour_green": 0.9,
    "luma_mean": 100.0,
    "upper_light": 0.0,
    "left_light": 0.0,
    "sharpness_score": 300.0,
    "pan_score": 0.0,
    "tilt_score": 0.0,
    "zoom_score": 0.0,
    "motion_score": 5.0,
    "seconds": 1.2,
}
MEASURED = CaptionerSettings()


class Voice:
    """A model whose answers a function gives; `asked` counts them."""

    version = "voice 1"

    def __init__(self, say: Any) -> None:
        self.say, self.asked = say, 0

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:
        self.asked += len(asks)
        return [self.say(ask) for ask in asks]


@pytest.fixture
def voices(monkeypatch: pytest.MonkeyPatch) -> dict[str, Voice]:
    """Model's name → the model that is taken in its place."""
    found: dict[str, Voice] = {}
    monkeypatch.setattr(stage, "load_model", lambda settings, device: found[settings.model])
    return found


def captioner(name: str, **changes: Any) -> CaptionerSettings:
    video = ModelSettings(model=name, backend="python", num_frames=2)
    return CaptionerSettings(name=name, route="video", video=video, batch_clips=2, retries=1, **changes)


def clips(footage: Path, count: int = 4) -> list[SeenClip]:
    return [SeenClip(f"clip{n}", str(footage), "bunny.mp4", n * 1.2, n * 1.2 + 1.2) for n in range(count)]


def caption(
    out: Path, settings: CaptionSettings, shown: Sequence[SeenClip], *, told: Mapping[str, str] | None = None
) -> Captioned:
    """The step, its batches taken through the stages in this process."""

    def ask(one: CaptionerSettings, rows: Sequence[Row], keys: Mapping[str, str]) -> Iterator[Outcome]:
        said = one.model_dump(mode="json")
        for row in rows:
            row = DecodeFrames(captioner=said)(row)
            for part in routes.parts_of(one):
                row = AskModel(out=str(out), captioner=said, part=part, key=keys[part], device="cpu")(row)
            for outcome in outcomes_of(row):
                if outcome.status == ABORTED:
                    raise RunError(outcome.detail)
                yield outcome

    names = [clip.clip_id for clip in shown]
    kept = KeptClips(names, lambda: shown, lambda asked: [SCORES] * len(asked), lambda: told or {})
    return caption_clips(open_storage(out), settings, kept, ask)


def rows(made: Captioned, name: str) -> list[Caption]:
    return from_table(made.captions[name], Caption)


def test_the_default_captions_every_clip_from_measurements_without_a_model(footage: Path, tmp_path: Path) -> None:
    made = caption(tmp_path, CaptionSettings(), clips(footage))
    assert list(made.captions) == ["measured"]
    assert [one.model for one in rows(made, "measured")] == ["measured"] * 4
    assert made.failed == {}
    assert set(made.texts()) == {"clip0", "clip1", "clip2", "clip3"}


def test_what_came_with_the_sources_is_taken_word_for_word_and_the_rest_captioned_by_another(
    footage: Path, tmp_path: Path
) -> None:
    told = {"clip1": "red vase, video", "clip3": "x"}  # words that no rule would let pass
    given = CaptionerSettings(name="given", route="given")
    made = caption(tmp_path, CaptionSettings(captioners=(given, MEASURED), ask="until_ok"), clips(footage), told=told)
    assert {one.clip_id: one.text for one in rows(made, "given")} == told
    assert [one.clip_id for one in rows(made, "measured")] == ["clip0", "clip2"]
    assert made.failed == {}
    assert made.texts()["clip3"] == ("x",)
    alone = caption(tmp_path, CaptionSettings(captioners=(given,)), clips(footage), told=told)
    assert {clip_id: outcome.reason for clip_id, outcome in alone.failed.items()} == {
        "clip0": "no_caption_given",
        "clip2": "no_caption_given",
    }
    assert alone.failed["clip0"].lasting


def test_the_name_given_belongs_to_the_route_given() -> None:
    for wrong in (CaptionerSettings(name="given"), CaptionerSettings(name="alt", route="given")):
        with pytest.raises(ValueError, match="has that name"):
            CaptionSettings(captioners=(wrong,))


def test_further_captioners_give_alternatives_in_the_order_of_the_recipe(
    footage: Path, tmp_path: Path, voices: dict[str, Voice]
) -> None:
    voices["first"] = Voice(lambda ask: replace(answer_of(ask), text=f"One {answer_of(ask).text.lower()}"))
    settings = CaptionSettings(captioners=(captioner("first"), MEASURED))
    texts = caption(tmp_path, settings, clips(footage)).texts()
    assert all(len(texts[name]) == 2 for name in texts)
    assert texts["clip0"][0].startswith("One a ")
    assert texts["clip0"][1].startswith("A one second shot")


def test_a_clip_without_a_good_caption_falls_to_the_next_captioner_alone(
    footage: Path, tmp_path: Path, voices: dict[str, Voice]
) -> None:
    shown = clips(footage)
    bad = {routes.ask(captioner("first"), "video", shown[1], number, [_frame()] * 2).seed for number in (0, 1)}
    voices["first"] = Voice(lambda ask: Answer("I cannot.") if ask.seed in bad else answer_of(ask))
    voices["second"] = Voice(answer_of)
    settings = CaptionSettings(captioners=(captioner("first"), captioner("second")), ask="until_ok")
    made = caption(tmp_path, settings, shown)
    assert [one.status for one in rows(made, "first")] == ["ok", "rejected", "ok", "ok"]
    assert [one.clip_id for one in rows(made, "second")] == ["clip1"]
    assert voices["second"].asked == 1
    assert made.failed == {}
    assert sorted(made.texts()) == ["clip0", "clip1", "clip2", "clip3"]


def test_a_clip_that_nobody_captions_fails_with_what_each_had_against_it(
    footage: Path, tmp_path: Path, voices: dict[str, Voice]
) -> None:
    voices["first"] = Voice(lambda ask: Answer("I cannot."))
    voices["second"] = Voice(lambda ask: Answer("", FAILED, "HTTP 500"))
    shown = clips(footage, 1)
    made = caption(tmp_path, CaptionSettings(captioners=(captioner("first"),)), shown)
    lost = made.failed["clip0"]
    assert (lost.stage, lost.reason, lost.lasting) == ("captions", "caption_rejected", True)
    assert lost.detail == "first: refusal after 2 tries: 'I cannot.'"
    both = CaptionSettings(captioners=(captioner("first"), captioner("second")))
    lost = caption(tmp_path, both, shown).failed["clip0"]
    assert (lost.reason, lost.lasting) == ("no_answer", False)
    assert lost.detail == "first: refusal after 2 tries: 'I cannot.'; second: HTTP 500"
    assert voices["first"].asked == 2  # what it said before stands


def test_a_missing_alternative_fails_no_clip_but_is_tried_again(
    footage: Path, tmp_path: Path, voices: dict[str, Voice]
) -> None:
    voices["late"] = Voice(lambda ask: Answer("", FAILED, "HTTP 500"))
    made = caption(tmp_path, CaptionSettings(captioners=(MEASURED, captioner("late"))), clips(footage, 2))
    assert made.failed == {}
    assert set(made.missed) == {"clip0", "clip1"}


def test_a_second_run_asks_nothing_and_new_clips_alone_are_asked_about(
    footage: Path, tmp_path: Path, voices: dict[str, Voice]
) -> None:
    model = voices["first"] = Voice(answer_of)
    settings = CaptionSettings(captioners=(captioner("first"),))
    first = caption(tmp_path, settings, clips(footage, 3))
    assert model.asked == 3
    assert caption(tmp_path, settings, clips(footage, 3)).captions == first.captions
    assert model.asked == 3
    caption(tmp_path, settings, clips(footage, 4))
    assert model.asked == 4
    worded = captioner("first").video.model_copy(update={"prompt": "Say it in one sentence."})
    changed = CaptionSettings(captioners=(captioner("first").model_copy(update={"video": worded}),))
    assert fingerprints(changed) != fingerprints(settings)
    caption(tmp_path, changed, clips(footage, 4))
    assert model.asked == 8


def test_what_a_killed_run_noted_is_not_asked_again(footage: Path, tmp_path: Path, voices: dict[str, Voice]) -> None:
    class Killed(BaseException): ...

    def dies(ask: Ask) -> Answer:
        if model.asked > 2:
            raise Killed
        return answer_of(ask)

    settings = CaptionSettings(captioners=(captioner("first"),))
    model = voices["first"] = Voice(dies)
    with pytest.raises(Killed):
        caption(tmp_path, settings, clips(footage))
    model = voices["first"] = Voice(answer_of)
    resumed = caption(tmp_path, settings, clips(footage))
    assert model.asked == 2
    voices["first"] = Voice(answer_of)
    assert caption(tmp_path / "undisturbed", settings, clips(footage)) == resumed


def test_batches_are_cut_before_what_is_known_is_left_out(footage: Path) -> None:
    shown = clips(footage)
    shown[1] = shown[1].with_answer("video", 0, answer_of(Ask("")))
    batches = plan_batches(captioner("first"), shown, size=2)
    assert [[clip.clip_id for clip in batch] for batch in batches] == [["clip0"], ["clip2", "clip3"]]


def test_a_refused_captioner_stops_the_run(footage: Path, tmp_path: Path, voices: dict[str, Voice]) -> None:
    voices["first"] = Voice(lambda ask: Answer("", REFUSED, "HTTP 401"))
    with pytest.raises(RunError, match="HTTP 401"):
        caption(tmp_path, CaptionSettings(captioners=(captioner("first"),)), clips(footage, 1))


def test_a_recipe_that_cannot_work_is_told_before_anything_is_read() -> None:
    require(CaptionSettings())
    with pytest.raises(RecipeError, match="video model has no name"):
        require(CaptionSettings(captioners=(CaptionerSettings(name="x", route="video"),)))
    rules = MEASURED.rules.model_copy(update={"language": "xx"})
    with pytest.raises(RecipeError, match="language 'xx' is not known"):
        require(CaptionSettings(captioners=(MEASURED.model_copy(update={"rules": rules}),)))
    with pytest.raises(ValueError, match="captioners of one name: measured"):
        CaptionSettings(captioners=(MEASURED, MEASURED))


def _frame() -> Any:
    import numpy as np

    return np.zeros((32, 48, 3), np.uint8)
