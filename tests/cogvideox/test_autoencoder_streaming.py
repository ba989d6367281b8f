"""Tiles, slices, half precision and several processes give what one plain pass gives."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from einops import rearrange
from torch import Tensor

from cogvideox.autoencoder import Autoencoder, AutoencoderConfig, Stream, Tiling, fused
from cogvideox.autoencoder.context_parallel import decode_context_parallel, encode_context_parallel
from cogvideox.autoencoder.tiling import spans
from cogvideox.weights import load_autoencoder, toy_autoencoder_folder
from groundwork import media
from groundwork.footage import sample_footage

SMALL = AutoencoderConfig(block_widths=(8, 8, 16, 16), layers_per_block=1, norm_groups=4)


def network() -> Autoencoder:
    torch.manual_seed(0)
    autoencoder = Autoencoder(SMALL).eval()
    for parameter in autoencoder.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    return autoencoder


def clip(*, num_frames: int, height: int, width: int) -> Tensor:
    return torch.rand(1, 3, num_frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_fused_inference_path_equals_the_training_path(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder, pixels = network(), clip(num_frames=17, height=32, width=48)
    posterior = autoencoder.encode(pixels)
    decoded = autoencoder.decode(posterior.mean)
    for strip_bytes in (2**26, 2**12):  # one strip, and one row of pixels at a time
        monkeypatch.setattr(fused, "STRIP_BYTES", strip_bytes)
        with torch.inference_mode():
            again = autoencoder.encode(pixels)
            torch.testing.assert_close(again.mean, posterior.mean, rtol=1e-4, atol=2e-5)
            torch.testing.assert_close(autoencoder.decode(posterior.mean), decoded, rtol=1e-4, atol=2e-5)


@torch.inference_mode()
def test_half_precision_stays_near_full_precision() -> None:
    autoencoder, latent = network(), torch.randn(1, 16, 3, 4, 6)
    full = autoencoder.decode(latent)
    half = autoencoder.to(torch.bfloat16).decode(latent.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() / full.norm() < 0.03


@torch.inference_mode()
def test_slices_of_a_batch_equal_the_batch() -> None:
    autoencoder, latent = network(), torch.randn(3, 16, 3, 2, 2)
    torch.testing.assert_close(
        autoencoder.decode(latent, slicing=True), autoencoder.decode(latent), rtol=1e-4, atol=1e-5
    )
    pixels = torch.rand(2, 3, 9, 16, 16)
    torch.testing.assert_close(
        autoencoder.encode(pixels, slicing=True).mean, autoencoder.encode(pixels).mean, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("size", "tile"), [(60, 30), (90, 45), (31, 30), (30, 30), (7, 30), (200, 30)])
def test_blending_weights_sum_to_one_everywhere(size: int, tile: int) -> None:
    total = torch.zeros(size)
    for span in spans(size, tile=tile, overlap=1 / 6):
        total[span.start : span.stop] += span.weights(like=total)
    torch.testing.assert_close(total, torch.ones(size))


@torch.inference_mode()
def test_a_tile_as_large_as_the_frame_changes_nothing() -> None:
    autoencoder, pixels = network(), clip(num_frames=9, height=32, width=48)
    tiling = Tiling(height=32, width=48)
    latent = autoencoder.encode(pixels).mean
    torch.testing.assert_close(autoencoder.encode(pixels, tiling=tiling).mean, latent)
    torch.testing.assert_close(autoencoder.decode(latent, tiling=tiling), autoencoder.decode(latent))


@torch.inference_mode()
def test_a_tiled_stream_equals_tiled_decoding_at_once() -> None:
    autoencoder, latent = network(), torch.randn(1, 16, 5, 6, 9)
    tiling = Tiling(height=32, width=40)
    parts = list(autoencoder.decode_frames(latent, tiling=tiling))
    assert [part.shape[2] for part in parts] == [9, 8]
    torch.testing.assert_close(torch.cat(parts, dim=2), autoencoder.decode(latent, tiling=tiling))


@torch.inference_mode()
def test_tiles_of_real_footage_stay_within_40_decibels_of_the_whole() -> None:
    autoencoder = load_autoencoder(toy_autoencoder_folder()).float().eval()
    frames = media.sample_clip(sample_footage()[0], start_seconds=1.0, num_frames=5, fps=8, height=128, width=192)
    pixels = rearrange(torch.as_tensor(frames), "t h w c -> 1 c t h w") / 127.5 - 1
    latent, tiling = autoencoder.encode(pixels).mode(), Tiling(height=96, width=144)
    whole = autoencoder.decode(latent).clamp(-1, 1)
    tiled = autoencoder.decode(latent, tiling=tiling).clamp(-1, 1)
    assert psnr(tiled, whole, span=2.0) > 40
    tiled_latent = autoencoder.encode(pixels, tiling=tiling).mode()
    assert psnr(tiled_latent, latent, span=float(latent.max() - latent.min())) > 40


def psnr(one: Tensor, other: Tensor, *, span: float) -> float:
    return float(10 * torch.log10(span**2 / (one - other).square().mean()))


@torch.inference_mode()
def test_what_a_stream_carries_does_not_grow_with_the_clip() -> None:
    autoencoder, latent, stream = network(), torch.randn(1, 16, 9, 4, 6), Stream()
    carried = []
    for start, stop in ((0, 1), (1, 3), (3, 5), (5, 7), (7, 9)):
        autoencoder.decode_chunk(latent[:, :, start:stop], stream)
        carried.append(sum(tail.untyped_storage().nbytes() for tail in stream.tails.values()))
    assert len(set(carried)) == 1


def _one_rank(rank: int, world: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        autoencoder, pixels = network(), clip(num_frames=29, height=16, width=24)
        with torch.inference_mode():
            posterior = autoencoder.encode(pixels)
            shared = encode_context_parallel(autoencoder, pixels)
            torch.testing.assert_close(shared.mean, posterior.mean, rtol=1e-4, atol=1e-5)
            decoded = decode_context_parallel(autoencoder, posterior.mean)
            assert decoded.shape == pixels.shape
            torch.testing.assert_close(decoded, autoencoder.decode(posterior.mean), rtol=1e-4, atol=1e-5)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_give_the_result_of_one(world: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_one_rank, args=(world, port), nprocs=world)
