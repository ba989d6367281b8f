"""Turns a prompt, alone or with an image or a video, into frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import Denoiser
from cogvideox.encoding import encode_image, encode_video
from cogvideox.guidance import Guidance
from cogvideox.sampler import SamplerState
from cogvideox.text_encoder import HashTextEncoder, TextEncoder, TooLong
from cogvideox.trajectory import Settings, Trajectory
from cogvideox.variants import VARIANTS, DynamicGuidance, Variant
from cogvideox.weights import (
    load_autoencoder,
    load_card,
    load_denoiser,
    load_text_encoder,
    save_pipeline,
    toy_autoencoder_folder,
)

Callback = Callable[[SamplerState], None]
"""Called after every step; an exception it raises ends the generation."""


@dataclass
class CogVideoX:
    """A whole model: text encoder, denoiser and autoencoder under one card."""

    variant: Variant
    denoiser: Denoiser
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    folder: Path | None = None  # where it was loaded from: `save_pretrained` copies T5's files from there

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        too_long: TooLong = "error",
        allow_pickle: bool = False,
    ) -> CogVideoX:
        """Loads a folder in the diffusers layout, or downloads it from the hub when no such folder exists.

        dtype None is the card's precision. `too_long` says whether a too long prompt raises or is cut with a warning.
        Raises WeightsError listing every problem.
        """
        folder = Path(path_or_hub_id)
        if not folder.is_dir():
            folder = _download(str(path_or_hub_id))
        variant = load_card(folder)
        dtype = dtype if dtype is not None else getattr(torch, variant.precision)
        return cls(
            variant=variant,
            denoiser=load_denoiser(folder / "transformer", device=device, dtype=dtype, allow_pickle=allow_pickle),
            autoencoder=load_autoencoder(folder / "vae", device=device, dtype=dtype, allow_pickle=allow_pickle),
            text_encoder=load_text_encoder(folder, variant=variant, device=device, dtype=dtype, too_long=too_long),
            folder=folder,
        )

    @classmethod
    def from_parts(
        cls, variant: Variant | str, *, denoiser: Denoiser, autoencoder: Autoencoder, text_encoder: TextEncoder
    ) -> CogVideoX:
        """Puts together parts that are already in memory; `variant` may be a card's name."""
        card = VARIANTS[variant] if isinstance(variant, str) else variant
        return cls(card, denoiser.eval(), autoencoder.eval(), text_encoder)

    @classmethod
    def toy(cls, *, seed: int = 0) -> CogVideoX:
        """An untrained toy denoiser with the shipped toy autoencoder: runs anywhere, shows noise."""
        variant = VARIANTS["toy"]
        return cls.from_parts(
            variant,
            denoiser=Denoiser(variant.denoiser).initialize(seed=seed),
            autoencoder=load_autoencoder(toy_autoencoder_folder(), dtype=torch.float32),
            text_encoder=HashTextEncoder(variant.text),
        )

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Writes the whole model in the diffusers layout; returns the folder."""
        return save_pipeline(
            folder,
            variant=self.variant,
            denoiser=self.denoiser,
            autoencoder=self.autoencoder,
            text_folder=self.folder if self.variant.text.kind == "t5" else None,
            dtype=dtype,
        )

    def generate(
        self,
        prompt: str,
        *,
        image: UInt8[Tensor, "h w 3"] | None = None,
        video: UInt8[Tensor, "t h w 3"] | None = None,
        negative_prompt: str | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        dynamic_guidance: DynamicGuidance | None = None,
        split_guidance: bool = False,
        sampler: str | None = None,
        strength: float = 0.8,
        seed: int = 0,
        callback: Callback | None = None,
        state: SamplerState | None = None,
    ) -> UInt8[Tensor, "t h w 3"]:
        """Frames of one video; what is None is the card's default.

        `image` is the first frame (image-to-video models need it, others refuse it); `video` is what to start from,
        changed the more the nearer `strength` is to 1. `state` goes on where an earlier call's callback left off.
        Raises ValueError for a size, frame count or input that this model cannot take.
        """
        card = self.variant
        settings = Settings(
            num_frames=num_frames or (card.num_frames if video is None else video.shape[0]),
            height=height or card.height,
            width=width or card.width,
            num_steps=num_steps or card.num_steps,
            seed=seed,
            sampler=sampler or card.sampler,
            strength=strength,
            guidance=Guidance(
                scale=card.guidance_scale if guidance_scale is None else guidance_scale,
                dynamic=dynamic_guidance or card.dynamic_guidance,
                split=split_guidance,
            ),
        )
        trajectory = self.trajectory(
            prompt, settings=settings, negative_prompt=negative_prompt, image=image, video=video
        )
        state = state if state is not None else trajectory.start()
        while not state.finished:
            state = trajectory.step(state)
            if callback is not None:
                callback(state)
        return self.decode(trajectory.latent(state))

    def trajectory(
        self,
        prompt: str,
        *,
        settings: Settings,
        negative_prompt: str | None = None,
        image: UInt8[Tensor, "h w 3"] | None = None,
        video: UInt8[Tensor, "t h w 3"] | None = None,
    ) -> Trajectory:
        """Everything decided before the first step; for callers who drive the steps themselves."""
        self.variant.check_size(num_frames=settings.num_frames, height=settings.height, width=settings.width)
        if (image is not None) != self.variant.takes_image:
            raise ValueError(
                f"image: {self.variant.name} {'needs' if image is None else 'does not take'} a first frame"
            )
        if image is not None and video is not None:
            raise ValueError("image and video: give one of them")
        positive, negative = self.encode_prompt(prompt, negative_prompt, guidance=settings.guidance)
        return Trajectory(
            variant=self.variant,
            settings=settings,
            denoiser=self.denoiser,
            positive=positive,
            negative=negative,
            image=None if image is None else self.encode_image(image, settings=settings),
            video=None if video is None else self.encode_video(video, settings=settings),
        )

    def encode_prompt(
        self, prompt: str, negative_prompt: str | None = None, *, guidance: Guidance | None = None
    ) -> tuple[Float[Tensor, "1 n d"], Float[Tensor, "1 n d"] | None]:
        """Embeddings of both guidance halves, as the denoiser takes them.

        Without a negative prompt the other half is zeros or the embedding of "", as the card says.
        """
        weight = self.denoiser.out_projection.weight
        positive = self.text_encoder.encode([prompt]).to(weight)
        if guidance is not None and not guidance.needs_unconditional:
            return positive, None
        if not negative_prompt and self.variant.unconditional == "zeros":
            return positive, torch.zeros_like(positive)
        return positive, self.text_encoder.encode([negative_prompt or ""]).to(weight)

    def encode_image(self, image: UInt8[Tensor, "h w 3"], *, settings: Settings) -> Float[Tensor, "1 c 1 h w"]:
        """The scaled latent of a first frame, resized to cover the video's size and cut at the centre."""
        return encode_image(self.autoencoder, image, variant=self.variant, settings=settings)

    def encode_video(self, video: UInt8[Tensor, "t h w 3"], *, settings: Settings) -> Float[Tensor, "1 c t h w"]:
        """The scaled latent of a video to start from, fitted like an image."""
        return encode_video(self.autoencoder, video, variant=self.variant, settings=settings)

    def decode(self, latent: Float[Tensor, "1 c t h w"]) -> UInt8[Tensor, "t h w 3"]:
        """All frames of an unscaled latent, on the CPU."""
        return torch.cat(list(self.decode_frames(latent)))

    @torch.no_grad()
    def decode_frames(self, latent: Float[Tensor, "1 c t h w"]) -> Iterator[UInt8[Tensor, "t h w 3"]]:
        """Frames in pieces as they are ready, on the CPU: memory does not grow with length."""
        latent = latent.to(next(self.autoencoder.parameters()))
        for pixels in self.autoencoder.decode_frames(latent):
            frames = rearrange(pixels, "1 c t h w -> t h w c").float()
            yield ((frames + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download  # only when a model is fetched by name

    return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
