"""One optimiser step by our denoiser on packed rows, and by diffusers' transformer on one clip after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cogvideox.denoiser import Denoiser, DenoiserConfig, PackedBatch
from cogvideox.objective import add_noise, clip_losses, velocity_target
from cogvideox.schedule import Schedule
from cogvideox.weights import save_denoiser
from tests.support.denoisers import diffusers_rope, diffusers_twin
from training.parallelize import PackedDenoiser, velocities

_SCHEDULE = Schedule(3.0)
Size = tuple[int, int, int]
"""Latent frames, rows, columns."""
Clips = list[tuple[Tensor, Tensor, Tensor]]
"""Clean latent, text embedding, timestep."""
Answer = Callable[[Clips, list[Tensor]], list[Tensor]]


class Side:
    """A model with its optimiser: `answer` turns noisy clips into velocities, one call for all or one per clip."""

    def __init__(self, model: nn.Module, answer: Answer, *, together: bool) -> None:
        self.model, self.together, self._answer = model.train(), together, answer
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def gradients(self, clips: Clips, *, bf16: bool, seed: int) -> float:
        """One step's loss; the gradients are left behind."""
        generator, total = torch.Generator().manual_seed(seed), torch.zeros((), device=self.device)
        noises = [torch.randn(clip[0].shape, generator=generator).to(self.device) for clip in clips]
        pairs = list(zip(clips, noises, strict=True))
        for members in [pairs] if self.together else [[pair] for pair in pairs]:
            noisy = [add_noise(x[None], e[None], timestep=t, schedule=_SCHEDULE)[0] for (x, _, t), e in members]
            targets = [velocity_target(x[None], e[None], timestep=t, schedule=_SCHEDULE) for (x, _, t), e in members]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                answers = self._answer([clip for clip, _ in members], noisy)
            losses = [clip_losses(v[None], target) for v, target in zip(answers, targets, strict=True)]
            loss = torch.cat(losses).sum() / len(clips)
            torch.autograd.backward(loss)
            total += loss.detach()
        return float(total)

    def step(self, *groups: Clips, bf16: bool, seed: int = 0) -> None:
        """A whole optimiser step over clips that come in groups."""
        for clips in groups:
            self.gradients(clips, bf16=bf16, seed=seed)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def flat_gradient(self) -> Tensor:
        """All gradients end to end, by size and sum: the two sides name and order their parameters differently."""
        found = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        return torch.cat(sorted(found, key=lambda g: (g.numel(), float(g.double().square().sum()))))


def our_side(denoiser: Denoiser) -> Side:
    """Clips of all sizes in one row."""
    module = PackedDenoiser(denoiser)

    def packed(clips: Clips, noisy: list[Tensor]) -> list[Tensor]:
        batch = PackedBatch(tuple(noisy), torch.cat([t for _, _, t in clips]), tuple(text for _, text, _ in clips))
        return velocities(module(batch), [clip.shape for clip in noisy])

    return Side(module, packed, together=True)


def their_side(model: Any, config: DenoiserConfig, *, batched: bool) -> Side:
    """diffusers' transformer in a plain loop; `batched`: all clips are of one size, and go in as one batch."""

    def alone(clips: Clips, noisy: list[Tensor]) -> list[Tensor]:
        text, timestep = torch.stack([text for _, text, _ in clips]), torch.cat([t for _, _, t in clips])
        frames, height, width = noisy[0].shape[1:]
        rope = _rope(config, (frames, height, width), noisy[0].device)
        latents = torch.stack(noisy).transpose(1, 2)
        (answer,) = model(latents, text, timestep, image_rotary_emb=rope, return_dict=False)
        return list(answer.transpose(1, 2))

    return Side(model, alone, together=batched)


def twin_of(denoiser: Denoiser) -> Any:
    """diffusers' model with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        return diffusers_twin(save_denoiser(denoiser, Path(folder) / "transformer"))


def clips_of(config: DenoiserConfig, sizes: Sequence[Size], *, device: str = "cpu") -> Clips:
    """Random latents and texts."""
    generator, found = torch.Generator().manual_seed(0), []
    for number, (frames, height, width) in enumerate(sizes):
        latent = torch.randn(config.in_channels, frames, height, width, generator=generator)
        text = torch.randn(config.max_text_tokens, config.text_width, generator=generator)
        timestep = torch.tensor([(137 + 190 * number) % 1000])
        found.append((latent.to(device), text.to(device), timestep.to(device)))
    return found


def num_tokens(config: DenoiserConfig, size: Size) -> int:
    """Tokens of a clip, text and video; latent frames are padded to whole tokens."""
    frames, height, width = size
    return -(-frames // config.patch_frames) * (height // 2) * (width // 2) + config.max_text_tokens


def gradient_cosine(one: Side, other: Side) -> float:
    """Of all gradients as one vector."""
    first, second = (side.flat_gradient().double() for side in (one, other))
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


@cache
def _rope(config: DenoiserConfig, size: Size, device: torch.device) -> Any:
    """diffusers' rotary table of a size: computed once, as a careful loop would."""
    if config.positions == "sincos":
        return None
    frames, height, width = size
    return tuple(part.to(device) for part in diffusers_rope(config, frames=frames, height=height, width=width))
