"""A complete checkpoint becomes RUN/weights: the averaged model as a whole pipeline, the plain one, adapters."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from cogvideox import CogVideoX
from cogvideox.denoiser import Denoiser
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.weights import load_autoencoder, merge_lora, save_denoiser, save_lora, save_pipeline
from groundwork.storage import Storage, open_storage
from training import checkpoint
from training.fit import autoencoder_storage, variant_of
from training.initial import initial_denoiser
from training.lora import choose_trained, read_adapter, trained_names
from training.recipe import TrainRecipe

WEIGHTS, ADAPTER, PLAIN = "weights", "adapter", "plain"
_PLACES = {"average": "", "value": PLAIN}


def export_weights(run: Storage, found: checkpoint.Checkpoint, *, recipe: TrainRecipe) -> str:
    """Write RUN/weights (moving average, with vae and text encoder) and RUN/weights/plain/transformer.

    Where an adapter was trained also RUN/weights/adapter and RUN/weights/plain/adapter; the pipelines hold it merged
    then, and are left out where the recipe does not want them. Returns the sha256 over the averaged tensor files of
    the transformer (without one: the adapter). Raises WeightsError when the recipe's components do not fit.
    """
    denoiser = _untrained(recipe)
    with tempfile.TemporaryDirectory(prefix="cvx-weights-") as temporary, checkpoint.opened(run, found) as read:
        folder = Path(temporary) / WEIGHTS
        for kind, place in _PLACES.items():
            if recipe.adapter.rank:
                save_lora(read_adapter(denoiser, recipe.adapter, read, kind=kind), folder / place / ADAPTER)
            if recipe.adapter.merged:
                with _trained(denoiser, recipe, read, kind=kind) as tensors:
                    _save(denoiser, folder / place, tensors=tensors, recipe=recipe, whole=not place)
        run.upload(folder, WEIGHTS)
        return _digest(folder / ("transformer" if recipe.adapter.merged else ADAPTER))


def averaged_model(run: Storage, found: checkpoint.Checkpoint, *, recipe: TrainRecipe) -> CogVideoX:
    """The moving average of a checkpoint as a model in memory, float32, with an adapter merged.

    Its text encoder is the toy's, whatever the variant: it is for those who have texts encoded already.
    """
    variant, denoiser = variant_of(recipe), _untrained(recipe)
    with checkpoint.opened(run, found) as read:
        if recipe.adapter.rank:
            merge_lora(denoiser, read_adapter(denoiser, recipe.adapter, read, kind="average"))
        else:
            averages = {name: read(f"average/{name}") for name in trained_names(denoiser)}
            denoiser.load_state_dict(averages, strict=False)
    with autoencoder_storage(recipe, variant).local_path() as vae:
        autoencoder = load_autoencoder(vae, dtype=torch.float32)
    texts = HashTextEncoder(variant.text)
    return CogVideoX.from_parts(variant, denoiser=denoiser, autoencoder=autoencoder, text_encoder=texts)


def _untrained(recipe: TrainRecipe) -> Denoiser:
    """What the trained values are put into: the weights that stayed as they were, or only their places."""
    if recipe.adapter.rank:
        return initial_denoiser(recipe)
    if recipe.is_partial:
        return choose_trained(initial_denoiser(recipe), recipe)
    return Denoiser(variant_of(recipe).denoiser)


@contextmanager
def _trained(
    denoiser: Denoiser, recipe: TrainRecipe, read: Callable[[str], Tensor], *, kind: str
) -> Iterator[Mapping[str, Tensor]]:
    """All tensors with the trained values of a kind, for the length of the block."""
    if not recipe.adapter.rank:
        yield denoiser.state_dict() | {name: read(f"{kind}/{name}") for name in trained_names(denoiser)}
        return
    merged = merge_lora(denoiser, read_adapter(denoiser, recipe.adapter, read, kind=kind))
    yield denoiser.state_dict()
    merged.unmerge()


def _save(denoiser: Denoiser, folder: Path, *, tensors: Mapping[str, Tensor], recipe: TrainRecipe, whole: bool) -> None:
    """A `transformer` in the folder; `whole`: and all else that a pipeline needs."""
    variant = variant_of(recipe)
    dtype = getattr(torch, variant.precision)
    if not whole:
        save_denoiser(denoiser, folder / "transformer", tensors=tensors, dtype=dtype)
        return
    with ExitStack() as stack:
        vae = stack.enter_context(autoencoder_storage(recipe, variant).local_path())
        texts = stack.enter_context(open_storage(recipe.components).local_path()) if recipe.components else None
        save_pipeline(
            folder,
            variant=variant,
            denoiser=denoiser,
            autoencoder=load_autoencoder(vae),
            tensors=tensors,
            text_folder=texts if variant.text.kind == "t5" else None,
            dtype=dtype,
        )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
