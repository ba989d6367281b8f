"""A finished dataset of real footage whose captions a test writes itself: what a captioner is distilled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from groundwork.media import probe
from groundwork.records import Caption, Clip, Decision, Video, to_table
from groundwork.storage import Storage

CAPTIONER = "paper"


@dataclass(frozen=True)
class Captioned:
    """A span of a film and what is said of it."""

    film: Path
    start_seconds: float
    stop_seconds: float
    text: str
    frame_captions: Sequence[str] = ()
    kept: bool = True

    @property
    def clip_id(self) -> str:
        return f"{self.film.stem}-{self.start_seconds:g}"


def write_captioned(out: Storage, clips: Sequence[Captioned]) -> None:
    """Tables and manifest, as `curate run` leaves them."""
    headers = {clip.film: probe(clip.film) for clip in clips}
    videos = [
        Video(film.stem, str(film), film.stat().st_size, header.container, header.codec, header.fps,
              header.duration_seconds, header.width, header.height, "", "ok", "", "")
        for film, header in headers.items()
    ]  # fmt: skip
    spans = [
        Clip(clip.clip_id, clip.film.stem, int(clip.start_seconds * 1000), int(clip.stop_seconds * 1000), 1, 1000,
             clip.start_seconds, clip.stop_seconds, 24, headers[clip.film].width, headers[clip.film].height, 24.0)
        for clip in clips
    ]  # fmt: skip
    decisions = [Decision(c.clip_id, c.kept, "" if c.kept else "static", "", None, None) for c in clips]
    said = [
        Caption(c.clip_id, c.text, c.text.split(",")[0], list(c.frame_captions), model="paper", version="1",
                frame_seconds=[2.0 * index for index in range(len(c.frame_captions))])
        for c in clips
    ]  # fmt: skip
    tables = {
        "videos/part-00000.parquet": to_table(videos, Video),
        "clips/part-00000.parquet": to_table(spans, Clip),
        "decisions/policy/part-00000.parquet": to_table(decisions, Decision),
        f"captions/{CAPTIONER}/part-00000.parquet": to_table(said, Caption),
    }
    for path, table in tables.items():
        out.write_table(path, table)
    files = {path: {"bytes": out.size(path), "sha256": out.checksum(path)} for path in tables}
    out.write_json("manifest.json", {"complete": True, "recipe": {}, "files": files, "dataset_hash": "d" * 64})
