"""Settings become the model that looks at clips, and its key; what it makes of them becomes six columns of scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.captions import frames as reading
from data_pipeline.failures import DAMAGED, ERROR
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.labels import frames as spreading
from data_pipeline.labels import heads as head_files
from data_pipeline.labels.frames import spread_frames
from data_pipeline.labels.heads import EncoderCard, read_card, read_heads
from data_pipeline.labels.names import CLASSIFIER, LABELS, MEASURED, ZERO_SHOT
from data_pipeline.labels.settings import LabelSettings
from data_pipeline.labels.store import Made
from groundwork import media
from groundwork.errors import MediaError, RecipeError, WeightsError

Scores = Mapping[str, Float[np.ndarray, " n"]]


class ClipModel(Protocol):
    """A loaded model: a vector for each clip, from the frames of it that `num_frames` asks for."""

    num_frames: int

    def vectors(self, clips: Sequence[UInt8[np.ndarray, "t h w 3"]]) -> Float[np.ndarray, "n d"]: ...


@dataclass(frozen=True)
class Labeller:
    """Who gives the labels: what every row says of its source, and how vectors become scores. `key` is that of the
    vectors on storage; empty: no model looks at clips."""

    source: str
    model: str
    version: str
    key: str
    short_side: int
    load: Callable[[], ClipModel]
    scores: Callable[[Float[np.ndarray, "n d"]], Scores]


def labeller(settings: LabelSettings) -> Labeller:
    """The one that a recipe asks for, nothing heavy loaded yet.

    Raises RecipeError for a folder that is not named, WeightsError for one that is missing, heads that do not fit their
    encoder, labels that are not known, a hub id without a commit.
    """
    device = "cuda" if settings.gpus else "cpu"
    if settings.mode == CLASSIFIER:
        return _classifier(settings, device)
    if settings.mode == ZERO_SHOT:
        return _zero_shot(settings, device)
    from data_pipeline.labels import measured

    return Labeller(MEASURED, MEASURED, stage_fingerprint((measured,), None), "", 0, _nothing, lambda _: {})


def _nothing() -> ClipModel:
    raise AssertionError("no model is asked for")


def _classifier(settings: LabelSettings, device: str) -> Labeller:
    named = settings.classifier
    if not named.heads:
        raise RecipeError(
            "labels.mode is classifier, but labels.classifier.heads is empty.",
            "Train heads with 'curate label train', or use --labels.mode measured.",
        )
    card = read_card(named.heads)
    encoder = card.encoder
    if named.encoder:
        encoder = encoder.model_copy(update={"model": named.encoder, "revision": ""})
    found = encoder_version(encoder.model, revision=encoder.revision, setting="labels.classifier.encoder")
    if found != card.encoder.version:
        raise WeightsError(
            f"{named.heads}: its heads were trained on another encoder than {encoder.model} "
            f"({card.encoder.version[:12]}, this is {found[:12]}).",
            "Name the folder of the one they were trained on with --labels.classifier.encoder.",
        )
    heads, _ = read_heads(named.heads)
    return Labeller(
        source=CLASSIFIER,
        model=card.encoder.model,
        version=card.weights_sha256,
        key=encoder_key(encoder),
        short_side=encoder.short_side,
        load=partial(load_encoder, encoder, device=device),
        scores=partial(head_files.label_scores, heads, card.labels),
    )


def _zero_shot(settings: LabelSettings, device: str) -> Labeller:
    from data_pipeline.labels import zero_shot

    asked = settings.zero_shot
    if not asked.model:
        raise RecipeError(
            "labels.mode is zero_shot, but labels.zero_shot.model is empty.",
            "Name a folder or hub id, or use --labels.mode measured.",
        )
    version = encoder_version(asked.model, revision=asked.revision, setting="labels.zero_shot.model")
    seen = [version, asked.num_frames, asked.short_side, asked.dtype, device if asked.dtype == "auto" else ""]

    def load() -> ClipModel:
        return zero_shot.Questions(
            asked.model, revision=asked.revision, num_frames=asked.num_frames, device=device, dtype=asked.dtype
        )

    return Labeller(
        source=ZERO_SHOT,
        model=asked.model,
        version=version,
        key=stage_fingerprint((zero_shot, spreading, reading, media), seen),
        short_side=asked.short_side,
        load=load,
        scores=partial(zero_shot.label_scores, least_answer_share=asked.least_answer_share),
    )


def encoder_version(model: str, *, revision: str, setting: str) -> str:
    """See `encoder.model_version`; torch is not needed for it."""
    from data_pipeline.labels.encoder import model_version

    return model_version(model, revision=revision, setting=setting)


def encoder_key(card: EncoderCard) -> str:
    """Key of an encoder's vectors: where the folder lies does not matter."""
    from data_pipeline.labels import encoder

    return stage_fingerprint((encoder, spreading, reading, media), [card.version, card.num_frames, card.short_side])


def load_encoder(card: EncoderCard, *, device: str) -> ClipModel:
    """The encoder of a card."""
    from data_pipeline.labels.encoder import FrozenEncoder

    return FrozenEncoder(card.model, revision=card.revision, num_frames=card.num_frames, device=device)


@dataclass(frozen=True)
class Span:
    """A clip in its film."""

    clip_id: str
    start_seconds: float
    stop_seconds: float


def look(model: ClipModel, path: Path, name: str, spans: Sequence[Span], *, short_side: int) -> list[Made]:
    """What the model makes of some clips of one film, as one batch, or why of one of them it makes nothing. `name` is
    the film's for people."""
    started = time.process_time()
    shown, made = {}, {}
    for span in spans:
        try:
            shown[span.clip_id] = spread_frames(
                path,
                start_seconds=span.start_seconds,
                stop_seconds=span.stop_seconds,
                num_frames=model.num_frames,
                short_side=short_side,
            )
        except MediaError as error:
            made[span.clip_id] = Made(span.clip_id, None, f"{DAMAGED}: {error.message.replace(str(path), name)}")
    if shown:
        vectors = model.vectors(list(shown.values()))
        spent = round(1000 * (time.process_time() - started) / len(shown), 1)
        for clip_id, vector in zip(shown, vectors, strict=True):
            made[clip_id] = (
                Made(clip_id, vector.tolist(), cpu_milliseconds=spent)
                if np.isfinite(vector).all()
                else Made(clip_id, None, f"{ERROR}: the model gave no finite numbers")
            )
    return [made[span.clip_id] for span in spans]


def empty_scores(count: int) -> Scores:
    """No score of any label."""
    return {label: np.full(count, np.nan) for label in LABELS}
