"""Spreads one clip over several processes in time: each takes its turn of chunks and passes k - 1 frames on.

Paper section 2.1, "temporal context parallelism": causality makes one message per convolution, to the next process,
enough. Chunks are dealt round (chunk i to rank i mod world), so the result is the one-process result to rounding: the
norms pool over the same chunks. While one rank works on layer n of its chunk the next works on layer n - 1 of the
following one.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox import shape
from cogvideox.autoencoder.model import Autoencoder
from cogvideox.autoencoder.posterior import Posterior
from cogvideox.autoencoder.stream import Stream

ChunkWork = Callable[[int, int, Stream], Tensor]


class NeighbourStream(Stream):
    """A stream whose earlier frames arrive from the previous rank and whose last ones leave for the next."""

    def __init__(self, group: dist.ProcessGroup | None, *, chunk: int, num_chunks: int) -> None:
        super().__init__(first=chunk == 0)
        self.group, self.receives, self.sends = group, chunk > 0, chunk + 1 < num_chunks
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self.in_flight: list[tuple[dist.Work, Tensor]] = []

    def take(self, layer: nn.Module) -> Tensor | None:
        """Waits for the previous rank's frames at this layer; the shape travels before them."""
        if not self.receives:
            return None
        source = self._peer(-1)
        size = torch.empty(5, dtype=torch.int64, device=self._device(layer))
        dist.recv(size, group=self.group, group_src=source)
        weight = next(layer.parameters())
        tail = torch.empty(size.tolist(), dtype=weight.dtype, device=weight.device)
        dist.recv(tail, group=self.group, group_src=source)
        return tail.contiguous(memory_format=torch.channels_last_3d)

    def put(self, layer: nn.Module, tail: Tensor) -> None:
        """Sends the frames on without waiting."""
        if not self.sends:
            return
        target = self._peer(1)
        size = torch.tensor(tail.shape, dtype=torch.int64, device=self._device(layer))
        for message in (size, tail.contiguous()):
            work = dist.isend(message, group=self.group, group_dst=target)
            assert work is not None, "this process belongs to the group"
            self.in_flight.append((work, message))

    def drain(self) -> None:
        """Waits until everything sent has left."""
        for work, _ in self.in_flight:
            work.wait()
        self.in_flight.clear()

    def _peer(self, offset: int) -> int:
        return (self.rank + offset) % self.world

    def _device(self, layer: nn.Module) -> torch.device:
        return next(layer.parameters()).device


def encode_context_parallel(
    autoencoder: Autoencoder, pixels: Float[Tensor, "b 3 t h w"], *, group: dist.ProcessGroup | None = None
) -> Posterior:
    """``Autoencoder.encode`` shared by the ranks of ``group``; all return the whole."""
    ranges = shape.chunks(pixels.shape[2], chunk_frames=shape.ENCODE_CHUNK_FRAMES)
    parts = _share(
        ranges, lambda start, stop, stream: autoencoder.encode_chunk(pixels[:, :, start:stop], stream), group
    )
    return Posterior.from_moments(torch.cat(parts, dim=2))


def decode_context_parallel(
    autoencoder: Autoencoder, latent: Float[Tensor, "b c t h w"], *, group: dist.ProcessGroup | None = None
) -> Float[Tensor, "b 3 t2 h2 w2"]:
    """``Autoencoder.decode`` shared by the ranks of ``group``; every rank returns the whole clip."""
    ranges = shape.chunks(latent.shape[2], chunk_frames=shape.DECODE_CHUNK_FRAMES)
    parts = _share(
        ranges, lambda start, stop, stream: autoencoder.decode_chunk(latent[:, :, start:stop], stream), group
    )
    return torch.cat(parts, dim=2)


def _share(ranges: list[tuple[int, int]], work: ChunkWork, group: dist.ProcessGroup | None) -> list[Tensor]:
    """Every rank works on its chunks; the results are exchanged, so that each rank holds all of them, in order."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    streams, mine = [], {}
    for index in range(rank, len(ranges), world):
        streams.append(NeighbourStream(group, chunk=index, num_chunks=len(ranges)))
        mine[index] = work(*ranges[index], streams[-1])
    for stream in streams:
        stream.drain()
    gathered: list[dict[int, Tensor] | None] = [None] * world
    dist.all_gather_object(gathered, mine, group=group)
    everything = {index: part for parts in gathered if parts is not None for index, part in parts.items()}
    return [everything[index] for index in range(len(ranges))]
