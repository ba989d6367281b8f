"""Reads and writes a whole WEIGHTS folder: model card, denoiser, autoencoder, scheduler, text encoder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import Denoiser, DenoiserConfig
from cogvideox.shape import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION
from cogvideox.text_encoder import HashTextEncoder, T5TextEncoder, TextEncoder, TooLong
from cogvideox.variants import VARIANTS, FrameRule, TextConfig, Variant
from cogvideox.weights import autoencoder_keys, denoiser_keys
from cogvideox.weights.components import load_autoencoder, save_autoencoder, save_denoiser, toy_autoencoder_folder
from cogvideox.weights.files import read_config, weights_error, write_json

_CARD_FILE = "cogvideox.json"  # what the diffusers layout has no place for
_SCHEDULERS = {"ddim": "CogVideoXDDIMScheduler", "dpm": "CogVideoXDPMScheduler"}
_SCHEDULER_FIXED = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
}


def save_pipeline(
    folder: str | Path,
    *,
    variant: Variant,
    denoiser: Denoiser,
    autoencoder: Autoencoder | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    text_folder: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Writes WEIGHTS/{transformer,vae,scheduler[,text_encoder,tokenizer]} and model_index.json; returns WEIGHTS.

    Without `autoencoder` the toy's shipped one is taken (only for the toy's own autoencoder sizes). `tensors` replaces
    the denoiser's (see `save_denoiser`). `text_folder` is where T5's text_encoder and tokenizer are copied from.
    """
    folder = Path(folder)
    if autoencoder is None:
        if variant.autoencoder != VARIANTS["toy"].autoencoder:
            raise ValueError(f"autoencoder=None: only the toy has a shipped one, {variant.name} does not")
        autoencoder = load_autoencoder(toy_autoencoder_folder())
    save_denoiser(denoiser, folder / "transformer", tensors=tensors, dtype=dtype)
    save_autoencoder(autoencoder, folder / "vae", variant=variant, dtype=dtype)
    write_json(folder / "scheduler" / "scheduler_config.json", _scheduler_config(variant))
    if text_folder is not None and Path(text_folder).resolve() != folder.resolve():
        for name in ("text_encoder", "tokenizer"):
            shutil.copytree(Path(text_folder) / name, folder / name, dirs_exist_ok=True)
    write_json(folder / _CARD_FILE, {"variant": variant.name, "fps": variant.fps})
    write_json(folder / "model_index.json", _model_index(variant))
    return folder


def load_card(folder: str | Path) -> Variant:
    """The model card of a WEIGHTS folder: its own numbers where the layout has them, the nearest known card's else.

    Raises WeightsError listing what does not fit together.
    """
    folder = Path(folder)
    problems: list[str] = []
    denoiser = _translated(folder / "transformer", denoiser_keys.config_from_diffusers, problems)
    vae = _read(folder / "vae", "config.json", problems)
    autoencoder = _translated(folder / "vae", autoencoder_keys.config_from_diffusers, problems)
    scheduler = _read(folder / "scheduler", "scheduler_config.json", problems)
    problems += [
        f"scheduler/scheduler_config.json: {key} is {scheduler[key]!r}, must be {value!r}"
        for key, value in _SCHEDULER_FIXED.items()
        if scheduler.get(key, value) != value
    ]
    if problems:
        raise weights_error(folder, problems)
    card = _nearest_card(folder, denoiser)
    index = read_config(folder, "model_index.json") if (folder / "model_index.json").is_file() else {}
    hashed = index.get("text_encoder") == ["cogvideox", "HashTextEncoder"]
    return replace(
        card,
        denoiser=replace(denoiser, rope_mode=card.denoiser.rope_mode),
        autoencoder=autoencoder,
        text=TextConfig("hash" if hashed else "t5", denoiser.max_text_tokens, denoiser.text_width),
        scale_factor=vae.get("scaling_factor", card.scale_factor),
        snr_shift=scheduler.get("snr_shift_scale", card.snr_shift),
    )


def load_text_encoder(
    folder: str | Path,
    *,
    variant: Variant,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    too_long: TooLong = "error",
) -> TextEncoder:
    """The text encoder of a WEIGHTS folder: T5 from its files, or the built-in one that needs none."""
    if variant.text.kind == "hash":
        return HashTextEncoder(variant.text, too_long=too_long)
    missing = [name for name in ("text_encoder", "tokenizer") if not (Path(folder) / name).is_dir()]
    if missing:
        raise weights_error(Path(folder), [f"missing folder: {name}" for name in missing])
    return T5TextEncoder.from_folder(folder, config=variant.text, device=device, dtype=dtype, too_long=too_long)


def _nearest_card(folder: Path, denoiser: DenoiserConfig) -> Variant:
    own = read_config(folder, _CARD_FILE) if (folder / _CARD_FILE).is_file() else {}
    if own.get("variant") in VARIANTS:
        return replace(VARIANTS[own["variant"]], fps=own.get("fps", VARIANTS[own["variant"]].fps))

    def shape_of(config: DenoiserConfig) -> tuple[object, ...]:
        return (config.num_layers, config.num_heads, config.in_channels, config.positions, config.patch_frames)

    for card in VARIANTS.values():
        if shape_of(card.denoiser) == shape_of(denoiser):
            return card
    second = denoiser.patch_frames > 1
    return Variant(
        name=own.get("variant", "custom"),
        denoiser=denoiser,
        scale_factor=0.7,
        snr_shift=1.0,
        num_frames=(denoiser.sample_frames - 1) * TEMPORAL_COMPRESSION + 1,
        height=denoiser.sample_height * SPATIAL_COMPRESSION,
        width=denoiser.sample_width * SPATIAL_COMPRESSION,
        fps=own.get("fps", 16 if second else 8),
        frame_rule=FrameRule(step=8, max_frames=161 if second else 49, recommended_step=16 if second else 8),
        image_latent_scale=1.0 if second else 0.7,
    )


def _translated(folder: Path, translate: Any, problems: list[str]) -> Any:
    config = _read(folder, "config.json", problems)
    try:
        return translate(config) if config else None
    except (KeyError, ValueError, TypeError) as error:
        problems.append(f"{folder.name}/config.json: {error}")
        return None


def _read(folder: Path, name: str, problems: list[str]) -> dict[str, Any]:
    if not (folder / name).is_file():
        problem = f"missing: {folder.name}/{name}"
        if problem not in problems:
            problems.append(problem)
        return {}
    return read_config(folder, name)


def _scheduler_config(variant: Variant) -> dict[str, Any]:
    return {
        "_class_name": _SCHEDULERS[variant.sampler],
        "_diffusers_version": "0.42.1",
        **_SCHEDULER_FIXED,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "sample_max_value": 1.0,
        "set_alpha_to_one": True,
        "snr_shift_scale": variant.snr_shift,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
        "trained_betas": None,
    }


def _model_index(variant: Variant) -> dict[str, Any]:
    hashed = variant.text.kind == "hash"
    return {
        "_class_name": "CogVideoXImageToVideoPipeline" if variant.takes_image else "CogVideoXPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", _SCHEDULERS[variant.sampler]],
        "text_encoder": ["cogvideox", "HashTextEncoder"] if hashed else ["transformers", "T5EncoderModel"],
        "tokenizer": [None, None] if hashed else ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
