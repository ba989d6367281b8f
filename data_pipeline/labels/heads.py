"""Vectors of a frozen encoder become six scores: small heads, kept as safetensors beside a card of what they are.

HEADS/heads.safetensors  the weights · HEADS/card.json  encoder, labels, thresholds, metrics · HEADS/policy.yaml  rules
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from data_pipeline.labels.names import LABELS
from groundwork.config import FrozenModel
from groundwork.errors import StorageError, WeightsError
from groundwork.storage import open_storage

WEIGHTS, CARD, POLICY = "heads.safetensors", "card.json", "policy.yaml"
SCHEMA_VERSION = 1


class EncoderCard(FrozenModel):
    """Which encoder the heads stand on."""

    model: str
    """Folder or hub id, as it was given."""
    revision: str = ""
    """Commit of a hub id."""
    version: str
    """Hash over the folder's files, or the hub id with its commit."""
    num_frames: int
    """Pixel frames of a clip that it sees."""
    short_side: int
    """Pixels of the shorter side of the frames before the encoder's own preparation."""
    width: int
    """Length of the vector that it gives for a clip."""


class HeadsCard(FrozenModel):
    """What trained heads are and how good they were on clips that they have not seen."""

    schema_version: int = SCHEMA_VERSION
    encoder: EncoderCard
    labels: tuple[str, ...]
    """The labels that have a head, in the order of the weights."""
    untrained: dict[str, str]
    """The other labels, and why they have none: their scores stay empty."""
    positive: str = "the clip has the defect"
    """What a score near 1 means."""
    hidden: int
    """Width of each head's inner layer; 0: none."""
    thresholds: dict[str, dict[str, Any] | None]
    """Per label the threshold for the wanted precision, from the part that ended the training; None: there is none."""
    wanted_precision: float
    """What they were to reach."""
    metrics: dict[str, dict[str, Any]]
    """Per label the row of table 14 on the held-out part: `half` at a score of 0.5, `wanted` at the threshold."""
    split: dict[str, Any]
    """Clips and films of each part, seed."""
    training: dict[str, Any]
    """Settings, and the epoch that each head is from."""
    label_file: dict[str, Any]
    """Where the labels came from, and the file's sha256."""
    dataset: dict[str, str]
    """Where the clips came from, and the dataset's hash."""
    weights_sha256: str = ""
    """Of heads.safetensors."""


class Heads(nn.Module):
    """One head per label on the same vector: standardised, then a linear layer, or two with a GELU between them.

    The heads share no weight: each could be trained and used alone.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, *, count: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        inner = hidden or width
        self.inner = nn.Parameter(torch.empty(count, width, hidden)) if hidden else None
        self.inner_bias = nn.Parameter(torch.zeros(count, hidden)) if hidden else None
        self.outer = nn.Parameter(torch.zeros(count, inner))
        self.bias = nn.Parameter(torch.zeros(count))
        self._dropout = dropout

    def start(self, vectors: Float[Tensor, "n d"], *, generator: torch.Generator) -> None:
        """Set the standardisation to these vectors, and the inner layers at random."""
        self.mean.copy_(vectors.mean(dim=0))
        self.deviation.copy_(vectors.std(dim=0, correction=0).clamp_min(1e-6))
        if self.inner is not None:
            with torch.no_grad():
                self.inner.normal_(std=self.inner.shape[1] ** -0.5, generator=generator)
                self.outer.normal_(std=self.outer.shape[1] ** -0.5, generator=generator)

    def forward(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Logits; their sigmoid is the score."""
        values = (vectors - self.mean) / self.deviation
        if self.inner is None or self.inner_bias is None:
            logits: Tensor = functional.dropout(values, self._dropout, self.training) @ self.outer.T + self.bias
            return logits
        inner = functional.gelu(torch.einsum("nd,kdh->nkh", values, self.inner) + self.inner_bias)
        inner = functional.dropout(inner, self._dropout, self.training)
        return torch.einsum("nkh,kh->nk", inner, self.outer) + self.bias


def label_scores(
    heads: Heads, labels: Sequence[str], vectors: Float[np.ndarray, "n d"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Label → score, 0 to 1, rounded to four digits; NaN where the vector is, or where the label has no head."""
    found = {label: np.full(len(vectors), np.nan) for label in LABELS}
    if len(vectors):
        with torch.inference_mode():
            scores = (
                heads.eval()(torch.from_numpy(np.ascontiguousarray(vectors, np.float32))).sigmoid().double().numpy()
            )
        found |= {label: np.round(scores[:, number], 4) for number, label in enumerate(labels)}
    return found


def write_heads(uri: str, heads: Heads, card: HeadsCard, *, policy: str) -> HeadsCard:
    """Write the three files; returns the card with the weights' checksum."""
    out = open_storage(uri)
    data = save({name: tensor.contiguous() for name, tensor in heads.state_dict().items()})
    card = card.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()})
    out.write_bytes(WEIGHTS, data)
    out.write_bytes(POLICY, policy.encode())
    out.write_json(CARD, card.model_dump(mode="json"))
    return card


def read_card(uri: str) -> HeadsCard:
    """The card of trained heads. Raises WeightsError where there is none or it is of another kind."""
    try:
        said: Mapping[str, Any] = open_storage(uri).read_json(CARD)
        if said.get("schema_version") != SCHEMA_VERSION:
            raise WeightsError(f"{uri}/{CARD} is of version {said.get('schema_version')}, not {SCHEMA_VERSION}.")
        card = HeadsCard.model_validate(said)
    except (StorageError, ValidationError, AttributeError) as error:
        hint = "Name a folder that 'curate label train … --out' has written."
        raise WeightsError(f"{uri} holds no trained heads: {error}", hint) from error
    if strangers := sorted(set(card.labels) - set(LABELS)):
        raise WeightsError(f"{uri}/{CARD} names labels that are not known: {', '.join(strangers)}.")
    return card


def read_heads(uri: str) -> tuple[Heads, HeadsCard]:
    """Trained heads. Raises WeightsError when the weights are missing, changed, or do not fit their card."""
    card = read_card(uri)
    try:
        data = open_storage(uri).read_bytes(WEIGHTS)
        if hashlib.sha256(data).hexdigest() != card.weights_sha256:
            raise WeightsError(f"{uri}/{WEIGHTS} is not the file that its card was written for.")
        heads = Heads(card.encoder.width, count=len(card.labels), hidden=card.hidden)
        heads.load_state_dict(load(data))
    except (StorageError, SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{uri}/{WEIGHTS} does not fit its card: {error}") from error
    return heads.eval(), card
