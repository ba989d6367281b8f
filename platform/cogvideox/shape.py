"""Counts pixels into latents into tokens: the only place where 8x8x4 and the patch sizes are spelled out."""

SPATIAL_COMPRESSION = 8
TEMPORAL_COMPRESSION = 4
LATENT_CHANNELS = 16
PATCH_SIZE = 2  # latent rows and columns per token, in every published model

ENCODE_CHUNK_FRAMES = 8
"""Pixel frames per encoder chunk: with the decoder's, part of the model's definition, as norms pool over a chunk."""
DECODE_CHUNK_FRAMES = 2
"""Latent frames per decoder chunk."""


def latent_frames(num_frames: int, *, temporal_compression: int = TEMPORAL_COMPRESSION) -> int:
    """Pixel frames to latent frames: F to (F - 1) / 4 + 1. ``ValueError`` unless F = 4N + 1."""
    if num_frames < 1 or (num_frames - 1) % temporal_compression:
        raise ValueError(
            f"num_frames={num_frames}: must be {temporal_compression}N + 1 "
            f"(1, {temporal_compression + 1}, {2 * temporal_compression + 1}, ...)"
        )
    return (num_frames - 1) // temporal_compression + 1


def pixel_frames(num_latent_frames: int, *, temporal_compression: int = TEMPORAL_COMPRESSION) -> int:
    """Latent frames to pixel frames: T to 4 (T - 1) + 1."""
    if num_latent_frames < 1:
        raise ValueError(f"num_latent_frames={num_latent_frames}: must be at least 1")
    return (num_latent_frames - 1) * temporal_compression + 1


def latent_size(height: int, width: int, *, spatial_compression: int = SPATIAL_COMPRESSION) -> tuple[int, int]:
    """Pixel rows and columns to latent rows and columns. ``ValueError`` unless both are multiples of 8."""
    for name, value in (("height", height), ("width", width)):
        if value < spatial_compression or value % spatial_compression:
            raise ValueError(f"{name}={value}: must be a positive multiple of {spatial_compression}")
    return height // spatial_compression, width // spatial_compression


def latent_shape(num_frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Pixel frames, rows, columns to latent frames, rows, columns."""
    return (latent_frames(num_frames), *latent_size(height, width))


def padded_latent_frames(num_latent_frames: int, *, patch_frames: int = 1) -> int:
    """Latent frames the denoiser works on: the 1.5 models (2 latent frames per token) round up, 21 to 22."""
    return -(-num_latent_frames // patch_frames) * patch_frames


def token_grid(
    num_latent_frames: int, latent_height: int, latent_width: int, *, patch_frames: int = 1
) -> tuple[int, int, int]:
    """Latent frames, rows, columns to the token grid (t, h, w). ``ValueError`` when a side is not whole patches."""
    for name, value, patch in (
        ("num_latent_frames", num_latent_frames, patch_frames),
        ("latent_height", latent_height, PATCH_SIZE),
        ("latent_width", latent_width, PATCH_SIZE),
    ):
        if value < 1 or value % patch:
            raise ValueError(f"{name}={value}: must be a positive multiple of the patch size {patch}")
    return num_latent_frames // patch_frames, latent_height // PATCH_SIZE, latent_width // PATCH_SIZE


def num_video_tokens(num_frames: int, height: int, width: int, *, patch_frames: int = 1) -> int:
    """Pixel frames, rows, columns to the number of video tokens: 49 x 480 x 720 is 13 x 30 x 45 = 17,550."""
    frames, rows, columns = latent_shape(num_frames, height, width)
    grid = token_grid(padded_latent_frames(frames, patch_frames=patch_frames), rows, columns, patch_frames=patch_frames)
    return grid[0] * grid[1] * grid[2]


def chunks(num_frames: int, *, chunk_frames: int) -> list[tuple[int, int]]:
    """Cuts a clip into (start, stop) frame ranges of ``chunk_frames``; the first also takes the remainder.

    The published rule for both directions: 49 pixel frames are 9 + 5 x 8, 13 latent frames are 3 + 5 x 2.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames}: must be at least 1")
    first = chunk_frames + num_frames % chunk_frames if num_frames >= chunk_frames else num_frames
    starts = [0, *range(first, num_frames, chunk_frames)]
    return list(zip(starts, [*starts[1:], num_frames], strict=True))
