"""Whole pipelines against diffusers': the same weights, text and noise give the same latents and frames.

Where we differ on purpose: diffusers draws the image's latent from its posterior and we take the mean (the test makes
diffusers take the mean too); beside the native size it interpolates rotary positions of 1.0 models; with a step count
that does not divide 1000 its steps end at other noise levels than the next one starts from (see `sampler._levels`).
"""

from dataclasses import replace

import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXVideoToVideoPipeline,
)
from diffusers.pipelines.cogvideo import pipeline_cogvideox_image2video, pipeline_cogvideox_video2video

from cogvideox import CogVideoX
from cogvideox.autoencoder import Autoencoder
from cogvideox.guidance import Guidance
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.trajectory import Settings, Trajectory
from cogvideox.variants import VARIANTS
from cogvideox.weights import save_pipeline
from tests.support.denoisers import SWITCHES, diffusers_twin, random_denoiser, relative_error

TOY = VARIANTS["toy"]
_TOLERANCE = 1e-5
_SETTINGS = Settings(num_frames=9, height=64, width=96, num_steps=4)


def _model(name, tmp_path):
    config = SWITCHES[name]
    scale = 0.7 if config.patch_frames == 1 else 1 / 0.7  # diffusers divides by the scale factor in 1.5
    card = replace(
        TOY, denoiser=config, scale_factor=0.7, image_latent_scale=scale, snr_shift=3.0 if name == "sincos" else 1.0
    )
    torch.manual_seed(1)
    denoiser = random_denoiser(config)
    # Velocities of a plausible size: a random network's would make the trajectory explode.
    with torch.no_grad():
        denoiser.out_projection.weight.mul_(0.1)
    autoencoder = Autoencoder(card.autoencoder).eval()
    save_pipeline(tmp_path, variant=card, denoiser=denoiser, autoencoder=autoencoder)
    return CogVideoX.from_parts(
        card, denoiser=denoiser, autoencoder=autoencoder, text_encoder=HashTextEncoder(card.text)
    )


def _pipeline(kind, folder, scheduler=CogVideoXDDIMScheduler):
    pipeline = kind(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKLCogVideoX.from_pretrained(folder / "vae"),
        transformer=diffusers_twin(folder / "transformer"),
        scheduler=scheduler.from_pretrained(folder / "scheduler"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _texts(config):
    generator = torch.Generator().manual_seed(4)
    return (torch.randn(1, config.max_text_tokens, config.text_width, generator=generator) for _ in range(2))


def _compare(model, trajectory, noise, pipeline, **inputs):
    state = trajectory.start(noise=noise)
    while not state.finished:
        state = trajectory.step(state)
    shared = {
        "prompt_embeds": trajectory.positive,
        "negative_prompt_embeds": trajectory.negative,
        "num_inference_steps": trajectory.settings.num_steps,
        "guidance_scale": trajectory.settings.guidance.scale,
        "use_dynamic_cfg": trajectory.settings.guidance.dynamic == "wave",
        "height": 64,
        "width": 96,
        **inputs,
    }
    if "video" not in inputs:
        shared |= {"num_frames": 9, "latents": noise.transpose(1, 2)}
    latents = pipeline(**shared, output_type="latent").frames
    assert relative_error(state.latent, latents.transpose(1, 2)) < _TOLERANCE
    return shared, model.decode(trajectory.latent(state))


@pytest.mark.parametrize("name", ["sincos", "rope", "two-frame patches"])
@pytest.mark.parametrize("guidance", [Guidance(6.0), Guidance(6.0, split=True), Guidance(6.0, "wave")])
def test_text_to_video_equals_diffusers(name, guidance, tmp_path):
    model = _model(name, tmp_path)
    positive, negative = _texts(model.variant.denoiser)
    settings = replace(_SETTINGS, guidance=guidance)
    trajectory = Trajectory(model.variant, settings, model.denoiser, positive, negative)
    noise = torch.randn(trajectory.noise_shape, generator=torch.Generator().manual_seed(0))
    pipeline = _pipeline(CogVideoXPipeline, tmp_path)
    shared, frames = _compare(model, trajectory, noise, pipeline)
    expected = torch.from_numpy(pipeline(**shared, output_type="np").frames[0])
    assert frames.shape == (9, 64, 96, 3)
    assert ((frames / 255) - expected).abs().max() < 1 / 255


@pytest.mark.parametrize("name", ["learned", "two-frame patches, offset"])
def test_image_to_video_equals_diffusers(name, tmp_path, monkeypatch):
    model = _model(name, tmp_path)
    positive, negative = _texts(model.variant.denoiser)
    image = torch.randint(0, 256, (64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    trajectory = Trajectory(
        model.variant,
        _SETTINGS,
        model.denoiser,
        positive,
        negative,
        image=model.encode_image(image, settings=_SETTINGS),
    )
    noise = torch.randn(trajectory.noise_shape, generator=torch.Generator().manual_seed(0))
    _take_the_mean(monkeypatch, pipeline_cogvideox_image2video)
    pixels = image.permute(2, 0, 1)[None] / 255
    _compare(model, trajectory, noise, _pipeline(CogVideoXImageToVideoPipeline, tmp_path), image=pixels)


def test_video_to_video_equals_diffusers(tmp_path, monkeypatch):
    model = _model("rope", tmp_path)
    positive, negative = _texts(model.variant.denoiser)
    video = torch.randint(0, 256, (9, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    settings = replace(_SETTINGS, strength=0.75)
    latent = model.encode_video(video, settings=settings)
    trajectory = Trajectory(model.variant, settings, model.denoiser, positive, negative, video=latent)
    noise = torch.randn(trajectory.noise_shape, generator=torch.Generator().manual_seed(0))
    _take_the_mean(monkeypatch, pipeline_cogvideox_video2video)
    monkeypatch.setattr(
        pipeline_cogvideox_video2video, "randn_tensor", lambda shape, **_: noise.transpose(1, 2).reshape(shape)
    )
    pipeline = _pipeline(CogVideoXVideoToVideoPipeline, tmp_path)
    pixels = video.permute(3, 0, 1, 2)[None].permute(0, 2, 1, 3, 4)[0] / 255
    _compare(model, trajectory, noise, pipeline, video=list(pixels), strength=0.75)


def test_text_to_video_with_dpm_equals_diffusers(tmp_path, monkeypatch):
    model = _model("rope", tmp_path)
    positive, negative = _texts(model.variant.denoiser)
    settings = replace(_SETTINGS, sampler="dpm", guidance=Guidance(6.0, "wave"))
    trajectory = Trajectory(model.variant, settings, model.denoiser, positive, negative)
    noise = torch.randn(trajectory.noise_shape, generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(7)

    def same_noise(state):
        b, c, t, h, w = state.latent.shape
        drawn = [torch.randn(b, t, c, h, w, generator=draws) for _ in range(1 if state.previous is None else 2)]
        return drawn[-1].transpose(1, 2)

    monkeypatch.setattr("cogvideox.sampler._step_noise", same_noise)
    pipeline = _pipeline(CogVideoXPipeline, tmp_path, CogVideoXDPMScheduler)
    _compare(model, trajectory, noise, pipeline, generator=torch.Generator().manual_seed(7))


def _take_the_mean(monkeypatch, module):
    retrieve = module.retrieve_latents
    monkeypatch.setattr(module, "retrieve_latents", lambda output, generator=None: retrieve(output, None, "argmax"))
