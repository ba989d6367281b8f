"""What is known of a request for a video, from the moment it was accepted: a frozen `Job` and its `Event`s."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from groundwork.config import FrozenModel
from groundwork.errors import RunError

Status = Literal["queued", "in_progress", "completed", "failed"]
Stage = Literal["denoise", "decode"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Adapter(FrozenModel):
    """A LoRA that the denoiser wears for one job."""

    name: str
    scale: float = 1.0
    """0 leaves the denoiser as it is."""


class Reference(FrozenModel):
    """The picture or video that a job starts from; its bytes lie beside the job's results."""

    kind: Literal["image", "video"]
    sha256: str
    strength: float = 0.8
    """Video only, above 0 and at most 1: how much of it is redrawn."""


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
    sampler: Literal["ddim", "dpm"] | None = None
    """None: the model card's."""
    reference: Reference | None = None
    """None: a video from text alone."""
    adapters: tuple[Adapter, ...] = ()
    """Worn all at once; their changes add up."""

    @property
    def steps_to_run(self) -> int:
        """Of `steps`; fewer where a video is only partly redrawn: its first steps are left out."""
        if self.reference is None or self.reference.kind == "image":
            return self.steps
        return max(1, int(self.steps * self.reference.strength))


class Webhook(FrozenModel):
    """Where the end of a job is told."""

    url: str
    events: tuple[Literal["video.completed", "video.failed"], ...] = ("video.completed", "video.failed")


class JobTerms(FrozenModel):
    """What was agreed about a job besides the picture: for whom, by when, at what cost."""

    owner: str = ""
    """Name of the API key, "" where keys are not asked for."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the owner against others that wait."""
    step_tflop: float = Field(default=0.0, ge=0)
    """Arithmetic of one denoising step, guidance included."""
    priority: int = 0
    """Higher goes first, within what the owner's share allows."""
    deadline: float | None = None
    """Unix seconds; a job that is not done by then fails."""
    preview_every: int = Field(default=0, ge=0)
    """Steps between two preview pictures, 0 for none."""
    prompt_asked: str | None = None
    """The prompt as it came, where it was rewritten."""
    remixed_from: str | None = None
    """Id of the video that this one varies."""
    metadata: dict[str, str] = Field(default_factory=dict)
    webhook: Webhook | None = None
    idempotency_key: str | None = None
    request_sha256: str | None = None
    """Hash of the request's body; with the same key and another hash the request is refused."""


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
    terms: JobTerms = JobTerms()
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
    fingerprint: str | None = None
    """Hash over all that decides the latent's bits: weights, code, torch, device class, settings."""
    video_sha256: str | None
    stage_seconds: dict[str, float]
    expires_at: float | None = None
    """When the files of a final job go."""
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
    make_room: bool = False
    """Another job is to pass: save the state and give the lease back."""


class Event(FrozenModel):
    """Something that happened to a job; `number` counts per job from 1 without gaps, so a replay is exact."""

    job_id: str
    number: int
    name: str
    at: float
    facts: dict[str, Any]


class Seconds(FrozenModel):
    """A duration that is not known exactly."""

    p50: float
    p95: float


class QueueFacts(FrozenModel):
    """How full the service is."""

    queued: int
    in_progress: int
    backlog: tuple[tuple[float, float | None], ...] = ()
    """Per job that is not denoised: denoise-seconds left, seconds until its deadline."""
    held: int = 0
    """Jobs that a denoiser has at hand."""
    workers: int = 0
    """Denoisers that were heard of lately."""

    @property
    def outstanding_seconds(self) -> float:
        """Denoise-seconds that accepted jobs still need."""
        return sum(rest for rest, _ in self.backlog)


class Accepted(FrozenModel):
    """A job that was accepted, now or by an earlier request that was the same."""

    job: Job
    replayed: bool


class Delivery(FrozenModel):
    """A webhook that has to be sent."""

    id: str
    job_id: str
    url: str
    event: str
    created_at: float
    attempts: int


class JobNotFoundError(RunError):
    """No job has this id."""


class KeyReusedError(RunError):
    """The idempotency key was used with another request."""


class StoreDownError(RunError):
    """The database does not answer now; the call may be repeated."""


class RefusedError(RunError):
    """The service does not accept the job now; args: code, message, seconds until asking again makes sense."""

    def __init__(self, code: str, message: str, retry_after_seconds: float | None) -> None:
        super().__init__(message)
        self.code, self.retry_after_seconds = code, retry_after_seconds

    def __reduce__(self) -> tuple[type[RefusedError], tuple[str, str, float | None]]:
        return type(self), (self.code, self.message, self.retry_after_seconds)


class LeaseLostError(RunError):
    """The worker's lease expired, was given to another, or its job is gone: what it reports is refused."""
