"""A run folder becomes RUN/report/index.html."""

from __future__ import annotations

from groundwork.storage import open_storage


def write_report(run: str) -> str:
    """Write the page; returns its address."""
    storage = open_storage(run)
    storage.write_bytes("report/index.html", b"")
    return storage.child("report/index.html").uri
