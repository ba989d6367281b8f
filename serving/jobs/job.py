"""What is known of a request for a video, from the moment it was accepted: a frozen `Job` and its `Event`s."""

from __future__ import annotations

from typing import Any, Literal, get_args

from groundwork.config import FrozenModel
from groundwork.errors import RunError

Status = Literal["queued", "in_progress", "completed", "failed"]
Stage = Literal["denoise", "decode"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class JobSettings(FrozenModel):
    """A request with nothing left open: two jobs with equal settings and weights give equal latents."""

    model: str
    prompt: str
    negative_prompt: str
    num_frames: int
    """Pixel frames."""
    height: int
    width: int
    fps: int
    """Pictures per second of the finished file."""
    steps: int
    """Denoising steps."""
    guidance_scale: float
    seed: int
    seconds: str
    """Length as asked for, or as derived from the frames."""


class JobError(FrozenModel):
    """Why a job failed."""

    code: str
    message: str


class Job(FrozenModel):
    """One row of the job table."""

    number: int
    """Order of arrival, from 1."""
    id: str
    settings: JobSettings
    status: Status
    stage: Stage
    """What has to be done next, or is being done."""
    created_at: float
    started_at: float | None
    completed_at: float | None
    cancelled_at: float | None
    step: int
    """Denoising steps that are finished."""
    attempt: int
    """How often a worker has taken up the denoising."""
    losses: int
    """How many workers were lost while they held the job."""
    resumed_from_step: int | None
    epoch: int
    """Number of the current lease: a write that carries an older one is refused."""
    worker: str | None
    lease_until: float | None
    cancel_requested: bool
    checkpoint: str | None
    """Name of the newest sampler state in the results storage."""
    latent_sha256: str | None
    video_sha256: str | None
    stage_seconds: dict[str, float]
    error: JobError | None

    @property
    def is_final(self) -> bool:
        """Whether nothing will happen to this job any more."""
        return self.status in ("completed", "failed")


class Lease(FrozenModel):
    """The right to work on a job, until it expires or a later one is given out."""

    job_id: str
    epoch: int


class Orders(FrozenModel):
    """What the store tells a worker each time it reports."""

    cancel: bool = False
    """The user wants no video any more: stop, the job is closed already."""
    release: bool = False
    """The service is going down: save the state and give the lease back."""


class Event(FrozenModel):
    """Something that happened to a job; `number` counts per job from 1 without gaps, so a replay is exact."""

    job_id: str
    number: int
    name: str
    at: float
    facts: dict[str, Any]


class QueueFacts(FrozenModel):
    """How full the service is."""

    queued: int
    in_progress: int
    outstanding_steps: int
    """Denoising steps that accepted jobs still need."""


class JobNotFoundError(RunError):
    """No job has this id."""


class LeaseLostError(RunError):
    """The worker's lease expired, was given to another, or its job is gone: what it reports is refused."""
