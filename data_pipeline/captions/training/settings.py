"""What may be said about distilling a captioner: the base, what it sees, and how it is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_pipeline.captions.settings import ModelSettings
from groundwork.config import FrozenModel


class DistilSettings(FrozenModel):
    """How a model learns to write captions that a dataset holds."""

    model: str = ""
    """The base: hub id, or a local folder (on every node)."""
    revision: str = ""
    """Commit of the hub repository."""
    task: Literal["caption", "summary"] = "caption"
    """caption: a video model learns clip → caption; summary: a language model learns captions of frames → caption."""
    captioner: str = ""
    """Whose captions are learnt: a folder below DATASET/captions. Default: the only one that is not `measured`."""
    prompt: str = ""
    """What the model is asked; empty: the house's words, as when it captions. Task summary: what stands before what is
    to be summed up."""
    system: str = ""
    """The system message; empty: the house's words for summary, none for caption."""
    frames: Literal["even", "spaced"] = "even"
    """even: `num_frames` frames over the whole clip; spaced: one every `spacing_seconds`, at most `num_frames`."""
    num_frames: int = Field(default=24, gt=0)
    """Pixel frames that the model sees of a clip."""
    spacing_seconds: float = Field(default=2.0, gt=0)
    """Seconds between frames, where they are spaced."""
    short_side: int = Field(default=224, gt=0)
    """Pixels of the shorter side of these frames."""
    shown_as: Literal["auto", "video", "pictures"] = "auto"
    """video: as one video; pictures: as pictures with their times between them; auto: as video where the processor
    can."""
    method: Literal["lora", "full"] = "lora"
    """lora: small matrices beside the language model's weights; full: all weights of the language model."""
    vision: bool = False
    """Train the part that sees, too; it is as good as the base left it otherwise."""
    lora_rank: int = Field(default=16, gt=0)
    """Rank of LoRA's matrices."""
    lora_alpha: int = Field(default=32, gt=0)
    """LoRA's scale: what it adds is multiplied by alpha / rank."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of LoRA's inputs that is dropped while training."""
    epochs: float = Field(default=2.0, gt=0)
    """Passes over the pairs, unless `steps` says how far to go."""
    steps: int = Field(default=0, ge=0)
    """Optimiser steps (0: by `epochs`)."""
    batch_clips: int = Field(default=1, gt=0)
    """Clips in one forward pass of one worker; they are of similar length."""
    accumulate: int = Field(default=16, gt=0)
    """Forward passes per optimiser step."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak, reached after the warm-up; a cosine leads from there to 0."""
    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this norm (0: never)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16: frozen weights and arithmetic, what learns stays float32; auto: bfloat16 where the device has it."""
    gradient_checkpointing: bool = False
    """Compute activations twice rather than keep them: less memory, about a third more time."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of the videos whose clips are not learnt but judged: the held-out loss."""
    evaluate_every: int = Field(default=100, gt=0)
    """Steps between held-out losses; there is always one at the end."""
    checkpoint_every: int = Field(default=100, gt=0)
    """Steps between checkpoints; a killed run repeats at most as many."""
    merge: bool = False
    """Write LoRA's result as whole weights rather than as an adapter beside the base."""
    seed: int = 0
    """Of LoRA's beginning, dropout, and the order of the pairs."""

    @property
    def sees(self) -> ModelSettings:
        """The model as the captioner stage describes one: what it is asked, and which frames it sees."""
        return ModelSettings(
            model=self.model,
            revision=self.revision,
            prompt=self.prompt,
            system=self.system,
            frames=self.frames,
            num_frames=self.num_frames,
            spacing_seconds=self.spacing_seconds,
            short_side=self.short_side,
            shown_as=self.shown_as,
        )

    @property
    def words(self) -> tuple[str, str]:
        """Prompt and system message."""
        from data_pipeline.captions import models  # it imports what runs models: too much for a help text

        return models.words("video" if self.task == "caption" else "language", self.sees)


class WorkerSettings(FrozenModel):
    """How wide the training runs."""

    workers: int = Field(default=1, gt=0)
    """Processes, one per GPU, that share each step (DDP through Ray Train); RUN and the base must be there on every
    node. 1: a plain process without Ray."""
    decoders: int = Field(default=0, ge=0)
    """Processes per worker that decode frames ahead (0: the worker itself does)."""
