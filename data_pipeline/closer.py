"""Clips that the cheap rules keep get a closer look: the signals that need models see a few of their frames, large."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, UInt8

from data_pipeline import look_order, rules
from data_pipeline.assess import shortest_seconds
from data_pipeline.assessed import ClipTable
from data_pipeline.closer_notes import STAGE as STAGE
from data_pipeline.closer_notes import Note, read_notes, write_notes
from data_pipeline.failures import DAMAGED, ERROR, UNREADABLE
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.labels.names import COLUMNS as LABEL_SCORES
from data_pipeline.outcome import ABORTED, FAILED, OK, Outcome, to_row
from data_pipeline.policy import Rule
from data_pipeline.recipe import CurateRecipe, SignalSettings
from data_pipeline.signals import CLOSER_SCORES
from groundwork import media
from groundwork.errors import MediaError, RecipeError, StorageError
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import get_logger

LONG_SIDE = 640
"""Pixels of the longer side of what is looked at."""
_SPENT = "cpu_milliseconds"
_INSTANTS = (0.5, 0.1, 0.9)  # shares of the clip's length, in the order of the looks

Looks = Iterator[UInt8[np.ndarray, "h w 3"]]


class CloserSignal(Protocol):
    """Scores a clip from a few looks at it; stops asking for more when it has seen enough."""

    def score(self, looks: Looks) -> dict[str, float]: ...


@dataclass(frozen=True)
class CloserJob:
    """What is still to be measured of a clip: signal → key of what it gives, in the order of the looks. `whole`: one
    that rejects the clip does not spare it the others."""

    clip_id: str
    start_seconds: float
    stop_seconds: float
    keys: Mapping[str, str]
    whole: bool = True


def require(recipe: CurateRecipe) -> None:
    """Raises RecipeError or WeightsError, before anything is read, for a signal that cannot be measured here, and for a
    rule that rejects all clips because the recipe does not switch its signal on; one that passes them on is told."""
    settings = recipe.signals
    if settings.text:
        from data_pipeline.signals import text

        text.require()
    if settings.aesthetics.weights:
        from data_pipeline.signals import aesthetics

        aesthetics.require(settings.aesthetics.weights)
    for reason, rule in recipe.rules.items():
        for signal, names in CLOSER_SCORES.items():
            if rule.score in names and signal not in settings.closer:
                told = f"rules.{reason}.score: {rule.score!r} is not measured, as signals.{signal} is off."
                if rule.absent == "reject":
                    raise RecipeError(told, f"{_SWITCH[signal]}, or leave the rule out.")
                get_logger("curate").warning("%s The rule decides nothing. %s.", told, _SWITCH[signal])


def fingerprints(settings: SignalSettings) -> dict[str, str]:
    """Key of each signal that is on: its code, its model, how frames are picked."""
    import data_pipeline.closer as own

    found = {}
    if settings.text:
        from data_pipeline.signals import text

        found["text"] = _key(own, text, model=text.version())
    if settings.aesthetics.weights:
        from data_pipeline.signals import aesthetics

        found["aesthetics"] = _key(own, aesthetics, model=aesthetics.version(settings.aesthetics.weights))
    return found


@dataclass(frozen=True)
class Looked:
    """What a closer signal gave n clips: its scores, the CPU time it took (both NaN: none), and why there is no score
    (empty: there is one)."""

    scores: Mapping[str, Float[np.ndarray, " n"]]
    milliseconds: Float[np.ndarray, " n"]
    absent: pa.StringArray


@dataclass(frozen=True)
class Seen:
    """What stands of n clips: by signal, in the order of the looks, its notes as rows (null: none yet) and what is
    decided before its turn; `free`: what the rules decide that need no look; `sample`: clips that all signals look at.
    """

    notes: Mapping[str, pa.Table]
    before: Mapping[str, rules.Verdicts]
    free: rules.Verdicts
    sample: Bool[np.ndarray, " n"]
    to_order: bool

    def asked(self, signal: str) -> Bool[np.ndarray, " n"]:
        """Which clips the signal is to look at, as far as that is known yet."""
        found: Bool[np.ndarray, " n"] = self.sample | (self.before[signal].kept & (not self.to_order))
        return found

    def noted(self, signal: str) -> Bool[np.ndarray, " n"]:
        """Which clips it has looked at."""
        noted: Bool[np.ndarray, " n"] = self.notes[signal].column("clip_id").is_valid().to_numpy()
        return noted

    def numbers(self, signal: str) -> dict[str, Float[np.ndarray, " n"]]:
        """Its scores and CPU milliseconds; NaN: none."""
        rows = self.notes[signal]
        return {name: rows.column(name).to_numpy() for name in rows.column_names if name not in ("clip_id", "error")}

    def scores(self, signal: str) -> dict[str, Float[np.ndarray, " n"]]:
        """Its scores."""
        return {name: values for name, values in self.numbers(signal).items() if name != _SPENT}


def seen(out: Storage, clips: ClipTable, recipe: CurateRecipe, *, keys: Mapping[str, str]) -> Seen:
    """What the closer looks have given so far. `keys` are `fingerprints`."""
    ruling, seconds = recipe.rules, shortest_seconds(recipe)
    passed = before_looks(clips, recipe).kept
    sample = passed & ~rules.over_limit(clips.clip_ids, passed, max_clips=look_order.SAMPLE_CLIPS)
    free = rules.judge(clips.scores, look_order.free_rules(ruling), shortest_seconds=seconds)
    fixed = look_order.read_order(out, keys, ruling).get("order", [])
    notes = {}
    for signal in fixed or keys:
        table = read_notes(out, signal, keys[signal])
        notes[signal] = table.take(pc.index_in(clips.clip_ids, value_set=table.column("clip_id").combine_chunks()))
    to_order = not fixed and len(keys) > 1 and bool((free.kept & ~sample).any())
    found = Seen(notes, {}, free, sample, to_order)
    scores = {signal: found.scores(signal) for signal in notes}
    return replace(found, before=look_order.before_each(list(notes), scores, ruling, free=free))


def closer_jobs(
    out: Storage, clips: ClipTable, recipe: CurateRecipe, *, keys: Mapping[str, str]
) -> dict[str, CloserJob]:
    """What is missing, by clip_id: of a sample of the clips that no rule rejects before the first one on a closer look,
    all; of the others, when their order is fixed, what no rule on something cheaper spares. `keys`: `fingerprints`.

    So with no more clips than a sample the reason that is noted is the one that would be noted if all were measured.
    """
    found = seen(out, clips, recipe, keys=keys)
    missing = {signal: found.asked(signal) & ~found.noted(signal) for signal in found.notes}
    asked = np.logical_or.reduce([np.zeros(len(clips), bool), *missing.values()])
    jobs = {}
    for index in np.flatnonzero(asked).tolist():
        row = {name: clips.rows.column(name)[index].as_py() for name in ("clip_id", "start_seconds", "stop_seconds")}
        wanted = {signal: keys[signal] for signal in missing if missing[signal][index]}
        jobs[row["clip_id"]] = CloserJob(**row, keys=wanted, whole=bool(found.sample[index]))
    return jobs


def settle_order(out: Storage, clips: ClipTable, recipe: CurateRecipe, *, keys: Mapping[str, str]) -> bool:
    """Fix the order of the looks by what the sample cost and rejected; False: it is fixed, or there is none to find."""
    found = seen(out, clips, recipe, keys=keys)
    if found.to_order:
        scores = {signal: found.scores(signal) for signal in keys}
        spent = {signal: found.numbers(signal)[_SPENT] for signal in keys}
        prices = look_order.look_prices(scores, spent, recipe.rules, sample=found.sample & found.free.kept)
        look_order.fix_order(out, keys, recipe.rules, prices)
    return found.to_order


def before_looks(clips: ClipTable, recipe: CurateRecipe) -> rules.Verdicts:
    """What the rules in front of the first one that takes a closer look, or a label, decide."""
    closer = {name for names in (*CLOSER_SCORES.values(), LABEL_SCORES) for name in names}
    first = next(
        (number for number, rule in enumerate(recipe.rules.values()) if rule.score in closer), len(recipe.rules)
    )
    ruling = dict(list(recipe.rules.items())[:first])
    return rules.judge(clips.scores, ruling, shortest_seconds=shortest_seconds(recipe))


def looks(
    out: Storage,
    clips: ClipTable,
    recipe: CurateRecipe,
    *,
    keys: Mapping[str, str],
    failed: Mapping[str, Outcome],
) -> dict[str, Looked]:
    """By signal, what the closer looks gave, or why there is none."""
    stands, found = seen(out, clips, recipe, keys=keys), {}
    for signal, names in CLOSER_SCORES.items():
        if signal in keys:
            found[signal] = _looked(stands, signal, clips.clip_ids, failed)
        else:
            nothing = np.full(len(clips), np.nan)
            off = pa.array([f"{_OFF[signal]} is not set"]).take(pa.array(np.zeros(len(clips), np.int8)))
            found[signal] = Looked(dict.fromkeys(names, nothing), nothing, off)
    return found


def _looked(stands: Seen, signal: str, clip_ids: pa.Array, failed: Mapping[str, Outcome]) -> Looked:
    asked = stands.asked(signal)
    noted = asked & stands.noted(signal)
    rejected = pc.binary_join_element_wise("rejected before: ", stands.before[signal].reason_column(), "")
    lost = [key for key in failed if failed[key].detail]
    told = pa.array([failed[key].detail for key in lost], pa.string())
    why = pc.fill_null(told.take(pc.index_in(clip_ids, value_set=pa.array(lost, pa.string()))), "not measured")
    errors = stands.notes[signal].column("error")
    absent = pc.if_else(pa.array(asked), pc.if_else(pa.array(noted), errors, why), rejected)
    # What lies there of clips that are not asked for, from other rules or another order, counts for nothing.
    numbers = {name: np.where(noted, values, np.nan) for name, values in stands.numbers(signal).items()}
    milliseconds = numbers.pop(_SPENT)
    return Looked(numbers, milliseconds, absent.combine_chunks() if isinstance(absent, pa.ChunkedArray) else absent)


class LookCloser:
    """Row {folder, name, jobs} → its clips' scores on storage, a table per signal, and an Outcome row per clip."""

    def __init__(self, *, out: str, settings: dict[str, Any], ruling: Mapping[str, Any] | None = None) -> None:
        self._out = open_storage(out)
        self._rules = {reason: Rule.model_validate(rule) for reason, rule in (ruling or {}).items()}
        self._signals = load_signals(SignalSettings.model_validate(settings))

    def __call__(self, row: dict[str, str]) -> list[dict[str, str]]:
        work = json.loads(row["payload"])
        jobs = [CloserJob(**job) for job in work["jobs"]]
        found: dict[str, list[Note]] = {}
        try:
            with open_storage(work["folder"]).local_path(work["name"]) as path:
                outcomes = [self._look(path, work["name"], job, found) for job in jobs]
        except StorageError as error:
            outcomes = [Outcome(job.clip_id, FAILED, UNREADABLE, error.message) for job in jobs]
        try:
            for signal, notes in found.items():
                write_notes(self._out, signal, notes[0].key, notes)
        except StorageError as error:
            outcomes = [Outcome(job.clip_id, ABORTED, detail=str(error)) for job in jobs]
        return [to_row(asdict(outcome)) for outcome in outcomes]

    def _look(self, path: Path, name: str, job: CloserJob, found: dict[str, list[Note]]) -> Outcome:
        try:
            images = take_looks(path, start_seconds=job.start_seconds, stop_seconds=job.stop_seconds)
            notes = []
            for signal in job.keys:
                notes.append(self._score(signal, images, job))
                own = look_order.look_rules(signal, self._rules)
                if not job.whole and not rules.decide(job.clip_id, notes[-1].scores, own).kept:
                    break
        except MediaError as error:
            message = error.message.replace(str(path), name)
            notes = [Note(job.clip_id, signal, key, error=f"{DAMAGED}: {message}") for signal, key in job.keys.items()]
        except Exception as error:  # the row boundary
            return Outcome(job.clip_id, FAILED, ERROR, f"{type(error).__name__}: {error}")
        for note in notes:
            found.setdefault(note.signal, []).append(note)
        return Outcome(job.clip_id, OK)

    def _score(self, signal: str, images: Sequence[UInt8[np.ndarray, "h w 3"]], job: CloserJob) -> Note:
        started = time.process_time()
        scores = self._signals[signal].score(iter(images))
        spent = round(1000 * (time.process_time() - started), 1)
        return Note(job.clip_id, signal, job.keys[signal], scores, cpu_milliseconds=spent)


def load_signals(settings: SignalSettings) -> dict[str, CloserSignal]:
    """The signals that are on, with their models."""
    loaders: dict[str, Callable[[], CloserSignal]] = {}
    if settings.text:
        from data_pipeline.signals.text import Text

        loaders["text"] = Text
    if settings.aesthetics.weights:
        from data_pipeline.signals.aesthetics import Aesthetics

        loaders["aesthetics"] = lambda: Aesthetics(settings.aesthetics.weights)
    return {signal: load() for signal, load in loaders.items()}


def take_looks(path: str | Path, *, start_seconds: float, stop_seconds: float) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frames in the middle, near the beginning and near the end of a span, 640 pixels long, in that order.

    One seek and one pass over the span. Raises MediaError when it cannot be decoded or holds no frame.
    """
    instants = [start_seconds + share * (stop_seconds - start_seconds) for share in _INSTANTS]
    taken: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
    last: UInt8[np.ndarray, "h w 3"] | None = None
    for frame in media.read_frames(
        path, start_seconds=start_seconds, stop_seconds=stop_seconds, short_side=16, with_native=True
    ):
        due = [number for number, instant in enumerate(instants) if number not in taken and frame.seconds >= instant]
        if due or last is None:
            last = media.native_rgb(frame, long_side=LONG_SIDE)
            taken |= dict.fromkeys(due, last)
        if len(taken) == len(instants):
            break
    if last is None:
        raise MediaError(f"{path}: holds no frame between {start_seconds:.3f} s and {stop_seconds:.3f} s.")
    return [taken.get(number, last) for number in range(len(instants))]


_SWITCH = {
    "text": "Switch it on with --signals.text",
    "aesthetics": "Name a weights folder with --signals.aesthetics.weights PATH",
}
_OFF = {"text": "signals.text", "aesthetics": "signals.aesthetics.weights"}


def _key(*code: ModuleType, model: str) -> str:
    return stage_fingerprint((*code, media), model)
