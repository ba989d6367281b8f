"""Vectors and labels become trained heads: parts that share no film, weights for rare labels, a stop in time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from data_pipeline.calibrate import best_threshold, confusion
from data_pipeline.labels.heads import Heads, label_scores
from data_pipeline.labels.names import LABELS
from data_pipeline.labels.settings import TrainingSettings
from groundwork.errors import InputError

TRAIN, STOP, HELD_OUT = 0, 1, 2
PARTS = ("train", "stop", "held_out")

Targets = Float[np.ndarray, "n k"]
"""1: has the defect, 0: has not, NaN: nobody has said."""


@dataclass(frozen=True)
class Trained:
    """Heads for `labels`; `untrained` says why the others have none; `epochs`: which epoch each head is from."""

    heads: Heads
    labels: tuple[str, ...]
    untrained: Mapping[str, str]
    epochs: Mapping[str, int]


def split(groups: Sequence[str], targets: Targets, *, settings: TrainingSettings) -> Int[np.ndarray, " n"]:
    """The part of each clip: 0 trains, 1 ends the training, 2 is held out; clips of one group are never parted.

    Groups are dealt out by a hash of their name and the seed, those that hold much of a rare label first, each to the
    part that lacks most of what it holds (Sechidis 2011, with groups for single examples). Raises InputError for fewer
    than three groups.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < len(PARTS):
        raise InputError(
            f"The labelled clips come from {len(names)} film(s) that are not copies of each other.",
            "Label clips of three or more: one part is held out, one ends the training.",
        )
    held = np.zeros((len(names), 2 * targets.shape[1] + 1))
    np.add.at(held, member, np.concatenate([targets == 1, targets == 0, np.ones((len(targets), 1))], axis=1))
    held /= np.maximum(held.sum(axis=0), 1)
    shares = np.array([1 - settings.stop_share - settings.held_out_share, settings.stop_share, settings.held_out_share])
    missing = np.repeat(shares[:, None], held.shape[1], axis=1)
    order = sorted(range(len(names)), key=lambda one: (-held[one].max(), _lot(settings.seed, str(names[one]))))
    parts = np.zeros(len(names), int)
    for number, one in enumerate(order):
        # The first three go one to each part: none may stay empty, however few films there are.
        gain = (missing / shares[:, None]) @ held[one]
        parts[one] = number if number < len(PARTS) else int(np.argmax(gain))
        missing[parts[one]] -= held[one]
    return parts[member]


def _lot(*words: object) -> str:
    return hashlib.sha256("|".join(map(str, words)).encode()).hexdigest()


def trainable(targets: Targets, parts: Int[np.ndarray, " n"]) -> dict[str, str]:
    """Label → why it cannot have a head; empty: it can."""
    found = {}
    for number, label in enumerate(LABELS):
        why = ""
        for part in (TRAIN, STOP):
            known = targets[parts == part, number]
            for value, word in ((1, "with it"), (0, "without it")):
                if not why and not (known == value).any():
                    why = f"no clip {word} in the part {PARTS[part]!r}"
        found[label] = why
    return found


def fit(
    vectors: Float[np.ndarray, "n d"], targets: Targets, parts: Int[np.ndarray, " n"], settings: TrainingSettings
) -> Trained:
    """Train the heads of all labels that both parts have examples for and against. Equal input gives equal heads.

    Raises InputError when no label can be trained.
    """
    why = trainable(targets, parts)
    chosen = [number for number, label in enumerate(LABELS) if not why[label]]
    if not chosen:
        raise InputError(f"No label can be trained: {'; '.join(f'{k}: {v}' for k, v in why.items())}.")
    data = {
        part: (torch.from_numpy(vectors[parts == part]).float(), torch.from_numpy(targets[parts == part][:, chosen]))
        for part in (TRAIN, STOP)
    }
    heads = Heads(vectors.shape[1], count=len(chosen), hidden=settings.hidden, dropout=settings.dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # dropout draws from it
        generator = torch.Generator().manual_seed(settings.seed)
        heads.start(data[TRAIN][0], generator=generator)
        epochs = _train(heads, data[TRAIN], data[STOP], settings, generator)
    labels = tuple(LABELS[number] for number in chosen)
    untrained = {label: reason for label, reason in why.items() if reason}
    return Trained(heads.eval(), labels, untrained, dict(zip(labels, epochs, strict=True)))


def _train(
    heads: Heads,
    train: tuple[Tensor, Tensor],
    stop: tuple[Tensor, Tensor],
    settings: TrainingSettings,
    generator: torch.Generator,
) -> list[int]:
    """Each head ends as it was in its own best epoch; returns those."""
    weights = _positive_weights(train[1])
    optimiser = torch.optim.AdamW(heads.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    best = _losses(heads.eval(), *stop, weights)
    epochs, kept = torch.zeros(len(best), dtype=torch.long), _copy(heads)
    for epoch in range(1, settings.epochs + 1):
        heads.train()
        for picked in torch.split(torch.randperm(len(train[0]), generator=generator), settings.batch):
            optimiser.zero_grad()
            torch.autograd.backward(_losses(heads, train[0][picked], train[1][picked], weights).sum())
            optimiser.step()
        now = _losses(heads.eval(), *stop, weights)
        better = now < best
        best, epochs = torch.where(better, now, best), torch.where(better, epoch, epochs)
        for name, value in heads.named_parameters():
            kept[name][better] = value.detach()[better]
        if epoch - int(epochs.max()) >= settings.patience:
            break
    heads.load_state_dict({**heads.state_dict(), **kept})
    return [int(epoch) for epoch in epochs]


def _copy(heads: Heads) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in heads.named_parameters()}


def _positive_weights(targets: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """How much a clip with the defect counts, so that both sides weigh the same."""
    return (targets == 0).sum(dim=0) / (targets == 1).sum(dim=0).clamp_min(1)


def _losses(
    heads: Heads, vectors: Float[Tensor, "n d"], targets: Float[Tensor, "n k"], weights: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """Mean cross entropy of each head over the clips whose label is known."""
    known = ~targets.isnan()
    losses = functional.binary_cross_entropy_with_logits(
        heads(vectors).double(), targets.nan_to_num(0.0).double(), pos_weight=weights.double(), reduction="none"
    )
    return (losses * known).sum(dim=0) / known.sum(dim=0).clamp_min(1)


def judge(
    trained: Trained,
    vectors: Float[np.ndarray, "n d"],
    targets: Targets,
    parts: Int[np.ndarray, " n"],
    *,
    precision: float,
) -> tuple[dict[str, dict[str, Any] | None], dict[str, dict[str, Any]]]:
    """Thresholds for the wanted precision, from the part that ended the training, and the held-out confusion per label,
    at 0.5 and at the threshold. Positive: the clip has the defect."""
    scores = label_scores(trained.heads, trained.labels, vectors)
    thresholds: dict[str, dict[str, Any] | None] = {}
    metrics = {}
    for label in trained.labels:
        truth = targets[:, LABELS.index(label)]
        known = ~np.isnan(truth)
        stop, held = known & (parts == STOP), known & (parts == HELD_OUT)
        found = best_threshold(scores[label][stop], truth[stop] == 1, side="above", precision=precision)
        thresholds[label] = found
        metrics[label] = {
            "half": table_row(scores[label][held] > 0.5, truth[held] == 1),
            "wanted": table_row(scores[label][held] > found["threshold"], truth[held] == 1) if found else None,
        }
    return thresholds, metrics


def table_row(fires: Bool[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> dict[str, Any]:
    """A row of table 14 with the number of clips and of those that have the defect."""
    return {"clips": len(wrong), "positive": int(wrong.sum()), **confusion(fires, wrong).row()}
