"""The wire types: OpenAI's Videos API as frozen models, with what goes beyond it under one `x` object."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from groundwork.config import FrozenModel
from serving.jobs.job import Adapter, Seconds, Webhook


def _number_as_text(value: object) -> object:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


_WIRE = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ReferenceAddress(BaseModel):
    """A picture or video to start from, by address; a file comes as a part of the form instead."""

    model_config = _WIRE

    image_url: str = Field(max_length=16_000_000, description="http, https or data: URL of a picture or video")


class CreateVideo(BaseModel):
    """The body of `POST /v1/videos`, as JSON or as form fields, where every value is text."""

    model_config = _WIRE

    prompt: str = Field(min_length=1, max_length=32_000)
    model: str | None = None
    size: str | None = Field(default=None, description="WIDTHxHEIGHT in pixels")
    seconds: Annotated[str | None, BeforeValidator(_number_as_text)] = None
    negative_prompt: str = Field(default="", max_length=32_000)
    num_frames: int | None = None
    fps: int | None = Field(default=None, ge=1, le=60)
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0, le=100)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    input_reference: ReferenceAddress | None = None
    strength: float = Field(default=0.8, gt=0, le=1, description="how much of a video to start from is redrawn")
    scheduler: Literal["ddim", "dpm"] | None = None
    loras: tuple[Adapter, ...] = Field(default=(), max_length=8)
    enhance_prompt: bool = Field(default=False, description="let a language model write the prompt out")
    deadline_s: float | None = Field(default=None, gt=0, le=604_800, description="seconds from now; then the job fails")
    priority: int = Field(default=0, ge=-100, le=100, description="higher goes first among your own jobs")
    preview_every: int = Field(default=0, ge=0, le=1000, description="denoising steps between two preview pictures")
    quote_id: str | None = Field(default=None, max_length=100)
    webhook: Webhook | None = None
    metadata: dict[str, Annotated[str, Field(max_length=512)]] = Field(default_factory=dict, max_length=16)


class RemixVideo(BaseModel):
    """The body of `POST /v1/videos/{id}/remix`."""

    model_config = _WIRE

    prompt: str = Field(min_length=1, max_length=32_000)


class Failure(FrozenModel):
    """Why a video failed."""

    code: str
    message: str


class Extras(FrozenModel):
    """What this service tells beyond OpenAI's fields."""

    seed: int
    num_frames: int
    fps: int
    duration_seconds: float
    """True length of the file: frames over frame rate."""
    steps: int
    step: int
    """Denoising steps that are finished."""
    stage: Literal["waiting", "denoise", "decode", "done"]
    guidance_scale: float
    negative_prompt: str
    queue_position: int | None
    """Jobs that are expected to be denoised before this one; null once it is final."""
    eta_seconds: Seconds | None
    """Until the video is there; null once the job is final."""
    deadline: int | None
    priority: int
    prompt_asked: str | None
    """The prompt as it came, where it was written out."""
    scheduler: str | None
    loras: tuple[Adapter, ...]
    reference_sha256: str | None
    metadata: dict[str, str]
    fingerprint: str | None
    """Equal fingerprints mean equal latents, bit for bit."""
    attempt: int
    resumed_from_step: int | None
    latent_sha256: str | None
    video_sha256: str | None
    stage_seconds: dict[str, float]
    cancelled_at: int | None


class VideoObject(FrozenModel):
    """OpenAI's video object."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None = None
    prompt: str
    size: str
    seconds: str
    remixed_from_video_id: str | None = None
    error: Failure | None
    x: Extras


class Quote(FrozenModel):
    """What a video would cost and when it would be there; `POST /v1/videos` with its id within its time is accepted."""

    id: str
    object: Literal["video.quote"] = "video.quote"
    expires_at: int
    denoise_pflop: float
    gpu_seconds: float
    """Denoising on one device as measured here; 0 before anything was measured."""
    wait_seconds: float
    eta_seconds: Seconds
    queue_position: int
    deadline_met: bool | None
    """Null without a deadline."""


class VideoList(FrozenModel):
    """One page of videos."""

    object: Literal["list"] = "list"
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(FrozenModel):
    """The answer to DELETE."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class ModelLimits(FrozenModel):
    """What may be asked of a model."""

    sizes: list[str]
    num_frames: list[int]
    default_num_frames: int
    fps: int
    default_steps: int
    max_steps: int
    default_guidance_scale: float
    max_prompt_tokens: int
    input_reference: tuple[Literal["image", "video"], ...]
    """What a request may start from; "image" alone: it must."""
    loras: tuple[str, ...]
    enhances_prompts: bool


class ModelObject(FrozenModel):
    """OpenAI's model object."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "cogvideox-platform"
    x: ModelLimits


class ModelList(FrozenModel):
    """All models of this service."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorDetail(FrozenModel):
    """OpenAI's error."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorAnswer(FrozenModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail
