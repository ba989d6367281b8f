"""What a training recipe may say, as frozen models: every field is also a command-line override."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from groundwork.config import FrozenModel

RECIPES = Path(__file__).parent / "recipes"

MACHINE_FIELDS = (
    *("workers", "checkpoints", "samples", "logging"),
    *("engine.kind", "engine.replicas", "engine.offload", "engine.sequence_parallel"),
    *("engine.activation_checkpointing", "engine.compile"),
)
"""Fields that say where a run runs and what it shows, not what it learns: they may change when it is resumed."""


class ScoreBound(FrozenModel):
    """What a stored score must be."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> ScoreBound:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least must not exceed at_most")
        return self


class Stage(FrozenModel):
    """A stretch of steps with its own clips, budget and learning rate; stages follow each other."""

    name: str = "all"
    steps: int = Field(gt=0)
    tokens_per_pack: int = Field(gt=0)
    """Tokens of one row, text and video together: what a worker's memory must hold."""
    packs_per_step: int = Field(gt=0)
    """Rows of one optimiser step over all workers: the global batch, whatever the number of workers."""
    learning_rate: float = Field(gt=0)
    final_learning_rate: float = Field(default=0.0, ge=0)
    """Where the half cosine ends."""
    warmup_steps: int = Field(default=0, ge=0)
    buckets: tuple[str, ...] = ()
    """Folders below `latents/` to train on, e.g. 17x96x144, or patterns of them, e.g. *x480x*; empty: all."""
    where: dict[str, ScoreBound] = Field(default_factory=dict)
    """Bounds of stored scores (columns of the dataset's `signals/`): a clip outside one of them is left out."""
    best: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    """Shares by stored score, e.g. {aesthetic_score: 0.2}: only the best fifth of the clips that the rest leaves."""
    images: float | None = Field(default=None, ge=0, le=1)
    """Share of images among the clips of a pass; films are seen once in it. None: every clip once, whatever it is."""

    @model_validator(mode="after")
    def _rates_in_order(self) -> Stage:
        if self.final_learning_rate > self.learning_rate:
            raise ValueError("final_learning_rate must not exceed learning_rate")
        return self


class OptimizerSettings(FrozenModel):
    """AdamW; the defaults are the published fine-tuning settings."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient over all parameters."""
    gradient_guard: float | None = Field(default=None, gt=0)
    """A gradient whose norm is so many standard deviations above the recent mean is scaled down to there: e.g. 3."""


class AdapterSettings(FrozenModel):
    """LoRA: low-rank changes of linear layers are trained, and nothing else."""

    rank: int = Field(default=0, ge=0)
    """0: no adapter."""
    alpha: float | None = Field(default=None, gt=0)
    """The change is multiplied by alpha / rank. None: as large as rank."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers by the end of their name, as in peft; also ff.net.0.proj, ff.net.2, norm1.linear, norm2.linear."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is set to zero."""
    merged: bool = True
    """Export the whole model with the adapter merged into it, and not only the adapter."""

    @property
    def scale(self) -> float:
        """What the low-rank product is multiplied by."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank


class ImageSettings(FrozenModel):
    """Image-to-video: what is done to the first frame that the denoiser is given (the released training code)."""

    noise_mean: float = -3.0
    """Mean of the logarithm of the noise's standard deviation; each clip of a step draws its own."""
    noise_std: float = Field(default=0.5, ge=0)
    """Standard deviation of that logarithm."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of clips whose first frame is replaced by zeros."""


SavedOperation = Literal["attention", "linear"]
Recompute = (
    Literal["none", "full"] | Annotated[int, Field(ge=2)] | Annotated[tuple[SavedOperation, ...], Field(min_length=1)]
)


class EngineSettings(FrozenModel):
    """How the network is spread over workers, and how it is computed."""

    kind: Literal["ddp", "zero-1", "zero-2", "zero-3", "fsdp", "canonical"] = "zero-2"
    """ddp: all whole on every worker. DeepSpeed ZeRO shards optimiser states (1), gradients too (2), parameters too
    (3). fsdp: torch's FSDP2, which shards all three. All give the same training; a run may change it when it goes on.
    canonical: as ddp, but slow, for tests: the same to the bit on any number of workers.
    """
    replicas: int = Field(default=1, gt=0)
    """fsdp: equal groups of workers that each hold everything once, and shard it inside the group (HSDP)."""
    offload: bool = False
    """zero: optimiser states in the memory of the host, and the update there."""
    precision: Literal["float32", "bfloat16", "float8"] = "float32"
    """bfloat16: products in bfloat16, weights and optimiser in float32. float8: besides, those of the layers' linear
    maps in 8 bits (GPUs since Ada and Hopper; emulated without one).
    """
    compile: bool = False
    """Compile what layers do to tokens one by one: the first step takes minutes, the others less."""
    activation_checkpointing: Recompute = "none"
    """What the backward pass computes again instead of keeping it. none; full: every layer, for a third more time;
    a number n: every n-th layer; operations (attention, linear): every layer but the results of these.
    """
    sequence_parallel: int = Field(default=1, gt=0)
    """Neighbouring workers that share every row of tokens (Ulysses), for rows too long for one. Must divide the number
    of workers and of attention heads.
    """

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> EngineSettings:
        if self.replicas > 1 and self.kind != "fsdp":
            raise ValueError(f"replicas is an option of the engine fsdp, not of {self.kind}")
        if self.offload and not self.kind.startswith("zero"):
            raise ValueError(f"offload is an option of the engines zero-1, zero-2 and zero-3, not of {self.kind}")
        if self.compile and isinstance(self.activation_checkpointing, tuple):
            raise ValueError("compile hides operations from activation_checkpointing: give full, a number or none")
        return self

    @property
    def is_mixed(self) -> bool:
        """Whether products are made in fewer bits than weights have."""
        return self.precision != "float32"

    @property
    def recomputed(self) -> float:
        """Share of the layers that the backward pass computes again, in whole or in part."""
        mode = self.activation_checkpointing
        return 1 / mode if isinstance(mode, int) else float(mode != "none")


class WorkerSettings(FrozenModel):
    """How wide a run is. The order of data, timesteps and noise does not depend on it."""

    count: int = Field(default=2, gt=0)
    at_least: int | None = Field(default=None, gt=0)
    """With how few a run starts, or goes on, while machines are missing; as they come it takes up to `count`. None:
    always `count`."""
    resize_seconds: float = Field(default=60.0, gt=0)
    """With at_least: how often a run with fewer workers than `count` looks for more; it goes back to its last
    checkpoint to take them."""
    cpus: float = Field(default=1.0, gt=0)
    """Logical CPUs that each worker reserves."""
    threads: int = Field(default=1, gt=0)
    """Threads of each worker's arithmetic."""
    max_failures: int = Field(default=3, ge=0)
    """How many times the workers are started again after one of them died."""
    price_per_hour: float = Field(default=0.0, ge=0)
    """What a worker costs, in any currency: the run then shows what it has cost."""
    timeout_seconds: int = Field(default=300, gt=0)
    """A worker that waits for another longer than this gives up."""

    @property
    def fewest(self) -> int:
        """How few there may be."""
        return self.count if self.at_least is None else self.at_least

    @model_validator(mode="after")
    def _fewest_not_above_count(self) -> WorkerSettings:
        if self.fewest > self.count:
            raise ValueError(f"at_least is {self.at_least}, and count, the most workers there may be, is {self.count}")
        return self


class CheckpointSettings(FrozenModel):
    """When training states are saved, and how many are kept."""

    every_steps: int = Field(default=100, gt=0)
    keep: int = Field(default=2, gt=0)


class HeldOutSettings(FrozenModel):
    """Clips that are never trained on: their loss at fixed timesteps, with fixed noise, falls as training gets on, and
    is smooth where the training's own is not."""

    clips: int = Field(default=0, ge=0)
    """How many; 0: none, all clips are trained on."""
    every_steps: int = Field(default=100, gt=0)
    """Steps between two evaluations; the last step is always one."""
    timesteps: tuple[Annotated[int, Field(ge=0, le=999)], ...] = Field(default=(100, 300, 500, 700, 900), min_length=1)
    """Each clip is asked at each of them."""


class SampleSettings(FrozenModel):
    """Films for the report, of the moving average: of clips' texts, spread over the dataset, from the same noise."""

    count: int = Field(default=0, ge=0)
    """Of how many clips; 0: none."""
    every_steps: int = Field(default=0, ge=0)
    """Steps between two series that are made while training goes on, each of the first checkpoint from there on.
    0: only at the end."""
    cpus: float = Field(default=0.5, gt=0)
    """Logical CPUs that the worker beside the training reserves, where the cluster has them."""
    num_steps: int = Field(default=20, gt=0)
    guidance_scale: float = Field(default=1.5, ge=1)


class LoggingSettings(FrozenModel):
    """Where a run's rows go besides its folder."""

    wandb: str = ""
    """Project of Weights & Biases (extra `wandb`) that saved rows are sent to; its own variables (WANDB_…) hold.
    Empty: none."""


class TrainRecipe(FrozenModel):
    """Encoded clips to a trained denoiser: one file describes a whole progressive schedule."""

    kind: Literal["denoiser"] = "denoiser"
    name: str = "toy"
    variant: str = "toy"
    """Model card of the denoiser; the dataset must have been encoded for it."""
    seed: int = 0
    initial_weights: str = ""
    """Folder of a transformer to start from; empty: random weights from the seed."""
    adapter: AdapterSettings = AdapterSettings()
    trainable: tuple[str, ...] = ()
    """Parameters to train, as patterns of their names in weight files, e.g. *.attn1.*; the rest is frozen.
    Empty: all."""
    components: str = ""
    """Weights folder whose vae and text encoder go into the exported pipeline; empty: those that ship with the toy."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    weighting: Literal["sample", "sqrt_token", "token"] = "sample"
    """What a clip counts in the loss: the same as any other, or by the (root of the) number of its video tokens."""
    text_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of clips whose text is replaced by zeros, which guidance needs."""
    timesteps: Literal["step", "pack"] = "step"
    """Explicit uniform sampling: `step`: each clip of a step has an interval of 0..999 of its own; `pack`: the paper's
    form, in which each pack has one, and its clips draw from it."""
    image: ImageSettings = ImageSettings()
    """Read only where the variant takes an image."""
    captions: Literal["first", "any"] = "first"
    """Of clips with several captions: always the first, or each time one that seed, step and clip decide."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average of the weights, reached gradually."""
    optimizer: OptimizerSettings = OptimizerSettings()
    engine: EngineSettings = EngineSettings()
    workers: WorkerSettings = WorkerSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    held_out: HeldOutSettings = HeldOutSettings()
    samples: SampleSettings = SampleSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> TrainRecipe:
        if self.adapter.rank and self.trainable:
            raise ValueError("adapter and trainable: an adapter is all that is trained; give one of them")
        if (self.adapter.rank or self.trainable) and not self.initial_weights:
            raise ValueError("initial_weights is empty: an adapter or a part is trained on the weights of a model")
        if self.adapter.rank and not self.adapter.merged and self.samples.count:
            raise ValueError("samples.count: films are made by the merged weights, and adapter.merged is false")
        if self.adapter.dropout and self.engine.sequence_parallel > 1:
            raise ValueError("adapter.dropout: workers that share a row would each drop their own; set it to 0")
        return self

    @property
    def is_partial(self) -> bool:
        """Whether some parameters stay as they are in `initial_weights`."""
        return bool(self.adapter.rank or self.trainable)

    @property
    def num_steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, int]:
        """Index of the stage that `step` (from 0) belongs to, and the step inside it.

        Raises ValueError for a step outside the schedule.
        """
        left = step
        for index, stage in enumerate(self.stages):
            if 0 <= left < stage.steps:
                return index, left
            left -= stage.steps
        raise ValueError(f"step={step}: the schedule has steps 0 to {self.num_steps - 1}")
