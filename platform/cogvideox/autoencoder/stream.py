"""Carries what one chunk of a clip leaves behind for the next: the last input frames of every causal convolution."""

from dataclasses import dataclass, field

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

    def take(self, layer: nn.Module) -> Float[Tensor, "b c k h w"] | None:
        """The input frames of ``layer`` that precede this chunk, its own to overwrite; None at the clip's opening."""
        return self.tails.get(layer)

    def put(self, layer: nn.Module, tail: Float[Tensor, "b c k h w"]) -> None:
        """Hands the last input frames of ``layer`` on to the next chunk."""
        self.tails[layer] = tail

    def next_chunk(self) -> None:
        """Marks the end of a chunk: whatever follows is no longer the opening of the clip."""
        self.first = False
