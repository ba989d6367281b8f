"""Writes an autoencoder as a weights folder in diffusers' ``vae`` layout."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from cogvideox.autoencoder import Autoencoder
from cogvideox.weights.autoencoder_keys import config_to_diffusers, to_diffusers_key


def export_autoencoder(
    autoencoder: Autoencoder,
    folder: Path,
    *,
    scale_factor: float,
    height: int,
    width: int,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """``config.json`` and ``diffusion_pytorch_model.safetensors``, each put in place whole."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_to_diffusers(
        autoencoder.config, scale_factor=round(scale_factor, 6), sample_height=height, sample_width=width
    )
    tensors = {
        to_diffusers_key(key): value.detach().to(dtype).contiguous() for key, value in autoencoder.state_dict().items()
    }
    save_file(tensors, folder / "weights.partial", metadata={"format": "pt"})
    (folder / "weights.partial").chmod(0o644)  # safetensors writes for the owner only
    (folder / "weights.partial").replace(folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.partial").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "config.partial").replace(folder / "config.json")
