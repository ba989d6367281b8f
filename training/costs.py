"""What a recipe costs, in FLOPs, bytes of memory and bytes between workers: counted, only a small layer is run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from cogvideox.denoiser import Denoiser, DenoiserConfig
from cogvideox.denoiser.block import Block
from cogvideox.denoiser.packing import Layout
from cogvideox.denoiser.positions import Grid, identity_rope, rope_table
from training.fit import variant_of
from training.lora import choose_trained
from training.recipe import EngineSettings, TrainRecipe

_BUCKET_VALUES = 2_000_000  # of a reduction, as the engine is told
_KEPT_VALUES = 500_000_000  # the last ones, that ZeRO-3 does not let go of between forward and backward pass
_RUNTIME_BYTES = 1 << 30  # context, kernels and libraries of a GPU process


@lru_cache(maxsize=16)
def parameter_counts(config: DenoiserConfig) -> tuple[int, int]:
    """Parameters of the denoiser, and of one of its layers; counted on a network without values."""
    with torch.device("meta"):
        denoiser = Denoiser(config)
    layer = sum(parameter.numel() for parameter in denoiser.blocks[0].parameters())
    return sum(parameter.numel() for parameter in denoiser.parameters()), layer


def trained_parameters(recipe: TrainRecipe) -> int:
    """Parameters that the recipe trains: all, those of the parts that it names, or its adapter's."""
    with torch.device("meta"):
        denoiser = choose_trained(Denoiser(variant_of(recipe).denoiser), recipe)
    return sum(parameter.numel() for parameter in denoiser.parameters() if parameter.requires_grad)


@lru_cache(maxsize=16)
def layer_activation_bytes(config: DenoiserConfig, *, bfloat16: bool) -> float:
    """Bytes per token and unit of width that a layer keeps for its backward pass: counted while a narrow layer of the
    same kind runs on a few tokens."""
    small, grid, cpu = replace(config, num_heads=2), Grid(3, 9, 7), torch.device("cpu")
    layer, layout = Block(small), Layout((small.max_text_tokens,), (grid,))
    count = layout.num_tokens
    tokens = torch.zeros(count, small.width, requires_grad=True)
    time = torch.zeros(1, small.time_width)
    rope = None
    if small.positions != "sincos":
        parts = (identity_rope(small.max_text_tokens, small, device=cpu), rope_table(grid, small, device=cpu))
        rope = torch.cat(parts)
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        layer(tokens, time, layout=layout, rope=rope)
    lengths = {count, *layout.segment_lengths}
    mine = [tensor for tensor in kept.values() if lengths & set(tensor.shape)]
    return float(sum(tensor.untyped_storage().nbytes() for tensor in mine)) / (count * small.width)


@dataclass(frozen=True)
class Memory:
    """Bytes that one worker holds at its fullest, by what they are."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    gathered: float
    """Parameters of others that a layer needs while it works, and copies in lower precision."""
    buffers: float
    activations: float
    runtime: float

    @property
    def total(self) -> float:
        """All together."""
        return float(sum(vars(self).values()))

    def parts(self) -> dict[str, float]:
        """By name, in order."""
        return dict(vars(self))


_SHARDED = {"canonical": 0, "ddp": 0, "zero-1": 1, "zero-2": 2, "zero-3": 3, "fsdp": 3}
"""How much each engine shards: nothing, optimiser states, gradients too, parameters too."""


def memory(
    config: DenoiserConfig, engine: EngineSettings, *, tokens: int, workers: int, on_gpu: bool, trained: int
) -> Memory:
    """What a worker holds with a row of so many tokens, where so many parameters are `trained`.

    The engines keep weights, gradients, moments and the moving average in float32, each sharded or whole; bfloat16 adds
    a copy of the weights in use (fsdp: of two layers).
    """
    whole, layer = (4.0 * count for count in parameter_counts(config))
    sharded, low = _SHARDED[engine.kind], engine.is_mixed
    group = max(1, workers // engine.replicas)
    learning, share = 4.0 * trained, 4.0 * trained / group
    states = 2 * (share if sharded >= 1 else learning)
    own_values = share if engine.kind.startswith("zero") else 0.0  # ZeRO's update works on float32 values of its own
    copies = 0.0 if engine.kind == "fsdp" else whole / 2
    kept = min(whole, 4.0 * _KEPT_VALUES) if engine.kind == "zero-3" else 0.0
    return Memory(
        weights=whole / group if sharded == 3 else whole,
        gradients=share if sharded >= 2 else learning,
        optimizer=0.0 if engine.offload else states + own_values,
        average=share if sharded == 3 else learning / workers,
        gathered=(max(kept, 2 * layer) if sharded == 3 else 0.0) + (copies if low else 0.0),
        buffers=2 * 4.0 * _BUCKET_VALUES + learning * {"ddp": 1, "canonical": workers + 2}.get(engine.kind, 0),
        activations=_activations(config, engine, tokens=tokens, per_value=2 if low else 4),
        runtime=float(_RUNTIME_BYTES if on_gpu else _RUNTIME_BYTES / 2),
    )


_SAVED_WIDTHS = {"attention": 1, "linear": 9}
"""Results in widths of a token: of attention one; query, key, value and out one each, feed-forward four and one."""


def _activations(config: DenoiserConfig, engine: EngineSettings, *, tokens: int, per_value: int) -> float:
    tokens = -(-tokens // engine.sequence_parallel)
    one = layer_activation_bytes(config, bfloat16=per_value == 2) * tokens * config.width
    again, mode = config.num_layers * engine.recomputed, engine.activation_checkpointing
    # What recomputed layers keep, in widths of a token: their input, and the results of operations that are kept.
    widths = 1 + (sum(_SAVED_WIDTHS[name] for name in mode) if isinstance(mode, tuple) else 0)
    return (
        again * widths * tokens * config.width * per_value + (config.num_layers - again) * one + (one if again else 0)
    )


def bytes_sent(
    config: DenoiserConfig, engine: EngineSettings, *, workers: int, turns: int, trained: int, tokens: int
) -> float:
    """Bytes that one worker sends in a step of so many packs of its own, by rings: gradients are summed once or (where
    they are sharded) at each pack, parameters gathered once or (where they are sharded) before and behind each pack.

    Counted beside what is really sent by tests/benchmarks/bench_sent_bytes.py.
    """
    (whole, layer), learning = (4.0 * count for count in parameter_counts(config)), 4.0 * trained
    sharded, group = _SHARDED[engine.kind], max(1, workers // engine.replicas)
    reduced = (turns if sharded >= 2 else 1) * (group - 1) / group
    gathered = (turns if sharded == 3 else 1) * (group - 1) / group
    if sharded in (1, 2):  # DeepSpeed sums whole gradients on all workers, of which each keeps its share
        reduced *= 2
    if engine.kind == "canonical":
        reduced, gathered = float(turns * (group - 1)), 0.0  # whole gradients, to everyone
    # Behind a pack too: what was let go of meanwhile. fsdp keeps what lies outside the layers.
    again = config.num_layers * layer if engine.kind == "fsdp" else max(0.0, whole - 4.0 * _KEPT_VALUES)
    if engine.kind == "fsdp" and engine.is_mixed:
        gathered /= 2
    between_groups = 2 * (engine.replicas - 1) / engine.replicas / group
    states = (whole + again if sharded == 3 else learning) * gathered + learning * (reduced + between_groups)
    return states + turns * _exchanged(config, engine, tokens=tokens)


def _exchanged(config: DenoiserConfig, engine: EngineSettings, *, tokens: int) -> float:
    """Bytes that a worker sends for a row of so many tokens that it shares: in each layer queries, keys, values and
    their answer, in the forward pass, in the backward one, and where the layer is computed again."""
    count = engine.sequence_parallel
    passes = 2 + engine.recomputed
    per_value = 2 if engine.is_mixed else 4
    return config.num_layers * passes * 4 * config.width * per_value * tokens / count * (count - 1) / count
