"""The packs of one global step become noisy questions, and the velocities that answer them become a loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.denoiser import PackedBatch
from cogvideox.denoiser.patches import missing_frames, pad_front
from cogvideox.objective import (
    add_noise,
    clip_losses,
    noise_for,
    stream_seed,
    uniform_timesteps,
    uniform_timesteps_per_rank,
    velocity_target,
)
from cogvideox.schedule import NUM_TIMESTEPS, Schedule
from cogvideox.variants import Variant
from groundwork.latents import IndexedClip
from training.clips import EncodedClip
from training.packs import Pack
from training.recipe import ImageSettings, Stage

Weighting = Literal["sample", "sqrt_token", "token"]
NUM_STRATA = 10


@dataclass(frozen=True)
class Draw:
    """What chance decides for one clip of a step: a pure function of (seed, step, name)."""

    clip: int
    name: str
    timestep: int
    drop_text: bool
    weight: float
    """Its share of the step's loss; the shares of a step sum to 1."""
    caption: int = 0
    """Which of the clip's captions."""
    drop_image: bool = False
    """Whether the first frame is withheld (image-to-video)."""
    image_noise: float = 0.0
    """Standard deviation of the noise on the first frame's latent (image-to-video)."""


@dataclass(frozen=True)
class StepPlan:
    """A global step as every worker knows it without communication: packs of draws, in the plan's order."""

    step: int
    packs: tuple[tuple[Draw, ...], ...]

    @property
    def draws(self) -> tuple[Draw, ...]:
        return tuple(draw for pack in self.packs for draw in pack)

    def share(self, rank: int, world: int, *, together: int = 1) -> list[tuple[int, tuple[Draw, ...]]]:
        """The packs of one worker, each with the position of its first clip in `draws`.

        `together` neighbours get the same packs. All workers get the same number: one without work for a turn answers
        a pack of weight 0, because every worker takes part in every reduction.
        """
        rank, world = rank // together, world // together
        starts = [sum(len(pack) for pack in self.packs[:index]) for index in range(len(self.packs))]
        mine = [(starts[index], self.packs[index]) for index in range(rank, len(self.packs), world)]
        turns = math.ceil(len(self.packs) / world)
        idle = tuple(replace(draw, weight=0.0) for draw in self.packs[0])
        return mine + [(0, idle)] * (turns - len(mine))


def plan_step(
    step: int,
    packs: Sequence[Pack],
    clips: Sequence[IndexedClip],
    *,
    seed: int,
    text_dropout: float,
    weighting: Weighting = "sample",
    captions: Literal["first", "any"] = "first",
    timesteps: Literal["step", "pack"] = "step",
    image: ImageSettings | None = None,
) -> StepPlan:
    """Timesteps by explicit uniform sampling over all clips of the step (paper, section 3.3), captions, text dropout,
    weights, and with `image` what is done to first frames.

    A clip that a step sees twice gets a second name, so that its noise differs. With weighted losses the strata are
    laid inside each octave of length. `timesteps="pack"`: the paper's form, a pack in place of its rank.
    """
    numbers = [number for pack in packs for number in pack]
    names = _names(clips[number].clip_id for number in numbers)
    tokens = [clips[number].video_tokens for number in numbers]
    shares = [_amount(count, weighting) for count in tokens]
    if timesteps == "step":
        lengths = None if weighting == "sample" else tokens
        drawn = uniform_timesteps(seed, step, len(names), ids=names, lengths=lengths).tolist()
    else:
        drawn = [
            at
            for rank, pack in enumerate(packs)
            for at in uniform_timesteps_per_rank(seed, step, len(pack), rank=rank, world=len(packs)).tolist()
        ]
    draws = iter(
        [
            Draw(
                number,
                name,
                timestep,
                _chance(seed, step, "text", name) < text_dropout,
                share / sum(shares),
                int(_chance(seed, step, "caption", name) * clips[number].num_captions) if captions == "any" else 0,
                image is not None and _chance(seed, step, "image", name) < image.dropout,
                0.0 if image is None else _image_noise(seed, step, name, image=image),
            )
            for number, name, timestep, share in zip(numbers, names, drawn, shares, strict=True)
        ]
    )
    return StepPlan(step, tuple(tuple(next(draws) for _ in pack) for pack in packs))


@dataclass(frozen=True)
class Question:
    """A pack as the denoiser gets it, and the velocities it should answer."""

    batch: PackedBatch
    targets: tuple[Float[Tensor, "c t h w"], ...]
    weights: Float[Tensor, " clips"]

    def to(self, device: torch.device) -> Question:
        """The same question elsewhere."""
        targets = tuple(target.to(device) for target in self.targets)
        return Question(self.batch.to(device), targets, self.weights.to(device))


def ask(draws: Sequence[Draw], encoded: Sequence[EncodedClip], *, seed: int, step: int, variant: Variant) -> Question:
    """Noisy float32 latents, their timesteps and (perhaps dropped) texts, with the velocity targets.

    Where a token holds two latent frames, an odd count is completed at the front before noise is added, as generation
    does. Where the model takes an image, its channels follow: see `condition`. What is damaged weighs nothing.
    """
    schedule = Schedule(variant.snr_shift)
    noisy, targets, texts = [], [], []
    for draw, clip in zip(draws, encoded, strict=True):
        clean = clip.draw(seed=seed, step=step, name=draw.name)
        latent = pad_front(clean, variant.denoiser)[None]
        noise = noise_for(seed, step, draw.name, latent.shape)
        timestep = torch.tensor([draw.timestep])
        asked = add_noise(latent, noise, timestep=timestep, schedule=schedule)[0]
        if variant.takes_image:
            image = condition(clean, draw, seed=seed, step=step, variant=variant)
            asked = torch.cat((asked, image))
        noisy.append(asked)
        targets.append(velocity_target(latent, noise, timestep=timestep, schedule=schedule)[0])
        text = clip.text_embedding.float()
        texts.append(torch.zeros_like(text) if draw.drop_text else text)
    return Question(
        batch=PackedBatch(tuple(noisy), torch.tensor([draw.timestep for draw in draws]), tuple(texts)),
        targets=tuple(targets),
        weights=torch.tensor([0.0 if clip.damaged else draw.weight for draw, clip in zip(draws, encoded, strict=True)]),
    )


def condition(
    latent: Float[Tensor, "c t h w"], draw: Draw, *, seed: int, step: int, variant: Variant
) -> Float[Tensor, "c t2 h w"]:
    """The image's channels of a clip: its first latent frame with noise, then zeros; all zeros where it is withheld.

    As in the released training code (and section 3.4 of the paper), but for two things that only pixels could give:
    there the image is encoded alone, and the noise is added before that. Here it is the first frame of the clip's own
    latent, which sees the same single picture, and the noise is added to it.
    """
    count = latent.shape[1] + missing_frames(latent.shape[1], variant.denoiser)
    channels = latent.new_zeros(latent.shape[0], count, *latent.shape[2:])
    if draw.drop_image:
        return channels
    first = latent[:, :1]
    noise = noise_for(seed, step, f"{draw.name}/image", first.shape)
    held = 1 + (count - latent.shape[1] if variant.image_placement == "repeated" else 0)
    channels[:, :held] = (first + draw.image_noise * noise) * (variant.image_latent_scale / variant.scale_factor)
    return channels


def losses_of(question: Question, velocities: Sequence[Float[Tensor, "c t h w"]]) -> Float[Tensor, " clips"]:
    """Mean squared error per clip, float32: the paper's weighted error of the clean latent, term by term."""
    pairs = zip(velocities, question.targets, strict=True)
    return torch.cat([clip_losses(velocity[None], target[None]) for velocity, target in pairs])


def step_loss(losses: Float[Tensor, " n"], weights: Float[Tensor, " n"]) -> float:
    """The clips' losses by their weights; damaged clips, which have none (NaN), are left out of both."""
    whole = ~losses.isnan()
    share = 1.0 if whole.all() else float(weights[whole].sum())
    return float((weights * losses)[whole].sum()) / share


def strata(losses: Float[Tensor, " n"], timesteps: Int[Tensor, " n"]) -> tuple[list[float], list[int]]:
    """Mean loss and number of clips per tenth of the timesteps; NaN where a tenth has none. Clips without a loss (NaN)
    do not count."""
    losses, timesteps = losses[~losses.isnan()], timesteps[~losses.isnan()]
    tenth = timesteps * NUM_STRATA // NUM_TIMESTEPS
    counts = torch.bincount(tenth, minlength=NUM_STRATA)
    sums = torch.zeros(NUM_STRATA, dtype=torch.float64).index_add_(0, tenth, losses.double())
    return (sums / counts).tolist(), counts.tolist()


def learning_rate(stage: Stage, step: int) -> float:
    """Rate at `step` of the stage: a linear warm-up, then a half cosine down to the final rate."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(stage.steps - stage.warmup_steps, 1)
    span = stage.learning_rate - stage.final_learning_rate
    return stage.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress))


def _names(clip_ids: Iterable[str]) -> list[str]:
    seen: Counter[str] = Counter()
    names = []
    for clip_id in clip_ids:
        names.append(f"{clip_id}#{seen[clip_id]}" if seen[clip_id] else clip_id)
        seen[clip_id] += 1
    return names


def _amount(video_tokens: int, weighting: Weighting) -> float:
    return {"sample": 1.0, "sqrt_token": math.sqrt(video_tokens), "token": float(video_tokens)}[weighting]


def _image_noise(seed: int, step: int, name: str, *, image: ImageSettings) -> float:
    spread = noise_for(seed, step, f"{name}/image-noise", (1,))
    return math.exp(image.noise_mean + image.noise_std * float(spread))


def _chance(*words: str | int) -> float:
    return stream_seed(*words) / 2**63
