"""A module becomes a replica on every worker, whose gradients are summed (torch's DistributedDataParallel)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.engines.engine import (
    MOMENTS,
    Read,
    adamw,
    fair_shares,
    fresh_moments,
    on_host,
    trained,
    updated,
    worker_device,
)
from training.recipe import OptimizerSettings


class DdpEngine:
    """Everything whole on every worker; the average and the checkpoint are shared out among them."""

    def __init__(self, module: nn.Module, *, prefix: str, autocast: bool, optimizer: OptimizerSettings) -> None:
        self.device, self._autocast = worker_device(), autocast
        self._parameters = trained(module.to(self.device), prefix=prefix)
        self._module = self._spread(module)
        self._last = True
        self._optimizer = adamw(self._parameters.values(), optimizer)
        fresh_moments(self._optimizer)
        sizes = {name: parameter.numel() for name, parameter in self._parameters.items()}
        self._owned = fair_shares(sizes, dist.get_world_size())[dist.get_rank()]

    def _spread(self, module: nn.Module) -> nn.Module:
        # Looking for unused parameters keeps the buckets as they are from the first step to the last. Otherwise torch
        # lays them out anew after the first step of a process, and with more than two workers a resumed training
        # would add in another order than an undisturbed one. (torch's library warns that this costs a little time.)
        replica = DistributedDataParallel(module, find_unused_parameters=True, gradient_as_bucket_view=True)
        replica.register_comm_hook(None, lambda _, bucket: self._exchange(bucket))
        return replica

    def _exchange(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """The sum over workers after this worker's last share; before it, shares only add up here."""
        if self._last:
            work = dist.all_reduce(bucket.buffer(), async_op=True)
            assert work is not None
            summed: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
            return summed
        ready: torch.futures.Future[Tensor] = torch.futures.Future()
        ready.set_result(bucket.buffer())
        return ready

    def __call__(self, batch: Any) -> Any:
        """The module's answer."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return self._module(batch)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a share of the step's loss; the last one starts the sum over workers."""
        self._last = last
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, learning_rate: float, *, gradient_clip: float) -> float:
        """One optimiser step with a gradient of at most that norm; returns the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), gradient_clip)
        updated(self._optimizer, learning_rate=learning_rate)
        return float(norm)

    def local_values(self) -> dict[str, Tensor]:
        """The parameters of this worker's share."""
        return {name: self._parameters[name].data for name in self._owned}

    def owned(self) -> list[str]:
        """Names of the parameters that this worker saves: shares of about equal size, the same whoever asks."""
        return self._owned

    def take_out(self, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of this worker's share, named kind/parameter."""
        state: dict[str, Tensor] = {}
        for name in self._owned:
            parameter = self._parameters[name]
            moments = self._optimizer.state[parameter]
            whole = {"value": parameter.data, "average": average[name]} | {kind: moments[kind] for kind in MOMENTS}
            state |= {f"{kind}/{name}": on_host(tensor) for kind, tensor in whole.items()}
        return state

    @torch.no_grad()
    def put_in(self, read: Read, *, step: int) -> dict[str, Tensor]:
        """Take up the moments after `step` updates; returns the averages of this worker's share."""
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state[parameter]
            moments["step"].fill_(step)
            for kind in MOMENTS:
                moments[kind].copy_(read(f"{kind}/{name}"))
        return {name: read(f"average/{name}").to(self.device) for name in self._owned}
