"""A small encoded dataset of real footage, and recipes that train on it in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange

from cogvideox import shape
from cogvideox.autoencoder import Autoencoder
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.variants import VARIANTS
from cogvideox.weights import save_autoencoder
from groundwork import media
from groundwork.records import Latent
from groundwork.shard import write_shard
from groundwork.storage import open_storage
from training.recipe import TrainRecipe

TOY = VARIANTS["toy"]
CLIPS = [
    ("bikes.mp4", 0.5, 9, "people ride bikes on a street"),
    ("bikes.mp4", 2.0, 5, "bikes pass from left to right"),
    ("bigbuckbunny.mp4", 0.5, 9, "a rabbit in a green meadow"),
    ("bigbuckbunny.mp4", 2.5, 9, "a wide bright meadow"),
    ("cityCC0.mpg", 0.5, 9, "a city by day"),
    ("cityCC0.mpg", 2.0, 5, "cars in a city"),
    ("cityCC0.mpg", 3.0, 5, "a street in a city"),
]


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with an untrained autoencoder of the toy's sizes: no test here judges a picture."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("components")
    save_autoencoder(Autoencoder(TOY.autoencoder), folder / "vae", variant=TOY)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, sample_videos: dict[str, Path], components: Path) -> Path:
    """Seven clips of two lengths at 32x48, encoded from the sample films, in the contract's layout."""
    torch.manual_seed(7)
    autoencoder, out = Autoencoder(TOY.autoencoder).eval(), tmp_path_factory.mktemp("dataset")
    storage, rows = open_storage(out), {}
    for number, (name, start, num_frames, caption) in enumerate(CLIPS):
        frames = media.sample_clip(
            sample_videos[name], start_seconds=start, num_frames=num_frames, fps=8.0, height=32, width=48
        )
        pixels = rearrange(torch.from_numpy(frames), "t h w c -> 1 c t h w").float() / 127.5 - 1
        with torch.inference_mode():
            latent = autoencoder.encode(pixels).mode()[0]
        latent = latent / latent.std()  # as a trained autoencoder's times its scale factor
        row = encoded_row(f"clip{number}", latent, caption, num_frames=num_frames)
        rows.setdefault(f"{num_frames}x32x48", []).append(row)
    for bucket, members in rows.items():
        write_shard(storage, f"latents/{bucket}/part-00000.parquet", members, Latent)
    storage.write_json("manifest.json", {"complete": True, "variant": "toy", "dataset_hash": "seven"})
    return out


def encoded_row(clip_id: str, latent: torch.Tensor, caption: str, *, num_frames: int) -> Latent:
    """A row as the curation writes it."""
    text = HashTextEncoder(TOY.text).encode([caption])[0]
    return Latent(
        clip_id=clip_id,
        latent=_bfloat16_bytes(latent),
        latent_shape=list(latent.shape),
        text_embedding=_bfloat16_bytes(text),
        text_shape=list(text.shape),
        tokens=shape.num_video_tokens(num_frames, 32, 48),
        caption=caption,
    )


def _bfloat16_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="session")
def recipe_with(components: Path) -> Callable[..., TrainRecipe]:
    """A function from changed fields to a recipe: two stages of six steps over packs of a few small clips."""

    def make(**changes: Any) -> TrainRecipe:
        stage = {"steps": 6, "learning_rate": 1e-3, "final_learning_rate": 1e-4}
        fields: dict[str, Any] = {
            "name": "test",
            "components": str(components),
            "stages": [
                stage | {"name": "short", "tokens_per_pack": 60, "packs_per_step": 3, "buckets": ["5x32x48"]},
                stage | {"name": "all", "tokens_per_pack": 110, "packs_per_step": 3, "warmup_steps": 2},
            ],
            "ema_decay": 0.9,
            "workers": {"count": 2, "cpus": 0.5, "timeout_seconds": 60},
            "checkpoints": {"every_steps": 4, "keep": 2},
        }
        return TrainRecipe.model_validate(fields | changes)

    return make
