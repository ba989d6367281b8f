"""A service's configuration: one frozen model that a YAML file and the command line fill."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from groundwork.config import FrozenModel
from serving.keys import ApiKey
from serving.scheduling import Limits
from serving.upsampling import Upsampling

_POSTGRES = ("postgres://", "postgresql://", "postgresql+psycopg://")
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

    ranks: int = Field(default=1, ge=1)
    """Processes, on one machine, that one replica spans. An even number: half of them for each half of guidance; the
    ranks of one half share its rows of tokens, so their number must divide the denoiser's attention heads."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Logical CPUs that one replica, or each of its ranks, reserves."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs that one replica, or each of its ranks, reserves; with any, it computes there."""
    threads: int = Field(default=2, ge=1)
    """Threads that torch computes with in one replica, or each of its ranks."""
    min_replicas: int = Field(default=1, ge=0)
    """Never fewer. With 0 the last one goes when there is nothing to do, and the first job brings one back."""
    max_replicas: int = Field(default=1, ge=1)
    """Never more. Above min_replicas, the number follows the denoising that accepted jobs still need."""
    clear_queue_seconds: float = Field(default=60.0, gt=0)
    """There are as many replicas as finish what is outstanding in this time."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.num_gpus > 1:
            raise ValueError(f"num_gpus={self.num_gpus}: a rank computes on one GPU; for more give ranks")
        if self.ranks > 1 and not self.num_cpus and not self.num_gpus:
            raise ValueError(f"ranks={self.ranks}: each must reserve something; give num_cpus or num_gpus")
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas}: must be at least min_replicas={self.min_replicas}")
        return self

    @property
    def replica_cpus(self) -> float:
        """Logical CPUs of one replica, all its ranks together."""
        return self.ranks * self.num_cpus

    @property
    def replica_gpus(self) -> float:
        """GPUs of one replica, all its ranks together."""
        return self.ranks * self.num_gpus


class ServingConfig(FrozenModel):
    """Everything about a service but the weights and the address."""

    state_dir: str | None = None
    """Local folder for the job database. Default: "serving" beside a local weights folder."""
    database: str | None = None
    """Another place for jobs: postgresql://USER@HOST/NAME, for a store with several writers. The password is taken
    from PGPASSWORD or PGPASSFILE. Default: a SQLite file in state_dir."""
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
    max_wait_seconds: float = Field(default=86_400.0, gt=0)
    """A job whose denoising would begin later than this is answered with 429."""
    slice_seconds: float = Field(default=30.0, gt=0)
    """A job is denoised for so long before it makes room for a shorter one."""
    retention_hours: float = Field(default=168.0, gt=0)
    """How long the files of a finished video are kept."""
    history_days: float = Field(default=90.0, gt=0)
    """How long a finished job is remembered after its end, without its files."""
    api_keys: tuple[ApiKey, ...] = ()
    """Who may use the service, with shares and limits; made by 'serving key NAME'. Empty: everyone who reaches it."""
    webhook_secret_env: str | None = None
    """Environment variable that holds the secret, whsec_…, that webhooks are signed with. Default: no webhooks."""
    allow_private_addresses: bool = False
    """Whether image_url and webhooks may lead into private networks."""
    upsampling: Upsampling | None = None
    """Language model that writes prompts out when a request says enhance_prompt."""
    lease_seconds: float = Field(default=15.0, ge=1)
    """A worker that is silent for so long is taken for dead and its job goes to another."""
    max_losses: int = Field(default=5, ge=1)
    """A job that has lost so many workers fails."""
    checkpoint_every_steps: int = Field(default=5, ge=1)
    """Steps between two saves of the sampler's state: the most that is repeated after a crash."""
    drain_seconds: float = Field(default=60.0, ge=1)
    """How long going down waits for the running step to end and its state to be saved."""
    ingress: Replicas = Replicas()
    jobs: Replicas = Replicas()
    """The job store. With SQLite it is the one writer of the database: one replica."""
    text: Replicas = Replicas()
    denoiser: ElasticReplicas = ElasticReplicas()
    decoder: Replicas = Replicas(num_cpus=0.5, threads=2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.jobs.replicas > 1 and self.database_is_file:
            raise ValueError(f"jobs.replicas={self.jobs.replicas}: SQLite has one writer; give a Postgres as database")
        names = [key.name for key in self.api_keys]
        if len(set(names)) < len(names):
            raise ValueError("api_keys: a name comes twice; make one key per name")
        return self

    @property
    def database_is_file(self) -> bool:
        """Whether jobs are in a SQLite file, which has one writer."""
        return not (self.database or "").startswith(_POSTGRES)

    @property
    def limits(self) -> Limits:
        """What all clients together may have."""
        return Limits(max_queued_jobs=self.max_queued_jobs, max_wait_seconds=self.max_wait_seconds)
