"""A model's folder or hub id becomes its processor, also where torchvision is not installed.

transformers prepares video with torchvision alone. Where that is missing, the model's own picture processor (PIL)
prepares the frames, and they are put into the layout of its video input: Qwen2-VL, Qwen2.5-VL and Qwen3-VL (frames in
pairs, cut into patches), LLaVA-OneVision (frames as squares). Other models see a row of pictures.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import make_batched_metadata, make_batched_videos

_PAIRED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
_SQUARE = ("llava_onevision",)


class Layout(Protocol):
    """Frames of one video, as the model takes them."""

    def __call__(self, frames: UInt8[np.ndarray, "t h w 3"]) -> dict[str, torch.Tensor]: ...


def load_processor(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The processor of a vision-language model: chat template, picture and video part, tokenizer.

    Raises OSError, ValueError or ImportError as transformers does when there is none.
    """
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(model, **source)
    known = PROCESSOR_MAPPING.get(type(config), None)
    if is_torchvision_available() or known is None or "video_processor" not in known.get_attributes():
        return AutoProcessor.from_pretrained(model, **source)
    tokenizer = AutoTokenizer.from_pretrained(model, **source)
    pictures = AutoImageProcessor.from_pretrained(model, backend="pil", **source)
    frames = FramesInLayout(pictures, kind=config.model_type)
    parts = {"image_processor": pictures, "tokenizer": tokenizer, "video_processor": frames}
    said, _ = ProcessorMixin.get_processor_dict(model, **source)
    said.setdefault("chat_template", tokenizer.chat_template)
    return without_torchvision(known).from_args_and_dict([parts[name] for name in known.get_attributes()], said)


def can_show_video(processor: Any) -> bool:
    """Whether the processor takes a video, not only pictures."""
    part = getattr(processor, "video_processor", None)
    return part is not None and not (isinstance(part, FramesInLayout) and part.layout is None)


def without_torchvision(processor: Any) -> Any:
    """The processor's class with a video processor of any kind: its own check needs torchvision to be installed."""

    def check(self: Any, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return type(argument)
        return cast(Any, super(found, self)).check_argument_for_proper_class(argument_name, argument)

    # Of the same name: it is what transformers looks a processor's defaults up by, and what it saves.
    found: Any = type(processor.__name__, (processor,), {"check_argument_for_proper_class": check})
    found.__module__ = processor.__module__
    return found


class FramesInLayout(VideoProcessorMixin):  # type: ignore[misc]
    """Stands where transformers has its video processor: `pictures` prepares each frame, the model's kind says how
    frames become a video. Takes and gives what the processors of transformers expect of it."""

    def __init__(self, pictures: Any, *, kind: str) -> None:
        super().__init__()
        self.layout: Layout | None = None
        if kind in _PAIRED:
            self.layout = PairedPatches(pictures)
            self.merge_size, self.temporal_patch_size = pictures.merge_size, pictures.temporal_patch_size
        elif kind in _SQUARE:
            self.layout = Squares(pictures)

    def __call__(self, videos: Any, *, video_metadata: Any = None, **_: Any) -> BatchFeature:
        if self.layout is None:
            raise ValueError("this model takes videos only where torchvision is installed: show it pictures")
        batch = make_batched_videos(videos)
        laid = [self.layout(np.asarray(frames)) for frames in batch]
        data = {name: torch.cat([one[name] for one in laid]) for name in laid[0]}
        found = BatchFeature(data)
        found["video_metadata"] = make_batched_metadata(batch, video_metadata)
        return found

    def to_dict(self) -> dict[str, Any]:
        return {"video_processor_type": type(self).__name__}


class PairedPatches:
    """Qwen's video input: `pixel_values_videos` [patches, c·2·p·p], two frames in each patch, `video_grid_thw` [1, 3].

    The picture processor puts a still picture twice into each patch; a pair of frames takes the first half of both.
    """

    def __init__(self, pictures: Any) -> None:
        self._pictures = pictures

    def __call__(self, frames: UInt8[np.ndarray, "t h w 3"]) -> dict[str, torch.Tensor]:
        size = self._pictures.temporal_patch_size
        padded = np.concatenate([frames, np.repeat(frames[-1:], -len(frames) % size, axis=0)])
        made = self._pictures(list(padded), return_tensors="pt")
        _, rows, columns = (int(value) for value in made["image_grid_thw"][0])
        side = self._pictures.patch_size
        patches = made["pixel_values"].view(len(padded) // size, size, rows * columns, -1, size, side * side)
        paired = patches[:, :, :, :, 0].permute(0, 2, 3, 1, 4).reshape(len(padded) // size * rows * columns, -1)
        grid = torch.tensor([[len(padded) // size, rows, columns]])
        return {"pixel_values_videos": paired, "video_grid_thw": grid}


class Squares:
    """LLaVA-OneVision's video input: `pixel_values_videos` [1, t, c, s, s], frames stretched to the tower's square."""

    def __init__(self, pictures: Any) -> None:
        self._pictures = pictures

    def __call__(self, frames: UInt8[np.ndarray, "t h w 3"]) -> dict[str, torch.Tensor]:
        size = self._pictures.size
        square = (int(size["width"]), int(size["height"]))
        stretched = [np.asarray(Image.fromarray(frame).resize(square, Image.Resampling.BICUBIC)) for frame in frames]
        # Two pictures or more are taken as they are; a single one would be cut into tiles, the whole of it first.
        made: Float[torch.Tensor, "t n c s s"] = self._pictures([stretched], return_tensors="pt")["pixel_values"]
        return {"pixel_values_videos": made[:, 0][None]}
