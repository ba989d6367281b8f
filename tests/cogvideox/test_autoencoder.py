"""The autoencoder against diffusers, and the laws of chunked coding."""

import pytest
import torch
from torch import Tensor

from cogvideox.autoencoder import Autoencoder, AutoencoderConfig, Posterior, Stream
from cogvideox.autoencoder.layers import CausalConv3d
from cogvideox.weights.autoencoder_keys import config_to_diffusers, from_diffusers_key, to_diffusers_key

SMALL = AutoencoderConfig(block_widths=(8, 8, 16, 16), layers_per_block=1, norm_groups=4)
PAIRS = {
    "small": SMALL,
    "two layers": AutoencoderConfig(block_widths=(8, 16, 16, 24), layers_per_block=2, norm_groups=8),
    "time halved": AutoencoderConfig(
        block_widths=(8, 8, 16, 16), layers_per_block=1, norm_groups=4, temporal_compression=2
    ),
}


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def pair(config: AutoencoderConfig) -> tuple[Autoencoder, torch.nn.Module]:
    """Ours and diffusers' with the same random weights, every vector away from its trivial start."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    settings = config_to_diffusers(config, scale_factor=1.0, sample_height=48, sample_width=64)
    theirs = diffusers.AutoencoderKLCogVideoX(**{key: value for key, value in settings.items() if key[0] != "_"}).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    ours = Autoencoder(config).eval()
    ours.load_state_dict({from_diffusers_key(key): value for key, value in theirs.state_dict().items()})
    return ours, theirs


@pytest.fixture(scope="module")
def small() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(SMALL).eval()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("num_frames", [1, 9, 17, 25])
@torch.inference_mode()
def test_encode_and_decode_equal_diffusers_where_diffusers_is_right(name: str, num_frames: int) -> None:
    ours, theirs = pair(PAIRS[name])
    pixels = torch.rand(2, 3, num_frames, 32, 48) * 2 - 1
    posterior, expected = ours.encode(pixels), theirs.encode(pixels).latent_dist
    assert relative_error(posterior.mean, expected.mean) < 1e-5
    assert relative_error(posterior.log_variance, expected.logvar) < 1e-5
    latent = torch.randn_like(expected.mean)
    assert relative_error(ours.decode(latent), theirs.decode(latent).sample) < 1e-5


@pytest.mark.parametrize("num_frames", [4 * n + 1 for n in range(13)])
@torch.inference_mode()
def test_every_4n_plus_1_frame_count_comes_back_whole(small: Autoencoder, num_frames: int) -> None:
    pixels = torch.rand(1, 3, num_frames, 8, 8) * 2 - 1
    latent = small.encode(pixels).mode()
    assert latent.shape == (1, 16, (num_frames - 1) // 4 + 1, 1, 1)
    assert small.decode(latent).shape == pixels.shape


@pytest.mark.parametrize(("num_frames", "height", "named"), [(8, 16, "num_frames"), (9, 12, "height")])
def test_a_size_that_does_not_fit_is_refused_by_name(
    small: Autoencoder, num_frames: int, height: int, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        small.encode(torch.zeros(1, 3, num_frames, height, 16))


def test_the_published_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        published = Autoencoder(AutoencoderConfig())
    assert sum(parameter.numel() for parameter in published.encoder.parameters()) == 92_215_456
    assert sum(parameter.numel() for parameter in published.decoder.parameters()) == 123_368_451
    assert len(published.state_dict()) == 436


def test_names_go_to_diffusers_and_back() -> None:
    ours, theirs = pair(PAIRS["two layers"])
    assert {to_diffusers_key(key) for key in ours.state_dict()} == set(theirs.state_dict())
    assert all(from_diffusers_key(to_diffusers_key(key)) == key for key in ours.state_dict())


@torch.inference_mode()
def test_a_convolution_never_sees_a_later_frame() -> None:
    conv = CausalConv3d(4, 4)
    inputs = torch.randn(1, 4, 6, 5, 5)
    changed = inputs.clone()
    changed[:, :, 4] += 1
    before, after = conv(inputs, Stream()), conv(changed, Stream())
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.allclose(before[:, :, 4], after[:, :, 4])


@torch.inference_mode()
def test_a_convolution_in_chunks_equals_the_convolution_of_the_whole() -> None:
    conv = CausalConv3d(4, 4)
    inputs = torch.randn(1, 4, 7, 5, 5)
    stream = Stream()
    parts = [conv(part, stream) for part in inputs.split([1, 2, 4], dim=2)]
    torch.testing.assert_close(torch.cat(parts, dim=2), conv(inputs, Stream()), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_decoding_as_a_stream_equals_decoding_at_once_and_starts_with_the_first_chunk(small: Autoencoder) -> None:
    latent = torch.randn(1, 16, 6, 2, 2)
    frames = small.decode_frames(latent)
    first = next(frames)
    assert first.shape[2] == 5
    assert torch.equal(torch.cat([first, *frames], dim=2), small.decode(latent))


def test_gradients_flow_through_the_cache_of_earlier_chunks(small: Autoencoder) -> None:
    pixels = torch.rand(1, 3, 17, 8, 8, requires_grad=True)
    small.encode(pixels).mean[:, :, 3:].sum().backward()
    assert pixels.grad is not None
    assert pixels.grad[:, :, 8].abs().sum() > 0


def test_a_posterior_samples_the_same_with_the_same_seed_and_its_kl_is_zero_at_the_standard_normal() -> None:
    posterior = Posterior(torch.zeros(1, 16, 1, 2, 2), torch.zeros(1, 16, 1, 2, 2))
    draws = [posterior.sample(torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert posterior.kl().item() == 0.0
