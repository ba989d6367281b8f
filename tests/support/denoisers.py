"""Small denoisers, one per architecture switch of the published models, and their diffusers twins."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

from cogvideox.denoiser import Denoiser, DenoiserConfig

_SMALL = {"num_layers": 2, "num_heads": 2, "text_width": 24, "max_text_tokens": 7, "time_width": 32}
_NATIVE = {"sample_frames": 3, "sample_height": 8, "sample_width": 12}

SWITCHES = {
    "sincos": DenoiserConfig(**_SMALL, **_NATIVE, positions="sincos"),
    "rope": DenoiserConfig(**_SMALL, **_NATIVE),
    "learned": DenoiserConfig(**_SMALL, **_NATIVE, in_channels=32, positions="rope+learned"),
    "two-frame patches": DenoiserConfig(**_SMALL, **_NATIVE, patch_frames=2),
    "two-frame patches, offset": DenoiserConfig(**_SMALL, **_NATIVE, in_channels=32, patch_frames=2, offset_width=32),
}


def random_denoiser(config: DenoiserConfig, *, seed: int = 0) -> Denoiser:
    """Every weight random, modulations and norms too, so that nothing is hidden behind a zero."""
    denoiser = Denoiser(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            spread = torch.randn(parameter.shape, generator=generator)
            norm_weight = "norm" in name and "modulation" not in name and name.endswith("weight")
            parameter.copy_(1 + 0.1 * spread if norm_weight else 0.15 * spread)
    return denoiser.eval()


def diffusers_twin(folder: Path) -> CogVideoXTransformer3DModel:
    """What diffusers makes of a folder that we wrote."""
    model, report = CogVideoXTransformer3DModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def diffusers_rope(config: DenoiserConfig, *, frames: int, height: int, width: int):
    """The rotary table that diffusers' pipelines would give for this size (latent frames, rows, columns)."""
    p, p_t = config.patch_size, config.patch_frames
    grid = (height // p, width // p)
    if p_t == 1:
        crops = get_resize_crop_region_for_grid(grid, config.sample_width // p, config.sample_height // p)
        return get_3d_rotary_pos_embed(
            embed_dim=config.head_width, crops_coords=crops, grid_size=grid, temporal_size=frames
        )
    return get_3d_rotary_pos_embed(
        embed_dim=config.head_width,
        crops_coords=None,
        grid_size=grid,
        temporal_size=(frames + p_t - 1) // p_t,
        grid_type="slice",
        max_size=(300, 300),
    )


def ask_diffusers(model: CogVideoXTransformer3DModel, config: DenoiserConfig, latent, timestep, text):
    """Velocity of diffusers' model, in our axis order."""
    frames, height, width = latent.shape[2:]
    rope = None
    if config.positions != "sincos":
        rope = diffusers_rope(config, frames=frames, height=height, width=width)
    ofs = latent.new_full((1,), 2.0) if config.offset_width is not None else None
    answer = model(latent.transpose(1, 2), text, timestep, ofs=ofs, image_rotary_emb=rope, return_dict=False)[0]
    return answer.transpose(1, 2)


def question(
    config: DenoiserConfig, *, frames: int = 3, height: int = 8, width: int = 12, batch: int = 2, seed: int = 0
):
    """Noisy latent, timesteps and text of one denoiser call."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(batch, config.in_channels, frames, height, width, generator=generator)
    text = torch.randn(batch, config.max_text_tokens, config.text_width, generator=generator)
    timestep = torch.randint(0, 1000, (batch,), generator=generator)
    return latent, timestep, text


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
