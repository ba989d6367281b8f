"""What a recipe may say about the six labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from groundwork.config import FrozenModel


class ClassifierSettings(FrozenModel):
    """Heads on a frozen encoder, as `curate label train` writes them."""

    heads: str = ""
    """Folder or URI of the trained heads."""
    encoder: str = ""
    """Folder of their encoder, where it lies elsewhere than at training; it must be the same to the byte."""


class ZeroShotSettings(FrozenModel):
    """A vision-language model that is asked six questions about a clip, to be answered with yes or no."""

    model: str = ""
    """Local folder or hub id, of a model that transformers opens as AutoModelForImageTextToText (Qwen2.5-VL,
    LLaVA-OneVision, SmolVLM2, …)."""
    revision: str = ""
    """Commit of the hub repository; a hub id is used only with one."""
    num_frames: int = Field(default=8, gt=0)
    """Pixel frames that it sees, spread evenly over the clip."""
    short_side: int = Field(default=336, gt=0)
    """Pixels of the shorter side of these frames."""
    least_answer_share: float = Field(default=0.05, ge=0, le=1)
    """Probability of "yes" and "no" together below which the model has not answered: no score."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; auto: that of the checkpoint on a GPU, float32 on a CPU."""


class LabelSettings(FrozenModel):
    """Who gives the six labels of the paper. All modes write the same columns, with their source in every row."""

    mode: Literal["off", "measured", "classifier", "zero_shot"] = "measured"
    """measured: from signals alone, as far as they reach; classifier, zero_shot: by a model, for the clips that no rule
    rejects before the first one on a label; off: no labels."""
    classifier: ClassifierSettings = ClassifierSettings()
    zero_shot: ZeroShotSettings = ZeroShotSettings()
    batch_clips: int = Field(default=8, gt=0)
    """Clips that a model sees at once, of one video."""
    workers: int = Field(default=2, gt=0)
    """Processes with the model: at most so many."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs (or a share of one) that each of them reserves; 0: it runs on the CPU."""


class TrainingSettings(FrozenModel):
    """How heads are trained."""

    hidden: int = Field(default=0, ge=0)
    """Width of each head's inner layer; 0: the head is linear."""
    stop_share: float = Field(default=0.15, gt=0, lt=0.5)
    """Share of the clips that ends the training and sets thresholds."""
    held_out_share: float = Field(default=0.2, gt=0, lt=0.5)
    """Share that is looked at once, at the end: the confusion table is of these."""
    seed: int = 0
    """Which films fall into which part, and where training begins."""
    epochs: int = Field(default=300, gt=0)
    """At most so many."""
    patience: int = Field(default=30, gt=0)
    """Epochs without gain on the part that ends the training, after which a head is done."""
    batch: int = Field(default=128, gt=0)
    """Clips per step."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Of AdamW."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Of AdamW."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Share of a head's inputs (or of its inner values) that is left out at each step."""
