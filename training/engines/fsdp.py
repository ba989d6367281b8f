"""A module becomes shards of its parameters on every worker, gathered layer by layer (torch's FSDP2)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from training.engines.engine import (
    MOMENTS,
    Read,
    adamw,
    clipped_update,
    fair_shares,
    fresh_moments,
    trained,
    worker_device,
)
from training.recipe import OptimizerSettings


class FsdpEngine:
    """Parameters, gradients and optimiser states sharded over the workers of each of `replicas` equal groups.

    `whole` are the layers whose parameters are gathered together; what lies outside them is gathered once per pass.
    With more than one replica, gradients are scattered inside a group and summed across groups (HSDP).
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        prefix: str,
        whole: Sequence[type[nn.Module]],
        replicas: int,
        autocast: bool,
        optimizer: OptimizerSettings,
    ) -> None:
        self.device, self._autocast = worker_device(), autocast
        self._replicas = replicas
        self._module = _sharded(module.to(self.device), whole=whole, mesh=_mesh(self.device, replicas), half=autocast)
        self._parameters = cast(dict[str, DTensor], trained(module, prefix=prefix))
        self._optimizer = adamw(self._parameters.values(), optimizer)
        fresh_moments(self._optimizer)
        sizes = {name: parameter.numel() for name, parameter in self._parameters.items()}
        self._owned = fair_shares(sizes, dist.get_world_size())[dist.get_rank()]

    def __call__(self, batch: Any) -> Any:
        """The module's answer."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return cast(nn.Module, self._module)(batch)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a share of the step's loss, scattered at once: whole gradients never add up."""
        self._module.set_is_last_backward(last)
        if self._replicas > 1:
            self._module.set_requires_all_reduce(last)
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, learning_rate: float, *, gradient_clip: float) -> float:
        """One optimiser step with a gradient of at most that norm; returns the norm before clipping."""
        norm = clipped_update(self._optimizer, learning_rate=learning_rate, gradient_clip=gradient_clip)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def local_values(self) -> dict[str, Tensor]:
        """This worker's shard of every parameter."""
        return {name: parameter.to_local() for name, parameter in self._parameters.items()}

    def owned(self) -> list[str]:
        """Names of the parameters that this worker saves: shares of about equal size, the same whoever asks."""
        return self._owned

    @torch.no_grad()
    def take_out(self, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors of the parameters that this worker saves, named kind/parameter. Every worker must call it."""
        owned = set(self._owned)
        state: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state[parameter]
            shards = {"value": parameter, "average": _like(average[name], parameter)}
            shards |= {kind: moments[kind] for kind in MOMENTS}
            for kind, shard in shards.items():
                tensor = shard.full_tensor()
                if name in owned:
                    state[f"{kind}/{name}"] = tensor.detach().clone().contiguous()
        return state

    @torch.no_grad()
    def put_in(self, read: Read, *, step: int) -> dict[str, Tensor]:
        """Take up this worker's shards of the moments after `step` updates; returns those of the averages."""
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state[parameter]
            moments["step"].fill_(step)
            for kind in MOMENTS:
                moments[kind].copy_(_shard(read(f"{kind}/{name}"), parameter))
        return {name: _shard(read(f"average/{name}"), p).to_local().clone() for name, p in self._parameters.items()}


def _mesh(device: torch.device, replicas: int) -> DeviceMesh:
    world = dist.get_world_size()
    if replicas == 1:
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (replicas, world // replicas), mesh_dim_names=("replicate", "shard"))


def _sharded(module: nn.Module, *, whole: Sequence[type[nn.Module]], mesh: DeviceMesh, half: bool) -> FSDPModule:
    # torch's own FSDP (2.13) calls collectives by names that torch deprecates.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    # Inputs are left alone: the rotary tables must stay float32, and autocast looks after the rest.
    dtypes = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if half else {}
    policy = MixedPrecisionPolicy(cast_forward_inputs=False, **dtypes)
    parts = [part for part in module.modules() if isinstance(part, tuple(whole))]
    for part in [*parts, module]:
        shards = fully_shard(part, mesh=mesh, mp_policy=policy)
        shards.set_gradient_divide_factor(1.0)  # gradients are summed
        shards.set_force_sum_reduction_for_comms(True)
    return cast(FSDPModule, module)


def _like(shard: Tensor, parameter: DTensor) -> DTensor:
    """This worker's shard as the distributed tensor that it is a part of."""
    mesh, placements, shape, stride = (
        parameter.device_mesh,
        parameter.placements,
        parameter.shape,
        parameter.stride(),
    )
    return DTensor.from_local(shard, mesh, placements, run_check=False, shape=shape, stride=stride)


def _shard(tensor: Tensor, parameter: DTensor) -> DTensor:
    """A whole tensor, which every worker has, laid out like `parameter`: nothing is sent."""
    placed = tensor.to(parameter.device)
    return distribute_tensor(placed, parameter.device_mesh, parameter.placements, src_data_rank=None)
