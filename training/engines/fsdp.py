"""A module becomes shards of its parameters on every worker, gathered layer by layer (torch's FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from training.engines.engine import (
    MOMENTS,
    Read,
    adamw,
    fair_shares,
    fresh_moments,
    ignore_renamed_collectives,
    on_host,
    trained,
    updated,
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
        ignore_renamed_collectives()
        self._mesh = _mesh(self.device, replicas)
        self._module = _sharded(module.to(self.device), whole=whole, mesh=self._mesh, half=autocast)
        self._parameters = cast(dict[str, DTensor], trained(module, prefix=prefix))
        # AdamW works on the plain shards: a step over distributed tensors costs milliseconds a tensor.
        self._shards = {name: parameter.to_local().detach() for name, parameter in self._parameters.items()}
        self._optimizer = adamw(self._shards.values(), optimizer)
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
        if self._mesh.ndim > 1:
            self._module.set_requires_all_reduce(last)
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, learning_rate: float, *, gradient_clip: float) -> float:
        """One optimiser step with a gradient of at most that norm; returns the norm before clipping."""
        for name, shard in self._shards.items():
            parameter = self._parameters[name]
            assert parameter.to_local().data_ptr() == shard.data_ptr(), f"FSDP moved the shard of {name}"
            shard.grad = cast(DTensor, parameter.grad).to_local()
        norm = self._norm([cast(Tensor, shard.grad) for shard in self._shards.values()])
        torch.nn.utils.clip_grads_with_norm_(self._shards.values(), gradient_clip, norm)
        updated(self._optimizer, learning_rate=learning_rate)
        for parameter in self._parameters.values():
            parameter.grad = None
        return float(norm)

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        """Norm of the whole gradient, from every worker's shards."""
        squares = torch.nn.utils.get_total_norm(gradients).square()
        dist.all_reduce(squares, group=self._mesh.get_group("shard"))
        return squares.sqrt()

    def local_values(self) -> dict[str, Tensor]:
        """This worker's shard of every parameter."""
        return self._shards

    def owned(self) -> list[str]:
        """Names of the parameters that this worker saves: shares of about equal size, the same whoever asks."""
        return self._owned

    @torch.no_grad()
    def take_out(self, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors of the parameters that this worker saves, named kind/parameter. Every worker must call it."""
        owned = set(self._owned)
        state: dict[str, Tensor] = {}
        for name, shard in self._shards.items():
            moments = self._optimizer.state[shard]
            kinds = {"value": shard, "average": average[name]} | {kind: moments[kind] for kind in MOMENTS}
            whole = _whole(torch.stack(list(kinds.values())), self._parameters[name])
            if name in owned:
                state |= {f"{kind}/{name}": on_host(tensor) for kind, tensor in zip(kinds, whole, strict=True)}
        return state

    @torch.no_grad()
    def put_in(self, read: Read, *, step: int) -> dict[str, Tensor]:
        """Take up this worker's shards of the moments after `step` updates; returns those of the averages."""
        for name, shard in self._shards.items():
            moments = self._optimizer.state[shard]
            moments["step"].fill_(step)
            for kind in MOMENTS:
                moments[kind].copy_(_shard(read(f"{kind}/{name}"), self._parameters[name]))
        return {name: _shard(read(f"average/{name}"), p).clone() for name, p in self._parameters.items()}


def _mesh(device: torch.device, replicas: int) -> DeviceMesh:
    world = dist.get_world_size()
    if replicas == 1:
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (replicas, world // replicas), mesh_dim_names=("replicate", "shard"))


def _sharded(module: nn.Module, *, whole: Sequence[type[nn.Module]], mesh: DeviceMesh, half: bool) -> FSDPModule:
    # Inputs are left alone: the rotary tables must stay float32, and autocast looks after the rest.
    dtypes = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if half else {}
    policy = MixedPrecisionPolicy(cast_forward_inputs=False, **dtypes)
    parts = [part for part in module.modules() if isinstance(part, tuple(whole))]
    for part in [*parts, module]:
        shards = fully_shard(part, mesh=mesh, mp_policy=policy)
        shards.set_gradient_divide_factor(1.0)  # gradients are summed
        shards.set_force_sum_reduction_for_comms(True)
    return cast(FSDPModule, module)


def _whole(shards: Tensor, parameter: DTensor) -> Tensor:
    """The whole of several tensors laid out like `parameter`, from this worker's shards of them, stacked."""
    placements = [Shard(place.dim + 1) if isinstance(place, Shard) else place for place in parameter.placements]
    shape = torch.Size((len(shards), *parameter.shape))
    stride = torch.empty(shape, device="meta").stride()
    mesh = parameter.device_mesh
    return DTensor.from_local(shards, mesh, placements, run_check=False, shape=shape, stride=stride).full_tensor()


def _shard(tensor: Tensor, parameter: DTensor) -> Tensor:
    """This worker's shard of a whole tensor, which every worker has: nothing is sent."""
    placed = tensor.to(parameter.device)
    return distribute_tensor(placed, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
