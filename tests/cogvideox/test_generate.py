"""Generation: sizes, seeds, callbacks, resumption, each kind of input, and what is refused."""

from dataclasses import replace

import pytest
import torch

from cogvideox import CogVideoX
from cogvideox.autoencoder import Autoencoder
from cogvideox.guidance import Guidance
from cogvideox.sampler import SamplerState
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.trajectory import Settings
from cogvideox.variants import VARIANTS
from tests.support.denoisers import SWITCHES, random_denoiser

TOY = VARIANTS["toy"]
QUICK = {"num_frames": 9, "height": 32, "width": 48, "num_steps": 3}


def _model(config=TOY.denoiser, **changes):
    card = replace(
        TOY, denoiser=config, text=replace(TOY.text, max_tokens=config.max_text_tokens, width=config.text_width)
    )
    torch.manual_seed(0)
    return CogVideoX.from_parts(
        replace(card, **changes),
        denoiser=random_denoiser(config),
        autoencoder=Autoencoder(card.autoencoder),
        text_encoder=HashTextEncoder(card.text),
    )


@pytest.fixture(scope="module")
def model():
    return _model()


def _image(height=40, width=40):
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_shipped_toy_runs_without_any_download():
    frames = CogVideoX.toy().generate("a panda", **QUICK)
    assert frames.shape == (9, 32, 48, 3)
    assert frames.dtype == torch.uint8


def test_the_same_seed_gives_the_same_frames_and_another_seed_others(model):
    first = model.generate("a panda", **QUICK, seed=1)
    assert torch.equal(first, model.generate("a panda", **QUICK, seed=1))
    assert not torch.equal(first, model.generate("a panda", **QUICK, seed=2))


def test_the_prompt_and_the_negative_prompt_matter(model):
    frames = model.generate("a panda", **QUICK)
    assert not torch.equal(frames, model.generate("a bear", **QUICK))
    assert not torch.equal(frames, model.generate("a panda", **QUICK, negative_prompt="blur"))


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_a_state_kept_by_the_callback_goes_on_to_the_same_frames(model, sampler):
    states = []
    frames = model.generate("a panda", **QUICK, sampler=sampler, callback=states.append)
    assert [state.step for state in states] == [1, 2, 3]
    kept = SamplerState.from_bytes(states[0].to_bytes())
    assert torch.equal(frames, model.generate("a panda", **QUICK, sampler=sampler, state=kept))


def test_an_exception_in_the_callback_ends_the_generation(model):
    def cancel(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate("a panda", **QUICK, callback=cancel)


@pytest.mark.parametrize("dynamic", ["off", "smooth", "wave"])
def test_split_guidance_gives_what_batched_guidance_gives(model, dynamic):
    batched = model.generate("a panda", **QUICK, dynamic_guidance=dynamic)
    split = model.generate("a panda", **QUICK, dynamic_guidance=dynamic, split_guidance=True)
    assert (batched.int() - split.int()).abs().max() <= 1


def test_without_guidance_only_the_conditional_half_runs(model):
    assert model.encode_prompt("a panda", guidance=Guidance(1.0))[1] is None
    assert model.generate("a panda", **QUICK, guidance_scale=1.0).shape == (9, 32, 48, 3)


def test_unconditional_text_is_what_the_card_says(model):
    _, zeros = model.encode_prompt("a panda")
    assert not zeros.any()
    empty = _model(unconditional="empty").encode_prompt("a panda")[1]
    assert torch.equal(empty, HashTextEncoder(TOY.text).encode([""]))


def test_a_video_is_changed_the_more_the_greater_the_strength(model):
    video = torch.randint(0, 256, (9, 32, 48, 3), dtype=torch.uint8)
    states = []
    frames = model.generate(
        "a panda", video=video, height=32, width=48, num_steps=10, strength=0.3, callback=states.append
    )
    assert frames.shape == video.shape
    assert len(states) == 3


@pytest.mark.parametrize("placement", ["first", "repeated"])
def test_the_image_sits_behind_the_noisy_channels(placement):
    model = _model(SWITCHES["two-frame patches, offset"], image_placement=placement)
    settings = Settings(num_frames=9, height=64, width=96, num_steps=2)
    trajectory = model.trajectory("a panda", settings=settings, image=_image())
    state = trajectory.start()
    given = trajectory._with_image(state.latent)
    assert given.shape == (1, 32, 4, 8, 12)  # three latent frames, completed to two whole tokens
    held = [bool(given[0, 16:, index].any()) for index in range(4)]
    assert held == [True, placement == "repeated", False, False]
    assert trajectory.latent(state).shape == (1, 16, 3, 8, 12)


def test_image_to_video_makes_frames():
    model = _model(SWITCHES["learned"], num_frames=9, height=64, width=96)
    assert model.generate("a panda", image=_image(), num_steps=2).shape == (9, 64, 96, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 8}, "num_frames=8: toy makes 8N \\+ 1 frames"),
        ({"height": 40}, "height=40: must be a positive multiple of 16"),
        ({"width": 0x7}, "width=7: must be"),
        ({"num_steps": 1001}, "num_steps=1001"),
        ({"sampler": "euler"}, "sampler='euler'"),
        ({"image": _image()}, "toy does not take a first frame"),
        ({"video": torch.zeros(17, 32, 48, 3, dtype=torch.uint8)}, "video has 17 frames: num_frames is 9"),
        ({"video": torch.zeros(9, 32, 48, 3)}, "must be uint8"),
    ],
)
def test_what_cannot_be_made_is_refused_in_words(model, change, message):
    with pytest.raises(ValueError, match=message):
        model.generate("a panda", **{**QUICK, **change})


def test_an_image_model_without_an_image_is_refused():
    with pytest.raises(ValueError, match="needs a first frame"):
        _model(SWITCHES["two-frame patches, offset"]).generate("a panda", num_frames=9, height=64, width=96)


def test_learned_positions_refuse_another_size():
    model = _model(SWITCHES["learned"], num_frames=9, height=64, width=96)
    with pytest.raises(ValueError, match="learned positions and only makes 9 frames of 64x96"):
        model.generate("a panda", image=_image(), num_frames=17)


def test_noise_of_a_wrong_shape_is_refused(model):
    trajectory = model.trajectory("a", settings=Settings(num_frames=9, height=32, width=48, num_steps=2))
    with pytest.raises(ValueError, match="noise is"):
        trajectory.start(noise=torch.zeros(1, 16, 2, 4, 6))


def test_frames_stream_in_pieces(model):
    pieces = list(model.decode_frames(torch.zeros(1, 16, 5, 4, 6)))
    assert len(pieces) > 1
    assert torch.equal(torch.cat(pieces), model.decode(torch.zeros(1, 16, 5, 4, 6)))
