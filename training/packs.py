"""Clip lengths become packs, packs become steps: a pure function of lengths, budget and seed, whatever the workers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

Pack = tuple[int, ...]
"""Indices of the clips that share a row of tokens."""

_BUFFER_CLIPS = 128  # how far the packer looks ahead: a clip waits at most this many packs
_EXACT_CLIPS = 96  # candidates of the exact filling of a row's rest
_GREEDY_SHARE = 0.7  # of the budget is taken in arrival order, the rest is filled exactly
_WINDOW_STEPS = 8  # steps whose packs are sorted by cost together


def plan_packs(
    lengths: Sequence[int],
    budget: int,
    seed: int,
    epoch: int,
    world: int,
    *,
    packs_per_step: int | None = None,
    width: int = 1920,
) -> tuple[tuple[Pack, ...], ...]:
    """The packs of one pass over the clips, per worker: every clip is in exactly one pack.

    `lengths` are tokens per clip (text and video), `budget` the tokens of a row; a clip longer than the budget is a
    pack of its own. Packs are numbered globally in an order that does not depend on `world`; a step takes
    `packs_per_step` of them (default: one per worker) and worker r the r-th, r+world-th, … of the step. `width` is
    the denoiser's, for balancing cost. Raises ValueError for a budget or world below 1.
    """
    if budget < 1 or world < 1:
        raise ValueError(f"budget={budget}, world={world}: both must be at least 1")
    per_step = packs_per_step or world
    packs = epoch_packs(tuple(lengths), budget=budget, seed=seed, epoch=epoch, packs_per_step=per_step, width=width)
    shares: list[list[Pack]] = [[] for _ in range(world)]
    for index, pack in enumerate(packs):
        shares[(index % per_step) % world].append(pack)
    return tuple(tuple(share) for share in shares)


def epoch_packs(
    lengths: tuple[int, ...], *, budget: int, seed: int, epoch: int, packs_per_step: int, width: int
) -> tuple[Pack, ...]:
    """All packs of one pass in global order: filled oldest first, then windows sorted by cost and shuffled."""
    order = list(range(len(lengths)))
    random.Random(f"{seed}/order/{epoch}").shuffle(order)
    packs = list(_fill(order, lengths, budget=budget))
    shuffled: list[Pack] = []
    window = _WINDOW_STEPS * packs_per_step
    for start in range(0, len(packs), window):
        chance = random.Random(f"{seed}/window/{epoch}/{start}")
        shuffled += _balanced(packs[start : start + window], lengths, group=packs_per_step, width=width, chance=chance)
    return tuple(shuffled)


def _fill(order: Sequence[int], lengths: Sequence[int], *, budget: int) -> Iterator[Pack]:
    """Rows of at most `budget` tokens: the oldest clip always, then arrival order, then an exact subset sum."""
    arriving = iter(order)
    buffer = list(islice(arriving, _BUFFER_CLIPS))
    while buffer:
        taken = [buffer.pop(0)]
        used = lengths[taken[0]]
        for clip in list(buffer):
            if used >= _GREEDY_SHARE * budget:
                break
            if used + lengths[clip] <= budget:
                taken.append(clip)
                buffer.remove(clip)
                used += lengths[clip]
        for clip in _largest_subset(buffer[:_EXACT_CLIPS], lengths, limit=budget - used):
            taken.append(clip)
            buffer.remove(clip)
        yield tuple(taken)
        buffer += islice(arriving, _BUFFER_CLIPS - len(buffer))


def _largest_subset(clips: Sequence[int], lengths: Sequence[int], *, limit: int) -> list[int]:
    """The clips whose lengths sum highest without passing `limit` (subset sum over reachable totals)."""
    reached: dict[int, tuple[int, int]] = {0: (-1, 0)}  # total -> (last clip, total before it)
    for clip in clips:
        for total in list(reached):
            more = total + lengths[clip]
            if more <= limit and more not in reached:
                reached[more] = (clip, total)
        if limit in reached:
            break
    chosen: list[int] = []
    total = max(reached)
    while total:
        clip, total = reached[total]
        chosen.append(clip)
    return chosen[::-1]


def _balanced(
    packs: Sequence[Pack], lengths: Sequence[int], *, group: int, width: int, chance: random.Random
) -> list[Pack]:
    """Neighbours in cost share a step; the steps, and the packs inside each, are shuffled.

    A layer costs 24 d² L + 4 d L² per clip of L tokens at width d: only the ratio matters. The packs left over when
    the last group is not full stay last, so that the groups keep their places.
    """
    by_cost = sorted(packs, key=lambda pack: (sum(lengths[i] * (6 * width + lengths[i]) for i in pack), pack))
    groups = [by_cost[start : start + group] for start in range(0, len(by_cost), group)]
    rest = groups.pop() if groups and len(groups[-1]) < group else []
    chance.shuffle(groups)
    for members in groups:
        chance.shuffle(members)
    return [pack for members in [*groups, rest] for pack in members]


@dataclass(frozen=True)
class PackOrder:
    """The endless row of packs of one stage: pass after pass over the clips, cut into steps of `packs_per_step`."""

    lengths: tuple[int, ...]
    budget: int
    seed: int
    packs_per_step: int
    width: int
    images: tuple[bool, ...] = ()
    """Which of the clips are images; read only with `image_share`."""
    image_share: float | None = None
    """Share of the clips of a pass that are images; None: every clip once."""
    _starts: list[int] = field(default_factory=lambda: [0], repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.lengths:
            raise ValueError("lengths is empty: there is nothing to pack")

    def step(self, step: int) -> tuple[Pack, ...]:
        """The packs [step·G, (step + 1)·G) of the global numbering."""
        first = step * self.packs_per_step
        epoch = self._epoch_of(first)
        packs: list[Pack] = list(self._epoch(epoch)[first - self._starts[epoch] :])
        while len(packs) < self.packs_per_step:
            epoch += 1
            packs += self._epoch(epoch)
        return tuple(packs[: self.packs_per_step])

    def _epoch_of(self, pack: int) -> int:
        """The pass that the globally numbered `pack` belongs to; start numbers are found once and remembered."""
        while self._starts[-1] <= pack:
            epoch = len(self._starts) - 1
            self._starts.append(self._starts[-1] + len(self._epoch(epoch)))
        return next(epoch for epoch in range(len(self._starts) - 2, -1, -1) if self._starts[epoch] <= pack)

    def _epoch(self, epoch: int) -> tuple[Pack, ...]:
        return _cached_epoch(
            self.lengths, self.images, self.image_share, self.budget, self.seed, epoch, self.packs_per_step, self.width
        )


def pass_clips(images: Sequence[bool], *, image_share: float, seed: int, epoch: int) -> list[int]:
    """The clips of one pass: every film once, and images until they are `image_share` of all.

    Images come from a shuffled row of their own that goes on from pass to pass: each is seen as often as any other,
    whether a pass needs fewer of them than there are, or more. Without films (or images) it is every clip once.
    """
    stills, films = ([number for number, image in enumerate(images) if image == wanted] for wanted in (True, False))
    if not stills or not films or not 0 < image_share < 1:
        return list(range(len(images)))
    count = max(1, round(len(films) * image_share / (1 - image_share)))
    chosen: list[int] = []
    for place in range(epoch * count // len(stills), ((epoch + 1) * count - 1) // len(stills) + 1):
        row = list(stills)
        random.Random(f"{seed}/images/{place}").shuffle(row)
        first = place * len(stills)
        chosen += row[max(0, epoch * count - first) : (epoch + 1) * count - first]
    return films + chosen


@lru_cache(maxsize=4)
def _cached_epoch(
    lengths: tuple[int, ...],
    images: tuple[bool, ...],
    image_share: float | None,
    budget: int,
    seed: int,
    epoch: int,
    packs_per_step: int,
    width: int,
) -> tuple[Pack, ...]:
    clips: Sequence[int] = range(len(lengths))
    if image_share is not None:
        clips = pass_clips(images, image_share=image_share, seed=seed, epoch=epoch)
    packs = epoch_packs(
        tuple(lengths[clip] for clip in clips),
        budget=budget,
        seed=seed,
        epoch=epoch,
        packs_per_step=packs_per_step,
        width=width,
    )
    return packs if image_share is None else tuple(tuple(clips[place] for place in pack) for pack in packs)
