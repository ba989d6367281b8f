"""Carries what one chunk of a clip leaves behind for the next: the last input frames of every causal convolution."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class Stream:
    """The cache of one pass over one clip (or one tile of it), handed explicitly through every layer.

    ``first`` says that the chunk in flight opens the clip: only then is its first frame alone in time (it stands for
    one pixel frame, every later latent frame for four). Guessing this from an odd frame count, as diffusers does,
    returns a wrong number of frames for every second clip length.
    """

    first: bool = True
    tails: dict[nn.Module, Tensor] = field(default_factory=dict)

    def lead(
        self, layer: nn.Module, inputs: Float[Tensor, "b c t h w"], *, num_frames: int
    ) -> Float[Tensor, "b c k h w"]:
        """The ``num_frames`` frames that precede ``inputs`` at this layer: kept ones, or its first frame repeated."""
        kept = self.tails.get(layer)
        return inputs[:, :, :1].expand(-1, -1, num_frames, -1, -1) if kept is None else kept

    def keep(self, layer: nn.Module, padded_inputs: Float[Tensor, "b c t h w"], *, num_frames: int) -> None:
        """Keeps the last ``num_frames`` frames for the next chunk, as a copy so that the chunk itself can be freed."""
        tail = padded_inputs[:, :, -num_frames:]
        self.tails[layer] = tail if torch.is_grad_enabled() else tail.clone()

    def next_chunk(self) -> None:
        """Marks the end of a chunk: whatever follows is no longer the opening of the clip."""
        self.first = False
