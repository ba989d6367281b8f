"""A recipe and the clips of a dataset become the global steps: what every worker knows without communication."""

from __future__ import annotations

from collections.abc import Sequence

from groundwork.latents import IndexedClip
from training.fit import variant_of
from training.held_out import held_out_clips, without
from training.packs import PackOrder
from training.recipe import TrainRecipe
from training.stages import Scores, is_image, stage_clips
from training.step import StepPlan, plan_step


class Order:
    """The steps of a run by number, whoever asks: a pure function of recipe, clips and their scores (`read_scores`)."""

    def __init__(self, recipe: TrainRecipe, clips: Sequence[IndexedClip], scores: Scores) -> None:
        self._recipe, self._clips = recipe, clips
        variant = variant_of(recipe)
        self._width, self._takes_image = variant.denoiser.width, variant.takes_image
        held_out = held_out_clips(recipe.held_out, clips)
        self._numbers = [without(stage_clips(stage, clips, scores), held_out) for stage in recipe.stages]
        self._packs = [self._order(index) for index in range(len(recipe.stages))]

    def step(self, step: int) -> StepPlan:
        """The global step numbered `step` (from 0). Raises ValueError past the schedule."""
        stage, inside = self._recipe.stage_at(step)
        numbers = self._numbers[stage]
        return plan_step(
            step,
            [tuple(numbers[index] for index in pack) for pack in self._packs[stage].step(inside)],
            self._clips,
            seed=self._recipe.seed,
            text_dropout=self._recipe.text_dropout,
            captions=self._recipe.captions,
            weighting=self._recipe.weighting,
            timesteps=self._recipe.timesteps,
            image=self._recipe.image if self._takes_image else None,
        )

    def clips_of(self, stage: int) -> list[IndexedClip]:
        """The clips that the stage of this index trains on."""
        return [self._clips[number] for number in self._numbers[stage]]

    def _order(self, index: int) -> PackOrder:
        stage, clips = self._recipe.stages[index], self.clips_of(index)
        return PackOrder(
            lengths=tuple(clip.num_tokens for clip in clips),
            budget=stage.tokens_per_pack,
            seed=self._recipe.seed * 1009 + index,
            packs_per_step=stage.packs_per_step,
            width=self._width,
            images=tuple(is_image(clip) for clip in clips),
            image_share=stage.images,
        )
