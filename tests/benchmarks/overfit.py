"""Does a training learn what it is shown? The toy learns the sample footage; each prompt's film must be its own clip's.

python -m tests.benchmarks.overfit [--out FOLDER] [--frames 17]
Curates and trains by the commands that people use (the same folder again: what is done is not done again), then
generates a film for the caption of every clip and compares it with every clip. A row is won where the film is nearest
to the clip of its own prompt. Prints one JSON document, and fails where the loss did not fall or a row is lost.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from cogvideox import CogVideoX
from cogvideox.denoiser import Denoiser
from groundwork.footage import sample_footage
from groundwork.latents import IndexedClip, LatentDataset, open_dataset
from groundwork.media import Frames
from training.clips import ClipReader
from training.step import Draw, ask, losses_of

TIMESTEPS = (100, 300, 500, 700, 900)
NEVER = 10**9
"""A step that no training reaches: its noise has not been trained on."""


def command(module: str, *words: str) -> None:
    """Run one of the stages' commands; its output goes to standard error."""
    subprocess.run([sys.executable, "-m", module, *words], check=True, stdout=sys.stderr)


def make(out: Path) -> tuple[Path, Path]:
    """The dataset and the run."""
    inputs = [word for film in sample_footage() for word in ("--input", str(film))]
    command("data_pipeline", "run", "toy", *inputs, "--out", str(out / "dataset"))
    words = ("--dataset", str(out / "dataset"), "--out", str(out / "run"))
    command("training", "run", "toy", *words, "--samples.count", "0")
    return out / "dataset", out / "run"


def fixed_losses(denoiser: Denoiser, model: CogVideoX, stored: LatentDataset) -> list[float]:
    """Mean loss of all clips at each of `TIMESTEPS`, with noise that no step of the training had."""
    reader, means = ClipReader(stored), []
    for timestep in TIMESTEPS:
        losses = []
        for number, clip in enumerate(stored.index):
            draw = Draw(number, clip.clip_id, timestep, drop_text=False, weight=1.0)
            question = ask([draw], [reader.read(number)], seed=0, step=NEVER, variant=model.variant)
            with torch.no_grad():
                losses.append(float(losses_of(question, denoiser.forward_packed(question.batch))))
        means.append(sum(losses) / len(losses))
    return means


def footage(model: CogVideoX, stored: LatentDataset, number: int) -> Frames:
    """The clip as the autoencoder shows it: what a perfect memory of it would look like."""
    latent = ClipReader(stored).read(number).latent.float()[None]
    frames: Frames = model.decode(latent / model.variant.scale_factor).numpy()
    return frames


def likeness(first: Frames, second: Frames) -> float:
    """Correlation of two films' pixels, -1 to 1."""
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def asked(stored: LatentDataset, frames: int) -> list[int]:
    """Clips of one length whose caption no other clip has: two with one caption could not be told apart."""
    captions = [stored.captions(number)[0] for number in range(len(stored))]
    return [
        number
        for number, clip in enumerate(stored.index)
        if clip.bucket.startswith(f"{frames}x") and captions.count(captions[number]) == 1
    ]


def table(model: CogVideoX, stored: LatentDataset, numbers: Sequence[int]) -> list[list[float]]:
    """Of each prompt's film (rows) its likeness to each clip (columns)."""
    clips = [footage(model, stored, number) for number in numbers]
    rows = []
    for number, clip in zip(numbers, clips, strict=True):
        made = model.generate(stored.captions(number)[0], num_frames=len(clip), seed=0).numpy()
        rows.append([round(likeness(made, other), 3) for other in clips])
        print(stored.captions(number)[0][:60], rows[-1], file=sys.stderr)
    return rows


def margins(rows: Sequence[Sequence[float]]) -> list[float]:
    """By how much each film is nearer to its own clip than to the nearest other one."""
    return [
        round(row[place] - max(value for other, value in enumerate(row) if other != place), 3)
        for place, row in enumerate(rows)
    ]


def story(out: Path, *, frames: int) -> dict[str, Any]:
    """Everything, as one document."""
    dataset, run = make(out)
    model, stored = CogVideoX.from_pretrained(run / "weights", dtype=torch.float32), open_dataset(dataset)
    untrained = Denoiser(model.variant.denoiser).initialize(seed=0)
    before, after = (fixed_losses(denoiser, model, stored) for denoiser in (untrained, model.denoiser))
    numbers = asked(stored, frames)
    rows = table(model, stored, numbers)
    return {
        "clips": len(stored),
        "timesteps": TIMESTEPS,
        "loss_before": [round(loss, 4) for loss in before],
        "loss_after": [round(loss, 4) for loss in after],
        "prompts": [named(stored.index[number], stored.captions(number)[0]) for number in numbers],
        "likeness": rows,
        "margins": margins(rows),
        "rows_won": sum(margin > 0 for margin in margins(rows)),
    }


def named(clip: IndexedClip, caption: str) -> str:
    """A clip for people."""
    return f"{clip.clip_id[:8]} {caption}"


def main() -> None:
    """Print the document; exit 1 where something was not learnt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--frames", type=int, default=17, help="length of the clips that are asked for")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="cvx-overfit-") as temporary:
        told = story(given.out or Path(temporary), frames=given.frames)
    print(json.dumps(told, indent=2))
    fell = all(after < before for before, after in zip(told["loss_before"], told["loss_after"], strict=True))
    sys.exit(0 if fell and told["rows_won"] == len(told["prompts"]) else 1)


if __name__ == "__main__":
    main()
