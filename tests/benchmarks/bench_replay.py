"""Decides a million stored clips again and weighs it against one Python decision per clip.

python -m tests.benchmarks.bench_replay --clips 1000000
Prints one JSON document in CPU seconds; the ratio says how many times less the columns cost.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from data_pipeline.policy import Rule
from data_pipeline.recipe import RECIPES, CurateRecipe
from data_pipeline.replay import replay
from data_pipeline.rules import judge
from data_pipeline.stored import read_clips, read_manifest
from groundwork.config import load_recipe
from groundwork.storage import open_storage
from tests.support.synthetic import write_dataset

POLICY = """
name: stricter
rules:
  too_small: {score: upscale, above: 1.0}
  too_few_frames: {score: source_fps, below: 7.0}
  short: {score: seconds, below: 2.0}
  too_dark: {score: luma_mean, below: 40.0}
  too_bright: {score: luma_mean, above: 225.0}
  blurry: {score: sharpness_score, below: 30.0}
  static: {score: motion_score, below: 2.0}
  shaky: {score: motion_score, above: 29.0}
"""
SAMPLE = 20_000


def one_by_one(scores: Mapping[str, Any], rules: Mapping[str, Rule], count: int) -> int:
    """The same decisions as a loop over rows: how many of the first `count` clips are kept."""
    kept = 0
    for index in range(count):
        row = {name: values[index] for name, values in scores.items()}
        kept += not any(
            (rule.below is not None and row[rule.score] < rule.below)
            or (rule.above is not None and row[rule.score] > rule.above)
            for rule in rules.values()
        )
    return kept


def main() -> None:
    """Build the tables, replay, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1_000_000)
    clips = parser.parse_args().clips
    recipe = load_recipe(CurateRecipe, "toy", folder=RECIPES)
    with tempfile.TemporaryDirectory() as folder:
        out = open_storage(f"{folder}/dataset")
        write_dataset(out, recipe, clips=clips)
        policy = f"{folder}/policy.yaml"
        with open(policy, "w") as file:
            file.write(POLICY)
        started, wall = time.process_time(), time.monotonic()
        result = replay(out.uri, rules_from=policy)
        cpu_seconds, wall_seconds = time.process_time() - started, time.monotonic() - wall
        names = {rule.score for rule in recipe.rules.values()} | {"seconds", "bucket_frames"}
        scores = read_clips(out, read_manifest(out), scores=names).scores
        started = time.process_time()
        judge(scores, recipe.rules, shortest_seconds=1.0)
        judge_seconds = time.process_time() - started
        started = time.process_time()
        one_by_one(scores, recipe.rules, min(clips, SAMPLE))
        loop_seconds = (time.process_time() - started) * clips / min(clips, SAMPLE)
    report = {
        "clips": clips,
        "kept": result["now"]["clips"]["kept"],
        "enter": result["enter"]["clips"],
        "leave": result["leave"]["clips"],
        "cpu_seconds": round(cpu_seconds, 3),
        "wall_seconds": round(wall_seconds, 3),
        "decisions_alone_cpu_seconds": round(judge_seconds, 3),
        "decisions_alone_loop_cpu_seconds": round(loop_seconds, 3),
        "decisions_alone_ratio": round(loop_seconds / judge_seconds, 2),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
