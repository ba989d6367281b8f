"""Model cards against the published one-page table."""

from dataclasses import FrozenInstanceError

import pytest

from cogvideox.denoiser.patches import check_latent
from cogvideox.shape import latent_shape, padded_latent_frames
from cogvideox.variants import VARIANTS

# layers, heads, in channels, patch frames, positions, text tokens, scale, shift, frames, height, width, fps, sampler
_TABLE = {
    "cogvideox-2b": (30, 30, 16, 1, "sincos", 226, 1.15258426, 3.0, 49, 480, 720, 8, "ddim"),
    "cogvideox-5b": (42, 48, 16, 1, "rope", 226, 0.7, 1.0, 49, 480, 720, 8, "dpm"),
    "cogvideox-5b-i2v": (42, 48, 32, 1, "rope+learned", 226, 0.7, 1.0, 49, 480, 720, 8, "dpm"),
    "cogvideox1.5-5b": (42, 48, 16, 2, "rope", 224, 0.7, 1.0, 81, 768, 1360, 16, "dpm"),
    "cogvideox1.5-5b-i2v": (42, 48, 32, 2, "rope", 224, 0.7, 1.0, 81, 768, 1360, 16, "dpm"),
}


@pytest.mark.parametrize("name", _TABLE)
def test_a_card_has_the_published_numbers(name):
    card = VARIANTS[name]
    config = card.denoiser
    assert (
        config.num_layers, config.num_heads, config.in_channels, config.patch_frames, config.positions,
        config.max_text_tokens, card.scale_factor, card.snr_shift, card.num_frames, card.height, card.width, card.fps,
        card.sampler,
    ) == _TABLE[name]  # fmt: skip
    assert (card.guidance_scale, card.num_steps, config.time_width, config.head_width) == (6.0, 50, 512, 64)
    assert card.text.max_tokens == config.max_text_tokens
    assert config.offset_width == (512 if name == "cogvideox1.5-5b-i2v" else None)


@pytest.mark.parametrize(
    ("name", "tokens"), [("cogvideox-2b", 17_550), ("cogvideox-5b", 17_550), ("cogvideox1.5-5b", 44_880), ("toy", 270)]
)
def test_the_native_size_has_the_published_number_of_tokens(name, tokens):
    card = VARIANTS[name]
    frames, height, width = latent_shape(card.num_frames, card.height, card.width)
    frames = padded_latent_frames(frames, patch_frames=card.denoiser.patch_frames)
    grid = check_latent((card.denoiser.in_channels, frames, height, width), card.denoiser)
    assert grid.num_tokens == tokens


def test_cards_are_frozen():
    with pytest.raises(FrozenInstanceError):
        VARIANTS["toy"].fps = 3
    with pytest.raises(TypeError):
        VARIANTS["new"] = VARIANTS["toy"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_card_accepts_its_own_size(name):
    card = VARIANTS[name]
    card.check_size(num_frames=card.num_frames, height=card.height, width=card.width)


@pytest.mark.parametrize(
    ("num_frames", "allowed"), [(1, True), (9, True), (81, True), (161, True), (16, False), (5, False)]
)
def test_the_frame_rule_is_8n_plus_1(num_frames, allowed):
    assert VARIANTS["cogvideox1.5-5b"].frame_rule.allows(num_frames) == allowed
