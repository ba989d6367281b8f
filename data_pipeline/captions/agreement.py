"""How well captions agree with what they caption: cosine of a CLIP-style model's vectors of frame and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch.nn import functional

from data_pipeline.captions.models import folder_hash
from data_pipeline.duplicates import embeddings
from data_pipeline.duplicates.embeddings import Embedder
from data_pipeline.fingerprint import short_hash, stage_fingerprint
from groundwork.errors import RecipeError
from groundwork.storage import Storage

_BATCH = 32
_FOLDER = "work/agreement"


class TextEmbedder:
    """The text tower of CLIP, SigLIP or their like from a local folder. Raises RecipeError when there is none."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise RecipeError(f"captions.agreement: {folder} cannot be loaded: {error}") from error
        if not hasattr(self._model, "get_text_features"):
            raise RecipeError(
                f"captions.agreement: {folder} holds a {type(self._model).__name__}, which has no text tower.",
                "Give the folder of a CLIP or SigLIP model as transformers saves it.",
            )
        self._longest = int(self._model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """One vector of length 1 per text; texts are cut at the model's own limit (CLIP: 77 tokens)."""
        found = []
        for first in range(0, len(texts), _BATCH):
            # To full length, as SigLIP was trained; CLIP masks what is padded.
            tokens = self._tokenizer(
                list(texts[first : first + _BATCH]),
                padding="max_length",
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            )
            vectors = self._model.get_text_features(**tokens)
            vectors = getattr(vectors, "pooler_output", vectors)
            found.append(functional.normalize(vectors.float(), dim=-1))
        return torch.cat(found).cpu().numpy()


def agreement(
    out: Storage, texts: Mapping[str, str], pictures: Mapping[str, bytes], *, folder: str
) -> dict[str, float]:
    """Cosine (-1 to 1) of each caption and its clip's thumbnail, by clip_id; what was compared before is kept."""
    import data_pipeline.captions.agreement as own

    path = f"{_FOLDER}/{stage_fingerprint((own, embeddings), folder_hash_of(folder))}.parquet"
    known: dict[tuple[str, str], float] = {}
    if out.exists(path):
        rows = out.read_table(path).to_pylist()
        known = {(row["clip_id"], row["text"]): row["cosine"] for row in rows}
    wanted = {clip_id: (clip_id, short_hash(text)) for clip_id, text in texts.items()}
    missing = sorted(clip_id for clip_id, key in wanted.items() if key not in known)
    if missing:
        seen = Embedder(folder).embed([pictures[clip_id] for clip_id in missing])
        said = TextEmbedder(folder).embed([texts[clip_id] for clip_id in missing])
        cosines = np.clip((seen * said).sum(axis=1), -1, 1).tolist()
        known |= {wanted[clip_id]: round(cosine, 6) for clip_id, cosine in zip(missing, cosines, strict=True)}
        told = [{"clip_id": clip_id, "text": text, "cosine": value} for (clip_id, text), value in sorted(known.items())]
        out.write_table(path, pa.Table.from_pylist(told))
    return {clip_id: known[key] for clip_id, key in wanted.items()}


def folder_hash_of(folder: str) -> str:
    """sha256 of the model's files. Raises RecipeError when there are none."""
    from pathlib import Path

    if not (Path(folder) / "config.json").is_file():
        raise RecipeError(
            f"captions.agreement: {folder} has no config.json.",
            "Give the local folder of a CLIP or SigLIP model as transformers saves it.",
        )
    return folder_hash(Path(folder))
