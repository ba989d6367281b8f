"""Prompts become text embeddings: the deployment that holds the text encoder and remembers what it encoded."""

from __future__ import annotations

from collections import OrderedDict

from jaxtyping import Float
from ray import serve
from ray.serve.handle import DeploymentHandle
from torch import Tensor

from groundwork.errors import InputError
from serving.calls import retried
from serving.model import load_text_encoder
from serving.worker import ComputeThread

_REMEMBERED_PROMPTS = 256


@serve.deployment(name="Text", max_ongoing_requests=100, graceful_shutdown_wait_loop_s=0.2)
class Text:
    """Encodes prompts, one at a time, in a thread of its own; the latest embeddings are kept."""

    def __init__(self, weights: str, *, threads: int) -> None:
        self._encoder = load_text_encoder(weights)
        self._thread = ComputeThread(threads=threads)
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()

    async def encode(self, prompt: str) -> Float[Tensor, "1 n d"]:
        """The prompt's embedding, padded to the model's number of tokens. Raises InputError when it is too long."""
        if prompt not in self._remembered:
            try:
                self._remembered[prompt] = await self._thread.run(self._encoder.encode, [prompt])
            except ValueError as error:
                raise InputError(str(error)) from error
            if len(self._remembered) > _REMEMBERED_PROMPTS:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(prompt)
        return self._remembered[prompt]

    async def accept(self, prompts: list[str]) -> None:
        """Encode what a new job will need. Raises InputError when a prompt is too long."""
        for prompt in prompts:
            await self.encode(prompt)


class TextClient:
    """The text encoder as the other deployments see it."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def encode(self, prompt: str) -> Float[Tensor, "1 n d"]:
        """Raises InputError when the prompt is too long."""
        embedding: Tensor = await retried(self._handle.encode, prompt)
        return embedding

    async def accept(self, prompts: list[str]) -> None:
        """Raises InputError when one of the prompts is too long."""
        await retried(self._handle.accept, prompts)
