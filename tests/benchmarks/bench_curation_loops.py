"""The loops that curation is compared with, each a command on films: our own without Ray, and the common practice.

`bare`: decode once at the analysis size. `detect`: the same, with shots alone. `analyse`: our decode pass with all
signals. `blur`, `motion`, `hash`, `borders`: one filter with a decode of its own, as filter scripts do it with OpenCV's
reader; all read every frame in order, with one thread, and measure small pictures: kinder than what is usual. `cut`:
every shot to a file by x264, as `scenedetect split-video` calls it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"

import cv2
import numpy as np

SHORT_SIDE = 256
MOTION_FPS = 2.0


def frames(film: str) -> Iterator[np.ndarray]:
    """All frames as OpenCV's reader gives them."""
    capture = cv2.VideoCapture(film)
    while True:
        there, frame = capture.read()
        if not there:
            break
        yield frame
    capture.release()


def small_grey(frame: np.ndarray) -> np.ndarray:
    scale = SHORT_SIDE / min(frame.shape[:2])
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    return np.asarray(small)


def blur(film: str) -> float:
    """Median variance of the Laplacian."""
    return float(np.median([cv2.Laplacian(small_grey(frame), cv2.CV_32F).var() for frame in frames(film)]))


def motion(film: str) -> float:
    """Mean length of Farneback's flow between frames half a second apart."""
    capture = cv2.VideoCapture(film)
    step = max(1, round(capture.get(cv2.CAP_PROP_FPS) / MOTION_FPS))
    capture.release()
    before, lengths = None, []
    for index, frame in enumerate(frames(film)):
        if index % step == 0:
            grey = small_grey(frame)
            if before is not None:
                flow = cv2.calcOpticalFlowFarneback(before, grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)
                lengths.append(float(np.hypot(flow[..., 0], flow[..., 1]).mean()))
            before = grey
    return float(np.mean(lengths)) if lengths else 0.0


def hashes(film: str) -> int:
    """DCT hash of every frame."""
    count = 0
    for frame in frames(film):
        spectrum = cv2.dct(cv2.resize(small_grey(frame), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32))
        count += int((spectrum[:8, :8] > np.median(spectrum[:8, :8])).sum())
    return count


def borders(film: str) -> float:
    """Share of black rows and columns, and of dark pixels."""
    found = []
    for frame in frames(film):
        grey = small_grey(frame)
        found.append((grey.max(axis=0) < 24).mean() + (grey.max(axis=1) < 24).mean() + (grey < 16).mean())
    return float(np.mean(found))


def bare(film: str) -> int:
    """Our decode, and nothing else."""
    from data_pipeline.signals.picture import ANALYSIS_SHORT_SIDE
    from groundwork.media import read_small

    return sum(1 for _ in read_small(film, short_side=ANALYSIS_SHORT_SIDE))


def shots(film: str) -> int:
    """Our decode with what shots follow from, and no other signal."""
    from data_pipeline.change import COLUMNS, Change
    from data_pipeline.recipe import ShotSettings
    from data_pipeline.shots import find_shots
    from data_pipeline.signals.picture import ANALYSIS_SHORT_SIDE, Picture
    from groundwork.media import read_small

    change, rows, seconds = Change(), [], []
    for frame in read_small(film, short_side=ANALYSIS_SHORT_SIDE):
        rows.append(change.update(Picture(frame)))
        seconds.append(frame.seconds)
    series = {name: np.array([row[name] for row in rows]) for name in COLUMNS}
    series |= {"seconds": np.array(seconds), "gap": np.zeros(len(rows), bool)}
    # Dissolves take columns of signals: the command that this is compared with does not look for them.
    return int(find_shots(series, ShotSettings(dissolves=False)).starts.sum())


def analyse(film: str) -> int:
    """Our decode pass with shots and all signals, in this process."""
    from data_pipeline import analysis
    from groundwork import media

    return int(analysis.analyse(film, header=media.probe(film)).frames.num_rows)


def cut(film: str) -> int:
    """Every shot of the film as a file, by x264 veryfast at crf 22: `scenedetect`'s own choice for split-video."""
    import av
    from scenedetect import AdaptiveDetector, detect

    scenes = detect(film, AdaptiveDetector(), start_in_scene=True)
    edges = [scene[0].frame_num for scene in scenes] + [scenes[-1][1].frame_num]
    written = 0
    with tempfile.TemporaryDirectory() as folder, av.open(film) as source:
        stream = source.streams.video[0]
        stream.codec_context.thread_count = 1
        pictures = source.decode(stream)
        for first, stop in pairwise(edges):
            with av.open(str(Path(folder) / f"{first}.mp4"), "w") as container:
                options = {"preset": "veryfast", "crf": "22"}
                out = container.add_stream("libx264", rate=stream.average_rate, options=options)
                out.width, out.height, out.pix_fmt = stream.width, stream.height, "yuv420p"
                out.codec_context.thread_count = 1
                for _, picture in zip(range(first, stop), pictures, strict=False):
                    picture.pts = None
                    container.mux(out.encode(picture))
                    written += 1
                container.mux(out.encode())
    return written


LOOPS: dict[str, Callable[[str], float]] = {
    "bare": bare,
    "detect": shots,
    "analyse": analyse,
    "blur": blur,
    "motion": motion,
    "hash": hashes,
    "borders": borders,
    "cut": cut,
}


def main() -> None:
    """`NAME,NAME FILM…`: run the loops one after the other on each film; their results as JSON."""
    cv2.setNumThreads(1)
    names, films = sys.argv[1].split(","), sys.argv[2:]
    print(json.dumps({film: {name: LOOPS[name](film) for name in names} for film in films}))


if __name__ == "__main__":
    main()
