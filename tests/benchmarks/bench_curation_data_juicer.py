"""data-juicer's operators on films, called directly, in an environment that holds data-juicer: `… WHAT FILM…`.

`detect`: its scene mapper without the writing of files. `split`: the same with it. `motion`: its optical flow filter at
the 144 pixels its documentation recommends for speed; `motion-default`: as it comes, at full size. `header`: duration,
resolution and aspect ratio.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"

import cv2
from data_juicer.ops.filter.video_aspect_ratio_filter import VideoAspectRatioFilter
from data_juicer.ops.filter.video_duration_filter import VideoDurationFilter
from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
from data_juicer.ops.filter.video_resolution_filter import VideoResolutionFilter
from data_juicer.ops.mapper.video_split_by_scene_mapper import VideoSplitBySceneMapper
from data_juicer.utils.constant import Fields


class DetectOnly(VideoSplitBySceneMapper):  # type: ignore[misc, unused-ignore]
    """Its detection, without the files."""

    def _split_video(self, video_path: str, scene_list: list[Any], output_template: str) -> list[str]:
        return [video_path for _ in scene_list]


def sample(film: str) -> dict[str, Any]:
    return {"videos": [film], "text": "<__dj__video> <|__dj__eoc|>", Fields.stats: {}, Fields.source_file: [film]}


def main() -> None:
    """Run the chosen operators on each film."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, list[Any]] = {
            "detect": [DetectOnly(detector="AdaptiveDetector", threshold=3.0, save_dir=folder)],
            "split": [VideoSplitBySceneMapper(detector="AdaptiveDetector", threshold=3.0, save_dir=folder)],
            "motion": [VideoMotionScoreFilter(size=144)],
            "motion-default": [VideoMotionScoreFilter()],
            "header": [VideoDurationFilter(), VideoResolutionFilter(), VideoAspectRatioFilter()],
        }
        for film in sys.argv[2:]:
            for what in sys.argv[1].split(","):
                for operator in made[what]:
                    if hasattr(operator, "setup_model"):
                        operator.setup_model()
                    run = getattr(operator, "compute_stats_single", None) or operator.process_single
                    result = run(sample(film))
                    print(what, result.get(Fields.stats), len(result["videos"]), file=sys.stderr)


if __name__ == "__main__":
    main()
