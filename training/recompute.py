"""Layers of a denoiser forget what they computed, and compute it again in the backward pass: memory against time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from cogvideox.denoiser import Denoiser
from training.recipe import Recompute, SavedOperation

_aten = torch.ops.aten
_OPERATIONS: dict[SavedOperation, frozenset[Any]] = {
    "attention": frozenset(
        {
            _aten._scaled_dot_product_flash_attention_for_cpu.default,
            _aten._scaled_dot_product_flash_attention.default,
            _aten._scaled_dot_product_efficient_attention.default,
            _aten._scaled_dot_product_cudnn_attention.default,
        }
    ),
    "linear": frozenset({_aten.mm.default, _aten.addmm.default}),
}


def apply_recompute(denoiser: Denoiser, mode: Recompute) -> None:
    """Make layers recompute: "none", "full" (all), every n-th one, or all but the results of some operations."""
    every = mode if isinstance(mode, int) else 1
    contexts = partial(_contexts, _kept(mode)) if isinstance(mode, tuple) else None
    for index, block in enumerate(denoiser.blocks):
        if mode != "none" and index % every == 0:
            # In place of the method, not around the layer: names of parameters stay, and engines see a plain layer.
            block.forward = _recomputed(block.forward, contexts)


def _kept(names: Sequence[SavedOperation]) -> frozenset[Any]:
    kept = frozenset[Any]().union(*(_OPERATIONS[name] for name in names))
    if "attention" in names and torch.cuda.is_available():
        from torch.nn.attention import varlen  # noqa: F401  makes the kernel for packs known: on GPUs only

        kept |= {torch.ops.torch_attn._varlen_attn.default}
    return kept


def _recomputed(forward: Callable[..., Any], contexts: Callable[[], Any] | None) -> Callable[..., Any]:
    options: dict[str, Any] = {} if contexts is None else {"context_fn": contexts}

    def again(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, **options, **named)

    return again


def _contexts(kept: frozenset[Any]) -> Any:
    def policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]
