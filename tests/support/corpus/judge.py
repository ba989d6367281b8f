"""A curated dataset and the labels of its corpus become figures: cuts, reasons, copies, and what was lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from groundwork.storage import Storage

from .footage import scene
from .graded import CLEAN, DISSOLVE, FADE_BLACK, FADE_WHITE, HARD, JUMP_CUT

Row = Mapping[str, Any]
Rows = list[dict[str, Any]]
FLAT = frozenset({"black", "white"})
SAME_SHARE = 0.5
NOT_JUDGED = ("too_short", "near_duplicate")
TOLERANCE = 1
BESIDE = 3  # frames around a transition: where a fade begins to be seen is a matter of taste
# What a rule is there to reject, by the words its reason may hold; the first match counts.
MEANT = {
    "transition": ("transition",),
    "flash": ("flashing",),
    "block": ("blocky",),
    "blur": ("blur",),
    "letterbox": ("letterbox", "pillarbox"),
    "border": ("letterbox", "pillarbox"),
    "bars": ("letterbox", "pillarbox"),
    "text": ("subtitles",),
    "subtitle": ("subtitles",),
    "static": ("static",),
    "still": ("static",),
    "dark": ("black",),
    "black": ("black",),
    "bright": ("white",),
    "white": ("white",),
    "clipped": ("black", "white"),
    "exposed": ("black", "white"),
}
# Labels on which a rule may fire or not: a black picture is static and blurred too, flashes also expose wrongly.
_FLAT_TOO = {*MEANT, "stutter", "shaky", "jitter"}
TOLERATED = {
    "black": _FLAT_TOO,
    "white": _FLAT_TOO,
    "static": {"still", "bit", "slideshow", "stutter"},
    "slow_pan": {"slideshow"},
    "whip_pan": {"shaky", "jitter", "fast", "blur", "flash", "transition"},
    "flashing": {"clipped", "bright", "dark", "white", "exposed", "shaky", "motion", "transition", "jitter"},
    "letterbox": {"dark", "black", "clipped", "exposed"},
    "pillarbox": {"dark", "black", "clipped", "exposed"},
    "blur": {"bit", "still", "static", "stutter"},
    "blocky": {"bit", "blur"},
    "transition": {"dark", "bright", "black", "white", "clipped", "exposed", "flash", "blur"},
}


@dataclass(frozen=True)
class Judged:
    """What a dataset holds of one corpus film: its row and, per decoded frame, its stamp and whether a shot begins.

    `starts`: indices of the first frames of shots, but for the film's own.
    """

    file: str
    status: str
    video_id: str
    pts: np.ndarray
    starts: list[int]


@dataclass(frozen=True)
class Span:
    """A clip of the dataset in frames [first, stop) of its film, with what was measured and decided.

    `take`, `take_first`: the shot of real footage that it shows, and which of its frames first.
    """

    clip_id: str
    file: str
    first: int
    stop: int
    kept: bool
    reason: str
    scores: Mapping[str, float | None]
    labels: frozenset[str]
    crosses: str
    take: str
    take_first: int


def cut_figures(films: Sequence[Judged], boundaries: Rows) -> dict[str, Any]:
    """Hard cuts within one frame; fades and dissolves: one boundary or two, within the transition or next to it."""
    truth = defaultdict(list)
    for row in boundaries:
        truth[row["file"]].append(row)
    counts: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    worst: Counter[str] = Counter()
    for film in films:
        found = set(film.starts)
        gradual = [row for row in truth[film.file] if row["kind"] not in HARD]
        for row in gradual:
            inside = {i for i in found if row["first"] - BESIDE <= i <= row["stop"] + BESIDE}
            found -= inside
            kinds[row["kind"]]["hit" if inside else "missed"] += 1
            counts["gradual_extra"] += max(0, len(inside) - 2)
        for row in truth[film.file]:
            if row["kind"] in HARD:
                near = [i for i in found if abs(i - row["frame"]) <= TOLERANCE]
                found -= set(near[:1])
                counts["hit" if near else "missed"] += 1
                kinds[row["kind"]]["hit" if near else "missed"] += 1
                worst[film.file] += not near
        counts["gradual_wrong" if gradual else "wrong"] += len(found)
        worst[film.file] += len(found)
    fades = kinds[FADE_BLACK] + kinds[FADE_WHITE]
    wrong = counts["gradual_wrong"] + counts["gradual_extra"]
    return {
        "hard": rates(counts["hit"], counts["wrong"] + counts["gradual_wrong"], counts["missed"]),
        "jump_cuts": rates(kinds[JUMP_CUT]["hit"], 0, kinds[JUMP_CUT]["missed"]),
        "fades": rates(fades["hit"], wrong, fades["missed"]),
        "dissolves": rates(kinds[DISSOLVE]["hit"], wrong, kinds[DISSOLVE]["missed"]),
        "worst_files": [[file, count] for file, count in worst.most_common(8) if count],
    }


def rates(hit: int, wrong: int, missed: int) -> dict[str, Any]:
    """Precision, recall, F1 (None where nothing was asked or found) with the counts they come from."""
    precision = hit / (hit + wrong) if hit + wrong else None
    recall = hit / (hit + missed) if hit + missed else None
    f1 = 2 * hit / (2 * hit + wrong + missed) if 2 * hit + wrong + missed else None
    named = {"precision": precision, "recall": recall, "f1": f1}
    rounded = {name: None if value is None else round(value, 4) for name, value in named.items()}
    return {**rounded, "hit": hit, "wrong": wrong, "missed": missed}


def reason_figures(spans: Sequence[Span], rules: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Each rule by itself, whatever other rules would have said before it: does it fire on what it is there for?"""
    figures = {}
    for rule in rules:
        word = next((word for word in MEANT if word in rule["reason"]), "")
        meant, counts = set(MEANT.get(word, ())), Counter[str]()
        wrongly: Counter[str] = Counter()
        for span in spans:
            score = span.scores.get(rule["score"])
            if score is None or (not meant & span.labels and _tolerated(rule["reason"], span.labels)):
                counts["no score" if score is None else "tolerated"] += 1
                continue
            below, above = rule.get("below"), rule.get("above")
            fires = (below is not None and score < below) or (above is not None and score > above)
            if meant & span.labels:
                counts["hit" if fires else "missed"] += 1
            elif fires:
                counts["wrong"] += 1
                wrongly[f"{span.file}:{'+'.join(sorted(span.labels)) or CLEAN}"] += 1
        figures[rule["reason"]] = {
            **rates(counts["hit"], counts["wrong"], counts["missed"]),
            "labels": sorted(meant),
            "wrongly": [name for name, _ in wrongly.most_common(4)],
        }
    return figures


def _tolerated(reason: str, labels: Iterable[str]) -> bool:
    return any(word in reason for label in labels for word in TOLERATED.get(label, ()))


def label_figures(spans: Sequence[Span]) -> dict[str, dict[str, Any]]:
    """Per label: how many of its clips were rejected, by whatever reason. clean: should be none."""
    by_label: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.reason not in NOT_JUDGED:
            for label in span.labels or {CLEAN}:
                by_label[label].append(span)
    figures = {}
    for label, members in sorted(by_label.items()):
        reasons = Counter(span.reason for span in members if not span.kept)
        rejected = sum(reasons.values())
        figures[label] = {
            "clips": len(members),
            "rejected": rejected,
            "share": round(rejected / len(members), 4),
            "reasons": dict(reasons.most_common()),
        }
    return figures


def crossing_figures(spans: Sequence[Span]) -> dict[str, int]:
    """Kept clips that hold pictures of two shots, by what lies between the shots: each should be none."""
    kept = Counter(span.crosses for span in spans if span.kept and span.crosses)
    return {"kept": sum(span.kept for span in spans), **{f"across_{kind}": count for kind, count in kept.items()}}


def loss_figures(out: Storage, files: Rows, videos: Rows) -> dict[str, Any]:
    """Files without a row, clips without a decision, rows with another fate than expected: each should be none."""
    by_file = Counter(Path(row["uri"]).name for row in videos)
    status = {Path(row["uri"]).name: row["status"] for row in videos}
    clips = out.read_table("clips").column("clip_id").to_pylist()
    decided = out.read_table("decisions").column("clip_id").to_pylist()
    lost = [row["file"] for row in files if by_file[row["file"]] != 1]
    allowed = {"ok": {"ok"}, "failed": {"failed"}, "either": {"ok", "failed"}, "duplicate": {"duplicate", "ok"}}
    same_bytes = {row["copy_of"] for row in files if row["copy_kind"] == "same_bytes"}
    unexpected = {}
    for row in files:
        is_original = row["group"] in same_bytes and row["kind"] == "original"
        fine = allowed[row["expected"]] | ({"duplicate"} if is_original or row["damage"] == "empty" else set())
        if status.get(row["file"], "lost") not in fine:
            unexpected[row["file"]] = status.get(row["file"], "lost")
    return {
        "files": len(files),
        "files_lost": lost,
        "clips": len(clips),
        "clips_lost": len(Counter(clips) - Counter(decided)) + len(Counter(decided) - Counter(clips)),
        "unexpected_status": unexpected,
    }


def exact_copy_figures(files: Rows, videos: Rows) -> dict[str, Any]:
    """Equal bytes: of each pair one must be told to be the double of the other, and nothing else."""
    empty = {row["file"] for row in files if row["damage"] == "empty"}
    marked = {Path(row["uri"]).name for row in videos if row["status"] == "duplicate"} - empty
    pairs = [(row["file"], row["copy_of"]) for row in files if row["copy_kind"] == "same_bytes"]
    originals = {Path(row["file"]).stem: row["file"] for row in files if row["kind"] == "original"}
    hit = sum(len(marked & {copy, originals.get(of, "")}) == 1 for copy, of in pairs)
    return rates(hit, len(marked) - hit, len(pairs) - hit)


def copy_figures(spans: Sequence[Span], files: Rows, groups: Mapping[str, str]) -> dict[str, Any]:
    """Pairs of clips of two files that `groups` (clip_id → group of near-duplicates) joins, or should.

    A pair is a copy when one file was made from the other and both clips show the same moments, for a good part of the
    shorter. Clips of one scene of footage that were not copied from each other count as neither, flat pictures too.
    """
    group_of = {row["file"]: row["group"] for row in files}
    kind_of = {row["file"]: row["copy_kind"] for row in files}
    clips = [span for span in spans if span.reason != "too_short" and not span.labels & FLAT]
    counts: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for left, right in combinations(clips, 2):
        if left.file == right.file:
            continue
        joined = groups.get(left.clip_id, left.clip_id) == groups.get(right.clip_id, right.clip_id)
        if group_of[left.file] and group_of[left.file] == group_of[right.file] and left.take == right.take:
            if _same_moments(left, right) < SAME_SHARE:
                continue
            counts["hit" if joined else "missed"] += 1
            if not joined:
                missed[" / ".join(sorted((kind_of[left.file] or "original", kind_of[right.file] or "original")))] += 1
        elif joined and scene(left.take) != scene(right.take):
            counts["wrong"] += 1
            missed[f"wrong: {left.file} / {right.file}"] += 1
    return {**rates(counts["hit"], counts["wrong"], counts["missed"]), "missed_or_wrong": dict(missed.most_common(8))}


def _same_moments(left: Span, right: Span) -> float:
    """Frames of the footage that both show, as a share of the shorter clip."""
    spans = [(span.take_first, span.take_first + span.stop - span.first) for span in (left, right)]
    both = min(stop for _, stop in spans) - max(first for first, _ in spans)
    return both / min(stop - first for first, stop in spans)
