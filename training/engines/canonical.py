"""A module becomes a replica on every worker, and gradients are summed in the order of the step's packs, one by one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.engines.ddp import DdpEngine


class CanonicalEngine(DdpEngine):
    """For tests and for finding faults: losses, weights and moments are the same to the bit on any number of workers.

    Floating-point sums depend on their order, and other engines add the packs of a worker first. Here the gradient of
    each pack is sent to all workers, who add them one after the other: slow, and whole models are held.
    """

    def _spread(self, module: nn.Module) -> nn.Module:
        self._sum = torch.zeros(sum(p.numel() for p in self._parameters.values()), device=self.device)
        return module

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a turn: a pack of each worker, in their order, which is that of the step's packs.

        A worker without work in the last turn has a gradient of zeros, which changes no bit of the sum.
        """
        loss.backward()  # type: ignore[no-untyped-call]
        mine = torch.cat([_flat_gradient(parameter) for parameter in self._parameters.values()])
        turn = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(turn, mine)
        for gradient in turn:
            self._sum += gradient
        sizes = [parameter.numel() for parameter in self._parameters.values()]
        for parameter, whole in zip(self._parameters.values(), torch.split(self._sum, sizes), strict=True):
            parameter.grad = whole.view_as(parameter).clone() if last else None
        if last:
            self._sum.zero_()


def _flat_gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()
