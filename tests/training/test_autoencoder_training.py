"""Training the autoencoder: it learns, resumes to the bit, and writes weights in diffusers' layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cogvideox.autoencoder import AutoencoderConfig
from groundwork.media import write_video
from training.autoencoder import AutoencoderRecipe, train
from training.autoencoder.footage import frame_indices, read_reel, to_pixels
from training.autoencoder.principal import PrincipalComponents

TINY = AutoencoderConfig(block_widths=(4, 4, 8, 8), layers_per_block=1, norm_groups=2)


def film(path: Path) -> Path:
    """A bright square that moves over a dark ground, 24 frames at 8 fps."""
    frames = np.full((24, 32, 48, 3), 40, np.uint8)
    for index, frame in enumerate(frames):
        frame[8:20, index : index + 12] = (220, 180, 60)
    write_video(path, frames, fps=8)
    return path


def recipe(footage: Path, *, steps: int) -> AutoencoderRecipe:
    return AutoencoderRecipe(
        footage=(footage,),
        height=32,
        width=48,
        zooms=(1.0,),
        autoencoder=TINY,
        stages=(
            {"num_frames": 5, "height": 16, "width": 16, "steps": 1, "learning_rate": 5e-3, "learns": "codec_apart"},
            {"num_frames": 5, "height": 16, "width": 16, "steps": 1, "learning_rate": 5e-3, "learns": "encoder"},
            {"num_frames": 9, "height": 16, "width": 16, "steps": steps - 2, "learning_rate": 5e-3},
        ),
        warmup_steps=2,
        checkpoint_every_steps=4,
    )


def test_a_resumed_run_ends_in_the_same_bits_as_an_undisturbed_one(tmp_path: Path) -> None:
    settings = recipe(film(tmp_path / "film.mp4"), steps=6)
    train(settings, tmp_path / "whole")
    steps = iter([False] * 3 + [True])
    train(settings, tmp_path / "cut", stop_requested=lambda: next(steps))
    train(settings, tmp_path / "cut")
    whole, cut = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "cut"))
    assert whole["step"] == cut["step"] == 6
    assert all(torch.equal(whole["network"][key], cut["network"][key]) for key in whole["network"])
    assert all(torch.equal(whole["average"][key], cut["average"][key]) for key in whole["average"])


def test_training_learns_and_diffusers_reads_its_weights(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    rows: list[dict[str, float]] = []
    weights = train(recipe(film(tmp_path / "film.mp4"), steps=26), tmp_path / "run", on_step=rows.append)
    assert np.mean([row["l1"] for row in rows[-8:]]) < 0.8 * np.mean([row["l1"] for row in rows[2:10]])
    config = json.loads((weights / "config.json").read_text())
    assert config["scaling_factor"] > 0
    loaded = diffusers.AutoencoderKLCogVideoX.from_pretrained(weights)
    assert tuple(loaded.config.block_out_channels) == TINY.block_widths


def test_principal_components_carry_more_of_a_block_than_its_mean_colour(tmp_path: Path) -> None:
    reels = [read_reel(film(tmp_path / "film.mp4"), height=32, width=48)]
    components = PrincipalComponents.of(reels, fps=8, latent_channels=16)
    pixels = to_pixels(reels[0].frames[:17])[None]
    latent = components.encode(pixels)
    assert latent.shape == (1, 16, 5, 4, 6)
    blocks = pixels[0, :, 1:].reshape(3, 4, 4, 4, 8, 6, 8).permute(1, 3, 5, 0, 2, 4, 6).reshape(96, -1)
    codes = latent[0, :, 1:].permute(1, 2, 3, 0).reshape(96, -1)
    fit = torch.linalg.lstsq(codes, blocks).solution
    means = blocks.reshape(96, 3, -1).mean(2).repeat_interleave(256, dim=1)
    assert (codes @ fit - blocks).square().mean() < 0.5 * (means - blocks).square().mean()


def test_frames_are_taken_by_their_time_stamps(tmp_path: Path) -> None:
    reel = read_reel(film(tmp_path / "film.mp4"), height=32, width=48)
    assert frame_indices(reel, start_seconds=0.25, num_frames=4, fps=4).tolist() == [2, 4, 6, 8]
