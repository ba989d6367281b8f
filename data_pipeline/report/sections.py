"""What a dataset holds becomes the sections that explain it: funnel, thresholds, copies, worst files, costs."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from data_pipeline.report.charts import bars, histogram
from data_pipeline.report.contents import Contents, ShownClip
from data_pipeline.rules import NEAR_DUPLICATE, OVER_LIMIT, TOO_SHORT

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
    rules = {rule["reason"]: rule for rule in _rules(contents)}
    left: dict[str, list[ShownClip]] = defaultdict(list)
    for item in contents.clips:
        if item.state != "kept":
            left["failed" if item.state == "failed" else item.decision.reason].append(item)
    order = [TOO_SHORT, *rules, NEAR_DUPLICATE, OVER_LIMIT, "failed"]
    remaining, total = len(contents.clips), max(1, len(contents.clips))
    rows = []
    for reason in dict.fromkeys([*order, *sorted(left)]):
        gone = left.get(reason, [])
        if not gone and reason not in rules:
            continue
        remaining -= len(gone)
        kind = "failed" if reason == "failed" else "rejected"
        cells = [
            f"<b>{escape(reason)}</b>",
            escape(_rule_text(rules[reason]) if reason in rules else ""),
            f"{len(gone)}",
            seconds_text(sum(item.seconds for item in gone) / 3600),
            f"{sum(item.milliseconds.get('cpu', 0.0) for item in gone) / 1000:.1f} s",
            f"{remaining}",
            f'<div class="meter"><i class="kept" style="width:{100 * remaining / total:.1f}%"></i>'
            f'<i class="{kind}" style="width:{100 * len(gone) / total:.1f}%"></i></div>',
        ]
        rows.append(_row(cells, faint=not gone))
    head = ("reason", "rule", "clips left out", "footage", "CPU spent on them", "clips remaining", "")
    return _table(head, rows)


def thresholds(contents: Contents) -> str:
    """Every ruled score: its histogram with the threshold, and the clips just on either side of it."""
    panels = [_threshold_panel(contents, rule) for rule in _rules(contents)]
    note = (
        '<p class="soft">Green: kept; orange: left out, for whatever reason; dashed: the threshold. Beside it the '
        "clips nearest to it on both sides: if they look alike, the threshold is as good as any other; if the wrong "
        "ones are left out, <code>curate replay</code> tries another one in seconds.</p>"
    )
    return note + "".join(panels)


def duplicates(contents: Contents) -> str:
    """The groups of copies: the representative first, then its copies with their similarity. Empty for none."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in contents.duplicates:
        groups[row.group].append(row)
    if not groups:
        return ""
    clips = {item.clip.clip_id: item for item in contents.clips}
    panels = []
    for members in sorted(groups.values(), key=lambda rows: (-len(rows), rows[0].group))[:_MOST_GROUPS]:
        shown = sorted(members, key=lambda row: (row.clip_id != row.representative, row.rank))[:_MOST_MEMBERS]
        pictures = "".join(
            _thumb(
                clips[row.clip_id], "stays" if row.clip_id == row.representative else f"{row.kind} {row.similarity:.3f}"
            )
            for row in shown
        )
        more = f'<span class="soft">and {len(members) - len(shown)} more</span>' if len(members) > len(shown) else ""
        panels.append(f'<div class="panel"><div class="thumbs">{pictures}</div>{more}</div>')
    rest = f"{len(groups)} groups of {len(contents.duplicates)} clips"
    note = f'<p class="soft">{rest}; the largest are shown, with the similarity to the one that stays.</p>'
    return f'<h2>Copies</h2>{note}<div class="pairs">{"".join(panels)}</div>'


def worst_files(contents: Contents) -> str:
    """Files that failed or are damaged, then those that lost the most footage. Empty when nothing was lost."""
    lost: dict[str, float] = defaultdict(float)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for item in contents.clips:
        if item.state != "kept":
            lost[item.clip.video_id] += item.seconds
            reasons[item.clip.video_id][item.decision.reason or "failed"] += 1
    rows = []
    for video in contents.videos:
        if video.status not in ("ok", "duplicate") or (video.reason and video.status == "ok"):
            badge = f'<span class="badge failed">{escape(video.reason or video.status)}</span>'
            rows.append((float("inf"), video.uri, [badge, escape(video.detail), ""]))
        elif lost[video.video_id] and video.status == "ok":
            why = ", ".join(f"{reason} {count}" for reason, count in reasons[video.video_id].most_common())
            share = lost[video.video_id] / max(video.duration_seconds, 1e-9)
            rows.append((lost[video.video_id], video.uri, [escape(why), "", f"{min(share, 1):.0%} of its footage"]))
    if not rows:
        return ""
    rows.sort(key=lambda row: (-row[0], row[1]))
    told = [_row([f"<code>{escape(uri)}</code>", *cells]) for _, uri, cells in rows[:_MOST_FILES]]
    more = f'<p class="soft">{_MOST_FILES} of {len(rows)}.</p>' if len(rows) > _MOST_FILES else ""
    return f"<h2>Worst files</h2>{more}{_table(('source', 'why', 'detail', 'left out'), told)}"


def costs(contents: Contents) -> list[tuple[str, float, str, str]]:
    """CPU seconds per signal, as rows for `bars`; what the pass spends on decoding and the rest comes first."""
    spent: Counter[str] = Counter()
    for item in contents.clips:
        spent.update({name: value / 1000 for name, value in item.milliseconds.items() if value})
    whole, hours = spent.pop("cpu", 0.0), max(1e-9, float(contents.manifest["hours"]["found"]))
    shared = {name: value for name, value in spent.items() if name not in _APART}
    parts = {"decode, shots": max(0.0, whole - sum(shared.values())), **dict(spent.most_common())} if whole else spent
    return [(name, value, f"{value:.1f} s, {value / hours:.0f} s/h", "plain") for name, value in parts.items()]


_APART = ("text", "aesthetics")
"""Signals that look at a few frames later, outside the one pass."""


def cost_panel(contents: Contents) -> str:
    """The bars of `costs`; empty where no time was taken."""
    rows = costs(contents)
    if not rows:
        return ""
    note = '<p class="soft">CPU seconds of all clips, and per hour of clips found.</p>'
    return f'<div><h2>Cost per signal</h2><div class="panel">{note}{bars(rows)}</div></div>'


def _threshold_panel(contents: Contents, rule: Mapping[str, Any]) -> str:
    pairs = [(value, item) for item in contents.clips if (value := item.scores.get(rule["score"])) is not None]
    title = f'<h3>{escape(rule["reason"])} <span class="soft">{escape(_rule_text(rule))}</span></h3>'
    if not pairs:
        told = '<p class="soft">No clip has this score: the rule decides nothing.</p>'
        return f'<div class="panel gate">{title}{told}</div>'
    bounds = [rule[side] for side in ("below", "above") if rule[side] is not None]
    kept = [value for value, item in pairs if item.state == "kept"]
    other = [value for value, item in pairs if item.state != "kept"]
    values = sorted(value for value, _ in pairs)
    wide = values[0] >= 0 and values[-1] > _SPREAD * max(values[len(values) // 2], 1e-9)
    plot = histogram(kept, other, thresholds=bounds, logarithmic=wide and min(bounds) > 0)
    sides = "".join(_neighbours(pairs, bound, below=bound == rule["below"]) for bound in bounds)
    absent = len(contents.clips) - len(pairs)
    told = f'<p class="soft">{absent} clips have no such score.</p>' if absent else ""
    return f'<div class="panel gate">{title}<div class="split"><div>{plot}{told}</div><div>{sides}</div></div></div>'


def _neighbours(pairs: Sequence[tuple[float, ShownClip]], bound: float, *, below: bool) -> str:
    """Thumbnails nearest to a threshold: those the rule lets pass, and those that it stops."""
    ordered = sorted(pairs, key=lambda pair: abs(pair[0] - bound))
    stopped = [pair for pair in ordered if (pair[0] < bound if below else pair[0] > bound)][:_NEAREST]
    passed = [pair for pair in ordered if not (pair[0] < bound if below else pair[0] > bound)][:_NEAREST]
    rows = []
    for word, kind, side in (("stopped", "rejected", stopped), ("passed", "kept", passed)):
        thumbs = "".join(_thumb(item, f"{value:.4g}") for value, item in sorted(side, key=lambda pair: pair[0]))
        body = thumbs or '<span class="soft">none</span>'
        rows.append(f'<div class="side"><span class="badge {kind}">{word}</span><div class="thumbs">{body}</div></div>')
    return "".join(rows)


def _thumb(item: ShownClip, text: str) -> str:
    picture = base64.b64encode(item.thumbnail).decode()
    title = escape(f"{item.clip.clip_id}: {item.decision.reason or item.state}", quote=True)
    return (
        f'<figure class="small {item.state}" title="{title}"><img alt="" loading="lazy" '
        f'src="data:image/jpeg;base64,{picture}"><figcaption>{escape(text)}</figcaption></figure>'
    )


def _rules(contents: Contents) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = contents.manifest["policy"]["rules"]
    return found


def _rule_text(rule: Mapping[str, Any]) -> str:
    bounds = " or ".join(f"{side} {rule[side]:g}" for side in ("below", "above") if rule[side] is not None)
    return f"{rule['score']} {bounds}"


def _row(cells: Sequence[str], *, faint: bool = False) -> str:
    return f"<tr{' class=faint' if faint else ''}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="panel scroll"><table><tr>{cells}</tr>{"".join(rows)}</table></div>'
