"""Kept clips become captions: the step that runs once copies and the limit are decided."""

from __future__ import annotations

from types import ModuleType

import pyarrow as pa

from data_pipeline.assessed import ClipTable
from data_pipeline.captions import measured
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.recipe import CaptionSettings
from groundwork.records import Caption, to_table

_ROWS_AT_ONCE = 4096


def caption_clips(kept: ClipTable, settings: CaptionSettings) -> pa.Table:
    """What the recipe's captioner says of the kept clips, in their order: rows of `Caption`."""
    assert settings.captioner == measured.MODEL, "the only captioner so far"
    parts = [Caption.SCHEMA.empty_table()]
    clip_ids = kept.clip_ids
    for first in range(0, len(kept), _ROWS_AT_ONCE):
        names = clip_ids[first : first + _ROWS_AT_ONCE].to_pylist()
        columns = {name: values[first : first + _ROWS_AT_ONCE].tolist() for name, values in kept.scores.items()}
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        parts.append(to_table([measured.caption(*pair) for pair in zip(names, rows, strict=True)], Caption))
    return pa.concat_tables(parts).combine_chunks()


def caption_fingerprint(settings: CaptionSettings) -> str:
    """Key of the captions: the captioner's code and settings."""
    import data_pipeline.captions.step as own

    code: tuple[ModuleType, ...] = (own, measured)
    return stage_fingerprint(code, settings.model_dump(mode="json"))
