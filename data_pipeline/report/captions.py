"""What the manifest says of the captions becomes a section of the report: one table, a captioner in each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def captions(manifest: Mapping[str, Any]) -> str:
    """The section; empty for a dataset from before captions were counted."""
    told: Sequence[Mapping[str, Any]] = manifest.get("captions", [])
    if not told:
        return ""
    head = ("captioner", "clips", "rejected by", "repairs", "words", "variety", "language", "agreement", "tokens, cost")
    cells = "".join(f"<th>{title}</th>" for title in head)
    rows = "".join(map(_row, told))
    note = (
        '<p class="soft">In order of preference: the first caption of a clip that is not rejected is trained on. '
        "Variety: different words and pairs of words among all. Agreement: mean cosine of a model's vectors of the "
        "thumbnail and the caption.</p>"
    )
    return f'<h2>Captions</h2>{note}<div class="panel scroll"><table><tr>{cells}</tr>{rows}</table></div>'


def _row(one: Mapping[str, Any]) -> str:
    words, distinct = one["words"], one["distinct"]
    spent = f"{one['input_tokens']} read, {one['output_tokens']} written" if one["output_tokens"] else ""
    agreed = one.get("agreement")
    cells = [
        f"<code>{escape(one['name'])}</code>",
        f"{one['ok']} ok, {one['repaired']} repaired, {one['rejected']} rejected"
        + (f", {one['asked_again']} asked again" if one["asked_again"] else ""),
        _counts(one["rejected_by"]),
        _counts(one["repairs"]),
        f"{words['median']:g} ({words['least']} to {words['most']})",
        f"{distinct['1']:.0%} of words, {distinct['2']:.0%} of pairs",
        _counts(one["languages"]),
        f"{agreed['mean']:.3f} by {escape(agreed['model'])}" if agreed else "",
        f"{spent}, {one['cost']:g}" if one["cost"] else spent,
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _counts(counts: Mapping[str, int]) -> str:
    return escape(", ".join(f"{name} {count}" for name, count in counts.items()))
