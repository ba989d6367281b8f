"""Numbers become inline SVG: bars for the funnel and the stages, histograms with their thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float

BINS = 24
_ROW, _LABEL, _VALUE, _BAR = 30, 100, 160, 270
_PLOT_WIDTH, _PLOT_HEIGHT, _MARGIN = 300, 110, 22


def bars(rows: Sequence[tuple[str, float, str, str]]) -> str:
    """Horizontal bars; a row is (label, value, what stands behind the bar, CSS class)."""
    most = max((value for _, value, _, _ in rows), default=0.0) or 1.0
    parts = []
    for number, (label, value, text, kind) in enumerate(rows):
        top = number * _ROW
        width = max(2.0, _BAR * value / most) if value else 0.0
        parts.append(
            f'<text class="label" x="{_LABEL - 10}" y="{top + 19}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="track" x="{_LABEL}" y="{top + 5}" width="{_BAR}" height="20" rx="4"/>'
            f'<rect class="{kind}" x="{_LABEL}" y="{top + 5}" width="{width:.1f}" height="20" rx="4"/>'
            f'<text class="value" x="{_LABEL + _BAR + 10}" y="{top + 19}">{escape(text)}</text>'
        )
    return _svg(_LABEL + _BAR + _VALUE, _ROW * len(rows), "".join(parts))


def histogram(
    kept: Float[np.ndarray, " n"],
    rejected: Float[np.ndarray, " m"],
    *,
    thresholds: Sequence[float],
    logarithmic: bool = False,
) -> str:
    """Kept and rejected clips stacked over a score, thresholds as dashed lines; values are clipped to what is drawn."""
    values = np.concatenate([kept, rejected, thresholds]).astype(float)
    if not len(values):
        return ""
    low, high = float(values.min()), float(values.max())
    logarithmic = logarithmic and high > 0
    low = max(low, high / 1e4) if logarithmic else low
    edges = _edges(low, high, logarithmic=logarithmic)
    kept_counts = np.histogram(np.clip(kept, edges[0], edges[-1]), edges)[0]
    all_counts = kept_counts + np.histogram(np.clip(rejected, edges[0], edges[-1]), edges)[0]
    most = max(1, int(all_counts.max()))
    step = _PLOT_WIDTH / BINS
    parts = [f'<line class="axis" x1="0" x2="{_PLOT_WIDTH}" y1="{_PLOT_HEIGHT}" y2="{_PLOT_HEIGHT}"/>']
    for index in range(BINS):
        for count, kind in ((all_counts[index], "rejected"), (kept_counts[index], "kept")):
            height = (_PLOT_HEIGHT - 8) * count / most
            if height:
                parts.append(
                    f'<rect class="{kind}" x="{index * step + 1:.1f}" y="{_PLOT_HEIGHT - height:.1f}" '
                    f'width="{step - 2:.1f}" height="{height:.1f}"/>'
                )
    for threshold in thresholds:
        x = _position(threshold, edges, logarithmic=logarithmic)
        parts.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_PLOT_HEIGHT}"/>')
    parts.append(f'<text class="tick" x="0" y="{_PLOT_HEIGHT + 15}">{low:.3g}</text>')
    parts.append(f'<text class="tick" x="{_PLOT_WIDTH}" y="{_PLOT_HEIGHT + 15}" text-anchor="end">{high:.3g}</text>')
    return _svg(_PLOT_WIDTH, _PLOT_HEIGHT + _MARGIN, "".join(parts))


def _edges(low: float, high: float, *, logarithmic: bool) -> np.ndarray:
    if high <= low:
        high = low + (abs(low) or 1.0)
    return np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)


def _position(value: float, edges: np.ndarray, *, logarithmic: bool) -> float:
    scale = np.log if logarithmic else np.asarray
    first, last, here = (float(scale(v)) for v in (edges[0], edges[-1], np.clip(value, edges[0], edges[-1])))
    return _PLOT_WIDTH * (here - first) / (last - first)


def _svg(width: float, height: float, body: str) -> str:
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img">{body}</svg>'
