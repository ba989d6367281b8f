"""Jobs as they look on the wire."""

from __future__ import annotations

from typing import Literal

from serving import scheduling
from serving.card import ModelCard, Size
from serving.jobs.job import Job
from serving.protocol import Extras, Failure, ModelLimits, ModelObject, VideoObject
from serving.scheduling import Estimate


def video_object(job: Job, expected: Estimate | None = None) -> VideoObject:
    """A job on the wire; `expected` says when an unfinished one will be done."""
    settings = job.settings
    return VideoObject(
        id=job.id,
        model=settings.model,
        status=job.status,
        progress=scheduling.progress_percent(job),
        created_at=int(job.created_at),
        completed_at=_whole(job.completed_at),
        expires_at=_whole(job.expires_at) if job.status == "completed" else None,
        prompt=settings.prompt,
        size=str(Size(width=settings.width, height=settings.height)),
        seconds=settings.seconds,
        remixed_from_video_id=job.terms.remixed_from,
        error=Failure(code=job.error.code, message=job.error.message) if job.error else None,
        x=_extras(job, expected),
    )


def _extras(job: Job, expected: Estimate | None) -> Extras:
    settings, terms = job.settings, job.terms
    return Extras(
        seed=settings.seed,
        num_frames=settings.num_frames,
        fps=settings.fps,
        duration_seconds=settings.num_frames / settings.fps,
        steps=settings.steps_to_run,
        step=job.step,
        stage=_stage(job),
        guidance_scale=settings.guidance_scale,
        negative_prompt=settings.negative_prompt,
        queue_position=None if job.is_final or expected is None else expected.position,
        eta_seconds=None if job.is_final or expected is None else expected.eta_seconds,
        deadline=_whole(terms.deadline),
        priority=terms.priority,
        prompt_asked=terms.prompt_asked,
        scheduler=settings.sampler,
        loras=settings.adapters,
        reference_sha256=None if settings.reference is None else settings.reference.sha256,
        metadata=terms.metadata,
        fingerprint=job.fingerprint,
        attempt=job.attempt,
        resumed_from_step=job.resumed_from_step,
        latent_sha256=job.latent_sha256,
        video_sha256=job.video_sha256,
        stage_seconds=job.stage_seconds,
        cancelled_at=_whole(job.cancelled_at),
    )


def model_object(card: ModelCard) -> ModelObject:
    """A model on the wire."""
    limits = ModelLimits(
        sizes=[str(size) for size in card.sizes],
        num_frames=card.frame_counts(),
        default_num_frames=card.num_frames,
        fps=card.fps,
        default_steps=card.steps,
        max_steps=card.max_steps,
        default_guidance_scale=card.guidance_scale,
        max_prompt_tokens=card.max_text_tokens,
        input_reference=("image",) if card.takes_image else ("video",),
        loras=card.adapters,
        enhances_prompts=card.enhances_prompts,
    )
    return ModelObject(id=card.name, x=limits)


def _stage(job: Job) -> Literal["waiting", "denoise", "decode", "done"]:
    if job.is_final:
        return "done"
    return "waiting" if job.status == "queued" else job.stage


def _whole(at: float | None) -> int | None:
    return None if at is None else int(at)
