"""One dataset, or several, become the clips of a run: checked, numbered in one row, with their scores and a reader."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from groundwork.errors import InputError, RecipeError
from groundwork.latents import IndexedClip, LatentDataset, StoredClip, read_manifest
from groundwork.storage import Storage, open_storage
from training.clips import ClipReader, StoredClips
from training.fit import check_stages, fitting_clips
from training.recipe import TrainRecipe
from training.stages import Scores, known_scores, read_scores


class JoinedDataset:
    """The clips of several datasets in one row, by id and bucket: the order in which they are given does not matter."""

    def __init__(self, datasets: Sequence[LatentDataset]) -> None:
        placed = [
            (clip.clip_id, clip.bucket, which, number)
            for which, dataset in enumerate(datasets)
            for number, clip in enumerate(dataset.index)
        ]
        placed.sort()
        for before, after in pairwise(placed):
            if before[:2] == after[:2]:
                uris = " and ".join(datasets[which].storage.uri for which in (before[2], after[2]))
                hint = "A clip may be in several datasets at different sizes only. Leave one of them out."
                raise InputError(f"Clip {after[0]} ({after[1]}) is in {uris}.", hint)
        self._datasets, self._places = datasets, [(which, number) for *_, which, number in placed]
        self.index = tuple(datasets[which].index[number] for which, number in self._places)

    def read(self, number: int, *, caption: int = 0) -> StoredClip:
        """As `LatentDataset.read`."""
        which, inside = self._places[number]
        return self._datasets[which].read(inside, caption=caption)

    def captions(self, number: int) -> tuple[str, ...]:
        """As `LatentDataset.captions`."""
        which, inside = self._places[number]
        return self._datasets[which].captions(inside)

    def joined(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """One value per clip of each dataset, in the order of `index`."""
        return np.array([values[which][number] for which, number in self._places])


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on."""

    uri: str
    """Of all datasets, for people."""
    hash: str
    """Identifies the data: of several datasets the same in whatever order."""
    stored: StoredClips
    scores: Scores
    """Those that the recipe asks for."""

    @property
    def clips(self) -> tuple[IndexedClip, ...]:
        return self.stored.index

    def reader(self) -> ClipReader:
        """A reader of its own memory."""
        return ClipReader(self.stored)


def open_data(recipe: TrainRecipe, uris: Sequence[str]) -> TrainingData:
    """The datasets' clips, checked against the recipe before anything starts.

    Raises InputError for a dataset that is unfinished, empty, damaged, or made for another variant, autoencoder or
    text encoder, and for a clip that two of them hold at the same size; RecipeError where a stage finds no clip or no
    score, or a row is too short for the longest clip.
    """
    storages = [open_storage(uri) for uri in uris]
    datasets = [LatentDataset(storage, fitting_clips(recipe, storage)) for storage in storages]
    stored = datasets[0] if len(datasets) == 1 else JoinedDataset(datasets)
    scores = _scores(recipe, datasets, stored)
    check_stages(recipe, stored.index, scores)
    uri = ", ".join(storage.uri for storage in storages)
    return TrainingData(uri, _joined_hash([_hash(storage) for storage in storages]), stored, scores)


def _scores(
    recipe: TrainRecipe, datasets: Sequence[LatentDataset], stored: LatentDataset | JoinedDataset
) -> dict[str, np.ndarray]:
    """What the stages ask for. Raises RecipeError, with the scores there are, for one that no dataset holds."""
    wanted = sorted({name for stage in recipe.stages for name in (*stage.where, *stage.best)})
    if not wanted:
        return {}
    found = [read_scores(dataset.storage, wanted, dataset.index) for dataset in datasets]
    lacking = [name for name in wanted if not any(name in scores for scores in found)]
    if lacking:
        known = sorted(set[str]().union(*(known_scores(dataset.storage) for dataset in datasets)))
        uris = ", ".join(dataset.storage.uri for dataset in datasets)
        hint = f"It has: {', '.join(known) or 'none'}."
        raise RecipeError(f"{uris} stores no score {', '.join(lacking)}.", hint)
    if isinstance(stored, LatentDataset):
        return found[0]
    none = [np.full(len(dataset.index), np.nan) for dataset in datasets]
    return {
        name: stored.joined([scores.get(name, blank) for scores, blank in zip(found, none, strict=True)])
        for name in wanted
    }


def _hash(dataset: Storage) -> str:
    """What identifies a dataset: the manifest's hash over all shards, else that of the manifest itself."""
    return str(read_manifest(dataset).get("dataset_hash") or dataset.checksum("manifest.json"))


def _joined_hash(hashes: Sequence[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()
