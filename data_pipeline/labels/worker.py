"""A film and spans of it become vectors on storage: the thin class that Ray makes one of per process."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from data_pipeline.failures import ERROR, UNREADABLE
from data_pipeline.labels.models import Span, labeller, look
from data_pipeline.labels.settings import LabelSettings
from data_pipeline.labels.store import write_vectors
from data_pipeline.outcome import ABORTED, FAILED, OK, Outcome, to_row
from groundwork.errors import StorageError
from groundwork.storage import open_storage


class LabelClips:
    """Row {folder, name, jobs} → what the model made of its clips, one file on storage, and an Outcome row per clip."""

    def __init__(self, *, out: str, settings: dict[str, Any]) -> None:
        self._out = open_storage(out)
        self._labeller = labeller(LabelSettings.model_validate(settings))
        self._model = self._labeller.load()

    def __call__(self, row: dict[str, str]) -> list[dict[str, str]]:
        work = json.loads(row["payload"])
        spans = [Span(**job) for job in work["jobs"]]
        return [to_row(asdict(outcome)) for outcome in self._outcomes(work["folder"], work["name"], spans)]

    def _outcomes(self, folder: str, name: str, spans: list[Span]) -> list[Outcome]:
        def all_of_them(status: str, reason: str, detail: str) -> list[Outcome]:
            return [Outcome(span.clip_id, status, reason, detail) for span in spans]

        try:
            with open_storage(folder).local_path(name) as path:
                made = look(self._model, path, name, spans, short_side=self._labeller.short_side)
        except StorageError as error:
            return all_of_them(FAILED, UNREADABLE, error.message)
        except Exception as error:  # the row boundary
            return all_of_them(FAILED, ERROR, f"{type(error).__name__}: {error}")
        try:
            write_vectors(self._out, self._labeller.key, made)
        except StorageError as error:
            return all_of_them(ABORTED, "", str(error))
        return all_of_them(OK, "", "")
