"""Counting pixels into latents into tokens."""

import pytest

from cogvideox import shape


@pytest.mark.parametrize("count", range(1, 162, 4))
def test_frames_go_to_latents_and_back(count: int) -> None:
    assert shape.pixel_frames(shape.latent_frames(count)) == count


@pytest.mark.parametrize(
    ("size", "latent"), [((49, 480, 720), (13, 60, 90)), ((81, 768, 1360), (21, 96, 170)), ((17, 96, 144), (5, 12, 18))]
)
def test_published_sizes_have_the_published_latents(size: tuple[int, int, int], latent: tuple[int, int, int]) -> None:
    assert shape.latent_shape(*size) == latent


@pytest.mark.parametrize(
    ("size", "patch_frames", "tokens"),
    [((49, 480, 720), 1, 17_550), ((81, 768, 1360), 2, 44_880), ((161, 768, 1360), 2, 85_680)],
)
def test_published_sizes_have_the_published_tokens(size: tuple[int, int, int], patch_frames: int, tokens: int) -> None:
    assert shape.num_video_tokens(*size, patch_frames=patch_frames) == tokens


def test_the_first_chunk_takes_the_remainder() -> None:
    assert shape.chunks(49, chunk_frames=8) == [(0, 9), (9, 17), (17, 25), (25, 33), (33, 41), (41, 49)]
    assert shape.chunks(13, chunk_frames=2) == [(0, 3), (3, 5), (5, 7), (7, 9), (9, 11), (11, 13)]
    assert shape.chunks(13, chunk_frames=8) == [(0, 13)]
    assert shape.chunks(4, chunk_frames=2) == [(0, 2), (2, 4)]
    assert shape.chunks(1, chunk_frames=8) == [(0, 1)]


@pytest.mark.parametrize(("call", "named"), [((2, 8, 8), "num_frames"), ((1, 9, 8), "height"), ((1, 8, 0), "width")])
def test_a_wrong_size_is_refused_by_name(call: tuple[int, int, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        shape.latent_shape(*call)
