"""The peer of `bench_service`: diffusers' pipeline behind Ray Serve as one writes it in an afternoon.

Jobs live in a dictionary of the replica, wait in its thread pool in the order they came, and are scaled by count.
"""

# No `from __future__ import annotations`: Ray Serve and FastAPI read annotations of what is defined inside functions.

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI()


class Asked(BaseModel):
    """What the plain service understands; anything else is ignored."""

    prompt: str
    num_frames: int
    num_inference_steps: int
    seed: int = 0


def plain_app(weights: Path, folder: Path, *, threads: int) -> Any:
    """The application for `serve.run`."""
    from ray import serve

    @serve.deployment(
        name="Plain",
        autoscaling_config={"min_replicas": 1, "max_replicas": 1, "target_ongoing_requests": 2},
        ray_actor_options={"num_cpus": 0.5},
        max_ongoing_requests=1000,
    )
    @serve.ingress(app)
    class Plain:
        def __init__(self) -> None:
            import torch
            from diffusers import CogVideoXPipeline
            from transformers import T5Tokenizer

            _ = T5Tokenizer
            self._torch = torch
            self._pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
            self._jobs: dict[str, dict[str, Any]] = {}
            self._pipe = load_pipeline(CogVideoXPipeline, weights)

        @app.post("/v1/videos")
        async def create(self, asked: Asked) -> dict[str, Any]:
            job: dict[str, Any] = {"id": uuid.uuid4().hex, "status": "queued", "created": time.time()}
            self._jobs[job["id"]] = job
            asyncio.get_running_loop().run_in_executor(self._pool, self._make, job, asked)
            return job

        @app.get("/v1/videos/{job_id}")
        async def retrieve(self, job_id: str) -> dict[str, Any]:
            if job_id not in self._jobs:
                raise HTTPException(404)
            return self._jobs[job_id]

        def _make(self, job: dict[str, Any], asked: Asked) -> None:
            job.update(status="in_progress", started=time.time())
            frames = run_pipeline(self._pipe, asked)
            write_film(frames, folder / f"{job['id']}.mp4")
            job.update(status="completed", completed=time.time())

    return Plain.bind()  # type: ignore[attr-defined]


def load_pipeline(pipeline: Any, weights: Path) -> Any:
    """The toy has no T5: its text goes in as embeddings, as it does on our side."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

    made = pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKLCogVideoX.from_pretrained(weights / "vae"),
        transformer=CogVideoXTransformer3DModel.from_pretrained(weights / "transformer"),
        scheduler=CogVideoXDDIMScheduler.from_pretrained(weights / "scheduler"),
    )
    made.set_progress_bar_config(disable=True)
    return made


def run_pipeline(pipe: Any, asked: Asked) -> Any:
    """Frames [t, h, w, c] in 0..1."""
    import torch

    from cogvideox.text_encoder import HashTextEncoder
    from cogvideox.variants import TOY

    encoder = HashTextEncoder(TOY.text)
    return pipe(
        prompt_embeds=encoder.encode([asked.prompt]),
        negative_prompt_embeds=encoder.encode([""]),
        num_frames=asked.num_frames,
        num_inference_steps=asked.num_inference_steps,
        height=TOY.height,
        width=TOY.width,
        guidance_scale=TOY.guidance_scale,
        generator=torch.Generator().manual_seed(asked.seed),
        output_type="np",
    ).frames[0]


def write_film(frames: Any, path: Path) -> None:
    """With the encoder and settings of our side."""
    import numpy as np

    from groundwork import media

    media.write_video(path, iter([(frames * 255).round().astype(np.uint8)]), fps=8)
