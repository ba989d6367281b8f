"""Looks at a clip become an aesthetic score: a CLIP image encoder and a head trained on people's ratings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from groundwork.errors import WeightsError

CLIP_FOLDER, HEAD_FILE = "clip", "head.safetensors"
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HIDDEN = (1024, 128, 64, 16)  # of LAION's improved aesthetic predictor


class Aesthetics:
    """`aesthetic_score` of a clip: mean over up to three looks, about 1 (worst) to 10 as the head was trained on.

    `weights` is a folder with `clip/` (CLIPModel or its vision part, as saved by transformers) and `head.safetensors`
    in one of LAION's layouts: `weight`, `bias` (one linear layer) or `layers.0` … `layers.7` (sac+logos+ava1). Raises
    WeightsError when something is missing or does not fit. The encoder must be the one the head was trained on.
    """

    def __init__(self, weights: str) -> None:
        folder = Path(weights)
        self._encoder = _encoder(folder / CLIP_FOLDER)
        self._side: int = self._encoder.config.image_size
        self._head = load_head(folder / HEAD_FILE, width=self._encoder.config.projection_dim)

    @torch.inference_mode()
    def score(self, looks: Iterator[UInt8[np.ndarray, "h w 3"]]) -> dict[str, float]:
        """The score of the looks at one clip."""
        pixels = torch.stack([to_pixels(image, side=self._side) for image in looks])
        embeddings = functional.normalize(self._encoder(pixel_values=pixels).image_embeds, dim=-1)
        return {"aesthetic_score": float(self._head(embeddings).mean())}


def require(weights: str) -> None:
    """Raises WeightsError when the folder does not hold the two parts."""
    for name in (f"{CLIP_FOLDER}/config.json", HEAD_FILE):
        if not (Path(weights) / name).is_file():
            raise WeightsError(
                f"signals.aesthetics.weights: {weights} has no {name}.",
                "It holds clip/ (saved by transformers) and head.safetensors (LAION's aesthetic head).",
            )


def version(weights: str) -> str:
    """Hash over the files of the weights folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(weights).rglob("*") if path.is_file()):
        digest.update(path.relative_to(weights).as_posix().encode())
        with path.open("rb") as file:
            for block in iter(partial(file.read, 1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def to_pixels(image: UInt8[np.ndarray, "h w 3"], *, side: int) -> Float[Tensor, "3 s s"]:
    """CLIP's own preparation: short side scaled by antialiased cubic, cropped at the centre, normalised."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    height, width = image.shape[:2]
    scale = side / min(height, width)
    size = [max(side, int(height * scale)), max(side, int(width * scale))]
    pixels = functional.interpolate(pixels, size=size, mode="bicubic", antialias=True).round().clamp(0, 255)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    crop = pixels[0, :, top : top + side, left : left + side] / 255
    return (crop - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_DEVIATION)[:, None, None]


def load_head(path: Path, *, width: int) -> nn.Module:
    """The head for embeddings of this width, from either of LAION's layouts. Raises WeightsError if it is neither."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors: {error}") from error
    single = "weight" in tensors
    head: nn.Module = nn.Linear(width, 1) if single else _Layers(width)
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        layout = "a linear head" if single else "LAION's head of five layers"
        raise WeightsError(f"{path}: does not fit {layout} on {width} channels: {error}") from error
    return head.eval()


class _Layers(nn.Module):
    """Five linear layers with dropout between the first ones, without an activation: as published."""

    def __init__(self, width: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for before, after in zip((width, *_HIDDEN[:-1]), _HIDDEN, strict=True):
            parts += [nn.Linear(before, after), nn.Dropout()]
        parts = [*parts[:-1], nn.Linear(_HIDDEN[-1], 1)]
        self.layers = nn.Sequential(*parts)

    def forward(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        scores: Float[Tensor, "n 1"] = self.layers(embeddings)
        return scores


def _encoder(folder: Path) -> Any:
    from transformers import CLIPVisionModelWithProjection

    try:
        encoder, report = CLIPVisionModelWithProjection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder}: cannot be loaded as a CLIP image encoder: {error}") from error
    if report["missing_keys"]:
        raise WeightsError(f"{folder}: lacks {', '.join(sorted(report['missing_keys']))}.")
    return encoder.eval()
