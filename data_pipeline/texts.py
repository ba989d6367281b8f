"""Captions become text embeddings, each distinct text once, however many clips carry it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cogvideox import text_encoder
from cogvideox.text_encoder import TextEncoder
from cogvideox.weights import load_text_encoder
from data_pipeline.encode import EncodeJob, bfloat16_bytes, local_weights, variant_named
from data_pipeline.fingerprint import short_hash, stage_fingerprint
from data_pipeline.recipe import EncodeSettings
from groundwork.records import Text, text_id
from groundwork.shard import write_shard
from groundwork.storage import Storage

_STAGED = "work/texts"
TEXTS_PER_ROW = 64
"""Texts that a worker embeds before it writes them down: what a killed run does again at most."""


@dataclass(frozen=True)
class TextEmbedder:
    """A variant's text encoder; `texts_per_batch` texts go through it at once, always so many: the rest is filled up
    with the last text, so that an embedding does not depend on its neighbours."""

    text_encoder: TextEncoder
    texts_per_batch: int

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> list[Text]:
        """One row per text, bfloat16."""
        rows = []
        for first in range(0, len(texts), self.texts_per_batch):
            chosen = list(texts[first : first + self.texts_per_batch])
            embeddings = self.text_encoder.encode(chosen + chosen[-1:] * (self.texts_per_batch - len(chosen)))
            rows += [
                Text(text_id(text), text, bfloat16_bytes(embedding), list(embedding.shape))
                for text, embedding in zip(chosen, embeddings, strict=False)
            ]
        return rows


def load_embedder(variant_name: str, settings: EncodeSettings, *, device: str = "cpu") -> TextEmbedder:
    """Load the variant's text encoder; texts that are too long are cut, with a warning.

    Raises RecipeError for an unknown variant, WeightsError for a folder that does not fit.
    """
    variant = variant_named(variant_name)
    torch.set_num_threads(1)
    with local_weights(variant, settings.weights) as folder:
        encoder = load_text_encoder(folder, variant=variant, device=device, too_long="warn")
    return TextEmbedder(encoder, settings.texts_per_batch)


def text_fingerprint(variant_name: str, settings: EncodeSettings, *, models: Mapping[str, Any]) -> str:
    """Key of what `TextEmbedder` makes: its code, the encoder's code and weights, batch size."""
    import data_pipeline.texts as own

    chosen = settings.model_dump(mode="json", include={"texts_per_batch"})
    return stage_fingerprint((own, text_encoder), [variant_name, chosen, models["text_encoder"]])


def distinct_texts(jobs: Iterable[EncodeJob]) -> dict[str, str]:
    """text_id → text, of all captions of the jobs, sorted."""
    return dict(sorted({text_id(text): text for job in jobs for text in job.captions}.items()))


def staged_folder(fingerprint: str) -> str:
    """Where embeddings wait for their shards."""
    return f"{_STAGED}/{fingerprint}"


def stage_texts(out: Storage, rows: Sequence[Text], *, fingerprint: str) -> None:
    """Leave embeddings in one file; readers see it whole or not at all."""
    name = short_hash(*(row.text_id for row in rows))
    write_shard(out, f"{staged_folder(fingerprint)}/{name}.parquet", rows, Text)


def drop_staged_texts(out: Storage) -> None:
    """Remove what shards hold now."""
    out.delete_tree(_STAGED)
