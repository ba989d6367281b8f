"""A recipe and a dataset become the clips to train on, or an error that says why they do not fit together."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from cogvideox.denoiser.patches import check_latent
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.variants import VARIANTS, Variant
from cogvideox.weights import toy_autoencoder_folder
from groundwork.errors import InputError, RecipeError, WeightsError
from groundwork.latents import IndexedClip, read_index, read_manifest
from groundwork.storage import Storage, open_storage
from training.recipe import Stage, TrainRecipe
from training.stages import Scores, is_image, stage_clips


def variant_of(recipe: TrainRecipe) -> Variant:
    """The recipe's model card. Raises RecipeError that lists the known ones."""
    if recipe.variant not in VARIANTS:
        raise RecipeError(f"variant {recipe.variant!r} is not known.", f"Variants: {', '.join(VARIANTS)}.")
    return VARIANTS[recipe.variant]


def fitting_clips(recipe: TrainRecipe, dataset: Storage) -> tuple[IndexedClip, ...]:
    """The clips of one dataset, checked against the recipe's models.

    Raises InputError for a dataset that is unfinished, empty, damaged, or made for another variant, autoencoder or
    text encoder.
    """
    variant = variant_of(recipe)
    _check_models(read_manifest(dataset), recipe=recipe, variant=variant, uri=dataset.uri)
    clips = read_index(dataset)
    if not clips:
        raise InputError(f"{dataset.uri} holds no encoded clips.", "Did the rules reject everything? See its report.")
    for clip in clips:
        _check_clip(clip, variant=variant, uri=dataset.uri)
    return clips


def check_stages(recipe: TrainRecipe, clips: tuple[IndexedClip, ...], scores: Scores) -> None:
    """Raises RecipeError where a stage finds no clip, or a row is too short for its longest one."""
    for stage in recipe.stages:
        _check_stage(stage, clips, scores)


def _check_models(manifest: dict[str, Any], *, recipe: TrainRecipe, variant: Variant, uri: str) -> None:
    problems = []
    if not _same_latents(str(manifest.get("variant")), variant):
        problems.append(f"it was encoded for variant {manifest.get('variant')!r}, the recipe says {variant.name!r}")
    models = manifest.get("models", {})
    if models.get("scale_factor", variant.scale_factor) != variant.scale_factor:
        problems.append(f"its latents are scaled by {models['scale_factor']}, the model's by {variant.scale_factor}")
    if variant.text.kind == "hash" and "text_encoder" in models:
        expected = HashTextEncoder(variant.text).fingerprint
        if models["text_encoder"] != expected:
            problems.append(f"its text encoder is {models['text_encoder']!r}, the model's is {expected!r}")
    vae = autoencoder_storage(recipe, variant)  # also for an old manifest: the export needs it
    if "autoencoder" in models and models["autoencoder"] != _checksums(vae):
        problems.append(f"its latents come from other autoencoder weights than those in {vae.uri}")
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        hint = "Curate again with this model, or train the model that it was encoded for."
        raise InputError(f"{uri} does not fit the recipe {recipe.name!r}:\n{listed}", hint)


def _same_latents(encoded_for: str, variant: Variant) -> bool:
    """Whether clips encoded for one variant serve another: text-to-video and image-to-video models share them."""
    if encoded_for == variant.name:
        return True
    if encoded_for not in VARIANTS:
        return False

    def facts(card: Variant) -> tuple[object, ...]:
        return (card.autoencoder, card.scale_factor, card.text, card.denoiser.patch, card.denoiser.width, card.fps)

    return facts(VARIANTS[encoded_for]) == facts(variant)


def autoencoder_storage(recipe: TrainRecipe, variant: Variant) -> Storage:
    """Where the autoencoder of the exported pipeline lies.

    Raises WeightsError when nothing lies there, RecipeError when the recipe names none and none ships.
    """
    if recipe.components:
        vae = open_storage(recipe.components).child("vae")
    elif variant.autoencoder == VARIANTS["toy"].autoencoder:
        vae = open_storage(toy_autoencoder_folder())
    else:
        hint = "Give a weights folder that holds vae (and text_encoder, tokenizer): --components URI"
        raise RecipeError(f"components is empty, and no autoencoder ships for {variant.name}.", hint)
    if not vae.exists("config.json"):
        raise WeightsError(f"{vae.uri} holds no autoencoder.", "components must be a whole WEIGHTS folder.")
    return vae


def _checksums(folder: Storage) -> dict[str, str]:
    return {name: folder.checksum(name) for name in folder.list(suffix=".safetensors")}


def _check_clip(clip: IndexedClip, *, variant: Variant, uri: str) -> None:
    expected = (variant.text.max_tokens, variant.text.width)
    if clip.text_shape != expected:
        raise InputError(
            f"{uri}/{clip.shard}: clip {clip.clip_id} has a text embedding of {clip.text_shape}, "
            f"{variant.name} takes {expected}.",
            "Curate again with this variant.",
        )
    channels = variant.denoiser.out_channels
    if clip.latent_shape[0] != channels:
        raise InputError(
            f"{uri}/{clip.shard}: clip {clip.clip_id} has a latent of {clip.latent_shape[0]} channels, not {channels}."
        )
    try:
        grid = check_latent((variant.denoiser.in_channels, *clip.latent_shape[1:]), variant.denoiser)
    except ValueError as error:
        raise InputError(f"{uri}/{clip.shard}: clip {clip.clip_id}: {error}") from error
    if grid.num_tokens != clip.video_tokens:
        raise InputError(
            f"{uri}/{clip.shard}: clip {clip.clip_id} says {clip.video_tokens} tokens, {variant.name} makes "
            f"{grid.num_tokens} of a latent of {clip.latent_shape}."
        )


def _check_stage(stage: Stage, clips: tuple[IndexedClip, ...], scores: Scores) -> None:
    known = sorted({clip.bucket for clip in clips})
    unknown = [name for name in stage.buckets if not any(fnmatchcase(bucket, name) for bucket in known)]
    if unknown:
        raise RecipeError(
            f"stage {stage.name!r}: the dataset has no bucket {', '.join(unknown)}.", f"It has: {', '.join(known)}."
        )
    chosen = [clips[number] for number in stage_clips(stage, clips, scores)]
    if not chosen:
        hint = "Loosen its bounds (where, best, images), or look at the scores in the dataset's report."
        raise RecipeError(f"stage {stage.name!r}: no clip of the dataset is within its bounds.", hint)
    if stage.images and not any(is_image(clip) for clip in chosen):
        raise RecipeError(f"stage {stage.name!r}: images is {stage.images:g}, but it has no image to train on.")
    longest = max(chosen, key=lambda clip: clip.num_tokens)
    if longest.num_tokens > stage.tokens_per_pack:
        raise RecipeError(
            f"stage {stage.name!r}: tokens_per_pack is {stage.tokens_per_pack}, but clip {longest.clip_id} "
            f"({longest.bucket}) has {longest.num_tokens} tokens.",
            f"Set tokens_per_pack to at least {longest.num_tokens}.",
        )
