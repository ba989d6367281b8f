"""A complete checkpoint becomes RUN/weights: the averaged model as a whole pipeline, and the plain transformer."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from cogvideox.denoiser import Denoiser
from cogvideox.weights import load_autoencoder, save_denoiser, save_pipeline
from groundwork.storage import Storage, open_storage
from training import checkpoint
from training.fit import autoencoder_storage, variant_of
from training.recipe import TrainRecipe

WEIGHTS = "weights"


def export_weights(run: Storage, found: checkpoint.Checkpoint, *, recipe: TrainRecipe) -> str:
    """Write RUN/weights (moving average, with vae and text encoder) and RUN/weights/plain/transformer.

    Returns the sha256 over the averaged transformer's tensor files. Raises WeightsError when the recipe's components
    do not fit.
    """
    variant = variant_of(recipe)
    denoiser = Denoiser(variant.denoiser)
    dtype = getattr(torch, variant.precision)
    with tempfile.TemporaryDirectory(prefix="cvx-weights-") as temporary, ExitStack() as stack:
        folder = Path(temporary) / WEIGHTS
        read = stack.enter_context(checkpoint.opened(run, found))
        vae = stack.enter_context(autoencoder_storage(recipe, variant).local_path())
        texts = stack.enter_context(open_storage(recipe.components).local_path()) if recipe.components else None
        average, plain = (
            {name: read(f"{kind}/{name}") for name in denoiser.state_dict()} for kind in ("average", "value")
        )
        save_pipeline(
            folder,
            variant=variant,
            denoiser=denoiser,
            autoencoder=load_autoencoder(vae),
            tensors=average,
            text_folder=texts if variant.text.kind == "t5" else None,
            dtype=dtype,
        )
        save_denoiser(denoiser, folder / "plain" / "transformer", tensors=plain, dtype=dtype)
        run.upload(folder, WEIGHTS)
        return _digest(folder / "transformer")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
