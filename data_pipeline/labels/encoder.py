"""A folder or hub id becomes a frozen image or video encoder, and the frames of a clip one vector."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data_pipeline.signals.aesthetics import version as folder_version
from groundwork.errors import WeightsError

Frames = UInt8[np.ndarray, "t h w 3"]

_DEFAULT_FRAMES = 8
_CONFIG, _IMAGES, _VIDEOS = "config.json", "preprocessor_config.json", "video_preprocessor_config.json"
_TAKEN = (
    "size",
    "crop_size",
    "do_center_crop",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "do_normalize",
)


def model_version(model: str, *, revision: str, setting: str) -> str:
    """What changes with the weights: a hash over a folder's files, or the pinned commit of a hub id.

    Raises WeightsError for a folder without config.json, and for a hub id that is not pinned to a commit.
    """
    if (Path(model) / _CONFIG).is_file():
        files = sorted(path for path in Path(model).rglob("*") if path.is_file())
        return _hash_of(model, tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))
    if not model or Path(model).is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise WeightsError(
            f"{setting}: {model!r} holds no {_CONFIG}.", "Give a folder as transformers saves it, or a hub id."
        )
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise WeightsError(
            f"{setting}: {model} is a hub id without a commit (revision {revision!r}).",
            "Pin it to the 40 digits of a commit, so that its weights cannot change.",
        )
    return f"{model}@{revision}"


@lru_cache(maxsize=16)
def _hash_of(folder: str, stamp: tuple[tuple[str, int, int], ...]) -> str:  # noqa: ARG001  the stamp tells when to ask again
    return folder_version(folder)


class FrozenEncoder:
    """Any image or video encoder that AutoModel opens (VideoMAE, V-JEPA 2, SigLIP, CLIP, DINO …).

    A video encoder sees as many frames as its config says; an image encoder sees each frame by itself. `num_frames` (0:
    as the encoder has it, 8 for images) may differ only where the encoder allows it. Raises WeightsError.
    """

    def __init__(self, model: str, *, revision: str = "", num_frames: int = 0, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._model, self._prepare, config, self._has_pooler = _load(model, revision or None)
        self._model.to(self._device)
        self.sees_video = frames_of(config) is not None
        self.num_frames = _frames_for(model, config, num_frames)

    @torch.inference_mode()
    def vectors(self, clips: Sequence[Frames]) -> Float[np.ndarray, "n d"]:
        """One vector per clip of `num_frames` frames: mean and deviation over the frames' features (images) or over
        the tokens (videos). The deviation says how much changes."""
        if self.sees_video:
            pixels = torch.cat([self._prepare(list(clip), return_tensors="pt")["pixel_values"] for clip in clips])
            features = self._video_features(pixels.to(self._device))
        else:
            frames = [frame for clip in clips for frame in clip]
            pixels = self._prepare(images=frames, return_tensors="pt")["pixel_values"]
            features = self._image_features(pixels.to(self._device)).reshape(len(clips), self.num_frames, -1)
        features = features.float()
        pooled = torch.cat([features.mean(dim=1), features.std(dim=1, correction=0)], dim=1)
        return pooled.cpu().numpy()

    def _video_features(self, pixels: Float[Tensor, "n t 3 h w"]) -> Float[Tensor, "n p d"]:
        if hasattr(self._model, "get_vision_features"):  # V-JEPA 2: without its predictor
            found = self._model.get_vision_features(pixels)
        else:
            found = self._model(**{self._model.main_input_name: pixels})
        return found if isinstance(found, Tensor) else found.last_hidden_state

    def _image_features(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        ask = getattr(self._model, "get_image_features", self._model)
        found = ask(pixel_values=pixels)
        for name in ("image_embeds", "pooler_output"):
            if self._has_pooler and getattr(found, name, None) is not None:
                found = getattr(found, name)
        vectors: Tensor = found if isinstance(found, Tensor) else found.last_hidden_state[:, 0]
        return vectors.flatten(1)


def frames_of(config: Any) -> int | None:
    """Frames that a video encoder takes; None: it takes images."""
    count = getattr(config, "frames_per_clip", None) or getattr(config, "num_frames", None)
    return int(count) if count else None


def planned_frames(model: str, *, revision: str = "", num_frames: int = 0) -> int:
    """How many frames an encoder will see, from its config alone. Raises WeightsError where it cannot see so many."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, revision=revision or None)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{model}: cannot be loaded as an image or video encoder: {error}") from error
    return _frames_for(model, config, num_frames)


def _frames_for(model: str, config: Any, wanted: int) -> int:
    own = frames_of(config)
    if own is not None and wanted not in (0, own) and config.model_type != "vjepa2":
        raise WeightsError(f"{model}: its positions are for {own} frames, not {wanted}.", "Leave the number to 0.")
    return wanted or own or _DEFAULT_FRAMES


def _load(model: str, revision: str | None) -> tuple[Any, Any, Any, bool]:
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(model, revision=revision)
        loaded, report = AutoModel.from_pretrained(
            model, revision=revision, use_safetensors=True, output_loading_info=True
        )
        prepare = _preparation(model, revision, video=frames_of(config) is not None)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise WeightsError(f"{model}: cannot be loaded as an image or video encoder: {error}") from error
    # Classifiers are saved without the pooler that transformers would add (ViT): then the class token speaks.
    pooler = {name for name in report["missing_keys"] if name.startswith("pooler.")}
    if missing := sorted(set(report["missing_keys"]) - pooler):
        raise WeightsError(f"{model}: lacks {', '.join(missing)}.")
    return loaded.eval(), prepare, config, not pooler


def _preparation(model: str, revision: str | None, *, video: bool) -> Any:
    """The model's own image processor, or one of the same settings where it has a video processor alone: that of
    transformers needs torchvision."""
    from transformers import AutoImageProcessor
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
    from transformers.utils import cached_file

    for name in (_VIDEOS, _IMAGES) if video else ():
        path = cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        said = json.loads(Path(path).read_text()) if path else {}
        if "video_processor_type" in said:
            return VideoMAEImageProcessorPil(**{key: said[key] for key in _TAKEN if said.get(key) is not None})
    try:
        return AutoImageProcessor.from_pretrained(model, revision=revision, backend="pil")
    except (ImportError, ValueError):
        return AutoImageProcessor.from_pretrained(model, revision=revision)
