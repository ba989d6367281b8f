"""A run folder becomes RUN/report/index.html: one self-contained page that works from a file."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundwork.errors import RunError
from groundwork.storage import Storage, open_storage
from training.charts import bars, curve
from training.films import Film, Series, clip_path, made_series
from training.metrics import StepMetrics, read_metrics
from training.run_folder import CONFIG, finished_summary

PAGE = "report/index.html"
_CSS = Path(__file__).with_name("report.css")
_NUM_STRATA = 10
_SERIES_SHOWN = 8


def write_report(run: str) -> str:
    """Write the page of a run, finished or not; returns its address. Raises RunError where no run was started."""
    storage = open_storage(run)
    if not storage.exists(CONFIG):
        raise RunError(f"{run} holds no run.", "Give the folder that `train run --out` wrote.")
    config, summary, rows = storage.read_json(CONFIG), finished_summary(storage), read_metrics(storage)
    storage.write_bytes(PAGE, _page(config, summary, rows, films=_films(storage)).encode())
    return storage.child(PAGE).uri


def _page(config: dict[str, Any], summary: dict[str, Any] | None, rows: Sequence[StepMetrics], *, films: str) -> str:
    recipe, steps = config["recipe"], [row.step for row in rows]
    name = html.escape(str(recipe["name"]))
    state = "finished" if summary else f"at step {steps[-1] if steps else 0}"
    sections = [
        f"<h1>Training {name}</h1><p>{html.escape(recipe['variant'])}, {state}. "
        f"Data: {html.escape(config['dataset'])}</p>",
        _facts(rows, summary),
        "<h2>Loss</h2><p>Mean squared error of the velocity per step; thick: running mean.</p>",
        curve(steps, [row.loss for row in rows], label="loss by step"),
        "<h2>Loss by timestep</h2><p>Tenths of the timesteps, from nearly clean (0) to pure noise (900). "
        "Pale: first fifth of the run, strong: last fifth.</p>",
        _strata(rows),
        *_held_out(rows, recipe),
        *(
            [f"<h2>Samples</h2><p>From each text, by the averaged weights and from the same noise.</p>{films}"]
            if films
            else []
        ),
        "<h2>Throughput</h2><p>Tokens per second, text and video, over all workers.</p>",
        curve(steps, [row.tokens / row.seconds for row in rows], label="tokens per second by step"),
        "<h2>Learning rate</h2>",
        curve(steps, [row.learning_rate for row in rows], label="learning rate by step"),
        "<h2>Gradient norm</h2><p>Before clipping.</p>",
        curve(steps, [row.gradient_norm for row in rows], label="gradient norm by step"),
        f"<h2>Recipe</h2><pre>{html.escape(json.dumps(recipe, indent=2))}</pre>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Training {name}</title><style>{_CSS.read_text()}</style></head><body>{''.join(sections)}</body></html>"
    )


def _facts(rows: Sequence[StepMetrics], summary: dict[str, Any] | None) -> str:
    if not rows:
        return ""
    seconds = sum(row.seconds for row in rows)
    facts = {
        "steps": f"{rows[-1].step}",
        "loss at the start": f"{rows[0].loss:.4f}",
        "loss, last tenth": f"{_mean([row.loss for row in rows[-max(1, len(rows) // 10) :]]):.4f}",
        "seconds of steps": f"{seconds:.0f}",
        "steps per second": f"{len(rows) / seconds:.2f}",
        "tokens per second": f"{sum(row.tokens for row in rows) / seconds:.0f}",
    }
    if summary:
        facts |= {"clips": str(summary["clips"]), "weights sha256": summary["weights_sha256"][:12]}
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items()) + "</dl>"


def _held_out(rows: Sequence[StepMetrics], recipe: dict[str, Any]) -> list[str]:
    measured = [row for row in rows if row.held_out_loss]
    if not measured:
        return []
    timesteps, clips = recipe["held_out"]["timesteps"], recipe["held_out"]["clips"]
    means = [_mean(row.held_out_loss) for row in measured]
    return [
        f"<h2>Held-out loss</h2><p>{clips} clips that are not trained on, at fixed timesteps with fixed noise. "
        "Bars by timestep; pale: first evaluation, strong: last.</p>",
        curve([row.step for row in measured], means, label="held-out loss by step"),
        bars([str(at) for at in timesteps], measured[0].held_out_loss, measured[-1].held_out_loss, label="by timestep"),
    ]


def _strata(rows: Sequence[StepMetrics]) -> str:
    fifth = max(1, len(rows) // 5)
    before, after = (_stratum_means(part) for part in (rows[:fifth], rows[-fifth:]))
    return bars([str(100 * i) for i in range(_NUM_STRATA)], before, after, label="loss by timestep, start and end")


def _stratum_means(rows: Sequence[StepMetrics]) -> list[float]:
    """Mean loss per tenth of the timesteps, every clip counting once; NaN where there was none."""
    means = []
    for stratum in range(_NUM_STRATA):
        counted = [
            (row.stratum_loss[stratum], row.stratum_clips[stratum]) for row in rows if row.stratum_clips[stratum]
        ]
        clips = sum(count for _, count in counted)
        means.append(sum(loss * count for loss, count in counted) / clips if clips else math.nan)
    return means


def _films(run: Storage) -> str:
    """A row per caption: the clip, then its films of some steps."""
    series = _spread(made_series(run))
    rows: dict[Film, str] = {}
    for one in series:
        for film in one.films:
            if film not in rows:
                rows[film] = _film(run, clip_path(film), below="the clip")
            rows[film] += _film(run, one.path(film), below=f"step {one.step}")
    return "".join(
        f'<p>{html.escape(film.caption)}</p><div class="films">{figures}</div>' for film, figures in rows.items()
    )


def _spread(series: Sequence[Series]) -> Sequence[Series]:
    """Some of many, from the first to the last: the page holds them whole."""
    if len(series) <= _SERIES_SHOWN:
        return series
    return [series[index * (len(series) - 1) // (_SERIES_SHOWN - 1)] for index in range(_SERIES_SHOWN)]


def _film(run: Storage, path: str, *, below: str) -> str:
    return (
        f'<figure><video src="data:video/mp4;base64,{base64.b64encode(run.read_bytes(path)).decode()}" '
        f"controls loop muted autoplay playsinline></video><figcaption>{below}</figcaption></figure>"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
