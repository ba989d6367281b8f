"""Trains the autoencoder on footage: recipe in, run folder with checkpoints and weights out."""

import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.autoencoder import Autoencoder
from training.autoencoder.export import export_autoencoder
from training.autoencoder.footage import Reel, read_footage, training_batch, whole_frame_clips
from training.autoencoder.losses import reconstruction_loss
from training.autoencoder.measure import Measurement, measure
from training.autoencoder.principal import PrincipalComponents, prepare
from training.autoencoder.recipe import AutoencoderRecipe

Metrics = dict[str, float]


def learning_rate(recipe: AutoencoderRecipe, step: int) -> float:
    """Within each stage a linear warm-up and a half cosine from the stage's rate down to the final one."""
    stage, done = recipe.position(step)
    warm = min(1.0, (done + 1) / recipe.warmup_steps)
    span = max(stage.learning_rate - recipe.final_learning_rate, 0.0)
    return warm * (recipe.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * done / stage.steps)))


class AutoencoderTraining:
    """The state of a training: network, its moving average, optimiser and the number of steps done."""

    def __init__(self, recipe: AutoencoderRecipe, components: PrincipalComponents) -> None:
        self.recipe, self.components = recipe, components
        torch.manual_seed(recipe.seed)
        self.network = Autoencoder(recipe.autoencoder)
        prepare(self.network)
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            recipe.stages[0].learning_rate,
            betas=(0.9, 0.99),
            weight_decay=recipe.weight_decay,
        )
        self.step_count = 0

    def step(self, pixels: Float[Tensor, "b 3 t h w"]) -> Metrics:
        """One optimiser step on one batch; the same state and batch give the same next state."""
        recipe, rate = self.recipe, learning_rate(self.recipe, self.step_count)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator(pixels.device).manual_seed(recipe.seed * 1_000_003 + self.step_count)
        learns = recipe.position(self.step_count)[0].learns
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=recipe.autocast):
            total, parts = self._loss(pixels, generator, learns=learns)
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.gradient_clip)
        self.optimizer.step()
        self.step_count += 1
        self.update_average()
        parts |= {"loss": total, "gradient_norm": norm}
        return {
            "step": self.step_count,
            "learning_rate": rate,
            **{name: float(part.detach()) for name, part in parts.items()},
        }

    def _loss(
        self, pixels: Float[Tensor, "b 3 t h w"], generator: torch.Generator, *, learns: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What to minimise, and its parts by name."""
        recipe, posterior = self.recipe, self.network.encode(pixels)
        target = None if learns == "codec" else self.components.encode(pixels)
        parts: dict[str, Tensor] = {}
        total = pixels.new_zeros(())
        if target is not None:
            parts["latent"] = self.components.distance(posterior.mean.float(), target)
            total = total + parts["latent"]
        if learns != "encoder":
            ours = self.network.decode(posterior.sample(generator) if target is None else target)
            loss = reconstruction_loss(
                ours.float(),
                pixels,
                posterior,
                l1_weight=recipe.l1_weight,
                perceptual_weight=recipe.perceptual_weight,
                kl_weight=recipe.kl_weight,
            )
            total = total + loss.total
            parts |= {"l1": loss.l1, "gradient": loss.gradient, "kl": loss.kl}
        return total, parts

    @torch.no_grad()
    def update_average(self) -> None:
        """Moves the average towards the network; early on faster, so that it does not remember the random start."""
        decay = min(self.recipe.ema_decay, (1 + self.step_count) / (10 + self.step_count))
        for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "step": self.step_count,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        self.step_count = state["step"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def train(
    recipe: AutoencoderRecipe,
    out_folder: Path,
    *,
    on_step: Callable[[Metrics], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Path:
    """Trains, or continues a training, and returns ``RUN/weights/vae`` (bf16, moving average, diffusers layout).

    Every ``checkpoint_every_steps`` it writes ``RUN/checkpoint.pt``, ``RUN/metrics.jsonl`` and the weights as they
    stand; ``stop_requested`` is asked between steps and ends the run after a last checkpoint.
    """
    out_folder.mkdir(parents=True, exist_ok=True)
    (out_folder / "config.json").write_text(recipe.model_dump_json(indent=2) + "\n")
    reels = read_footage(recipe)
    components = PrincipalComponents.of(reels, fps=recipe.fps, latent_channels=recipe.autoencoder.latent_channels)
    training = AutoencoderTraining(recipe, components)
    if (out_folder / "checkpoint.pt").exists():
        training.load(torch.load(out_folder / "checkpoint.pt", weights_only=True))
    rows: list[Metrics] = []
    while training.step_count < recipe.num_steps and not stop_requested():
        began = time.perf_counter()
        row = training.step(training_batch(reels, recipe=recipe, step=training.step_count))
        rows.append({**row, "seconds": time.perf_counter() - began})
        if on_step is not None:
            on_step(rows[-1])
        if training.step_count % recipe.checkpoint_every_steps == 0:
            save(training, out_folder, reels=reels, rows=rows)
            rows = []
    save(training, out_folder, reels=reels, rows=rows)
    return out_folder / "weights" / "vae"


def save(training: AutoencoderTraining, out_folder: Path, *, reels: Sequence[Reel], rows: list[Metrics]) -> Measurement:
    """Checkpoint, metrics and weights as they stand; the weights' scale factor is measured on the footage."""
    torch.save(training.state(), out_folder / "checkpoint.partial")
    (out_folder / "checkpoint.partial").replace(out_folder / "checkpoint.pt")
    recipe = training.recipe
    clips = [
        clip
        for reel in reels[: len(reels) // len(recipe.zooms)]
        for clip in whole_frame_clips(reel, num_frames=9, height=recipe.height, width=recipe.width, fps=recipe.fps)[:2]
    ]
    measured = measure(training.average, clips, autocast=recipe.autocast)
    summary = {"step": training.step_count, "psnr": measured.psnr, "scale_factor": measured.scale_factor}
    with (out_folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*rows, summary])
    export_autoencoder(
        training.average,
        out_folder / "weights" / "vae",
        scale_factor=measured.scale_factor,
        height=recipe.height,
        width=recipe.width,
    )
    return measured
