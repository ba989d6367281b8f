"""Numbers become inline SVG: a curve with its running mean, and bars in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 10, 26
_MAX_POINTS = 1500
_TICKS = 4


def running_mean(values: Sequence[float], *, over: int) -> list[float]:
    """Mean of the last `over` values at each place, of fewer at the start."""
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - over] if index >= over else 0.0)
        means.append(total / min(index + 1, over))
    return means


def curve(steps: Sequence[int], values: Sequence[float], *, label: str) -> str:
    """A line over steps from zero up, thin, with its running mean, thick."""
    if not values:
        return "<p>No steps yet.</p>"
    every = max(1, len(values) // _MAX_POINTS)
    mean = running_mean(values, over=max(1, len(values) // 25))
    top = _nice(sorted(values)[int(0.995 * (len(values) - 1))])
    lines = "".join(
        f'<path class="{name}" d="{_path(steps[::every], line[::every], first=steps[0], last=steps[-1], top=top)}"/>'
        for name, line in (("raw", values), ("smooth", mean))
    )
    ticks = [steps[0] + round((steps[-1] - steps[0]) * i / _TICKS) for i in range(_TICKS + 1)]
    below = "".join(
        f'<text x="{_x(t, steps[0], steps[-1]):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{t}</text>' for t in ticks
    )
    return _frame(_grid(top) + below + lines, label=label)


def bars(labels: Sequence[str], before: Sequence[float], after: Sequence[float], *, label: str) -> str:
    """Two bars per label; a missing value (NaN) is no bar."""
    known = [value for value in [*before, *after] if not math.isnan(value)]
    if not known:
        return "<p>No steps yet.</p>"
    top, room = _nice(max(known)), (_WIDTH - _LEFT - _RIGHT) / len(labels)
    marks = ""
    for index, name in enumerate(labels):
        left = _LEFT + index * room
        marks += f'<text x="{left + room / 2:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{name}</text>'
        for place, (kind, value) in enumerate((("before", before[index]), ("after", after[index]))):
            if not math.isnan(value):
                y = _y(value, top)
                marks += (
                    f'<rect class="{kind}" x="{left + room * (0.12 + 0.38 * place):.1f}" y="{y:.1f}" '
                    f'width="{room * 0.36:.1f}" height="{_y(0, top) - y:.1f}"><title>{name}: {value:.4f}</title></rect>'
                )
    return _frame(_grid(top) + marks, label=label)


def _frame(body: str, *, label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{body}</svg>'


def _grid(top: float) -> str:
    rows = [top * i / _TICKS for i in range(_TICKS + 1)]
    return "".join(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(v, top):.1f}" y2="{_y(v, top):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{_y(v, top) + 4:.1f}" text-anchor="end">{v:.3g}</text>'
        for v in rows
    )


def _path(steps: Sequence[int], values: Sequence[float], *, first: int, last: int, top: float) -> str:
    points = (f"{_x(s, first, last):.1f} {_y(min(v, top), top):.1f}" for s, v in zip(steps, values, strict=True))
    return "M" + "L".join(points)


def _x(step: float, first: int, last: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - first) / max(last - first, 1)


def _y(value: float, top: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value / top)


def _nice(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1, 1.5, 2, 3, 4, 5, 6, 8) if m * power >= value), 10 * power)
