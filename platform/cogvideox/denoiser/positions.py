"""Turns a grid of video tokens into position tables: 3D rotary angles or 3D sin-cos vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.denoiser.config import DenoiserConfig

_THETA = 10000.0


class Grid(NamedTuple):
    """Counts of video tokens along time, rows and columns."""

    frames: int
    height: int
    width: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole clip."""
        return self.frames * self.height * self.width


def rope_table(grid: Grid, config: DenoiserConfig, *, device: torch.device) -> Float[Tensor, "n pairs 2"]:
    """Cosine and sine per token and channel pair, raster order; pairs split time:rows:columns = 2:3:3 (paper, 2.2).

    "extrapolate" counts tokens from the origin (the leading part of a larger table); "interpolate" squeezes rows and
    columns onto the native grid, as diffusers does for version 1.0 models at other sizes.
    """
    rows, columns = _spatial_indices(grid, config, device)
    frames = torch.arange(grid.frames, dtype=torch.float32, device=device)
    width = config.head_width
    angles = torch.cat(
        [
            _angles(frames, width // 4)[:, None, None].expand(-1, grid.height, grid.width, -1),
            _angles(rows, width // 8 * 3)[None, :, None].expand(grid.frames, -1, grid.width, -1),
            _angles(columns, width // 8 * 3)[None, None].expand(grid.frames, grid.height, -1, -1),
        ],
        dim=-1,
    ).flatten(0, 2)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def identity_rope(num_tokens: int, config: DenoiserConfig, *, device: torch.device) -> Float[Tensor, "n pairs 2"]:
    """The table that rotates nothing: text tokens keep no position."""
    return torch.tensor((1.0, 0.0), device=device).expand(num_tokens, config.head_width // 2, 2)


def sincos_table(grid: Grid, config: DenoiserConfig, *, device: torch.device) -> Float[Tensor, "n d"]:
    """Fixed positions of the 2B model: first quarter of the width is time, then columns, then rows."""
    quarter = config.width // 4
    frames = torch.arange(grid.frames, dtype=torch.float64, device=device) / config.temporal_interpolation
    rows = torch.arange(grid.height, dtype=torch.float64, device=device) / config.spatial_interpolation
    columns = torch.arange(grid.width, dtype=torch.float64, device=device) / config.spatial_interpolation
    spatial = (config.width - quarter) // 2
    table = torch.cat(
        [
            _sincos(frames, quarter)[:, None, None].expand(-1, grid.height, grid.width, -1),
            _sincos(columns, spatial)[None, None].expand(grid.frames, grid.height, -1, -1),
            _sincos(rows, spatial)[None, :, None].expand(grid.frames, -1, grid.width, -1),
        ],
        dim=-1,
    )
    return table.flatten(0, 2).float()


def _angles(index: Float[Tensor, " n"], width: int) -> Float[Tensor, "n pairs"]:
    exponent = torch.arange(0, width, 2, dtype=torch.float32, device=index.device) / width
    return torch.outer(index, 1.0 / _THETA**exponent)


def _sincos(index: Float[Tensor, " n"], width: int) -> Float[Tensor, "n d"]:
    exponent = torch.arange(width // 2, dtype=torch.float64, device=index.device) / (width // 2)
    angles = torch.outer(index, 1.0 / _THETA**exponent)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def _spatial_indices(grid: Grid, config: DenoiserConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    if config.rope_mode == "extrapolate":
        return (
            torch.arange(grid.height, dtype=torch.float32, device=device),
            torch.arange(grid.width, dtype=torch.float32, device=device),
        )
    base_height = config.sample_height // config.patch_size
    base_width = config.sample_width // config.patch_size
    # The clip's grid, scaled to fit inside the native one with its aspect ratio kept, and centred there.
    if grid.height / grid.width > base_height / base_width:
        fit_height, fit_width = base_height, round(base_height / grid.height * grid.width)
    else:
        fit_height, fit_width = round(base_width / grid.width * grid.height), base_width
    top, left = round((base_height - fit_height) / 2), round((base_width - fit_width) / 2)
    return (
        _spread(top, top + fit_height, grid.height, device),
        _spread(left, left + fit_width, grid.width, device),
    )


def _spread(start: int, stop: int, count: int, device: torch.device) -> Float[Tensor, " n"]:
    return torch.linspace(start, stop * (count - 1) / count, count, dtype=torch.float32, device=device)
