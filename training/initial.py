"""A recipe becomes the denoiser that a training starts from: random, another model's, or one widened for an image."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import torch
from torch import Tensor

from cogvideox.denoiser import Denoiser
from cogvideox.denoiser.config import DenoiserConfig
from cogvideox.weights import load_denoiser
from groundwork.errors import WeightsError
from groundwork.storage import Storage, open_storage
from training.fit import variant_of
from training.recipe import TrainRecipe


def initial_denoiser(recipe: TrainRecipe) -> Denoiser:
    """Random weights from the seed, or those of the folder that the recipe names, in float32.

    An image-to-video model may start from a text-to-video one: what it has more starts at zero, so that its first
    answers are those of the other. Raises WeightsError for a folder that does not fit.
    """
    variant = variant_of(recipe)
    if not recipe.initial_weights:
        return Denoiser(variant.denoiser).initialize(seed=recipe.seed)
    with initial_weights(recipe).local_path() as folder:
        given = load_denoiser(folder, dtype=torch.float32)
    wanted, tensors = variant.denoiser, given.state_dict()
    if wanted.conditions_on_image and not given.config.conditions_on_image:
        if recipe.is_partial:
            raise WeightsError(
                f"{recipe.initial_weights} takes no image: its new channels would stay untrained.",
                "Train all of it first (adapter.rank 0, trainable empty), or start from image-to-video weights.",
            )
        tensors = widened(tensors, wanted, seed=recipe.seed)
    with torch.device("meta"):
        denoiser = Denoiser(wanted)
    try:
        denoiser.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        problems = "\n".join(f"  - {line.strip()}" for line in str(error).splitlines()[1:])
        raise WeightsError(f"{recipe.initial_weights} is not a {variant.name}:\n{problems}") from None
    return denoiser.requires_grad_()


def widened(tensors: dict[str, Tensor], wanted: DenoiserConfig, *, seed: int) -> dict[str, Tensor]:
    """The tensors of a text-to-video denoiser as those of an image-to-video one (paper, section 3.4).

    The image's channels stand behind the noisy ones and start at zero, as do learned positions and the last layer of
    the offset's embedding.
    """
    narrow = tensors["patch_projection.weight"]
    columns = wanted.in_channels * wanted.patch_volume - narrow.shape[1]
    fresh = Denoiser(replace(wanted, num_layers=1)).initialize(seed=seed).state_dict()
    added = {name: fresh[name] for name in fresh if name not in tensors}
    for name in added:
        if name == "learned_positions" or name.startswith("offset_embedding.second"):
            added[name] = torch.zeros_like(added[name])
    return tensors | added | {"patch_projection.weight": torch.cat((narrow, narrow.new_zeros(len(narrow), columns)), 1)}


def initial_weights(recipe: TrainRecipe) -> Storage:
    """Where the transformer to start from lies. Raises WeightsError when nothing lies there."""
    folder = open_storage(recipe.initial_weights)
    if not folder.exists("config.json"):
        folder = folder.child("transformer")
    if not folder.exists("config.json"):
        raise WeightsError(
            f"initial_weights: {recipe.initial_weights} holds no transformer.",
            "Give a folder in the diffusers layout: --initial-weights URI",
        )
    return folder


def frozen_base(recipe: TrainRecipe) -> str:
    """What identifies the weights that a run leaves as they are: a sha256 over their files; empty where it has none.

    Raises WeightsError where the recipe starts from weights that are not there.
    """
    folder = initial_weights(recipe) if recipe.initial_weights else None
    if folder is None or not recipe.is_partial:
        return ""
    files = {name: folder.checksum(name) for name in folder.list(suffix=".safetensors")}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
