"""A module becomes a DeepSpeed ZeRO engine whose state can be taken out, and put in, parameter by parameter.

Only parameters that learn are part of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.engines.engine import MOMENTS, Read, adamw, fair_shares, ignore_renamed_collectives, on_host, trained
from training.recipe import OptimizerSettings


class ZeroEngine:
    """One worker's part of a training that is sharded over all workers of the default process group.

    `whole` are the layers whose parameters stage 3 fetches together: inside them workers may take different paths.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        prefix: str,
        stage: int,
        whole: Sequence[type[nn.Module]],
        offload: bool,
        autocast: bool,
        optimizer: OptimizerSettings,
    ) -> None:
        self.rank, self.world, self._stage = dist.get_rank(), dist.get_world_size(), stage
        self._autocast = autocast
        ignore_renamed_collectives()
        self._parameters: dict[str, Any] = dict(trained(module, prefix=prefix))
        # The rate is 0 until the first update: DeepSpeed takes an empty step to make the optimiser's tensors.
        inner = adamw(self._parameters.values(), optimizer)
        clip = optimizer.gradient_clip
        self._engine = _initialize(module, inner, stage=stage, whole=whole, offload=offload, gradient_clip=clip)
        self.device = self._engine.device
        sizes = {name: getattr(p, "ds_numel", p.numel()) for name, p in self._parameters.items()}
        self._owned = fair_shares(sizes, self.world)[self.rank]
        self._make_moments()

    def __call__(self, batch: Any) -> Any:
        """The module's answer."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return self._engine(batch)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a share of the global step's loss; `last` marks this worker's last share of the step.

        Shares are summed over workers: what ZeRO divides by their number is multiplied before.
        """
        self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        self._engine.backward(loss * self.world)
        if not last:
            self._engine.step()

    def update(self, learning_rate: float, *, gradient_clip: float) -> float:
        """One optimiser step with a gradient of at most that norm; returns the norm before clipping."""
        self._engine.optimizer.clip_grad = gradient_clip
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def local_values(self) -> dict[str, Tensor]:
        """The parameter tensors that this worker averages: its shard of all (stage 3), or all of its share."""
        if self._stage == 3:
            return {name: parameter.ds_tensor for name, parameter in self._parameters.items()}
        return {name: self._parameters[name].data for name in self.owned()}

    def owned(self) -> list[str]:
        """Names of the parameters that this worker saves: shares of about equal size, the same whoever asks."""
        return self._owned

    @torch.no_grad()
    def take_out(self, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors of the parameters that this worker saves, named kind/parameter. Every worker must call it."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        owned = set(self.owned())
        state: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            full = {"value": safe_get_full_fp32_param(parameter)}
            full |= {kind: safe_get_full_optimizer_state(parameter, kind) for kind in MOMENTS}
            if self._stage == 3:
                full["average"] = _gather(average[name], parameter)
            elif name in owned:
                full["average"] = average[name]
            if name in owned:
                state |= {f"{kind}/{name}": on_host(tensor) for kind, tensor in full.items()}
        return state

    @torch.no_grad()
    def put_in(self, read: Read, *, step: int) -> dict[str, Tensor]:
        """Take up the moments of `read("exp_avg/<parameter>")` after `step` updates; returns this worker's averages.

        Values are not touched: load them into the module before the engine is made.
        """
        from deepspeed.utils import safe_set_full_optimizer_state

        for name, parameter in self._parameters.items():
            for kind in MOMENTS:
                safe_set_full_optimizer_state(parameter, read(f"{kind}/{name}"), kind)
        for state in self._inner.state.values():
            state["step"].fill_(step)
        if self._stage == 3:
            shards = {name: _shard(read(f"average/{name}"), p) for name, p in self._parameters.items()}
        else:
            shards = {name: read(f"average/{name}") for name in self.owned()}
        return {name: shard.to(self.device) for name, shard in shards.items()}

    @property
    def _inner(self) -> torch.optim.Optimizer:
        inner = self._engine.optimizer.optimizer
        assert isinstance(inner, torch.optim.Optimizer)
        return inner

    def _make_moments(self) -> None:
        """Zero moments for every shard, at step 0, so that they can be set before the first update."""
        for tensor in self._flat_shards():
            state = self._inner.state[tensor]
            state.setdefault("step", torch.zeros((), dtype=torch.float32, device=tensor.device)).zero_()
            for kind in MOMENTS:
                state.setdefault(kind, torch.zeros_like(tensor))
        if self._stage < 3:  # stage 3 looks its shards up by itself
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat_shards(self) -> Iterator[Tensor]:
        optimizer = self._engine.optimizer
        yield from (
            optimizer.fp32_partitioned_groups_flat if self._stage == 3 else (optimizer.single_partition_of_fp32_groups)
        )


def _initialize(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    stage: int,
    whole: Sequence[type[nn.Module]],
    offload: bool,
    gradient_clip: float,
) -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read by DeepSpeed when imported
    import deepspeed

    # Serves inference only, and would be compiled on the spot.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if stage == 3:
        deepspeed.utils.set_z3_leaf_modules(module, list(whole))
        for layer in module.modules():
            if isinstance(layer, tuple(whole)) and trained(layer, prefix=""):
                layer.register_forward_pre_hook(_with_gradient)
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=[parameter for parameter in module.parameters() if parameter.requires_grad],
        optimizer=optimizer,
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": gradient_clip,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
            "zero_optimization": {
                "stage": stage,
                "overlap_comm": False,
                "reduce_bucket_size": 2_000_000,
                "stage3_param_persistence_threshold": 0,
            }
            | ({"offload_optimizer": {"device": "cpu"}} if offload else {}),
        },
    )
    return engine


def _with_gradient(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Stage 3 lets go of a layer's parameters once the gradient of its input is there: it must have one, also where
    everything before it is frozen."""
    first, *rest = inputs
    if torch.is_grad_enabled() and not first.requires_grad:
        first = first.detach().requires_grad_()
    return (first, *rest)


def _gather(shard: Tensor, parameter: Any) -> Tensor:
    """The whole tensor from every worker's equally long shard."""
    pieces = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, shard.contiguous())
    return torch.cat(pieces)[: parameter.ds_numel].view(parameter.ds_shape)


def _shard(full: Tensor, parameter: Any) -> Tensor:
    """This worker's shard of a whole tensor; the end is padded with zeros."""
    length = parameter.ds_tensor.numel()
    padded = full.new_zeros(dist.get_world_size() * length)
    padded[: full.numel()] = full.flatten()
    return padded[dist.get_rank() * length :][:length].clone()
