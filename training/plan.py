"""A recipe, a device and perhaps a dataset become what each stage will take: memory, time, price, or a refusal."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cogvideox.denoiser.flops import forward_flops
from groundwork.errors import RecipeError
from groundwork.latents import IndexedClip
from training import costs
from training.devices import Device
from training.engines.groups import check_counts
from training.fit import variant_of
from training.packs import PackOrder
from training.recipe import Stage, TrainRecipe
from training.stages import is_image

_STEPS_LOOKED_AT = 64
_CLIPS_LOOKED_AT = 20_000
_DAY, _HOUR, _GIB = 86_400.0, 3_600.0, 1 << 30
_ROOM = 0.95  # of a device's memory: the allocator leaves gaps


@dataclass(frozen=True)
class StagePlan:
    """What a stage takes. `fill`: tokens of the budget that are used; `balance`: mean over the largest work of a
    worker; `seconds_per_step` includes those of `seconds_sending`, as if nothing were sent while something is computed.
    """

    name: str
    clips: int
    steps: int
    clips_per_step: float
    tokens_per_step: float
    fill: float
    balance: float
    teraflops_per_step: float
    gigabytes_sent_per_step: float
    seconds_sending: float
    seconds_per_step: float
    tokens_per_second: float
    utilization: float
    days: float
    price: float
    memory: dict[str, float]
    """GiB of the fullest worker, by what they are."""
    memory_gib: float
    fits: bool
    passes: float
    """How often each clip is seen."""


@dataclass(frozen=True)
class Plan:
    """The stages, and the device that they are for."""

    recipe: str
    device: Device
    workers: int
    assumed: str
    """What the figures rest on where no dataset is given; empty otherwise."""
    stages: tuple[StagePlan, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, with sums."""
        sums = {"days": sum(stage.days for stage in self.stages), "price": sum(stage.price for stage in self.stages)}
        return {**asdict(self), **{name: round(value, 4) for name, value in sums.items()}}


def plan(recipe: TrainRecipe, device: Device, *, clips: Sequence[Sequence[IndexedClip]] = ()) -> Plan:
    """Plan every stage. `clips`: those of each stage; without them every clip is taken to fill a row.

    Raises RecipeError for the first stage that does not fit into the device's memory, with changes that make it fit.
    """
    check_counts(recipe.engine, recipe.workers, heads=variant_of(recipe).denoiser.num_heads)
    chosen = clips or [()] * len(recipe.stages)
    pairs = list(zip(recipe.stages, chosen, strict=True))
    stages = tuple(_stage(recipe, stage, device, clips=some) for stage, some in pairs)
    assumed = "" if clips else "no dataset was given: each clip is taken to fill a row"
    made = Plan(recipe.name, device, recipe.workers.count, assumed, stages)
    for (stage, some), planned in zip(pairs, stages, strict=True):
        if not planned.fits:
            raise RecipeError(_refusal(recipe, planned, device), _changes(recipe, stage, device, clips=some))
    return made


def _stage(recipe: TrainRecipe, stage: Stage, device: Device, *, clips: Sequence[IndexedClip]) -> StagePlan:
    config, workers, together = variant_of(recipe).denoiser, recipe.workers.count, recipe.engine.sequence_parallel
    rows = workers // together
    steps = list(_steps(recipe, stage, _some(clips)))
    work = [[forward_flops(config, clip) * _passes_of(recipe) for clip in step] for step in steps]
    flops = _mean([sum(step) for step in work])
    busiest = _mean([max(sum(step[row::rows]) for row in range(min(rows, len(step)))) / together for step in work])
    tokens = _mean([sum(map(sum, step)) for step in steps])
    turns = -(-stage.packs_per_step // rows)
    trained = costs.trained_parameters(recipe)
    sent = costs.bytes_sent(
        config, recipe.engine, workers=workers, turns=turns, trained=trained, tokens=stage.tokens_per_pack
    )
    seconds_sending = sent / device.link_bytes_per_second if workers > 1 else 0.0
    seconds = busiest / (device.flops_per_second * device.utilization) + seconds_sending
    held = costs.memory(
        config,
        recipe.engine,
        tokens=stage.tokens_per_pack,
        workers=recipe.workers.fewest,
        on_gpu=device.memory_gib_is_its_own,
        trained=trained,
    )
    useful = flops / _passes_of(recipe) * (2 if recipe.is_partial else 3)
    clips_per_step = _mean([sum(len(pack) for pack in step) for step in steps])
    return StagePlan(
        name=stage.name,
        clips=len(clips),
        steps=stage.steps,
        clips_per_step=round(clips_per_step, 2),
        tokens_per_step=round(tokens, 1),
        fill=round(tokens / (stage.packs_per_step * stage.tokens_per_pack), 4),
        balance=round(flops / workers / busiest, 4),
        teraflops_per_step=round(useful / 1e12, 4),
        gigabytes_sent_per_step=round(sent / 1e9, 4),
        seconds_sending=round(seconds_sending, 4),
        seconds_per_step=round(seconds, 4),
        tokens_per_second=round(tokens / seconds, 1),
        utilization=round(useful / seconds / workers / device.flops_per_second, 4),
        days=round(stage.steps * seconds / _DAY, 4),
        price=round(stage.steps * seconds / _HOUR * workers * device.price_per_hour, 2),
        memory={name: round(value / _GIB, 3) for name, value in held.parts().items()},
        memory_gib=round(held.total / _GIB, 3),
        fits=held.total / _GIB <= _ROOM * device.memory_gib,
        passes=round(stage.steps * clips_per_step / len(clips), 3) if clips else 0.0,
    )


def _steps(recipe: TrainRecipe, stage: Stage, clips: Sequence[IndexedClip]) -> Iterator[list[list[int]]]:
    """Of some steps of the stage, the packs as lengths of clips."""
    lengths = [clip.num_tokens for clip in clips] or [stage.tokens_per_pack]
    order = PackOrder(
        lengths=tuple(lengths),
        budget=stage.tokens_per_pack,
        seed=recipe.seed,
        packs_per_step=stage.packs_per_step,
        width=variant_of(recipe).denoiser.width,
        images=tuple(is_image(clip) for clip in clips),
        image_share=stage.images if clips else None,
    )
    for step in range(min(stage.steps, _STEPS_LOOKED_AT)):
        yield [[lengths[clip] for clip in pack] for pack in order.step(step)]


def _some(clips: Sequence[IndexedClip]) -> Sequence[IndexedClip]:
    """A sample that packs as all of them do."""
    return clips if len(clips) <= _CLIPS_LOOKED_AT else random.Random(0).sample(clips, _CLIPS_LOOKED_AT)


def _passes_of(recipe: TrainRecipe) -> float:
    """Forward passes' worth of work of a step: the backward one counts twice, once where most weights stand still, and
    layers may be computed again."""
    return (2 if recipe.is_partial else 3) + recipe.engine.recomputed


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _refusal(recipe: TrainRecipe, stage: StagePlan, device: Device) -> str:
    parts = ", ".join(f"{name} {gib:.1f}" for name, gib in stage.memory.items() if gib >= 0.05)
    return (
        f"stage {stage.name!r} of {recipe.name!r} needs {stage.memory_gib:.1f} GiB on each of {recipe.workers.fewest} "
        f"workers ({parts}); {device.name} has {device.memory_gib:g}, of which {_ROOM:.0%} can be used."
    )


def _changes(recipe: TrainRecipe, stage: Stage, device: Device, *, clips: Sequence[IndexedClip]) -> str:
    """Changes that make the stage fit, with what it needs then: each alone, else one on top of the other."""
    alone: list[str] = []
    for name, changes in _candidates(recipe):
        need = _stage(_with(recipe, **changes), stage, device, clips=clips)
        alone += [f"{name} ({need.memory_gib:.1f} GiB)"] if need.fits else []
    if alone:
        return f"It fits with one of: {', '.join(alone)}."
    together, words = recipe, dict[str, str]()
    for name, changes in _candidates(recipe):
        together, words[name.split()[0]] = _with(together, **changes), name
        need = _stage(together, stage, device, clips=clips)
        if need.fits:
            return f"It fits with {' '.join(words.values())} ({need.memory_gib:.1f} GiB)."
    return "Nothing here makes it fit: take a larger device, or fewer tokens per pack."


def _candidates(recipe: TrainRecipe) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Words for the command line and what they change, those that cost least first."""
    engine, workers = recipe.engine, recipe.workers
    if not engine.is_mixed:
        yield "--engine.precision bfloat16", {"engine": {"precision": "bfloat16"}}
    if engine.activation_checkpointing != "full":
        yield "--engine.activation-checkpointing full", {"engine": {"activation_checkpointing": "full"}}
    if engine.kind not in ("zero-3", "fsdp"):
        yield "--engine.kind fsdp", {"engine": {"kind": "fsdp", "offload": False}}
    if workers.fewest < workers.count:
        yield f"--workers.at-least {workers.count}", {"workers": {"at_least": workers.count}}
    for count in (workers.count * more for more in (2, 4, 8, 16, 32)):
        yield f"--workers.count {count}", {"workers": {"count": count}}


def _with(recipe: TrainRecipe, **changes: dict[str, Any]) -> TrainRecipe:
    """The recipe with some settings of its parts changed."""
    parts = {name: getattr(recipe, name).model_copy(update=values) for name, values in changes.items()}
    return recipe.model_copy(update=parts)


def text(made: dict[str, Any]) -> str:
    """The plan for people: a row per stage, then the memory of the fullest."""
    head = f"{'stage':<14}{'steps':>9}{'tokens/step':>13}{'fill':>8}{'balance':>9}{'TFLOP':>14}{'s/step':>10}"
    lines = [f"{head}{'MFU':>7}{'tokens/s':>11}{'days':>9}{'price':>12}{'GiB':>8}"]
    lines += [
        f"{stage['name']:<14}{stage['steps']:>9,}{stage['tokens_per_step']:>13,.0f}{stage['fill']:>8.1%}"
        f"{stage['balance']:>9.1%}{stage['teraflops_per_step']:>14,.2f}{stage['seconds_per_step']:>10.3f}"
        f"{stage['utilization']:>7.0%}{stage['tokens_per_second']:>11,.0f}{stage['days']:>9.2f}"
        f"{stage['price']:>12,.0f}{stage['memory_gib']:>8.1f}"
        for stage in made["stages"]
    ]
    device = made["device"]
    fullest = max(made["stages"], key=lambda stage: stage["memory_gib"])
    parts = ", ".join(f"{name} {gib:.2f}" for name, gib in fullest["memory"].items())
    lines += [
        f"in all    {made['days']:.2f} days, {made['price']:,.0f} at {device['price_per_hour']:g} per worker and hour",
        f"memory    {fullest['memory_gib']:.1f} of {device['memory_gib']:g} GiB in stage {fullest['name']}: {parts}",
        f"device    {made['workers']} × {device['name']}, {device['flops_per_second'] / 1e12:g} TFLOP/s, of which "
        f"{device['utilization']:.0%} reached ({device['reached']})",
    ]
    if made["assumed"]:
        lines.append(f"assumed   {made['assumed']}")
    return "\n".join(lines)
