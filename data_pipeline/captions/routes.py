"""How a captioner comes to its caption: which part is asked what, and what becomes of the answers. Pure functions.

Parts are asked in order: `video` alone, or `short`, `image` and `language`. The last one may be asked several times:
a draft that breaks a rule is asked for again with another seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipeline.captions import frames, models, prompts
from data_pipeline.captions.asks import ANSWERED, Answer, Ask, Sampling
from data_pipeline.captions.rules import REJECTED, Facts, Verdict, examine, sentences
from data_pipeline.captions.settings import CaptionerSettings, ModelSettings
from data_pipeline.fingerprint import short_hash, stage_fingerprint
from groundwork import container, media
from groundwork.records import Caption

_PARTS = {"measured": (), "given": (), "video": ("video",), "summary": ("short", "image", "language")}
_MODELS = {"short": "video", "read": "reader"}

Answers = Mapping[str, Mapping[int, Answer]]
"""Of one clip: part → number → answer. Numbers count frames (image) or tries (the last part)."""


@dataclass(frozen=True)
class SeenClip:
    """A clip as a captioner sees it: where it lies in its source (`folder`, `name`), what was measured of it in words
    whose numbers a summary may use, and what has been answered about it so far."""

    clip_id: str
    folder: str
    name: str
    start_seconds: float
    stop_seconds: float
    measured: str = ""
    answers: Answers = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.stop_seconds - self.start_seconds

    def with_answer(self, part: str, number: int, answer: Answer) -> SeenClip:
        """The clip with one more answer."""
        of_part = {**self.answers.get(part, {}), number: answer}
        return replace(self, answers={**self.answers, part: of_part})


def parts_of(captioner: CaptionerSettings) -> tuple[str, ...]:
    """Parts of the captioner's route, in the order in which they are asked; none, where nothing has to be asked."""
    reads = captioner.route == "measured" and captioner.read_text
    return ("read",) if reads else _PARTS[captioner.route]


def settings_of(captioner: CaptionerSettings, part: str) -> ModelSettings:
    """The model that is asked for a part."""
    model: ModelSettings = getattr(captioner, _MODELS.get(part, part))
    return model


def last_part(captioner: CaptionerSettings) -> str:
    """The part whose answer is the caption; empty, where no model writes it."""
    return "" if captioner.route in ("measured", "given") else parts_of(captioner)[-1]


def part_keys(captioner: CaptionerSettings) -> dict[str, str]:
    """What each part's answers are stored under: its model and words, its frames, and the parts it builds on.

    The rules are not part of it: other rules judge the same drafts again, and ask only for what no draft gives.
    """
    import data_pipeline.captions.routes as own

    keys: dict[str, str] = {}
    code: tuple[ModuleType, ...] = (own, frames, prompts, media, container)
    for part in parts_of(captioner):
        settings = settings_of(captioner, part)
        asked = [models.identity(settings), models.words(part, settings), captioner.seed]
        builds_on = dict(keys) if part == "language" else {}
        again = captioner.retry_temperature if part == last_part(captioner) else 0.0
        keys[part] = stage_fingerprint(code, [part, asked, builds_on, again])
    return keys


def instants(captioner: CaptionerSettings, part: str, clip: SeenClip) -> list[float]:
    """When this part sees a frame of the clip; never, for a language model."""
    return [] if part == "language" else frames.instants(settings_of(captioner, part), clip.seconds)


def wanting(captioner: CaptionerSettings, part: str, clip: SeenClip) -> list[int]:
    """Numbers of the answers that this part still has to give about the clip."""
    have = clip.answers.get(part, {})
    if part == "image":
        return [number for number in range(len(instants(captioner, part, clip))) if number not in have]
    if part != last_part(captioner):
        return [] if 0 in have else [0]
    tries = len(have)
    return [tries] if tries <= captioner.retries and verdict(captioner, clip)[0].status == REJECTED else []


def ask(
    captioner: CaptionerSettings, part: str, clip: SeenClip, number: int, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> Ask:
    """What a part is asked about a clip; `pictures`: the frames at its `instants`."""
    settings = settings_of(captioner, part)
    prompt, system = models.words(part, settings)
    seed = int(short_hash(captioner.seed, clip.clip_id, part, number)[:7], 16)
    if part == "language":
        request = prompts.summary_request(_short(clip), list(zip(*_frame_captions(captioner, clip), strict=True)))
        return Ask(f"{prompt}\n{request}".strip(), system, seed=seed)
    moments = instants(captioner, part, clip)
    chosen = [number] if part == "image" else list(range(len(moments)))
    seen = frames.scaled([pictures[at] for at in chosen], settings.short_side)
    return Ask(prompt, system, seen, [moments[at] for at in chosen], seed)


def sampling(captioner: CaptionerSettings, part: str, number: int) -> Sampling:
    """How words are drawn: at a further try of the last part, with the temperature of retries at least."""
    usual = models.sampling(settings_of(captioner, part))
    again = number > 0 and part == last_part(captioner)
    return replace(usual, temperature=max(usual.temperature, captioner.retry_temperature)) if again else usual


def verdict(captioner: CaptionerSettings, clip: SeenClip) -> tuple[Verdict, int]:
    """What the rules say of the first draft that keeps them, else of the last draft, and that draft's number.

    A clip without any draft is rejected without a reason.
    """
    found, at = Verdict(REJECTED, ""), -1
    for number, answer in sorted(clip.answers.get(last_part(captioner), {}).items()):
        facts = Facts(cut_off=answer.cut_off)
        if captioner.route == "summary":
            captions = [answer.text for answer in _in_order(clip, "image")]
            facts = replace(facts, sources=captions, numbers_from=[*captions, _short(clip), clip.measured])
        found, at = examine(answer.text, captioner.rules, facts), number
        if found.status != REJECTED:
            break
    return found, at


def to_caption(captioner: CaptionerSettings, clip: SeenClip, *, weights: str = "", made_by: str = "") -> Caption:
    """The caption of a clip whose parts are all answered. `weights`: see `weights_of`; `made_by`: see there."""
    found, at = verdict(captioner, clip)
    drafts = clip.answers.get(last_part(captioner), {})
    every = [answer for part in parts_of(captioner) for answer in _in_order(clip, part)]
    seconds, texts = _frame_captions(captioner, clip) if captioner.route == "summary" else ((), ())
    short = _short(clip) if captioner.route == "summary" else _first_sentence(found.text)
    draft = drafts[at].text if at in drafts else ""
    return Caption(
        clip_id=clip.clip_id,
        text=found.text,
        short_text=short,
        frame_captions=list(texts),
        model=settings_of(captioner, last_part(captioner)).model,
        version=", ".join(dict.fromkeys([weights, *(answer.by for answer in every)])).strip(", "),
        status=found.status,
        reason=found.reason,
        repairs=list(found.repairs),
        draft=draft if draft != found.text else "",
        frame_seconds=list(seconds),
        tries=len(drafts),
        input_tokens=sum(answer.input_tokens for answer in every),
        output_tokens=sum(answer.output_tokens for answer in every),
        cost=round(sum(answer.cost for answer in every), 9),
        made_by=made_by,
    )


def lines_read(clip: SeenClip) -> list[str]:
    """Lines of text that were read in the clip, where somebody did."""
    return [line for answer in _in_order(clip, "read") for line in answer.text.splitlines()]


def weights_of(captioner: CaptionerSettings) -> str:
    """Which state of which model: the revision, else the hash of the weights' folder, of each part in order."""
    told = {part: models.identity(settings_of(captioner, part)) for part in parts_of(captioner)}
    return ", ".join(dict.fromkeys(one["revision"] or one["weights"] or "unpinned" for one in told.values()))


def made_by(captioner: CaptionerSettings) -> str:
    """A JSON object: route, seed, and of each part the model, its settings, prompt, system message."""
    parts: dict[str, Any] = {}
    for part in parts_of(captioner):
        settings = settings_of(captioner, part)
        prompt, system = models.words(part, settings)
        said = settings.model_dump(mode="json", exclude={"endpoint", "prompt", "system"})
        parts[part] = {**said, "prompt": prompt, "system": system}
    told = {"route": captioner.route, "seed": captioner.seed, "parts": parts}
    return json.dumps(told | {"retry_temperature": captioner.retry_temperature}, sort_keys=True)


def _frame_captions(captioner: CaptionerSettings, clip: SeenClip) -> tuple[list[float], list[str]]:
    given = clip.answers.get("image", {})
    moments = instants(captioner, "image", clip)
    numbers = [number for number in sorted(given) if given[number].status == ANSWERED and number < len(moments)]
    return [moments[number] for number in numbers], [given[number].text for number in numbers]


def _in_order(clip: SeenClip, part: str) -> list[Answer]:
    return [answer for _, answer in sorted(clip.answers.get(part, {}).items())]


def _short(clip: SeenClip) -> str:
    return " ".join(answer.text for answer in _in_order(clip, "short"))


def _first_sentence(text: str) -> str:
    return next(iter(sentences(text)), "")
