"""Synthetic datasets: the tables that decide, without any video behind them."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from data_pipeline.recipe import CurateRecipe
from data_pipeline.rules import judge, policy_hash
from groundwork.storage import Storage

SCORES = {
    "motion": ("motion_score", "pan_score", "tilt_score", "zoom_score"),
    "sharpness": ("sharpness_score",),
    "exposure": ("luma_mean", "dark_share", "bright_share", "clipped_share"),
    "clip": ("seconds", "source_fps", "upscale", "aspect", "short_side", "bucket_frames"),
}
RANGES = {
    "motion_score": (0, 30),
    "sharpness_score": (0, 300),
    "luma_mean": (0, 255),
    "seconds": (0.5, 9),
    "bucket_frames": (1, 50),
    "upscale": (0.1, 1.1),
    "source_fps": (6, 60),
}


def write_dataset(
    out: Storage,
    recipe: CurateRecipe,
    *,
    clips: int,
    seed: int = 0,
    clips_per_part: int = 100_000,
    videos: bool = False,
    pictures: bool = False,
) -> None:
    """`clips` clips of 20 per video with uniform scores, a hundredth of them absent, decided by the recipe's rules."""
    numbers = np.random.default_rng(seed)
    ids = pa.array([hashlib.sha256(b"%d" % i).hexdigest()[:24] for i in range(clips)], pa.string())
    columns = {
        name: numbers.uniform(*RANGES.get(name, (0, 1)), clips).round(6) for names in SCORES.values() for name in names
    }
    columns["sharpness_score"][numbers.random(clips) < 0.01] = np.nan
    columns["bucket_frames"][numbers.random(clips) < 0.02] = 0
    start, size = np.zeros(clips), np.full(clips, 96)
    video = pa.array([f"video-{i // 20:08d}" for i in range(clips)])
    tables = {"clips": {"video_id": video, "start_seconds": start, "stop_seconds": columns["seconds"]}}
    tables["clips"] |= {"start_pts": size, "stop_pts": size, "width": size, "height": size}
    for stage, names in SCORES.items():
        tables[f"signals/{stage}"] = {name: pa.array(columns[name], mask=np.isnan(columns[name])) for name in names}
    if videos:  # of a minute each; a clip costs half a second
        names = sorted(set(video.to_pylist()))
        tables["videos"] = {"video_id": names, "duration_seconds": [60.0] * len(names), "status": ["ok"] * len(names)}
        tables["timings"] = {"cpu_milliseconds": np.full(clips, 500.0)}
    if pictures:
        tables["thumbnails"] = {"jpeg": pa.array([b"not a picture"] * clips, pa.binary())}
    verdicts = judge(columns, recipe.rules, shortest_seconds=1.0)
    digest = policy_hash(recipe.rules, max_clips=0)
    decided = verdicts.to_table(ids)
    tables[f"decisions/{digest}"] = {name: decided.column(name) for name in decided.column_names[1:]}
    files = {}
    for folder, values in tables.items():
        table = pa.table(values if folder == "videos" else {"clip_id": ids, **values})
        for part, first in enumerate(range(0, clips, clips_per_part)):
            path = f"{folder}/part-{part:05d}.parquet"
            out.write_table(path, table.slice(first, clips_per_part))
            files[path] = {"bytes": out.size(path)}
    rules = [{"reason": reason, **rule.model_dump(mode="json")} for reason, rule in recipe.rules.items()]
    policy = {"name": recipe.policy, "hash": digest, "rules": rules}
    out.write_json(
        "manifest.json",
        {
            "name": recipe.name,
            "code": {"analyse": "synthetic"},
            "files": files,
            "recipe": recipe.model_dump(mode="json"),
            "policy": policy,
            "shards": [{"bucket": "17x96x144", "clips": int(verdicts.kept.sum())}],
            "seconds": {"encode": 10.0},
        },
    )
