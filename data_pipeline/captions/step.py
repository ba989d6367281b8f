"""Kept clips become captions: each captioner is asked for what is missing, and its answers are judged by the rules.

Of a clip's captions the first that is not rejected is the one trained on; those of further captioners are alternatives.
A clip that no captioner captions is a failed one, with what each of them had against it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.captions import consistency, given, language, measured, models, notes, routes, rules
from data_pipeline.captions.agreement import folder_hash_of
from data_pipeline.captions.routes import SeenClip
from data_pipeline.captions.settings import CaptionerSettings, CaptionSettings
from data_pipeline.captions.stage import STAGE, Row, to_row
from data_pipeline.failures import CAPTION_REJECTED, CRASHED, NO_CAPTION_GIVEN
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.outcome import FAILED, Outcome
from groundwork.errors import RecipeError
from groundwork.records import Caption, from_table, to_table
from groundwork.storage import Storage

AskAll = Callable[[CaptionerSettings, Sequence[Row], Mapping[str, str]], Iterator[Outcome]]
"""Takes batches through a captioner's stages; gives what became of each clip, as it comes."""
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class KeptClips:
    """The clips to caption, in their order. `seen`: they as models see them; `scores`: of some of them, by their ids,
    in that order, each clip's scores by name; `told`: by clip_id, the captions that came with sources. They are called
    only where they are needed, and may be costly."""

    clip_ids: Sequence[str]
    seen: Callable[[], Sequence[SeenClip]]
    scores: Callable[[Sequence[str]], Sequence[Mapping[str, float]]]
    told: Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class Captioned:
    """`captions`: of each captioner, by name in the recipe's order, rows of `Caption` in the order of the clips,
    rejected ones too. `failed`: clips without a caption that stands, by clip_id. `missed`: where a captioner gave no
    answer that another run may get, though the clip has a caption of another."""

    captions: Mapping[str, pa.Table]
    failed: Mapping[str, Outcome] = field(default_factory=dict)
    missed: Mapping[str, Outcome] = field(default_factory=dict)

    def texts(self) -> dict[str, tuple[str, ...]]:
        """Of each clip, by clip_id, its captions that stand, in the order of the captioners; equal ones once."""
        found: dict[str, tuple[str, ...]] = {}
        for table in self.captions.values():
            standing = table.filter(pc.not_equal(table.column("status"), rules.REJECTED))
            names, texts = standing.column("clip_id").to_pylist(), standing.column("text").to_pylist()
            for clip_id, text in zip(names, texts, strict=True):
                before = found.get(clip_id, ())
                found[clip_id] = before if text in before else (*before, text)
        return found


def require(settings: CaptionSettings) -> None:
    """Raises RecipeError, before anything is read, for a captioner whose models cannot be had, as far as is known."""
    for captioner in settings.captioners:
        for part in routes.parts_of(captioner):
            models.require(part, routes.settings_of(captioner, part))
        if captioner.rules.language and captioner.rules.language not in language.LANGUAGES:
            raise RecipeError(
                f"captions: rules.language {captioner.rules.language!r} is not known.",
                f"Languages: {', '.join(language.LANGUAGES)}; empty: any.",
            )
    if settings.agreement:
        folder_hash_of(settings.agreement)


def fingerprints(settings: CaptionSettings) -> dict[str, str]:
    """Of each captioner: its models, words and frames, and the code and settings that judge what it writes."""
    import data_pipeline.captions.step as own

    code: tuple[ModuleType, ...] = (own, routes, rules, consistency, language, measured, given)
    judging = ("rules", "retries", "route", "read_text")
    found = {
        f"{STAGE}.{captioner.name}": stage_fingerprint(
            code, [routes.part_keys(captioner), captioner.model_dump(mode="json", include=set(judging))]
        )
        for captioner in settings.captioners
    }
    agreed = {f"{STAGE}.agreement": folder_hash_of(settings.agreement)} if settings.agreement else {}
    return {**found, **agreed}


def caption_clips(out: Storage, settings: CaptionSettings, clips: KeptClips, ask: AskAll) -> Captioned:
    """Caption the clips. What was answered before is taken from storage; `ask` is called where a model has to be."""
    captions: dict[str, pa.Table] = {}
    against: dict[str, list[Outcome]] = {}
    standing: set[str] = set()
    for captioner in settings.captioners:
        wanted = [name for name in clips.clip_ids if settings.ask == "all" or name not in standing]
        table, gone = _by_one(out, captioner, replace(clips, clip_ids=wanted), ask)
        captions[captioner.name] = table
        rejected = pc.equal(table.column("status"), rules.REJECTED)
        for caption in from_table(table.filter(rejected), Caption):
            gone[caption.clip_id] = _rejected(captioner, caption)
        standing.update(table.filter(pc.invert(rejected)).column("clip_id").to_pylist())
        for clip_id, outcome in gone.items():
            against.setdefault(clip_id, []).append(outcome)
    failed = {clip_id: _together(told) for clip_id, told in against.items() if clip_id not in standing}
    missed = {
        clip_id: outcome
        for clip_id, told in against.items()
        for outcome in told
        if clip_id in standing and not outcome.lasting
    }
    return Captioned(captions, failed, missed)


def _by_one(
    out: Storage, captioner: CaptionerSettings, clips: KeptClips, ask: AskAll
) -> tuple[pa.Table, dict[str, Outcome]]:
    """One captioner's captions of the clips, and those that are gone, by clip_id."""
    if captioner.route == given.MODEL:
        return _given(clips)
    if not routes.parts_of(captioner) or not clips.clip_ids:
        return _table(_measured(clips, {})), {}
    asked = set(clips.clip_ids)
    seen, gone = _answered(out, captioner, [clip for clip in clips.seen() if clip.clip_id in asked], ask)
    seen = [clip for clip in seen if clip.clip_id not in gone]
    if captioner.route == "measured":
        left = replace(clips, clip_ids=[clip.clip_id for clip in seen])
        return _table(_measured(left, {clip.clip_id: routes.lines_read(clip) for clip in seen})), gone
    made_by, weights = routes.made_by(captioner), routes.weights_of(captioner)
    return _table(routes.to_caption(captioner, clip, weights=weights, made_by=made_by) for clip in seen), gone


def _given(clips: KeptClips) -> tuple[pa.Table, dict[str, Outcome]]:
    told = clips.told()
    captions = (given.to_caption(clip_id, told[clip_id]) for clip_id in clips.clip_ids if clip_id in told)
    detail = "given: its source came without a caption"
    missing = [clip_id for clip_id in clips.clip_ids if clip_id not in told]
    return _table(captions), {one: Outcome(one, FAILED, NO_CAPTION_GIVEN, detail, stage=STAGE) for one in missing}


def _measured(clips: KeptClips, read: Mapping[str, Sequence[str]]) -> Iterator[Caption]:
    for first in range(0, len(clips.clip_ids), _ROWS_AT_ONCE):
        names = clips.clip_ids[first : first + _ROWS_AT_ONCE]
        for clip_id, scores in zip(names, clips.scores(names), strict=True):
            yield measured.caption(clip_id, scores, read=read.get(clip_id, ()))


def _table(captions: Iterable[Caption]) -> pa.Table:
    """The rows as one table, made in parts: objects need many times the memory of columns."""
    captions, parts = iter(captions), [Caption.SCHEMA.empty_table()]
    while some := list(itertools.islice(captions, _ROWS_AT_ONCE)):
        parts.append(to_table(some, Caption))
    return pa.concat_tables(parts).combine_chunks()


def _answered(
    out: Storage, captioner: CaptionerSettings, clips: Sequence[SeenClip], ask: AskAll
) -> tuple[list[SeenClip], dict[str, Outcome]]:
    """The clips with all that is answered about them; those that are gone by clip_id."""
    keys = routes.part_keys(captioner)
    if not keys or not clips:
        return list(clips), {}
    clips = with_answers(out, clips, keys)
    gone: dict[str, Outcome] = {}
    # Clips that vanished with a killed process get a second chance, alone, so that only the culprit is lost.
    for size in (captioner.batch_clips, 1):
        batches = plan_batches(captioner, [clip for clip in clips if clip.clip_id not in gone], size=size)
        if batches:
            rows = [to_row(batch) for batch in batches]
            gone |= {one.key: one for one in ask(captioner, rows, keys) if one.status == FAILED}
            clips = with_answers(out, clips, keys)
    lost = [clip.clip_id for clip in clips if clip.clip_id not in gone and wants(captioner, clip)]
    gone |= {one: Outcome(one, FAILED, CRASHED, "the process died on this clip, twice", stage=STAGE) for one in lost}
    return list(clips), gone


def with_answers(out: Storage, clips: Sequence[SeenClip], keys: Mapping[str, str]) -> list[SeenClip]:
    """The clips with what was answered about them under the keys of the parts."""
    found = notes.read_answers(out, keys)
    return [replace(clip, answers=found.get(clip.clip_id, {})) for clip in clips]


def plan_batches(captioner: CaptionerSettings, clips: Sequence[SeenClip], *, size: int) -> list[list[SeenClip]]:
    """Batches of neighbours in the order of all clips, so that what a model sees together does not depend on where an
    earlier run was killed; of each, the clips that still want an answer. Empty ones are left out."""
    cut = [clips[first : first + size] for first in range(0, len(clips), size)]
    wanting = [[clip for clip in batch if wants(captioner, clip)] for batch in cut]
    return [batch for batch in wanting if batch]


def wants(captioner: CaptionerSettings, clip: SeenClip) -> bool:
    """Whether any part still has to be asked about the clip."""
    return any(routes.wanting(captioner, part, clip) for part in routes.parts_of(captioner))


def _rejected(captioner: CaptionerSettings, caption: Caption) -> Outcome:
    tries = f"{caption.tries} tries" if caption.tries != 1 else "1 try"
    detail = f"{captioner.name}: {caption.reason} after {tries}: {caption.draft[:120]!r}"
    return Outcome(caption.clip_id, FAILED, CAPTION_REJECTED, detail, stage=STAGE)


def _together(told: Sequence[Outcome]) -> Outcome:
    """What all captioners had against a clip; a cause that may pass decides whether it is tried again."""
    first = next((outcome for outcome in told if not outcome.lasting), told[-1])
    return replace(first, detail="; ".join(outcome.detail for outcome in told))
