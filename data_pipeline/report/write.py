"""A finished dataset becomes report/index.html and card.md, from its own tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipeline.report.calibration import calibration_page
from data_pipeline.report.card import render_card
from data_pipeline.report.contents import read_contents
from data_pipeline.report.page import render
from groundwork.errors import InputError
from groundwork.storage import Storage, open_storage

PAGE, CARD, CALIBRATION = "report/index.html", "card.md", "report/calibration.html"


def write_report(dataset: str, *, manifest: Mapping[str, Any] | None = None) -> str:
    """Write both files and return the page's address. `manifest` is read from the dataset unless given.

    Raises InputError where no finished dataset lies.
    """
    storage = open_storage(dataset)
    if manifest is None:
        if not storage.exists("manifest.json"):
            raise InputError(f"{dataset} holds no finished dataset.", "Run 'curate run' to its end first.")
        manifest = storage.read_json("manifest.json")
    contents = read_contents(storage, manifest)
    storage.write_bytes(PAGE, render(contents).encode())
    storage.write_bytes(CARD, render_card(contents).encode())
    return _address(storage, PAGE)


def write_calibration(dataset: str, result: Mapping[str, Any]) -> str:
    """Write the judgement of a policy's rules as a page of the dataset; returns its address."""
    storage = open_storage(dataset)
    storage.write_bytes(CALIBRATION, calibration_page(result).encode())
    return _address(storage, CALIBRATION)


def _address(storage: Storage, path: str) -> str:
    return storage.path(path) if storage.is_local else f"{storage.uri}/{path}"
