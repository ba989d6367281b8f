"""Small frames become shot boundaries, with PySceneDetect's detectors fed by our own decode pass."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from data_pipeline.recipe import ShotSettings

_DETECTOR_WINDOW = 2  # frames before and after that the adaptive detector averages


class ShotDetector:
    """Fed one frame after the other; `boundaries` lists the indices of the first frames of new shots."""

    def __init__(self, settings: ShotSettings, *, fps: float) -> None:
        self._fps = fps if fps > 0 else 25.0
        min_frames = max(1, round(settings.min_shot_seconds * self._fps))
        if settings.detector == "adaptive":
            self._detector = AdaptiveDetector(
                adaptive_threshold=settings.threshold,
                min_content_val=settings.min_content,
                min_scene_len=min_frames,
                window_width=_DETECTOR_WINDOW,
            )
        else:
            self._detector = ContentDetector(threshold=settings.threshold, min_scene_len=min_frames)
        self._index = 0
        self.boundaries: list[int] = []

    def update(self, small_rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        """Look at one more frame."""
        bgr = np.ascontiguousarray(small_rgb[..., ::-1])
        cuts = self._detector.process_frame(FrameTimecode(self._index, self._fps), bgr)
        self.boundaries.extend(cut.frame_num for cut in cuts)
        self._index += 1

    def finish(self) -> list[int]:
        """The boundaries, sorted, after the last frame."""
        last = FrameTimecode(max(0, self._index - 1), self._fps)
        self.boundaries.extend(cut.frame_num for cut in self._detector.post_process(last))
        return sorted(set(self.boundaries) - {0})
