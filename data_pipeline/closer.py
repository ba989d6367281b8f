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
from jaxtyping import UInt8

from data_pipeline import rules
from data_pipeline.assess import AssessedClip, caption_of
from data_pipeline.failures import DAMAGED, ERROR, UNREADABLE
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.outcome import ABORTED, FAILED, OK, Outcome, to_row
from data_pipeline.policy import Rule
from data_pipeline.recipe import CurateRecipe, SignalSettings
from data_pipeline.signals import CLOSER_SCORES
from groundwork import media
from groundwork.errors import MediaError, RecipeError, StorageError
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import get_logger

STAGE = "closer"
LONG_SIDE = 640
"""Pixels of the longer side of what is looked at."""
_INSTANTS = (0.5, 0.1, 0.9)  # shares of the clip's length, in the order of the looks

Looks = Iterator[UInt8[np.ndarray, "h w 3"]]


class CloserSignal(Protocol):
    """Scores a clip from a few looks at it; stops asking for more when it has seen enough."""

    def score(self, looks: Looks) -> dict[str, float]: ...


@dataclass(frozen=True)
class CloserJob:
    """What is still to be measured of a clip: signal → key of what it gives."""

    clip_id: str
    start_seconds: float
    stop_seconds: float
    keys: Mapping[str, str]


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


def closer_jobs(
    out: Storage, clips: Sequence[AssessedClip], recipe: CurateRecipe, *, keys: Mapping[str, str]
) -> dict[str, CloserJob]:
    """What is missing, by clip_id: of the clips that no rule rejects before the first one on a closer look.

    So the reason that is noted is the one that would be noted if all had been measured. `keys` are `fingerprints`.
    """
    stands = {signal: _standing(out, signal, key) for signal, key in keys.items()}
    jobs = {}
    for item in clips:
        missing = {signal: key for signal, key in keys.items() if item.clip.clip_id not in stands[signal]}
        if missing and wanted(item, recipe.rules):
            clip = item.clip
            jobs[clip.clip_id] = CloserJob(clip.clip_id, clip.start_seconds, clip.stop_seconds, missing)
    return jobs


def wanted(item: AssessedClip, ruling: Mapping[str, Rule]) -> bool:
    """Whether the rules in front of the first one that takes a closer look let the clip pass."""
    closer = {name for names in CLOSER_SCORES.values() for name in names}
    first = next((number for number, rule in enumerate(ruling.values()) if rule.score in closer), len(ruling))
    before = dict(list(ruling.items())[:first])
    return item.bucket is not None and rules.decide(item.clip.clip_id, item.flat_scores(), before).kept


def with_looks(
    out: Storage,
    clips: Sequence[AssessedClip],
    recipe: CurateRecipe,
    *,
    keys: Mapping[str, str],
    failed: Mapping[str, Outcome],
) -> list[AssessedClip]:
    """The clips with what the closer looks gave, or why there is none, and the decisions that follow from it."""
    stands = {signal: _standing(out, signal, key) for signal, key in keys.items()}
    found = []
    for item in clips:
        clip_id, scores, absent = item.clip.clip_id, dict(item.scores), {}
        spent = dict(item.signal_milliseconds)
        for signal in CLOSER_SCORES:
            scores[signal] = {}
            if signal not in keys:
                absent[signal] = f"{_OFF[signal]} is not set"
            elif not wanted(item, recipe.rules):
                absent[signal] = f"rejected before: {item.decision.reason}"
            elif clip_id in stands[signal]:
                note = out.read_json(_path(signal, keys[signal], clip_id))
                scores[signal] = note["scores"]
                spent[signal] = note["cpu_milliseconds"]
                absent |= {signal: note["error"]} if note["error"] else {}
            else:
                absent[signal] = failed[clip_id].detail if clip_id in failed else "not measured"
        item = replace(item, scores=scores, absent=absent, signal_milliseconds=spent)
        found.append(_decided(item, recipe) if keys and item.bucket is not None else item)
    return found


def _decided(item: AssessedClip, recipe: CurateRecipe) -> AssessedClip:
    decision = rules.decide(item.clip.clip_id, item.flat_scores(), recipe.rules)
    return replace(
        item, decision=decision, caption=caption_of(item.clip, item.flat_scores(), recipe) if decision.kept else None
    )


class LookCloser:
    """Row {folder, name, jobs} → the scores of each clip on storage, and an Outcome row per clip."""

    def __init__(self, *, out: str, settings: dict[str, Any]) -> None:
        self._out = open_storage(out)
        self._signals = load_signals(SignalSettings.model_validate(settings))

    def __call__(self, row: dict[str, str]) -> list[dict[str, str]]:
        work = json.loads(row["payload"])
        jobs = [CloserJob(**job) for job in work["jobs"]]
        try:
            with open_storage(work["folder"]).local_path(work["name"]) as path:
                return [to_row(asdict(self._look(path, work["name"], job))) for job in jobs]
        except StorageError as error:
            return [to_row(asdict(Outcome(job.clip_id, FAILED, UNREADABLE, error.message))) for job in jobs]

    def _look(self, path: Path, name: str, job: CloserJob) -> Outcome:
        try:
            images = take_looks(path, start_seconds=job.start_seconds, stop_seconds=job.stop_seconds)
            notes = {signal: self._score(signal, images) for signal in job.keys}
        except MediaError as error:
            message = error.message.replace(str(path), name)
            notes = {signal: _note({}, error=f"{DAMAGED}: {message}") for signal in job.keys}
        except Exception as error:  # the row boundary
            return Outcome(job.clip_id, FAILED, ERROR, f"{type(error).__name__}: {error}")
        try:
            for signal, note in notes.items():
                self._out.write_json(_path(signal, job.keys[signal], job.clip_id), note)
        except StorageError as error:
            return Outcome(job.clip_id, ABORTED, detail=str(error))
        return Outcome(job.clip_id, OK)

    def _score(self, signal: str, images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> dict[str, Any]:
        started = time.process_time()
        scores = self._signals[signal].score(iter(images))
        return _note(scores, cpu_milliseconds=round(1000 * (time.process_time() - started), 1))


def _note(scores: Mapping[str, float], *, error: str = "", cpu_milliseconds: float = 0.0) -> dict[str, Any]:
    return {"scores": dict(scores), "error": error, "cpu_milliseconds": cpu_milliseconds}


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


def _path(signal: str, key: str, clip_id: str) -> str:
    return f"work/{STAGE}/{signal}/{key}/{clip_id}.json"


def _standing(out: Storage, signal: str, key: str) -> set[str]:
    return {Path(path).stem for path in out.list(f"work/{STAGE}/{signal}/{key}", suffix=".json")}
