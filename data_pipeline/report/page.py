"""What a dataset holds becomes one self-contained HTML page: funnel, thresholds, kept and rejected clips."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from data_pipeline.report.buckets import buckets
from data_pipeline.report.captions import captions
from data_pipeline.report.charts import bars
from data_pipeline.report.contents import FAILED, KEPT, REJECTED, Contents, ShownClip
from data_pipeline.report.sections import cost_panel, duplicates, funnel, seconds_text, thresholds, worst_files
from groundwork.records import Video

MOST_SHOWN, MOST_SOURCES = 60, 300
_CSS = Path(__file__).with_name("page.css")


def render(contents: Contents) -> str:
    """The page as HTML; it loads nothing from anywhere."""
    manifest = contents.manifest
    name = escape(str(manifest["name"]))
    sections = [
        f"<h1>Dataset {name}</h1>",
        f'<div class="soft">Policy {escape(str(manifest["policy"]["name"]))}, '
        f"variant {escape(str(manifest['variant']))}, "
        f"dataset hash <code>{escape(manifest['dataset_hash'][:16])}</code>, "
        f"recipe hash <code>{escape(manifest['recipe_hash'])}</code></div>",
        _tiles(contents),
        _overview(contents),
        f"<h2>The funnel</h2>{funnel(contents)}",
        f"<h2>Thresholds</h2>{thresholds(contents)}",
        captions(manifest),
        buckets(contents),
        duplicates(contents),
        worst_files(contents),
        *(_gallery(contents, state) for state in (KEPT, REJECTED, FAILED)),
        f"<h2>Sources ({len(contents.videos)})</h2>{_videos(contents.videos)}",
        '<h2>Recipe</h2><details class="panel"><summary>The settings that made this dataset</summary>'
        f"<pre>{escape(json.dumps(manifest['recipe'], indent=2))}</pre></details>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Dataset {name}</title><style>{_CSS.read_text()}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _tiles(contents: Contents) -> str:
    manifest = contents.manifest
    videos, clips, hours = manifest["videos"], manifest["clips"], manifest["hours"]
    share = clips["kept"] / clips["found"] if clips["found"] else 0.0
    buckets = {shard["bucket"] for shard in manifest["shards"]}
    tiles = [
        (f"{videos['read']}", f"sources, {videos['failed']} failed, {videos['duplicate']} duplicate"),
        (seconds_text(hours["read"]), "of footage"),
        (f"{clips['kept']} of {clips['found']}", f"clips kept ({share:.0%})"),
        (seconds_text(hours["kept"]), "kept"),
        (f"{len(manifest['shards'])}", f"shards in {len(buckets)} buckets"),
        (f"{sum(manifest['seconds'].values()):.0f} s", "of work in the last run"),
    ]
    cells = (f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>'


def _overview(contents: Contents) -> str:
    manifest = contents.manifest
    clips, hours = manifest["clips"], manifest["hours"]

    def row(label: str, count: int, duration: float, kind: str) -> tuple[str, float, str, str]:
        return label, duration, f"{count} clips, {seconds_text(duration)}", kind

    rejected = sum(clips["rejected"].values())
    funnel = [
        ("footage", hours["read"], f"{manifest['videos']['ok']} videos, {seconds_text(hours['read'])}", "plain"),
        row("clips found", clips["found"], hours["found"], "plain"),
        row("kept", clips["kept"], hours["kept"], "kept"),
        row("rejected", rejected, hours["rejected"], "rejected"),
        row("failed", clips["failed"], hours["failed"], "failed"),
    ]
    seconds = [(name, value, f"{value:.1f} s", "plain") for name, value in manifest["seconds"].items()]
    panels = [("From footage to clips", funnel), ("Seconds per stage", seconds)]
    cells = (
        f'<div><h2>{title}</h2><div class="panel">{bars(rows) if rows else "nothing left"}</div></div>'
        for title, rows in panels
    )
    return f'<div class="columns">{"".join(cells)}{cost_panel(contents)}</div>'


def _gallery(contents: Contents, state: str) -> str:
    clips = np.flatnonzero(contents.in_state(state))
    if not len(clips):
        return ""
    step = max(1, -(-len(clips) // MOST_SHOWN))
    shown = contents.shown(clips[::step])
    title = state.capitalize()
    note = "" if step == 1 else f'<p class="soft">{len(shown)} of {len(clips)}, spread evenly.</p>'
    return f'<h2>{title} ({len(clips)})</h2>{note}<div class="gallery">{"".join(map(_figure, shown))}</div>'


def _figure(item: ShownClip) -> str:
    picture = base64.b64encode(item.thumbnail).decode()
    if item.state == KEPT:
        words = f"<p>{escape(item.caption)}</p>"
    elif item.state == FAILED:
        words = f'<p><span class="badge failed">failed</span> {escape(item.detail)}</p>'
    else:
        words = f'<p><span class="badge">{escape(item.reason)}</span> {escape(_why(item))}</p>'
    return (
        f'<figure><img alt="" loading="lazy" src="data:image/jpeg;base64,{picture}"><figcaption>{words}'
        f'<span class="soft">{item.start_seconds:.2f} to {item.stop_seconds:.2f} s, '
        f"{item.width}x{item.height}</span></figcaption></figure>"
    )


def _why(item: ShownClip) -> str:
    if item.score is None or item.threshold is None:
        return ""
    sign = "<" if item.score < item.threshold else ">"
    return f"{item.score_name} {item.score:.3g} {sign} {item.threshold:g}"


def _videos(videos: Sequence[Video]) -> str:
    head = "".join(f"<th>{title}</th>" for title in ("source", "status", "codec", "size", "fps", "length"))
    rows = []
    for video in videos[:MOST_SOURCES]:
        kind = {"ok": "ok", "failed": "failed"}.get(video.status, "")
        detail = f" {escape(video.reason)}: {escape(video.detail)}" if video.reason else ""
        cells = [
            f"<code>{escape(video.uri)}</code>",
            f'<span class="badge {kind}">{escape(video.status)}</span>{detail}',
            escape(f"{video.container} {video.codec}"),
            f"{video.width}x{video.height}" if video.width else "",
            f"{video.fps:.3g}" if video.fps else "",
            f"{video.duration_seconds:.1f} s" if video.duration_seconds else "",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<div class="panel scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
