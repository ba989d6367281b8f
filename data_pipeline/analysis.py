"""One video, decoded once, becomes a table of per-frame measurements: shot starts, signals, thumbnails."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from data_pipeline import shots
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.recipe import ShotSettings
from data_pipeline.shots import ShotDetector
from data_pipeline.signals import CODE, Series, measuring
from data_pipeline.signals.measuring import Measuring
from data_pipeline.signals.picture import ANALYSIS_SHORT_SIDE, Picture, shrink
from groundwork import media
from groundwork.errors import MediaError

THUMBNAIL_SECONDS = 0.5
THUMBNAIL_SHORT_SIDE = 96
_THUMBNAIL_QUALITY = 82


@dataclass(frozen=True)
class Header:
    """What the report and the videos table say of a source; size as displayed, rate from the container."""

    container: str
    codec: str
    fps: float
    duration_seconds: float
    width: int
    height: int
    time_base_num: int
    time_base_den: int


@dataclass(frozen=True)
class Analysis:
    """`frames`: one row per decoded frame, in display order: pts, seconds, shot_start, thumbnail, signal columns.
    `signal_milliseconds`: CPU time of each signal, part of `cpu_milliseconds`, the whole pass."""

    header: Header
    frames: pa.Table
    cpu_milliseconds: float
    signal_milliseconds: dict[str, float]

    def to_table(self) -> pa.Table:
        """One table, the rest in its metadata."""
        meta = {"header": asdict(self.header), "cpu_milliseconds": self.cpu_milliseconds}
        meta["signal_milliseconds"] = self.signal_milliseconds
        return self.frames.replace_schema_metadata({"analysis": json.dumps(meta)})

    @classmethod
    def from_table(cls, table: pa.Table) -> Analysis:
        """The reverse of `to_table`."""
        meta = json.loads(table.schema.metadata[b"analysis"])
        return cls(Header(**meta["header"]), table, meta["cpu_milliseconds"], meta["signal_milliseconds"])

    def series(self) -> Series:
        """The numeric columns as arrays."""
        return {name: self.frames.column(name).to_numpy() for name in self.frames.column_names if name != "thumbnail"}


def analysis_fingerprint(settings: ShotSettings) -> str:
    """Key of what `analyse` makes: its code (this file, shots, signals, the decoder) and the shot settings."""
    import data_pipeline.analysis as own

    code: tuple[ModuleType, ...] = (own, shots, media, measuring, *CODE)
    return stage_fingerprint(code, settings.model_dump(mode="json"))


def analyse(path: str | Path, *, settings: ShotSettings) -> Analysis:
    """Decode a video once, at a short side of 256, and measure every frame.

    Raises MediaError when it cannot be opened or when decoding stops at a damaged place.
    """
    cv2.setNumThreads(1)
    started = time.process_time()
    header = _header(path)
    detector = ShotDetector(settings, fps=header.fps)
    measured = Measuring()
    columns: dict[str, list[Any]] = {"pts": [], "seconds": [], "thumbnail": []}
    next_thumbnail = 0.0
    for frame in media.read_frames(path, short_side=ANALYSIS_SHORT_SIDE, with_native=True):
        picture = Picture(frame)
        detector.update(picture.small_rgb)
        measured.update(picture)
        columns["pts"].append(frame.pts)
        columns["seconds"].append(frame.seconds)
        columns["thumbnail"].append(_thumbnail(frame.image) if frame.seconds >= next_thumbnail else None)
        if columns["thumbnail"][-1] is not None:
            next_thumbnail = frame.seconds + THUMBNAIL_SECONDS - 1e-6
    if not columns["pts"]:
        raise MediaError(f"{path}: holds no frame with a time stamp.")
    table = _table(columns, measured, boundaries=detector.finish())
    milliseconds = {name: round(seconds * 1000, 1) for name, seconds in measured.cpu_seconds.items()}
    return Analysis(header, table, round((time.process_time() - started) * 1000, 1), milliseconds)


def _header(path: str | Path) -> Header:
    found = media.probe(path)
    return Header(
        container=found.container,
        codec=found.codec,
        fps=found.fps,
        duration_seconds=found.duration_seconds,
        width=found.width,
        height=found.height,
        time_base_num=found.time_base.numerator,
        time_base_den=found.time_base.denominator,
    )


def _thumbnail(image: Any) -> bytes:
    small = shrink(image, short_side=THUMBNAIL_SHORT_SIDE)
    done, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _THUMBNAIL_QUALITY])
    assert done, "JPEG encoding of an RGB picture cannot fail"
    return bytes(jpeg.tobytes())


def _table(columns: dict[str, list[Any]], measured: Measuring, *, boundaries: list[int]) -> pa.Table:
    starts = np.zeros(len(columns["pts"]), dtype=bool)
    starts[[0, *boundaries]] = True
    arrays: dict[str, pa.Array] = {
        "pts": pa.array(columns.pop("pts"), pa.int64()),
        "seconds": pa.array(columns.pop("seconds"), pa.float64()),
        "shot_start": pa.array(starts),
        "thumbnail": pa.array(columns.pop("thumbnail"), pa.binary()),
    }
    return pa.table({**arrays, **measured.arrays()})
