"""A model folder or id becomes its processor, also where torchvision, which only video files need, is missing."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available


def load_processor(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The processor of a vision-language model: chat template, image processor, tokenizer.

    We hand frames over as images, decoded by ourselves, so the part of a processor that reads video files is not
    needed. transformers builds that part with torchvision alone and refuses the whole processor without it; there we
    build the same class from its other parts.
    """
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(model, **source)
    known = PROCESSOR_MAPPING.get(type(config), None)
    if is_torchvision_available() or known is None or "video_processor" not in known.get_attributes():
        return AutoProcessor.from_pretrained(model, **source)
    return _without_video(known, model, source)


def _without_video(processor_class: type[Any], model: str, source: dict[str, Any]) -> Any:
    class ImagesOnly(processor_class):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    # The published name: messages and saved processors quote it.
    ImagesOnly.__name__ = ImagesOnly.__qualname__ = processor_class.__name__
    settings, _ = ProcessorMixin.get_processor_dict(model, **source)
    tokenizer = AutoTokenizer.from_pretrained(model, **source)
    settings.setdefault("chat_template", tokenizer.chat_template)
    parts = [AutoImageProcessor.from_pretrained(model, **source), tokenizer, None]
    return ImagesOnly.from_args_and_dict(parts, settings)
