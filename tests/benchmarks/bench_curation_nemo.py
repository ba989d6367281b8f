"""NeMo Curator's CPU stages on Ray Data over a folder of films, in an environment that holds it: `… FILM…`.

Reader, fixed stride of its documented 10 s, OpenH264 clips, motion vectors and their filter, writer: what of its
video pipeline runs without a GPU and without downloaded weights. It needs `ffmpeg` and `ffprobe` on the PATH.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_ADDRESS"] = "local"  # its executor would join whatever Ray runs on the machine
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

import ray
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.video.clipping.clip_extraction_stages import ClipTranscodingStage, FixedStrideExtractorStage
from nemo_curator.stages.video.filtering.motion_filter import MotionFilterStage, MotionVectorDecodeStage
from nemo_curator.stages.video.io.clip_writer import ClipWriterStage
from nemo_curator.stages.video.io.video_reader import VideoReader

LOGICAL_CPUS = 6  # with the two of a small machine its actors hold all and its tasks wait for ever


def main() -> None:
    """Curate the films, linked into a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="nemo-", dir="/tmp") as name:
        folder = Path(name)
        films, clips = folder / "films", folder / "clips"
        films.mkdir()
        for film in sys.argv[1:]:
            shutil.copyfile(film, films / Path(film).name)
        ray.init(
            address="local",
            num_cpus=LOGICAL_CPUS,
            include_dashboard=False,
            object_store_memory=500_000_000,
            _temp_dir=str(folder / "ray"),
            _node_ip_address="127.0.0.1",
        )
        pipeline = Pipeline(name="cpu_stages")
        pipeline.add_stage(VideoReader(input_video_path=str(films)))
        pipeline.add_stage(
            FixedStrideExtractorStage(clip_len_s=10.0, clip_stride_s=10.0, min_clip_length_s=2.0, limit_clips=0)
        )
        pipeline.add_stage(ClipTranscodingStage(encoder="libopenh264", num_cpus_per_worker=1.0))
        pipeline.add_stage(MotionVectorDecodeStage(num_cpus_per_worker=1.0))
        pipeline.add_stage(MotionFilterStage(score_only=False))
        pipeline.add_stage(
            ClipWriterStage(
                output_path=str(clips),
                input_path=str(films),
                upload_clips=True,
                dry_run=False,
                generate_embeddings=False,
                generate_previews=False,
                generate_captions=False,
            )
        )
        pipeline.run(RayDataExecutor())
        print(sum(1 for _ in clips.rglob("*.mp4")), "clips", file=sys.stderr)


if __name__ == "__main__":
    main()
