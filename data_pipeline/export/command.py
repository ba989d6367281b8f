"""`curate export`: its options, and what it says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tyro

from groundwork.commands import Command, Options
from groundwork.errors import UsageError

_USAGE = "export DATASET --to webdataset|parquet|lance --out URI"


class ExportOptions(Options):
    """Which dataset, in which format, where to."""

    dataset: str = ""
    """Dataset folder or URI (also as the first word)."""
    to: Literal["webdataset", "parquet", "lance"] = "webdataset"
    """webdataset: tars of json, txt, safetensors and mp4; parquet: one row per clip, values as lists of float32; lance:
    the same rows as a Lance table (extra `lance`)."""
    out: str = ""
    """Folder or URI of the export; run again, only what is missing is written."""
    contents: Annotated[Literal["latents", "media", "both"], tyro.conf.arg(name="with")] = "latents"
    """latents: latents and text embeddings; media: the mp4 files, where the dataset has them; both."""


def _export(options: ExportOptions) -> dict[str, Any]:
    for value, what in ((options.dataset, "dataset"), (options.out, "place for the export")):
        if not value:
            raise UsageError(f"No {what} is given.", _USAGE)
    from data_pipeline.export.export import export

    return export(options.dataset, to=options.to, out=options.out, contents=options.contents)


def _export_text(result: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"clips     {result['clips']} in {result['units']} shards, {result['bytes'] / 2**20:.1f} MiB",
            f"written   {result['written']}, {result['kept']} stood already",
            f"export    {result['out']}",
        ]
    )


EXPORT = Command(
    "export",
    "the kept clips for other trainers: WebDataset tars, plain Parquet, Lance",
    ExportOptions,
    _export,
    text=_export_text,
)
