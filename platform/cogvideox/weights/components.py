"""Loads and saves one component, denoiser or autoencoder, in the diffusers layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import Denoiser
from cogvideox.variants import VARIANTS, Variant
from cogvideox.weights import autoencoder_keys, denoiser_keys
from cogvideox.weights.files import Naming, load_into, read_config, save_tensors, weights_error, write_json

Module = TypeVar("Module", bound=nn.Module)


def toy_autoencoder_folder() -> Path:
    """The toy's shipped autoencoder, trained by this project: a component folder in the diffusers layout."""
    return Path(__file__).parent.parent / "assets" / "toy_autoencoder"


def load_denoiser(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
) -> Denoiser:
    """The denoiser of a `transformer` folder (a whole model's folder works too), in evaluation mode.

    dtype None keeps the stored one. Raises WeightsError listing every problem of the folder; pickled weights are one
    unless `allow_pickle`.
    """
    folder = component_folder(folder, "transformer")
    config = _read(folder, denoiser_keys.config_from_diffusers)
    with torch.device("meta"):
        denoiser = Denoiser(config)
    load_into(
        denoiser,
        folder,
        naming=denoiser_keys.naming(config),
        device=device,
        dtype=dtype,
        allow_pickle=allow_pickle,
    )
    return denoiser.eval()


def load_autoencoder(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
) -> Autoencoder:
    """The autoencoder of a `vae` folder (a whole model's folder works too), in evaluation mode. Else as above."""
    folder = component_folder(folder, "vae")
    config = _read(folder, autoencoder_keys.config_from_diffusers)
    with torch.device("meta"):
        autoencoder = Autoencoder(config)
    load_into(autoencoder, folder, naming=_AUTOENCODER_NAMING, device=device, dtype=dtype, allow_pickle=allow_pickle)
    return autoencoder.eval()


def save_denoiser(
    denoiser: Denoiser,
    folder: str | Path,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Writes a `transformer` folder that diffusers reads; returns it.

    `tensors` replaces the module's own (names as in `state_dict`): gathered shards, an exponential average.
    """
    folder = Path(folder)
    names = denoiser_keys.naming(denoiser.config)
    _save(denoiser, folder, naming=names, tensors=tensors, dtype=dtype, max_shard_bytes=max_shard_bytes)
    write_json(folder / "config.json", denoiser_keys.config_to_diffusers(denoiser.config))
    return folder


def save_autoencoder(
    autoencoder: Autoencoder,
    folder: str | Path,
    *,
    variant: Variant | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Writes a `vae` folder that diffusers reads; returns it. `variant` gives scale factor and tile size."""
    folder = Path(folder)
    _save(autoencoder, folder, naming=_AUTOENCODER_NAMING, tensors=None, dtype=dtype, max_shard_bytes=5_000_000_000)
    card = variant if variant is not None else VARIANTS["toy"]
    config = autoencoder_keys.config_to_diffusers(
        autoencoder.config, scale_factor=card.scale_factor, sample_height=card.height, sample_width=card.width
    )
    config["invert_scale_latents"] = card.takes_image and card.image_latent_scale != card.scale_factor
    write_json(folder / "config.json", config)
    return folder


def component_folder(folder: str | Path, name: str) -> Path:
    """`folder` itself, or its subfolder `name` when `folder` holds a whole model."""
    folder = Path(folder)
    return folder / name if (folder / name).is_dir() and not (folder / "config.json").is_file() else folder


def _save(
    module: nn.Module,
    folder: Path,
    *,
    naming: Naming,
    tensors: Mapping[str, Tensor] | None,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
) -> None:
    own = module.state_dict()
    given = own if tensors is None else tensors
    if given.keys() != own.keys():
        off = sorted(given.keys() ^ own.keys())
        raise ValueError(f"tensors: {len(off)} names do not fit the module: {', '.join(off[:5])}")
    published = {
        naming.published_name(name): tensor.to(dtype=dtype).reshape(naming.published_shape(name, tuple(tensor.shape)))
        for name, tensor in given.items()
    }
    save_tensors(published, folder, max_shard_bytes=max_shard_bytes)


def _read(folder: Path, translate: Any) -> Any:
    """The translated configuration; what does not fit is a WeightsError naming the folder."""
    config = read_config(folder)
    try:
        return translate(config)
    except KeyError as error:
        raise weights_error(folder, [f"config.json lacks {error.args[0]!r}"]) from None
    except (ValueError, TypeError) as error:
        raise weights_error(folder, [f"config.json: {error}"]) from None


_AUTOENCODER_NAMING = Naming(autoencoder_keys.to_diffusers_key, lambda _name, shape: shape)
