"""A weights folder, at any URI, becomes what each deployment computes with; no Ray here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import Denoiser
from cogvideox.guidance import Guidance
from cogvideox.text_encoder import TextEncoder
from cogvideox.trajectory import Settings, Trajectory
from cogvideox.variants import Variant
from cogvideox.weights import load_autoencoder, load_card, load_denoiser
from cogvideox.weights import load_text_encoder as load_text_encoder_of
from groundwork.errors import WeightsError
from groundwork.storage import open_storage
from serving.jobs.job import JobSettings


@contextmanager
def local_weights(uri: str) -> Iterator[Path]:
    """The weights as a local folder for the length of the block. Raises WeightsError when there is none."""
    storage = open_storage(uri)
    if not storage.exists(""):
        raise WeightsError(
            f"There are no weights at {uri}.", "Give a folder in the diffusers layout, like RUN/weights."
        )
    with storage.local_path() as folder:
        yield folder


def read_card(uri: str) -> Variant:
    """The card of the weights. Raises WeightsError when they are missing or do not fit together."""
    with local_weights(uri) as folder:
        return load_card(folder)


def load_text_encoder(uri: str) -> TextEncoder:
    """The text encoder of the weights, on the GPU where there is one."""
    with local_weights(uri) as folder:
        return load_text_encoder_of(folder, variant=load_card(folder), device=device())


class DenoiseModel:
    """Denoiser and card: the settings of a job become its trajectory."""

    def __init__(self, denoiser: Denoiser, card: Variant) -> None:
        self._denoiser, self._card = denoiser, card

    @classmethod
    def load(cls, uri: str) -> DenoiseModel:
        """On the GPU where there is one. Raises WeightsError."""
        with local_weights(uri) as folder:
            card = load_card(folder)
            dtype = getattr(torch, card.precision)
            return cls(load_denoiser(folder / "transformer", device=device(), dtype=dtype), card)

    def guidance(self, settings: JobSettings) -> Guidance:
        """How strongly the prompt is followed."""
        return Guidance(scale=settings.guidance_scale, dynamic=self._card.dynamic_guidance)

    def prompts(self, settings: JobSettings) -> list[str]:
        """What has to be encoded: the prompt, and that of guidance's other half where it is not all zeros."""
        if not self.guidance(settings).needs_unconditional:
            return [settings.prompt]
        if not settings.negative_prompt and self._card.unconditional == "zeros":
            return [settings.prompt]
        return [settings.prompt, settings.negative_prompt]

    def trajectory(self, settings: JobSettings, embeddings: list[Float[Tensor, "1 n d"]]) -> Trajectory:
        """The way of a job from noise to latent; `embeddings` are those of `prompts(settings)`, in their order."""
        guidance = self.guidance(settings)
        positive, *rest = (embedding.to(self._denoiser.out_projection.weight) for embedding in embeddings)
        negative = rest[0] if rest else torch.zeros_like(positive)
        return Trajectory(
            variant=self._card,
            settings=Settings(
                num_frames=settings.num_frames,
                height=settings.height,
                width=settings.width,
                num_steps=settings.steps,
                seed=settings.seed,
                sampler=self._card.sampler,
                guidance=guidance,
            ),
            denoiser=self._denoiser,
            positive=positive,
            negative=negative if guidance.needs_unconditional else None,
        )


class DecodeModel:
    """The autoencoder, as a source of pictures."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder

    @classmethod
    def load(cls, uri: str) -> DecodeModel:
        """On the GPU where there is one. Raises WeightsError."""
        with local_weights(uri) as folder:
            dtype = getattr(torch, load_card(folder).precision)
            return cls(load_autoencoder(folder / "vae", device=device(), dtype=dtype))

    def frames(self, latent: Float[Tensor, "1 c t h w"]) -> Iterator[UInt8[np.ndarray, "t h w c"]]:
        """Pictures, chunk by chunk as they are decoded."""
        parameter = next(self._autoencoder.parameters())
        for pixels in self._autoencoder.decode_frames(latent.to(parameter)):
            rounded = ((pixels[0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            yield rounded.permute(1, 2, 3, 0).cpu().numpy()


def device() -> torch.device:
    """Where this process computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
