"""Raw video becomes a dataset: the list of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from data_pipeline import closer, neural_cuts
from data_pipeline.assess import known_scores
from data_pipeline.captions import step as captioning
from data_pipeline.cut import cut_jobs
from data_pipeline.dataset import MANIFEST
from data_pipeline.encode import models_used
from data_pipeline.forget import without_forgotten
from data_pipeline.ingest import find_sources, identify
from data_pipeline.labels import step as label_step
from data_pipeline.recipe import CurateRecipe
from data_pipeline.rules import check
from data_pipeline.stages import heavy_stages
from data_pipeline.steps import (
    Run,
    code_fingerprints,
    decide,
    encode_jobs,
    finished,
    gather,
    publish,
    summary,
    with_labels,
    with_looks,
)
from groundwork.run_lock import only_run
from groundwork.storage import open_storage


def curate(recipe: CurateRecipe, *, inputs: Sequence[str], out: str, address: str | None = None) -> dict[str, Any]:
    """Curate the inputs into the dataset at `out` and return the summary; run again, it goes on or is done already.

    The dataset is what these inputs and this recipe give: new inputs are added, ones no longer named leave, a changed
    setting recomputes what hangs on it. Raises InputError (nothing to read), RecipeError, WeightsError, StorageError
    (unwritable or full), RunError (another run holds the dataset; no Ray at `address`).
    """
    check(recipe.rules, known=known_scores())
    closer.require(recipe)
    label_step.require(recipe)
    neural_cuts.require(recipe.shots.neural)
    captioning.require(recipe.captions)
    images = any(bucket.num_frames == 1 for bucket in recipe.buckets)
    found = find_sources(inputs, images=images, private_hosts=recipe.decode.private_hosts)
    storage = open_storage(out)
    with only_run(storage):
        models = models_used(recipe.variant, weights=recipe.encode.weights)
        code = code_fingerprints(recipe, models=models)
        sources = without_forgotten(identify(found, out=storage), storage)
        run = Run(recipe, storage, sources, models, code)
        manifest = finished(run)
        if manifest is not None:
            return summary(run, manifest, already_done=True)
        storage.delete(MANIFEST)
        run.clock.lap("ingest")
        with heavy_stages(run, address=address) as stages:
            failed_videos = stages.analyse()
            run.clock.lap("analyse")
            curated = gather(run, failed_videos)
            run.clock.lap("gather")
            failed_looks = stages.look_closer(curated.clips)
            run.clock.lap("closer")
            curated = with_looks(run, curated, failed_looks)
            failed_labels = stages.label(curated.clips, curated.scores)
            run.clock.lap("labels")
            curated = decide(run, with_labels(run, curated, failed_labels))
            kept = curated.clips.where(curated.verdicts.kept)
            run.clock.lap("decide")
            captioned = stages.caption(curated)
            run.clock.lap("captions")
            cuts = cut_jobs(kept, recipe.media, fps=recipe.clips.fps, buckets=recipe.buckets)
            failed_clips = stages.cut(kept, cuts)
            run.clock.lap("cut")
            failed_clips |= captioned.failed
            jobs = encode_jobs(kept, captioned, recipe, without=failed_clips)
            failed_clips |= stages.encode(kept, jobs)
            run.clock.lap("encode")
        curated = replace(curated, captioned=captioned, failed_clips=failed_clips)
        return summary(run, publish(run, curated, jobs, cuts), already_done=False)
