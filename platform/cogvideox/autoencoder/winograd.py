"""A wide 3x3x3 convolution on a CPU with a quarter of the products: Winograd's minimal filtering in space.

F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308): a tile of 6x6 inputs and the 3x3 kernel are evaluated at the points
0, +-3/4, +-3/2 and infinity of both axes; there the convolution is 36 products, where 16 outputs would take 144. The
three taps in time stay a plain sum, so what remains is three batched matrix products. These points cost half the
rounding of the usual 0, +-1, +-2; the error stays at the level of a direct float32 convolution's own (a few 1e-6
of the largest value at 512 channels).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

NEAR, FAR = 0.75, 1.5
"""The finite points beside 0, with either sign."""
TILE = 4
"""Rows and columns of a tile of outputs; its inputs take two more."""
_POINTS = TILE + 2
_BLOCK_BYTES = 4 * 2**20  # of transformed inputs per thread: about what its cache holds
_MIN_CHANNELS = 128  # below, the transforms cost about what they save
_MIN_POSITIONS = 2048  # below, transforming the kernels costs more than it saves


def suits(inputs: Tensor, conv: nn.Conv3d) -> bool:
    """Whether this is the faster way for these inputs: float32 on a CPU, a wide 3x3x3 kernel, enough positions."""
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == torch.float32
        and conv.kernel_size == (3, 3, 3)
        and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
        and inputs.shape[2] * inputs.shape[3] * inputs.shape[4] >= _MIN_POSITIONS
    )


def convolve(padded: Float[Tensor, "b c t h w"], conv: nn.Conv3d) -> Float[Tensor, "b c2 t2 h2 w2"]:
    """The convolution of ``conv`` at stride 1 of inputs that carry their padding: every size shrinks by two."""
    batch, channels, frames, height, width = padded.shape
    outputs = torch.empty(batch, frames - 2, height - 2, width - 2, conv.out_channels)
    kernels = transform_kernels(conv.weight.float())
    columns = _block_columns(frames, width - 2, channels)
    buffers: dict[str, Tensor] = {}
    for source, target in zip(rearrange(padded, "b c t h w -> b t h w c"), outputs, strict=True):
        for row, (start, stop) in product(range(0, height - 2, TILE), columns):
            tile = source[:, row : row + TILE + 2, start : stop + 2]
            _convolve_tiles(tile, kernels, target[:, row : row + TILE, start:stop], buffers)
    if conv.bias is not None:
        outputs.add_(conv.bias)
    return outputs.permute(0, 4, 1, 2, 3)


def transform_kernels(weight: Float[Tensor, "c2 c 3 3 3"]) -> Float[Tensor, "3 36 c c2"]:
    """The 3x3 kernel of each tap in time at the 36 points (a view whose rows of c2 are contiguous)."""
    taps = weight.flatten(1).t().contiguous().view(weight.shape[1], 3, 9, weight.shape[0])
    return torch.matmul(_kernel_matrix(), taps).permute(1, 2, 0, 3)


@cache
def _kernel_matrix() -> Float[Tensor, "36 9"]:
    """Evaluates a 3x3 kernel at the points; rows carry the factors that spare products in ``_collect``."""
    near, far = NEAR**2, FAR**2
    rows = [[1 / (near * far), 0.0, 0.0]]
    for point, other, factor in ((NEAR, far, NEAR), (FAR, near, far)):
        slope = factor / (2 * point**2 * (point**2 - other))
        rows += [[slope, sign * slope * point, slope * point**2] for sign in (1, -1)]
    axis = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    return torch.kron(axis, axis).float()


def _block_columns(frames: int, width: int, channels: int) -> list[tuple[int, int]]:
    """Cuts a row of tiles into blocks (start, stop) whose transformed inputs stay in the cache."""
    tiles = -(-width // TILE)
    fitting = _BLOCK_BYTES * torch.get_num_threads() // (4 * _POINTS**2 * frames * channels)
    count = -(-tiles // max(fitting, 8))
    bounds = [round(tiles * index / count) * TILE for index in range(count + 1)]
    return [(start, min(stop, width)) for start, stop in pairwise(bounds)]


@dataclass(frozen=True)
class _Space:
    """Memory that blocks share: fresh memory for each would cost a page fault every 4 KiB."""

    buffers: dict[str, Tensor]

    def take(self, name: str, *shape: int) -> Tensor:
        """A contiguous tensor of this shape, its values undefined."""
        size = torch.Size(shape).numel()
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size)
        return self.buffers[name][:size].view(shape)


def _convolve_tiles(
    source: Float[Tensor, "t six w c"],
    kernels: Float[Tensor, "3 36 c c2"],
    target: Float[Tensor, "t2 four w2 c2"],
    buffers: dict[str, Tensor],
) -> None:
    """One row of tiles; at the lower and right edge a tile may reach beyond the picture."""
    space = _Space(buffers)
    frames, (height, width) = target.shape[0], target.shape[1:3]
    tiles = -(-width // TILE)
    missing = (_POINTS - source.shape[1], TILE * tiles + 2 - source.shape[2])
    if any(missing):
        source = F.pad(source, (0, 0, 0, missing[1], 0, missing[0]))
    length, channels, wide = source.shape[0], source.shape[3], target.shape[3]

    half = space.take("rows", _POINTS, length, source.shape[2], channels)
    _spread([source[:, row] for row in range(_POINTS)], half.unbind(0), space.take("even", *half.shape[1:]), space)
    points = space.take("points", _POINTS, _POINTS, length, tiles, channels)
    taken = [half[:, :, column : column + TILE * tiles - 3 : TILE] for column in range(_POINTS)]
    _spread(taken, points.unbind(1), space.take("even", *points.select(1, 0).shape), space)

    flat = points.view(_POINTS**2, length, tiles, channels)
    sums = space.take("sums", _POINTS**2, frames * tiles, wide)
    torch.bmm(flat[:, :frames].flatten(1, 2), kernels[0], out=sums)
    for tap in (1, 2):
        sums.baddbmm_(flat[:, tap : tap + frames].flatten(1, 2), kernels[tap])

    grid = sums.view(_POINTS, _POINTS, frames, tiles, wide)
    lines = space.take("lines", _POINTS, frames, tiles, TILE, wide)
    _collect(grid.unbind(1), lines.unbind(3), space)
    if (height, width) == (TILE, TILE * tiles):
        _collect(lines.unbind(0), rearrange(target, "t y (tile x) c -> t y tile x c", x=TILE).unbind(1), space)
        return
    whole = space.take("whole", frames, TILE, tiles, TILE, wide)
    _collect(lines.unbind(0), whole.unbind(1), space)
    target.copy_(whole.flatten(2, 3)[:, :height, :width])


def _spread(inputs: Sequence[Tensor], outputs: Sequence[Tensor], even: Tensor, space: _Space) -> None:
    """Six neighbouring inputs of one axis at the points 0, near, -near, far, -far, infinity."""
    odd = space.take("odd", *even.shape)
    near, far = NEAR**2, FAR**2
    for first, output in ((0, outputs[0]), (1, outputs[5])):
        torch.sub(inputs[first + 4], inputs[first + 2], alpha=near + far, out=output)
        output.add_(inputs[first], alpha=near * far)
    for point, other, index in ((NEAR, far, 1), (FAR, near, 3)):
        torch.sub(inputs[4], inputs[2], alpha=other, out=even)
        torch.sub(inputs[3], inputs[1], alpha=other, out=odd)
        torch.add(even, odd, alpha=point, out=outputs[index])
        torch.sub(even, odd, alpha=point, out=outputs[index + 1])


def _collect(products: Sequence[Tensor], outputs: Sequence[Tensor], space: _Space) -> None:
    """Products at the six points of one axis to its four outputs."""
    zero, near, mirror_near, far, mirror_far, infinity = products
    shape = zero.shape
    near_even = torch.add(near, mirror_near, out=space.take("near_even", *shape))
    near_odd = torch.sub(near, mirror_near, out=space.take("near_odd", *shape))
    far_even = torch.add(far, mirror_far, out=space.take("far_even", *shape))
    far_odd = torch.sub(far, mirror_far, out=space.take("far_odd", *shape))
    torch.add(zero, near_even, alpha=1 / NEAR, out=outputs[0])
    outputs[0].add_(far_even, alpha=1 / FAR**2)
    torch.add(near_odd, far_odd, alpha=1 / FAR, out=outputs[1])
    torch.add(far_even, near_even, alpha=NEAR, out=outputs[2])
    torch.add(infinity, near_odd, alpha=NEAR**2, out=outputs[3])
    outputs[3].add_(far_odd, alpha=FAR)
