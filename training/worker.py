"""One worker's whole training: from the newest checkpoint, or from random weights, to the last step. No Ray in here."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from cogvideox.denoiser.flops import forward_flops
from cogvideox.objective import stream_seed
from groundwork.config import recipe_hash
from groundwork.errors import InputError, RunError, StorageError
from groundwork.storage import open_storage
from groundwork.telemetry import get_logger
from training import checkpoint
from training.clips import EncodedClip
from training.datasets import open_data
from training.ema import Average, decay_at
from training.exchange import Said, exchange
from training.fit import variant_of
from training.guard import GradientGuard
from training.held_out import by_timestep, held_out_plan
from training.initial import initial_denoiser
from training.leaving import Notice
from training.logs import Logs
from training.lora import choose_trained, trained_names
from training.metrics import StepMetrics
from training.order import Order
from training.parallelize import parallelize, velocities
from training.quarantine import QUARANTINE, note_damaged
from training.recipe import TrainRecipe
from training.saving import Saver, Snapshot
from training.step import Draw, StepPlan, ask, learning_rate, losses_of, step_loss, strata
from training.watch import Stopwatch


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    recipe: TrainRecipe
    datasets: tuple[str, ...]
    out: str


class Training:
    """The state of one worker: clips, order, engine, average, and the number of updates done.

    Data order, timesteps, noise and dropout are pure functions of the recipe and the step: nothing about them is saved.
    """

    def __init__(self, job: Job) -> None:
        recipe = self.recipe = job.recipe
        self.run = open_storage(job.out)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.hosts: list[Any] = [None] * self.world
        dist.all_gather_object(self.hosts, socket.gethostname())
        self.variant = variant_of(recipe)
        data = open_data(recipe, job.datasets)
        self.clips, self.reader = data.clips, data.reader()
        self.order = Order(recipe, data.clips, data.scores)
        self._build()

    def _build(self) -> None:
        """The engine and the average, from the newest complete checkpoint where there is one."""
        recipe, found = self.recipe, checkpoint.newest_complete(self.run)
        denoiser = choose_trained(initial_denoiser(recipe), recipe).train()
        self.step = found.step if found else 0
        self.guard = self._new_guard()
        if found is None:
            self.engine = parallelize(denoiser, engine=recipe.engine, optimizer=recipe.optimizer)
            self.average = Average(self.engine.local_values())
            return
        if "guard" in found.facts:
            self.guard.put_in(found.facts["guard"])
        with checkpoint.opened(self.run, found) as read:
            values = {name: read(f"value/{name}") for name in trained_names(denoiser)}
            denoiser.load_state_dict(values, strict=False)
            self.engine = parallelize(denoiser, engine=recipe.engine, optimizer=recipe.optimizer)
            self.average = Average(self.engine.put_in(read, step=found.step))

    def _share(self, plan: StepPlan) -> list[tuple[int, tuple[Draw, ...]]]:
        return plan.share(self.rank, self.world, together=self.recipe.engine.sequence_parallel)

    def _reports(self, draws: tuple[Draw, ...]) -> bool:
        """Whether this worker says what the losses of a pack are: one does of those that share it, none when idle."""
        return draws[0].weight > 0 and self.rank % self.recipe.engine.sequence_parallel == 0

    def read(self, plan: StepPlan) -> list[list[EncodedClip]]:
        """The clips of this worker's packs of a step."""
        share = self._share(plan)
        return [[self._read(draw) for draw in draws] for _, draws in share]

    def _read(self, draw: Draw) -> EncodedClip:
        clip = self.reader.read(draw.clip, caption=draw.caption)
        if clip.damaged:
            note_damaged(self.run, self.clips[draw.clip], clip.damaged)
        return clip

    def _check_damaged(self, losses: torch.Tensor) -> int:
        """How many clips of the step were damaged. Raises InputError where less than half of them could be read."""
        count = int(losses.isnan().sum())
        if 2 * count > len(losses):
            hint = f"Look at {self.run.child(QUARANTINE).uri}, and run the curation again: it makes what is missing."
            raise InputError(f"Step {self.step}: {count} of its {len(losses)} clips are damaged.", hint)
        return count

    def advance(self, plan: StepPlan, encoded: list[list[EncodedClip]], said: Said) -> tuple[StepMetrics, list[Said]]:
        """One optimiser step over this worker's packs; every worker returns the same losses, and what all of them said
        by the way."""
        began = time.perf_counter()
        stage, inside = self.recipe.stages[self.recipe.stage_at(plan.step)[0]], self.recipe.stage_at(plan.step)[1]
        device = self.engine.device
        losses, computing = torch.zeros(len(plan.draws), device=device), Stopwatch(device)
        share = self._share(plan)
        for turn, ((first, draws), clips) in enumerate(zip(share, encoded, strict=True), start=1):
            if self.recipe.adapter.dropout:  # by pack, so that it knows neither the workers nor a resume
                torch.manual_seed(stream_seed(self.recipe.seed, plan.step, "dropout", first))
            with computing.running():
                question = ask(draws, clips, seed=self.recipe.seed, step=plan.step, variant=self.variant).to(device)
                answer = velocities(self.engine(question.batch), [target.shape for target in question.targets])
            errors = losses_of(question, answer)
            self.engine.backward((question.weights * errors).sum(), last=turn == len(share))
            if self._reports(draws):
                losses[first : first + len(draws)] = _without_damaged(errors.detach(), clips)
        rate = learning_rate(stage, inside)
        if inside == 0:  # gradients of other clips are of another size
            self.guard = self._new_guard()
        norm = self._update(rate)
        self.average.update(self.engine.local_values(), decay=decay_at(plan.step, self.recipe.ema_decay))
        losses, all_said = exchange(losses, replace(said, computing=computing.seconds()))
        self.step = plan.step + 1
        damaged = self._check_damaged(losses)
        by_stratum, counts = strata(losses, torch.tensor([draw.timestep for draw in plan.draws]))
        weights = torch.tensor([draw.weight for draw in plan.draws], dtype=torch.float32)
        lengths = [self.clips[draw.clip].num_tokens for draw in plan.draws]
        row = StepMetrics(
            step=self.step,
            stage=stage.name,
            loss=step_loss(losses, weights),
            learning_rate=rate,
            gradient_norm=norm,
            seconds=time.perf_counter() - began,
            clips=len(plan.draws),
            tokens=sum(lengths),
            flops=3 * forward_flops(self.variant.denoiser, lengths),
            stratum_loss=by_stratum,
            stratum_clips=counts,
            damaged=damaged,
            waiting_seconds=max(one.waiting for one in all_said),
            workers=self.world,
        )
        return row, all_said

    def held_out_loss(self) -> list[float]:
        """Mean loss of the held-out clips at each timestep, with the weights of now; every worker returns the same."""
        settings, recipe = self.recipe.held_out, self.recipe
        budget = max(stage.tokens_per_pack for stage in recipe.stages)
        plan = held_out_plan(settings, self.clips, budget=budget)
        losses = torch.zeros(len(plan.draws), device=self.engine.device)
        for (first, draws), clips in zip(self._share(plan), self.read(plan), strict=True):
            question = ask(draws, clips, seed=recipe.seed, step=plan.step, variant=self.variant)
            question = question.to(self.engine.device)
            with torch.no_grad():
                answer = velocities(self.engine(question.batch), [target.shape for target in question.targets])
            if self._reports(draws):
                losses[first : first + len(draws)] = _without_damaged(losses_of(question, answer), clips)
        dist.all_reduce(losses)
        return by_timestep(settings, plan, losses.tolist())

    def _new_guard(self) -> GradientGuard:
        return GradientGuard(self.recipe.optimizer.gradient_clip, self.recipe.optimizer.gradient_guard)

    def _update(self, rate: float) -> float:
        """The engine's update within the guard's bound; returns the norm before scaling."""
        bound = self.guard.bound
        norm = self.engine.update(rate, gradient_clip=bound)
        if not math.isfinite(norm):
            hint = "Lower the learning rate, or set optimizer.gradient_guard, and go on from the last checkpoint."
            raise RunError(f"Step {self.step + 1}: the gradient is not finite (norm {norm}).", hint)
        if self.rank == 0 and norm > bound and bound < self.guard.clip:
            get_logger("train").warning(
                "step %d: the gradient's norm of %.3g leaps out of the recent ones: scaled to %.3g",
                self.step + 1,
                norm,
                bound,
            )
        self.guard.add(norm)
        return norm

    def snapshot(self) -> Snapshot:
        """This worker's share of the state as it is now. Every worker must call it."""
        facts = {"recipe_hash": recipe_hash(self.recipe), "guard": self.guard.state()}
        return Snapshot(self.step, self.engine.take_out(self.average.values), facts)


def run_worker(
    job: Job, *, report: Callable[[dict[str, Any]], None], leaving: Callable[[], str] = lambda: ""
) -> tuple[str, str] | None:
    """Train to the end. `report` is called equally often on every worker: after each durable checkpoint.

    `leaving` says which machines are about to be taken away, if any: then a checkpoint is begun whenever the one before
    is durable. It too is called equally often on every worker. A full disk ends the worker normally, as trying again is
    no use: message and hint of the error are returned, on every worker.
    """
    torch.set_num_threads(job.recipe.workers.threads)
    torch.manual_seed(job.recipe.seed)
    training = Training(job)
    keep, patience = job.recipe.checkpoints.keep, job.recipe.workers.timeout_seconds
    try:
        with (
            Saver(training.run, keep=keep, patience=patience, report=report) as saver,
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="read") as pool,
        ):
            _train(training, saver, pool, notice=Notice(leaving))
    except StorageError as error:
        return error.message, error.hint
    return None


def _train(training: Training, saver: Saver, pool: ThreadPoolExecutor, *, notice: Notice) -> None:
    recipe, stopped = training.recipe, False
    logs = Logs(training.run, recipe, step=training.step, hosts=training.hosts) if training.rank == 0 else None
    waiting = _read_ahead(pool, training, training.step)
    while waiting is not None and not stopped:
        began = time.perf_counter()
        plan, encoded = waiting.result()
        waited = time.perf_counter() - began
        waiting = _read_ahead(pool, training, plan.step + 1)
        asked = {"stop": logs.stop_requested, "ask": notice.is_due} if logs is not None else {}
        row, all_said = training.advance(plan, encoded, Said(**asked, saved=saver.is_done, waiting=waited))
        stopped = any(one.stop for one in all_said)
        if recipe.held_out.clips and _is_due(training.step, recipe.held_out.every_steps, recipe):
            row = replace(row, held_out_loss=training.held_out_loss())
        if logs is not None:
            logs.add(row, all_said)
        if all(one.saved for one in all_said):
            saver.settle()
        if any(one.ask for one in all_said) and notice.ask() and logs is not None:
            logs.warn(notice.text)
        hurried = bool(notice.text) and not saver.is_pending
        if _is_due(training.step, recipe.checkpoints.every_steps, recipe) or stopped or hurried:
            records = logs.records() if logs is not None else _nothing
            saver.begin(training.snapshot(), records=records, metrics={"step": row.step, "loss": row.loss})
    saver.settle()


def _nothing() -> None:
    """What a worker other than the first has to record."""


def _without_damaged(losses: torch.Tensor, clips: list[EncodedClip]) -> torch.Tensor:
    """NaN in place of what a damaged clip gives."""
    damaged = torch.tensor([bool(clip.damaged) for clip in clips], device=losses.device)
    return losses.masked_fill(damaged, torch.nan)


def _is_due(step: int, every: int, recipe: TrainRecipe) -> bool:
    return step % every == 0 or step == recipe.num_steps


def _read_ahead(pool: ThreadPoolExecutor, training: Training, step: int) -> Future[Any] | None:
    """The plan and the clips of a step, fetched while the step before it computes; None past the end."""
    if step >= training.recipe.num_steps:
        return None

    def fetch() -> tuple[StepPlan, list[list[EncodedClip]]]:
        plan = training.order.step(step)
        return plan, training.read(plan)

    return pool.submit(fetch)
