"""Cuts large frames into overlapping tiles and blends what comes back."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """Tile size in pixels and how much of it neighbours share; the defaults are the published models' (half a frame).

    Each tile is normed and padded on its own, so tiled results differ a little from untiled ones.
    """

    height: int = 240
    width: int = 360
    overlap_height: float = 1 / 6
    overlap_width: float = 1 / 5

    def __post_init__(self) -> None:
        for name in ("overlap_height", "overlap_width"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0 and below 0.5")
        for name in ("height", "width"):
            if getattr(self, name) < 16 or getattr(self, name) % 8:
                raise ValueError(f"{name}={getattr(self, name)}: must be a multiple of 8, at least 16")


@dataclass(frozen=True)
class Span:
    """One tile along one axis: start and stop, and how many places it shares with the tile before and after."""

    start: int
    stop: int
    before: int
    after: int

    def times(self, factor: int) -> "Span":
        """The same tile at another resolution (latent to pixels)."""
        return Span(self.start * factor, self.stop * factor, self.before * factor, self.after * factor)

    def weights(self, *, like: Tensor) -> Float[Tensor, " n"]:
        """Blending weights: straight ramps over the shared ends, 1 between; those of all tiles sum to 1 everywhere."""
        weights = torch.ones(self.stop - self.start, dtype=torch.float32, device=like.device)
        if self.before:
            weights[: self.before] = ramp(self.before, like=like)
        if self.after:
            weights[-self.after :] = 1 - ramp(self.after, like=like)
        return weights.to(like.dtype)


def ramp(count: int, *, like: Tensor) -> Float[Tensor, " n"]:
    """0, 1/n, ... (n-1)/n, as diffusers blends."""
    return torch.arange(count, dtype=torch.float32, device=like.device) / count


def spans(size: int, *, tile: int, overlap: float) -> list[Span]:
    """Tiles of ``tile`` places that share ``overlap`` of it; the last ends with the frame and may be shorter."""
    shared = int(tile * overlap)
    starts = [0]
    while starts[-1] + tile < size:
        starts.append(starts[-1] + tile - shared)
    stops = [min(start + tile, size) for start in starts]
    befores = [0] + [stop - start for start, stop in zip(starts[1:], stops, strict=False)]
    return [
        Span(start, stop, before, after)
        for start, stop, before, after in zip(starts, stops, befores, [*befores[1:], 0], strict=True)
    ]


def tiles(height: int, width: int, *, tiling: Tiling, compression: int) -> Iterator[tuple[Span, Span]]:
    """All tiles of a latent of that many rows and columns, in reading order, in latent places."""
    for rows in spans(height, tile=tiling.height // compression, overlap=tiling.overlap_height):
        for columns in spans(width, tile=tiling.width // compression, overlap=tiling.overlap_width):
            yield rows, columns


def blend_(
    canvas: Float[Tensor, "b c t h w"], tile: Float[Tensor, "b c t h2 w2"], *, rows: Span, columns: Span
) -> None:
    """Adds a weighted tile to the canvas (zeros at first) in place."""
    weighted = tile * rows.weights(like=tile)[:, None] * columns.weights(like=tile)
    canvas[..., rows.start : rows.stop, columns.start : columns.stop] += weighted
