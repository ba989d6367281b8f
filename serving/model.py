"""A weights folder, at any URI, becomes what each deployment computes with; no Ray here."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import Denoiser
from cogvideox.encoding import encode_image, encode_video
from cogvideox.guidance import Guidance
from cogvideox.ranks import Groups
from cogvideox.sampler import SamplerState
from cogvideox.text_encoder import TextEncoder
from cogvideox.trajectory import Settings, Trajectory
from cogvideox.variants import Variant
from cogvideox.weights import load_autoencoder, load_card, load_denoiser
from cogvideox.weights import load_text_encoder as load_text_encoder_of
from groundwork.errors import WeightsError
from groundwork.storage import open_storage
from serving import fingerprint
from serving.adapters import Adapters
from serving.jobs.job import JobSettings
from serving.references import check_kind

_PREVIEW_WIDTH = 512


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


def weights_sha256(uri: str) -> str:
    """Hash of every file of the weights; reading them takes as long as loading does. Raises WeightsError."""
    with local_weights(uri) as folder:
        return fingerprint.content_sha256(folder)


def load_text_encoder(uri: str) -> TextEncoder:
    """The text encoder of the weights, on the GPU where there is one."""
    with local_weights(uri) as folder:
        return load_text_encoder_of(folder, variant=load_card(folder), device=device())


class DenoiseModel:
    """Denoiser and card: the settings of a job become its trajectory.

    `groups` are the ranks that it is spread over, this process one of them. `uri` is where the autoencoder is read
    from when the first picture has to be encoded or shown.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        card: Variant,
        *,
        uri: str,
        adapters: Adapters | None = None,
        groups: Groups | None = None,
    ) -> None:
        self._denoiser, self._card, self._uri, self._groups = denoiser, card, uri, groups or Groups()
        denoiser.sequence_group = self._groups.parts
        self._adapters = adapters or Adapters({})

    @classmethod
    def load(cls, uri: str, *, loras: Mapping[str, str] | None = None, groups: Groups | None = None) -> DenoiseModel:
        """On the GPU where there is one. Raises WeightsError.

        `loras` are the adapters on offer, URI by name.
        """
        with local_weights(uri) as folder:
            card = load_card(folder)
            dtype = getattr(torch, card.precision)
            denoiser = load_denoiser(folder / "transformer", device=device(), dtype=dtype)
        return cls(denoiser, card, uri=uri, adapters=Adapters(loras or {}), groups=groups)

    def guidance(self, settings: JobSettings) -> Guidance:
        """How strongly the prompt is followed.

        Its halves run apart, which at the sizes of real models costs nothing and takes half the memory, and so one
        process gives the bits of two ranks.
        """
        return Guidance(scale=settings.guidance_scale, dynamic=self._card.dynamic_guidance, split=True)

    def prompts(self, settings: JobSettings) -> list[str]:
        """What has to be encoded: the prompt, and that of guidance's other half where it is not all zeros."""
        if not self.guidance(settings).needs_unconditional:
            return [settings.prompt]
        if not settings.negative_prompt and self._card.unconditional == "zeros":
            return [settings.prompt]
        return [settings.prompt, settings.negative_prompt]

    def trajectory(
        self,
        settings: JobSettings,
        embeddings: list[Float[Tensor, "1 n d"]],
        reference: UInt8[np.ndarray, "t h w 3"] | None = None,
    ) -> Trajectory:
        """The way of a job from noise to latent; `embeddings` are those of `prompts(settings)`, in their order.

        `reference` are the pictures of `settings.reference`, one for an image. Encodes them, so it may take seconds.
        Raises RequestError for an image that the model does not take, or the lack of one that it needs.
        """
        kind = None if settings.reference is None else settings.reference.kind
        check_kind(kind, takes_image=self._card.takes_image)
        guidance = self.guidance(settings)
        positive, *rest = (embedding.to(self._denoiser.out_projection.weight) for embedding in embeddings)
        negative = rest[0] if rest else torch.zeros_like(positive)
        chosen = self._chosen(settings)
        pictures = None if reference is None else torch.from_numpy(np.array(reference))
        image = video = None
        if pictures is not None and kind == "image":
            image = encode_image(self._autoencoder, pictures[0], variant=self._card, settings=chosen)
        elif pictures is not None:
            video = encode_video(self._autoencoder, pictures, variant=self._card, settings=chosen)
        return Trajectory(
            variant=self._card,
            settings=chosen,
            denoiser=self._denoiser,
            positive=positive,
            negative=negative if guidance.needs_unconditional else None,
            image=image,
            video=video,
            halves=self._groups.halves,
        )

    def step_seconds(self, settings: JobSettings) -> float:
        """How long a step of such a job takes: the second of two, of a text of zeros."""
        embedding = torch.zeros(1, self._card.text.max_tokens, self._card.text.width)
        prompts = [embedding] * len(self.prompts(settings))
        pixels = np.zeros((settings.height, settings.width, 3), np.uint8) if self._card.takes_image else None
        trajectory = self.trajectory(settings, prompts, None if pixels is None else pixels[None])
        state = finished_step(trajectory, trajectory.start())
        began = time.monotonic()
        finished_step(trajectory, state)
        return time.monotonic() - began

    def put_on(self, settings: JobSettings) -> ExitStack:
        """The denoiser wears the job's adapters until what is returned is closed. Raises WeightsError."""
        return self._adapters.put_on(self._denoiser, settings.adapters)

    def adapter_sha256(self, name: str) -> str:
        """Hash of an adapter's file or folder. Raises WeightsError for an unknown name."""
        return self._adapters.sha256(name)

    def fingerprint(self, settings: JobSettings) -> str:
        """Hash over all that decides the bits of the job's latent; the weights are hashed the first time."""
        machine = fingerprint.this_machine(
            device=self._denoiser.out_projection.weight.device,
            precision=str(self._denoiser.out_projection.weight.dtype).removeprefix("torch."),
            split=self._groups.split,
        )
        adapters = {adapter.name: self.adapter_sha256(adapter.name) for adapter in settings.adapters}
        return fingerprint.fingerprint(
            settings, weights_sha256=self._weights_sha256, adapters_sha256=adapters, machine=machine
        )

    def preview(self, latent: Float[Tensor, "1 c t h w"]) -> bytes:
        """A JPEG, at most 512 pixels wide, of the middle of an unscaled latent.

        One latent frame is decoded alone, by the true decoder: a fortieth of a 161-frame video's decoding, far less
        than a step, and the colours are right, which a linear map from latents to pixels only approximates.
        """
        middle = latent[:, :, latent.shape[2] // 2 :][:, :, :1]
        (pixels,) = self._autoencoder.decode_frames(middle.to(next(self._autoencoder.parameters())))
        picture = Image.fromarray(_to_uint8(pixels)[-1])
        picture.thumbnail((_PREVIEW_WIDTH, picture.height))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=85)
        return out.getvalue()

    def _chosen(self, settings: JobSettings) -> Settings:
        return Settings(
            num_frames=settings.num_frames,
            height=settings.height,
            width=settings.width,
            num_steps=settings.steps,
            seed=settings.seed,
            sampler=settings.sampler or self._card.sampler,
            strength=settings.reference.strength if settings.reference is not None else 1.0,
            guidance=self.guidance(settings),
        )

    @cached_property
    def _autoencoder(self) -> Autoencoder:
        return _load_autoencoder(self._uri)

    @cached_property
    def _weights_sha256(self) -> str:
        return weights_sha256(self._uri)


def finished_step(trajectory: Trajectory, state: SamplerState) -> SamplerState:
    """One step, and on a GPU its end: what is only queued there is no progress."""
    state = trajectory.step(state)
    if state.latent.is_cuda:
        torch.cuda.synchronize(state.latent.device)
    return state


class DecodeModel:
    """The autoencoder, as a source of pictures."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder

    @classmethod
    def load(cls, uri: str) -> DecodeModel:
        """On the GPU where there is one. Raises WeightsError."""
        return cls(_load_autoencoder(uri))

    def frames(self, latent: Float[Tensor, "1 c t h w"]) -> Iterator[UInt8[np.ndarray, "t h w c"]]:
        """Pictures, chunk by chunk as they are decoded."""
        parameter = next(self._autoencoder.parameters())
        for pixels in self._autoencoder.decode_frames(latent.to(parameter)):
            yield _to_uint8(pixels)


def device() -> torch.device:
    """Where this process computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_autoencoder(uri: str) -> Autoencoder:
    with local_weights(uri) as folder:
        return load_autoencoder(folder / "vae", device=device(), dtype=getattr(torch, load_card(folder).precision))


def _to_uint8(pixels: Float[Tensor, "1 3 t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    rounded = ((pixels[0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return rounded.permute(1, 2, 3, 0).cpu().numpy()
