"""What a training asks of an engine, and what engines share: AdamW, its moments, and who saves what.

Whatever the engine and the number of workers, the state is one set of named float32 tensors, `<kind>/<parameter>`:
value, both moments of AdamW, and the moving average. So a run may go on with another engine on other workers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from training.recipe import OptimizerSettings

MOMENTS = ("exp_avg", "exp_avg_sq")
Read = Callable[[str], Tensor]
"""From a tensor's name in the state to the whole tensor."""


class Engine(Protocol):
    """One worker's part of a training that all workers of the default process group share."""

    device: torch.device
    """Where the module, and so its inputs, lie."""

    def __call__(self, batch: Any) -> Any:
        """The module's answer."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a share of the global step's loss; `last` marks this worker's last share of the step.

        Gradients of all shares of all workers are summed, not averaged.
        """

    def update(self, learning_rate: float, *, gradient_clip: float) -> float:
        """One optimiser step with a gradient of at most that norm; returns the norm before clipping."""

    def local_values(self) -> dict[str, Tensor]:
        """The parameter tensors, or the shards of them, that this worker averages; valid until the next update."""

    def owned(self) -> list[str]:
        """Names of the parameters that this worker saves: each belongs to one worker."""

    def take_out(self, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole tensors that this worker saves, as copies on the host. `average` has the form of `local_values`.
        Every worker must call it."""

    def put_in(self, read: Read, *, step: int) -> dict[str, Tensor]:
        """Take up the moments after `step` updates; returns this worker's averages, in the form of `local_values`.

        Values are not touched: load them into the module before the engine is made.
        """


def worker_device() -> torch.device:
    """The GPU that this worker was given, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def on_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory that later updates do not reach."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def ignore_renamed_collectives() -> None:
    """DeepSpeed 0.19 and torch's own FSDP (2.13) call collectives by names that torch deprecates, at every step."""
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)


def adamw(parameters: Iterable[Tensor], settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW in one fused pass; its rate is 0 until an update sets it."""
    betas = (settings.beta1, settings.beta2)
    decay = settings.weight_decay
    return torch.optim.AdamW(parameters, lr=0.0, betas=betas, eps=settings.eps, weight_decay=decay, fused=True)


def updated(optimizer: torch.optim.Optimizer, *, learning_rate: float) -> None:
    """One step at this rate; then the gradients are forgotten."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad()


def fresh_moments(optimizer: torch.optim.Optimizer) -> None:
    """Zero moments at step 0, as AdamW would make them at its first step: so they can be read and set before."""
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        moments = {kind: torch.zeros_like(parameter) for kind in MOMENTS}
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        optimizer.state[parameter] = {"step": step, **moments}


def trained(module: torch.nn.Module, *, prefix: str) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn, by their names without `prefix`."""
    named = module.named_parameters()
    return {name.removeprefix(prefix): parameter for name, parameter in named if parameter.requires_grad}


def fair_shares(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Names dealt out largest first, each to the lightest share so far; each share keeps the names' order."""
    shares: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        lightest = loads.index(min(loads))
        shares[lightest].append(name)
        loads[lightest] += sizes[name]
    return [[name for name in sizes if name in share] for share in map(set, shares)]
