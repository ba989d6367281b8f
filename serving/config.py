"""A service's configuration: one frozen model that a YAML file and the command line fill."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from groundwork.config import FrozenModel

CONFIGS = Path(__file__).parent / "configs"


class Replicas(FrozenModel):
    """How much of the cluster one deployment takes."""

    num_cpus: float = Field(default=0.1, ge=0)
    """Logical CPUs that one replica reserves."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs that one replica reserves; with any, it computes there."""
    threads: int = Field(default=1, ge=1)
    """Threads that torch computes with in one replica."""
    replicas: int = Field(default=1, ge=1)
    """How many replicas there are."""


class ElasticReplicas(FrozenModel):
    """How much of the cluster the denoisers take, and when there are more of them."""

    num_cpus: float = Field(default=1.0, ge=0)
    """Logical CPUs that one replica reserves."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs that one replica reserves; with any, it computes there. With 2, each takes one half of guidance."""
    threads: int = Field(default=2, ge=1)
    """Threads that torch computes with in one replica."""
    min_replicas: int = Field(default=1, ge=1)
    """Never fewer."""
    max_replicas: int = Field(default=1, ge=1)
    """Never more. Above min_replicas, the number follows the denoising that accepted jobs still need."""
    clear_queue_seconds: float = Field(default=60.0, gt=0)
    """There are as many replicas as finish what is outstanding in this time."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas}: must be at least min_replicas={self.min_replicas}")
        return self


class ServingConfig(FrozenModel):
    """Everything about a service but the weights and the address."""

    state_dir: str | None = None
    """Local folder for the job database. Default: "serving" beside a local weights folder."""
    results: str | None = None
    """Where videos, latents and saved states go, any URI. Default: "results" in state_dir."""
    sizes: tuple[str, ...] = ()
    """Picture sizes "WIDTHxHEIGHT" that are offered, the default first. Empty: the model's native size alone."""
    num_inference_steps: int | None = Field(default=None, ge=1)
    """Denoising steps of a request that names none. Default: the model card's."""
    max_inference_steps: int = Field(default=200, ge=1)
    """Most denoising steps a request may ask for."""
    loras: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters on offer: the URI of the file or folder by the name that a request gives."""
    max_queued_jobs: int = Field(default=100, ge=1)
    """Jobs that may wait; one more is answered with 429."""
    lease_seconds: float = Field(default=15.0, ge=1)
    """A worker that is silent for so long is taken for dead and its job goes to another."""
    max_losses: int = Field(default=5, ge=1)
    """A job that has lost so many workers fails."""
    checkpoint_every_steps: int = Field(default=5, ge=1)
    """Steps between two saves of the sampler's state: the most that is repeated after a crash."""
    drain_seconds: float = Field(default=60.0, ge=1)
    """How long going down waits for the running step to end and its state to be saved."""
    ingress: Replicas = Replicas()
    jobs_num_cpus: float = Field(default=0.1, ge=0)
    """Logical CPUs that the job store reserves. It is the one writer of the database: one replica, always."""
    text: Replicas = Replicas()
    denoiser: ElasticReplicas = ElasticReplicas()
    decoder: Replicas = Replicas(num_cpus=0.5, threads=2)
