"""`curate buckets`: its options and its place in the table of commands."""

from __future__ import annotations

from typing import Any

from data_pipeline.bucket_plan.settings import PlanSettings
from groundwork.commands import Command, Options, Repeatable


class BucketOptions(PlanSettings, Options):
    """Which footage, which model, how many buckets."""

    dataset: str = ""
    """Dataset folder or URI (also as the first word)."""
    input: Repeatable = ()
    """Instead of a dataset: sources whose headers alone are read, as for `curate run`."""


def _buckets(options: BucketOptions) -> dict[str, Any]:
    from data_pipeline.bucket_plan.plan import plan_buckets

    return plan_buckets(options, dataset=options.dataset, inputs=options.input)


def _text(result: dict[str, Any]) -> str:
    from data_pipeline.bucket_plan.plan import plan_text

    return plan_text(result)


BUCKETS = Command(
    "buckets",
    "the size classes that lose least of a dataset's footage, beside fixed ones, as lines for a recipe",
    BucketOptions,
    _buckets,
    text=_text,
)
