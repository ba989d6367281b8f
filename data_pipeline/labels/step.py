"""The clips of a run, as columns, become their six labels: what a model must still look at, then scores and sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from data_pipeline import rules
from data_pipeline.assess import shortest_seconds
from data_pipeline.assessed import ClipTable
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.labels import heads, measured, models, names
from data_pipeline.labels.models import Span, labeller
from data_pipeline.labels.names import COLUMNS, LABELS, MEASURED, STAGE, column
from data_pipeline.labels.store import read_facts, read_vectors
from data_pipeline.outcome import Outcome
from data_pipeline.recipe import CurateRecipe
from groundwork.errors import RecipeError
from groundwork.storage import Storage
from groundwork.telemetry import get_logger

Columns = Mapping[str, Float[np.ndarray, " n"]]


@dataclass(frozen=True)
class Labelled:
    """The six labels of n clips. `scores` by column (NaN: none); `absent`: why a model did not look at a clip (empty:
    it did); `milliseconds` of CPU time (NaN: none); `given`: source, model and version of every row."""

    scores: Columns
    absent: pa.StringArray
    milliseconds: Float[np.ndarray, " n"]
    given: Mapping[str, str]
    fingerprint: str

    def table(self, clip_ids: pa.Array) -> pa.Table:
        """signals/labels: a row per clip."""

        def constant(text: str) -> pa.Array:
            return pa.array([text]).take(pa.array(np.zeros(len(clip_ids), np.int8)))

        return pa.table(
            {
                "clip_id": clip_ids,
                **{name: pa.array(self.scores[name], from_pandas=True) for name in COLUMNS},
                **{name: constant(value) for name, value in self.given.items()},
                "fingerprint": constant(self.fingerprint),
                "status": pc.if_else(pc.equal(self.absent, ""), "ok", "absent"),
                "error": self.absent,
            }
        )


def require(recipe: CurateRecipe) -> None:
    """Raises RecipeError or WeightsError, before anything is read, for labels that cannot be given here, and for a rule
    that rejects all clips because nobody gives its label; one that passes them on is told."""
    given = labels_given(recipe)
    known = {column(label): label for label in LABELS}
    for reason, rule in recipe.rules.items():
        if rule.score in known and known[rule.score] not in given:
            told = f"rules.{reason}.score: {rule.score!r} is not given, as labels.mode is {recipe.labels.mode}."
            hint = "Other modes may give it: --labels.mode classifier, or zero_shot"
            if rule.absent == "reject":
                raise RecipeError(told, f"{hint}; or leave the rule out.")
            get_logger("curate").warning("%s The rule decides nothing. %s.", told, hint)


def labels_given(recipe: CurateRecipe) -> frozenset[str]:
    """The labels that the recipe's source can say anything of. Raises like `labeller`."""
    if recipe.labels.mode == "off":
        return frozenset()
    if recipe.labels.mode == MEASURED:
        return frozenset(measured.SIGNS) - (frozenset() if recipe.signals.text else measured.NEED_TEXT)
    labeller(recipe.labels)
    if recipe.labels.mode == names.CLASSIFIER:
        return frozenset(heads.read_card(recipe.labels.classifier.heads).labels)
    return frozenset(LABELS)


def fingerprints(recipe: CurateRecipe) -> dict[str, str]:
    """Key of the labels: code, model and settings; nothing where they are off."""
    if recipe.labels.mode == "off":
        return {}
    found = labeller(recipe.labels)
    settings = recipe.labels.model_dump(mode="json", include={"zero_shot": {"least_answer_share"}})
    code = (models, measured, heads, names)
    return {STAGE: stage_fingerprint(code, [found.source, found.version, found.key, settings])}


def label_jobs(out: Storage, clips: ClipTable, scores: Columns, recipe: CurateRecipe) -> dict[str, Span]:
    """What a model must still look at, by clip_id: the clips that no rule rejects before the first one on a label."""
    if recipe.labels.mode in ("off", MEASURED):
        return {}
    known = read_facts(out, labeller(recipe.labels).key).column("clip_id").combine_chunks()
    asked = pc.and_(pa.array(before_labels(scores, recipe).kept), pc.invert(pc.is_in(clips.clip_ids, value_set=known)))
    rows = clips.rows.select(["clip_id", "start_seconds", "stop_seconds"]).filter(asked).to_pylist()
    return {row["clip_id"]: Span(**row) for row in rows}


def before_labels(scores: Columns, recipe: CurateRecipe) -> rules.Verdicts:
    """What the rules in front of the first one on a label decide: the reason that is noted is the one that would be
    noted if a model had looked at all clips."""
    ruling = list(recipe.rules.items())
    first = next((number for number, (_, rule) in enumerate(ruling) if rule.score in COLUMNS), len(ruling))
    return rules.judge(scores, dict(ruling[:first]), shortest_seconds=shortest_seconds(recipe))


def labels(
    out: Storage, clips: ClipTable, scores: Columns, recipe: CurateRecipe, *, failed: Mapping[str, Outcome], key: str
) -> Labelled | None:
    """The labels of all clips from what stands on storage, or from `scores`, those of closer looks among them; None:
    labels are off. `failed`: clips that the model could not look at; `key` is the fingerprint."""
    if recipe.labels.mode == "off":
        return None
    who = labeller(recipe.labels)
    given = {"source": who.source, "model": who.model, "version": who.version}
    count = len(clips)
    if who.source == MEASURED:
        seen = measured.label_scores(scores, count=count)
        nothing = np.full(count, np.nan)
        return Labelled(_by_column(seen), pa.array([""] * count, pa.string()), nothing, given, key)
    before = before_labels(scores, recipe)
    facts = read_facts(out, who.key)
    facts = facts.take(pc.index_in(clips.clip_ids, value_set=facts.column("clip_id").combine_chunks()))
    found = _scored(out, who, clips.clip_ids.filter(pa.array(before.kept)), clips.clip_ids)
    spent = np.where(before.kept, facts.column("cpu_milliseconds").to_numpy(), np.nan)
    return Labelled(found, _absent(clips.clip_ids, before, facts.column("error"), failed), spent, given, key)


def _scored(out: Storage, who: Labeller, looked_at: pa.Array, clip_ids: pa.Array) -> dict[str, Float[np.ndarray, " n"]]:
    """The scores by column of the clips that the model was to look at; never are all vectors in memory."""
    found = {name: np.full(len(clip_ids), np.nan) for name in COLUMNS}
    wanted = set(looked_at.to_pylist())
    place = {clip_id: number for number, clip_id in enumerate(clip_ids.to_pylist()) if clip_id in wanted}
    for names_of, vectors in read_vectors(out, who.key):
        rows = [number for number, clip_id in enumerate(names_of) if clip_id in place]
        places = [place[names_of[number]] for number in rows]
        for label, values in who.scores(vectors[rows]).items():
            found[column(label)][places] = values
    return found


def _by_column(found: Mapping[str, Any]) -> dict[str, Float[np.ndarray, " n"]]:
    return {column(label): values for label, values in found.items()}


def _absent(
    clip_ids: pa.Array, before: rules.Verdicts, errors: pa.ChunkedArray, failed: Mapping[str, Outcome]
) -> pa.StringArray:
    """Why the model did not look at a clip: it was rejected, what the model met, why its worker failed."""
    lost = [key for key in failed if failed[key].detail]
    told = pa.array([failed[key].detail for key in lost], pa.string())
    why = pc.fill_null(told.take(pc.index_in(clip_ids, value_set=pa.array(lost, pa.string()))), "not looked at")
    rejected = pc.binary_join_element_wise("rejected before: ", before.reason_column(), "")
    found = pc.if_else(pa.array(before.kept), pc.coalesce(errors, why), rejected)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
