"""What a dataset holds becomes the sections that explain it: funnel, thresholds, copies, worst files, costs."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from data_pipeline.report.charts import bars, histogram
from data_pipeline.report.contents import FAILED, Contents, ShownClip
from data_pipeline.rules import NEAR_DUPLICATE, OVER_LIMIT, TOO_SHORT
from data_pipeline.signals import CLOSER_SCORES

_NEAREST = 5
_MOST_GROUPS, _MOST_MEMBERS, _MOST_FILES = 12, 6, 15
_SPREAD = 50.0
"""A score whose largest value is so many times its median is drawn on a logarithmic scale."""


def seconds_text(hours: float) -> str:
    """Hours as what a person would say: seconds, minutes or hours."""
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{hours:.1f} h"


def funnel(contents: Contents) -> str:
    """Reason after reason, in the order they are tried: what left, how long, at what cost, and what was left."""
    rules = {rule["reason"]: rule for rule in contents.rules}
    codes, names = _reasons(contents)
    counts = dict(zip(names, np.bincount(codes, minlength=len(names)), strict=True))
    lengths, costs = (
        dict(zip(names, np.bincount(codes, weights=values, minlength=len(names)), strict=True))
        for values in (contents.seconds, contents.cpu_milliseconds)
    )
    remaining = len(contents.clip_ids)
    total = max(1, remaining)
    rows = []
    for reason in dict.fromkeys([TOO_SHORT, *rules, NEAR_DUPLICATE, OVER_LIMIT, FAILED, *sorted(filter(None, names))]):
        gone = int(counts.get(reason, 0))
        if not gone and reason not in rules:
            continue
        remaining -= gone
        kind = "failed" if reason == FAILED else "rejected"
        cells = [
            f"<b>{escape(reason)}</b>",
            escape(_rule_text(rules[reason]) if reason in rules else ""),
            f"{gone}",
            seconds_text(float(lengths.get(reason, 0.0)) / 3600),
            f"{float(costs.get(reason, 0.0)) / 1000:.1f} s",
            f"{remaining}",
            f'<div class="meter"><i class="kept" style="width:{100 * remaining / total:.1f}%"></i>'
            f'<i class="{kind}" style="width:{100 * gone / total:.1f}%"></i></div>',
        ]
        rows.append(_row(cells, faint=not gone))
    head = ("reason", "rule", "clips left out", "footage", "CPU spent on them", "clips remaining", "")
    return _table(head, rows)


def _reasons(contents: Contents) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """The number of each clip's reason, and the reasons; empty for kept clips, "failed" for failed ones."""
    told = pc.if_else(pa.array(contents.failed), FAILED, contents.reasons)
    encoded = pc.dictionary_encode(told)
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def thresholds(contents: Contents) -> str:
    """Every ruled score: its histogram with the threshold, and the clips just on either side of it."""
    panels = [_threshold_panel(contents, rule) for rule in contents.rules]
    note = (
        '<p class="soft">Green: kept; orange: left out, for whatever reason; dashed: the threshold. Beside it the '
        "clips nearest to it on both sides: if they look alike, the threshold is as good as any other; if the wrong "
        "ones are left out, <code>curate replay</code> tries another one in seconds.</p>"
    )
    return note + "".join(panels)


def duplicates(contents: Contents) -> str:
    """The groups of copies: the representative first, then its copies with their similarity. Empty for none."""
    rows = contents.duplicates
    if not len(rows):
        return ""
    sizes = pc.value_counts(rows.column("group").combine_chunks())
    groups = pa.table({"group": sizes.field("values"), "count": sizes.field("counts")})
    largest = groups.sort_by([("count", "descending"), ("group", "ascending")]).slice(0, _MOST_GROUPS).to_pylist()
    panels = []
    for group in largest:
        members = rows.filter(pc.equal(rows.column("group"), group["group"])).to_pylist()
        members.sort(key=lambda row: (row["clip_id"] != row["representative"], row["rank"]))
        shown = members[:_MOST_MEMBERS]
        ids = pa.array([row["clip_id"] for row in shown])
        clips = contents.shown(pc.index_in(ids, value_set=contents.clip_ids).to_pylist())
        pictures = "".join(map(_thumb, clips, map(_likeness, shown)))
        more = f'<span class="soft">and {len(members) - len(shown)} more</span>' if len(members) > len(shown) else ""
        panels.append(f'<div class="panel"><div class="thumbs">{pictures}</div>{more}</div>')
    rest = f"{len(groups)} groups of {len(rows)} clips"
    note = f'<p class="soft">{rest}; the largest are shown, with the similarity to the one that stays.</p>'
    return f'<h2>Copies</h2>{note}<div class="pairs">{"".join(panels)}</div>'


def _likeness(row: Mapping[str, Any]) -> str:
    return "stays" if row["clip_id"] == row["representative"] else f"{row['kind']} {row['similarity']:.3f}"


def worst_files(contents: Contents) -> str:
    """Files that failed or are damaged, then those that lost the most footage. Empty when nothing was lost."""
    lost, reasons = _losses(contents)
    rows = []
    for video in contents.videos:
        if video.status not in ("ok", "duplicate") or (video.reason and video.status == "ok"):
            badge = f'<span class="badge failed">{escape(video.reason or video.status)}</span>'
            rows.append((float("inf"), video.uri, [badge, escape(video.detail), ""]))
        elif lost.get(video.video_id) and video.status == "ok":
            share = lost[video.video_id] / max(video.duration_seconds, 1e-9)
            rows.append((lost[video.video_id], video.uri, [video.video_id, "", f"{min(share, 1):.0%} of its footage"]))
    if not rows:
        return ""
    rows.sort(key=lambda row: (-row[0], row[1]))
    told = []
    for weight, uri, cells in rows[:_MOST_FILES]:
        why = cells[0] if weight == float("inf") else escape(reasons(cells[0]))
        told.append(_row([f"<code>{escape(uri)}</code>", why, *cells[1:]]))
    more = f'<p class="soft">{_MOST_FILES} of {len(rows)}.</p>' if len(rows) > _MOST_FILES else ""
    return f"<h2>Worst files</h2>{more}{_table(('source', 'why', 'detail', 'left out'), told)}"


def costs(contents: Contents) -> list[tuple[str, float, str, str]]:
    """CPU seconds per signal, as rows for `bars`; what the pass spends on decoding and the rest comes first."""
    spent = Counter({name: value / 1000 for name, value in contents.spent.items() if value})
    whole, hours = spent.pop("cpu", 0.0), max(1e-9, float(contents.manifest["hours"]["found"]))
    shared = {name: value for name, value in spent.items() if name not in _APART}
    parts = {"decode, shots": max(0.0, whole - sum(shared.values())), **dict(spent.most_common())} if whole else spent
    return [(name, value, f"{value:.1f} s, {value / hours:.0f} s/h", "plain") for name, value in parts.items()]


_APART = tuple(CLOSER_SCORES)
"""Signals that look at a few frames later, outside the one pass."""


def cost_panel(contents: Contents) -> str:
    """The bars of `costs`; empty where no time was taken."""
    rows = costs(contents)
    if not rows:
        return ""
    note = '<p class="soft">CPU seconds of all clips, and per hour of clips found.</p>'
    return f'<div><h2>Cost per signal</h2><div class="panel">{note}{bars(rows)}</div></div>'


def _losses(contents: Contents) -> tuple[dict[str, float], Callable[[str], str]]:
    """Seconds that each video lost, and a function that says for which reasons."""
    gone = ~contents.kept
    videos = pc.dictionary_encode(contents.video_ids)
    codes, names = videos.indices.to_numpy(), videos.dictionary.to_pylist()
    seconds = np.bincount(codes[gone], weights=contents.seconds[gone], minlength=len(names))
    why, told = _reasons(contents)

    def reasons(video_id: str) -> str:
        counts = Counter(told[code] for code in why[gone & (codes == names.index(video_id))].tolist())
        return ", ".join(f"{reason} {count}" for reason, count in counts.most_common())

    return dict(zip(names, seconds.tolist(), strict=True)), reasons


def _threshold_panel(contents: Contents, rule: Mapping[str, Any]) -> str:
    scores = contents.scores[rule["score"]]
    known = ~np.isnan(scores)
    title = f'<h3>{escape(rule["reason"])} <span class="soft">{escape(_rule_text(rule))}</span></h3>'
    if not known.any():
        told = '<p class="soft">No clip has this score: the rule decides nothing.</p>'
        return f'<div class="panel gate">{title}{told}</div>'
    bounds = [rule[side] for side in ("below", "above") if rule[side] is not None]
    values = scores[known]
    median = float(np.partition(values, len(values) // 2)[len(values) // 2])
    wide = values.min() >= 0 and values.max() > _SPREAD * max(median, 1e-9)
    kept, other = scores[known & contents.kept], scores[known & ~contents.kept]
    plot = histogram(kept, other, thresholds=bounds, logarithmic=wide and min(bounds) > 0)
    sides = "".join(_neighbours(contents, scores, bound, below=bound == rule["below"]) for bound in bounds)
    absent = len(scores) - len(values)
    told = f'<p class="soft">{absent} clips have no such score.</p>' if absent else ""
    return f'<div class="panel gate">{title}<div class="split"><div>{plot}{told}</div><div>{sides}</div></div></div>'


def _neighbours(contents: Contents, scores: Float[np.ndarray, " n"], bound: float, *, below: bool) -> str:
    """Thumbnails nearest to a threshold: those the rule lets pass, and those that it stops."""
    stops = scores < bound if below else scores > bound
    rows = []
    for word, kind, which in (("stopped", "rejected", stops), ("passed", "kept", ~stops & ~np.isnan(scores))):
        side = np.flatnonzero(which)
        nearest = side[np.argsort(np.abs(scores[side] - bound), kind="stable")[:_NEAREST]]
        nearest = nearest[np.argsort(scores[nearest], kind="stable")]
        thumbs = "".join(map(_thumb, contents.shown(nearest), (f"{value:.4g}" for value in scores[nearest])))
        body = thumbs or '<span class="soft">none</span>'
        rows.append(f'<div class="side"><span class="badge {kind}">{word}</span><div class="thumbs">{body}</div></div>')
    return "".join(rows)


def _thumb(item: ShownClip, text: str) -> str:
    picture = base64.b64encode(item.thumbnail).decode()
    title = escape(f"{item.clip_id}: {item.reason or item.state}", quote=True)
    return (
        f'<figure class="small {item.state}" title="{title}"><img alt="" loading="lazy" '
        f'src="data:image/jpeg;base64,{picture}"><figcaption>{escape(text)}</figcaption></figure>'
    )


def _rule_text(rule: Mapping[str, Any]) -> str:
    bounds = " or ".join(f"{side} {rule[side]:g}" for side in ("below", "above") if rule[side] is not None)
    return f"{rule['score']} {bounds}"


def _row(cells: Sequence[str], *, faint: bool = False) -> str:
    return f"<tr{' class=faint' if faint else ''}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="panel scroll"><table><tr>{cells}</tr>{"".join(rows)}</table></div>'
