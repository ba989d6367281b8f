"""Thumbnails become vectors of an image encoder, and vectors pairs of clips that show the same (SemDeDup)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from data_pipeline.duplicates.groups import EMBEDDING, Pair
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.recipe import DuplicateSettings, EmbeddingSettings
from groundwork.errors import RecipeError
from groundwork.storage import Storage

_CONFIG, _PREPARATION = "config.json", "preprocessor_config.json"
_BATCH, _ROUNDS = 32, 25
_FOLDER = "work/embeddings"


def fingerprints(settings: DuplicateSettings) -> dict[str, str]:
    """Key of the vectors: this code and the encoder's files; empty where no embedding is asked for.

    Raises RecipeError when the recipe asks for embeddings and the encoder's folder is missing or incomplete.
    """
    if settings.mode not in ("embedding", "both"):
        return {}
    import data_pipeline.duplicates.embeddings as own
    from data_pipeline.signals.aesthetics import version

    folder = Path(settings.embedding.model)
    for name in (_CONFIG, _PREPARATION):
        if not settings.embedding.model or not (folder / name).is_file():
            raise RecipeError(
                f"duplicates.mode is {settings.mode}, but duplicates.embedding.model ({settings.embedding.model!r}) "
                f"has no {name}.",
                "Give the local folder of an image encoder as transformers saves it (CLIP, SigLIP, DINO, …).",
            )
    return {"duplicates.embedding": stage_fingerprint((own,), version(str(folder)))}


class Embedder:
    """An image encoder from a local folder. Raises RecipeError when transformers cannot load it."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel

        try:
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        except (OSError, ValueError, KeyError) as error:
            raise RecipeError(f"duplicates.embedding.model: {folder} cannot be loaded: {error}") from error
        said = json.loads((Path(folder) / _PREPARATION).read_text())
        size = said.get("crop_size") or said.get("size") or {"shortest_edge": 224}
        self._side = int(size if isinstance(size, int) else size.get("height") or size["shortest_edge"])
        self._mean = torch.tensor(said.get("image_mean", [0.5] * 3))[:, None, None]
        self._deviation = torch.tensor(said.get("image_std", [0.5] * 3))[:, None, None]

    @torch.inference_mode()
    def embed(self, jpegs: Sequence[bytes]) -> Float[np.ndarray, "n d"]:
        """One vector of length 1 per picture."""
        vectors = []
        for first in range(0, len(jpegs), _BATCH):
            pixels = torch.stack([self._pixels(jpeg) for jpeg in jpegs[first : first + _BATCH]])
            vectors.append(functional.normalize(self._features(pixels).float(), dim=-1))
        return torch.cat(vectors).cpu().numpy()

    def _features(self, pixels: Tensor) -> Tensor:
        if hasattr(self._model, "get_image_features"):
            found = self._model.get_image_features(pixel_values=pixels)
        else:
            found = self._model(pixel_values=pixels)
        for name in ("image_embeds", "pooler_output"):
            if getattr(found, name, None) is not None:
                found = getattr(found, name)
        return found if isinstance(found, Tensor) else found.last_hidden_state[:, 0]

    def _pixels(self, jpeg: bytes) -> Float[Tensor, "3 s s"]:
        """Short side scaled to the encoder's, cropped at the centre, normalised as its preparation says."""
        decoded: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        image = decoded[..., ::-1]
        height, width = image.shape[:2]
        scale = self._side / min(height, width)
        size = [max(self._side, round(height * scale)), max(self._side, round(width * scale))]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        pixels = functional.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)[0]
        top, left = (size[0] - self._side) // 2, (size[1] - self._side) // 2
        return (pixels[:, top : top + self._side, left : left + self._side] - self._mean) / self._deviation


def clip_vectors(
    out: Storage, pictures: Iterable[pa.Table], settings: DuplicateSettings, *, only: pa.Array
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A vector for each clip of `only`, and its video_id, by clip_id; `pictures`: tables of clip_id, video_id and
    thumbnail, of these clips and others. Vectors of earlier runs with this encoder are kept in work/."""
    path = f"{_FOLDER}/{fingerprints(settings)['duplicates.embedding']}.parquet"
    known: dict[str, np.ndarray] = {}
    if out.exists(path):
        table = out.read_table(path)
        values = np.stack(table.column("vector").to_pylist()).astype(np.float32)
        known = dict(zip(table.column("clip_id").to_pylist(), values, strict=True))
    videos: dict[str, str] = {}
    before = len(known)
    embedder: Embedder | None = None
    for table in pictures:
        table = table.filter(pc.is_in(table.column("clip_id"), value_set=only))
        names = table.column("clip_id").to_pylist()
        videos |= zip(names, table.column("video_id").to_pylist(), strict=True)
        missing = {
            name: jpeg
            for name, jpeg in zip(names, table.column("thumbnail").to_pylist(), strict=True)
            if name not in known
        }
        if missing:
            embedder = embedder or Embedder(settings.embedding.model)
            known |= zip(missing, embedder.embed(list(missing.values())), strict=True)
    if len(known) > before:
        names = sorted(known)
        vectors = pa.array([known[name].tolist() for name in names], pa.list_(pa.float32()))
        out.write_table(path, pa.table({"clip_id": names, "vector": vectors}))
    return {name: known[name] for name in videos}, videos


def embedding_pairs(
    vectors: Mapping[str, np.ndarray], videos: Mapping[str, str], settings: EmbeddingSettings
) -> list[Pair]:
    """Pairs of clips whose vectors have a cosine above 1 - epsilon; compared within clusters, each clip in two of them,
    so that a border between clusters does not part a pair. The order of the clips does not matter."""
    names = sorted(vectors)
    if not names:
        return []
    every = torch.from_numpy(np.stack([vectors[name] for name in names]).astype(np.float32))
    found: dict[tuple[int, int], float] = {}
    for members in _clusters(every, size=settings.cluster_size):
        cosines = every[members] @ every[members].T
        for one, other in torch.nonzero(torch.triu(cosines > 1 - settings.epsilon, diagonal=1)).tolist():
            left, right = int(members[one]), int(members[other])
            if settings.same_video or videos[names[left]] != videos[names[right]]:
                found[left, right] = float(cosines[one, other])
    return [
        Pair(names[left], names[right], round(min(1.0, cosine), 5), None, EMBEDDING)
        for (left, right), cosine in sorted(found.items())
    ]


def _clusters(vectors: Float[Tensor, "n d"], *, size: int) -> Iterator[Int[Tensor, " m"]]:
    """The numbers of each cluster's members, ascending: k-means on the sphere, begun at evenly spaced clips."""
    count = -(-len(vectors) // size)
    if count == 1:
        yield torch.arange(len(vectors))
        return
    centres = vectors[torch.linspace(0, len(vectors) - 1, count).long()]
    for _ in range(_ROUNDS):
        nearest = _nearest(vectors, centres, 1)[:, 0]
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        empty = sums.norm(dim=1) < 1e-6
        moved = torch.where(empty[:, None], centres, functional.normalize(sums, dim=1))
        if torch.equal(moved, centres):
            break
        centres = moved
    both = _nearest(vectors, centres, 2)
    for number in range(count):
        yield torch.nonzero((both == number).any(dim=1))[:, 0]


def _nearest(vectors: Float[Tensor, "n d"], centres: Float[Tensor, "k d"], count: int) -> Int[Tensor, "n c"]:
    return torch.cat([(part @ centres.T).topk(count, dim=1).indices for part in torch.split(vectors, 8192)])
