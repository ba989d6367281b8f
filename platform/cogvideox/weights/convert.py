"""Converts a whole model's folder between the diffusers layout and SAT's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from cogvideox.autoencoder import Autoencoder, AutoencoderConfig
from cogvideox.denoiser import Denoiser
from cogvideox.variants import VARIANTS, Variant
from cogvideox.weights import sat
from cogvideox.weights.autoencoder_keys import from_diffusers_key as autoencoder_from_diffusers_key
from cogvideox.weights.autoencoder_keys import to_diffusers_key as autoencoder_to_diffusers_key
from cogvideox.weights.components import load_autoencoder, load_denoiser
from cogvideox.weights.denoiser_keys import from_diffusers_key, naming, to_diffusers_key
from cogvideox.weights.files import weights_error
from cogvideox.weights.pipeline import save_pipeline
from groundwork.errors import WeightsError

_STATES = "mp_rank_00_model_states.pt"


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Literal["diffusers", "sat"],
    variant: Variant | None = None,
    allow_pickle: bool = False,
) -> Path:
    """Writes `target` in the other layout, transformer and VAE; returns it.

    `variant` says which card a SAT folder is of (default: the published one with the same sizes). T5 is the same in
    both layouts and is not copied. Raises WeightsError for a folder that is not of the other layout or not whole.
    """
    if to == "sat":
        return _to_sat(Path(source), Path(target), allow_pickle=allow_pickle)
    if to == "diffusers":
        return _to_diffusers(Path(source), Path(target), variant=variant, allow_pickle=allow_pickle)
    raise ValueError(f"to={to!r}: must be 'diffusers' or 'sat'")


def _to_diffusers(source: Path, target: Path, *, variant: Variant | None, allow_pickle: bool) -> Path:
    tensors = sat.read_sat(_states_file(source), allow_pickle=allow_pickle)
    config = sat.config_of(tensors, base=(variant or VARIANTS["cogvideox-5b"]).denoiser)
    card = (
        variant if variant is not None else _card_of(source, config.num_layers, config.patch_frames, config.in_channels)
    )
    config = sat.config_of(tensors, base=card.denoiser)
    with torch.device("meta"):
        denoiser = Denoiser(config)
    names = naming(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in denoiser.state_dict().items()}
    published = sat.denoiser_to_diffusers(tensors)
    ours = {from_diffusers_key(key): tensor for key, tensor in published.items()}
    problems = [f"missing: {names.published_name(name)}" for name in shapes.keys() - ours.keys()]
    problems += [
        f"misshapen: {names.published_name(name)} is {list(tensor.shape)}"
        for name, tensor in ours.items()
        if name in shapes and names.published_shape(name, shapes[name]) != tuple(tensor.shape)
    ]
    if problems:
        raise weights_error(source, sorted(problems))
    denoiser.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in ours.items()}, assign=True)
    return save_pipeline(
        target, variant=card, denoiser=denoiser, autoencoder=_autoencoder_of(source, card.autoencoder, allow_pickle)
    )


def _autoencoder_of(source: Path, config: AutoencoderConfig, allow_pickle: bool) -> Autoencoder:
    tensors = sat.autoencoder_to_diffusers(sat.read_sat(source / "vae" / "3d-vae.pt", allow_pickle=allow_pickle))
    with torch.device("meta"):
        autoencoder = Autoencoder(config)
    ours = {autoencoder_from_diffusers_key(key): tensor for key, tensor in tensors.items()}
    try:
        autoencoder.load_state_dict(ours, assign=True)
    except RuntimeError as error:  # torch lists what is missing, superfluous and misshapen
        raise WeightsError(f"{source / 'vae'}: {error}") from None
    return autoencoder


def _to_sat(source: Path, target: Path, *, allow_pickle: bool) -> Path:
    denoiser = load_denoiser(source / "transformer", allow_pickle=allow_pickle)
    autoencoder = load_autoencoder(source / "vae", allow_pickle=allow_pickle)
    names = naming(denoiser.config)
    published = {
        to_diffusers_key(name): tensor.reshape(names.published_shape(name, tuple(tensor.shape)))
        for name, tensor in denoiser.state_dict().items()
    }
    states = target / "transformer" / "1" / _STATES
    states.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": sat.denoiser_to_sat(published, denoiser.config)}, states)
    (target / "transformer" / "latest").write_text("1")
    vae = {autoencoder_to_diffusers_key(name): tensor for name, tensor in autoencoder.state_dict().items()}
    (target / "vae").mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": sat.autoencoder_to_sat(vae)}, target / "vae" / "3d-vae.pt")
    return target


def _states_file(source: Path) -> Path:
    latest = source / "transformer" / "latest"
    if not latest.is_file():
        raise WeightsError(f"{latest} does not exist", "a SAT folder holds transformer/latest and vae/3d-vae.pt")
    return source / "transformer" / latest.read_text().strip() / _STATES


def _card_of(source: Path, num_layers: int, patch_frames: int, in_channels: int) -> Variant:
    for card in VARIANTS.values():
        config = card.denoiser
        if (config.num_layers, config.patch_frames, config.in_channels) == (num_layers, patch_frames, in_channels):
            return card
    raise WeightsError(
        f"{source}: {num_layers} layers, {in_channels} channels and {patch_frames}-frame tokens fit no model card",
        "pass the card as `variant`",
    )
