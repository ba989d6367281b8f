"""A stage becomes the clips that it trains on, chosen by bucket, stored score and kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from groundwork.latents import IndexedClip
from groundwork.storage import Storage
from training.recipe import Stage

Scores = Mapping[str, Float[np.ndarray, " clips"]]
"""Stored scores by name, one per clip; NaN where a clip has none."""


def read_scores(dataset: Storage, names: Collection[str], clips: Sequence[IndexedClip]) -> dict[str, np.ndarray]:
    """Those of the scores that the dataset's `signals/` hold, for each clip."""
    clip_ids, found = pa.array([clip.clip_id for clip in clips]), dict[str, np.ndarray]()
    for table in _signals(dataset) if names else ():
        rows = pc.index_in(clip_ids, value_set=table.column("clip_id").combine_chunks())
        for name in set(names) & set(table.column_names):
            found[name] = table.column(name).cast(pa.float64()).take(rows).to_numpy()
    return found


def known_scores(dataset: Storage) -> set[str]:
    """Names of the scores that a dataset stores."""
    return {field.name for table in _signals(dataset) for field in table.schema if _is_number(field.type)}


def _signals(dataset: Storage) -> Iterator[pa.Table]:
    for folder in sorted({path.rsplit("/", 1)[0] for path in dataset.list("signals", suffix=".parquet")}):
        yield dataset.read_table(folder)


def stage_clips(stage: Stage, clips: Sequence[IndexedClip], scores: Scores) -> tuple[int, ...]:
    """Numbers of the clips that a stage trains on: those of its buckets, then of these the ones within all bounds,
    then of these the best by each score, then images or films where `images` wants only one of them.

    A clip without a score that is asked for is not taken.
    """
    chosen: Bool[np.ndarray, " clips"] = np.array(
        [not stage.buckets or any(fnmatchcase(clip.bucket, name) for name in stage.buckets) for clip in clips], bool
    )
    for name, bound in stage.where.items():
        values = scores[name]
        chosen &= ~np.isnan(values)
        if bound.at_least is not None:
            chosen &= values >= bound.at_least
        if bound.at_most is not None:
            chosen &= values <= bound.at_most
    inside = chosen.copy()
    for name, share in stage.best.items():
        chosen &= _best(scores[name], inside, share=share)
    if stage.images in (0.0, 1.0):
        chosen &= np.array([is_image(clip) == bool(stage.images) for clip in clips], bool)
    return tuple(np.flatnonzero(chosen).tolist())


def is_image(clip: IndexedClip) -> bool:
    """Whether the clip is one picture."""
    return clip.latent_shape[1] == 1


def _best(values: np.ndarray, inside: np.ndarray, *, share: float) -> Bool[np.ndarray, " clips"]:
    """The `share` of the clips `inside` with the highest values, at least one; of equal ones the first by number."""
    numbers = np.flatnonzero(inside & ~np.isnan(values))
    count = max(1, round(share * int(inside.sum())))
    order = numbers[np.argsort(-values[numbers], kind="stable")]
    best = np.zeros(len(values), bool)
    best[order[:count]] = True
    return best


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
