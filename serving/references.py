"""Pictures and videos that a client sends to start from: hostile bytes, checked by what they are, become RGB frames."""

from __future__ import annotations

import hashlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from groundwork.container import display_size, opened, pictures
from groundwork.errors import MediaError, RunError, TooLargeError
from groundwork.media import sample_clip
from groundwork.storage import Storage
from serving.errors import RequestError
from serving.jobs.job import JobSettings

PARAM = "input_reference"
_IMAGE_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")


@dataclass(frozen=True)
class Limits:
    """What a reference may be; all of it is known before a picture is decoded."""

    most_bytes: int = 50 << 20
    most_pixels: int = 1 << 25
    """Of one picture: 8K video fits."""
    least_side: int = 16
    most_ratio: float = 10.0
    """Longer side over shorter: a picture is scaled to cover the video, so a thin one would become huge."""
    most_frames: int = 10_000
    most_video_pixels: int = 1 << 34
    """Of all pictures of a video together: a minute or two of decoding, 8000 frames of 1080p."""


@dataclass(frozen=True)
class ReferenceFile:
    """A reference that was looked at; its size is as displayed, rotation applied."""

    kind: Literal["image", "video"]
    sha256: str
    suffix: str
    """Of the true format, like ".png"."""
    width: int
    height: int
    frames: int
    """1 for an image, of which the first picture counts where there are several."""
    seconds: float
    """How long a video lasts, 0 for an image."""


def checked(data: bytes, *, limits: Limits = Limits()) -> ReferenceFile:
    """What `data` is, by its own first bytes: PNG, JPEG, WebP, GIF, MP4, MOV, WebM or Matroska.

    An image is decoded whole, of a video the first picture. Raises RequestError 413 input_too_large for too many bytes,
    pixels or frames, 400 reference_unreadable for everything that is not such a file, or is damaged or cut off (a
    Matroska file that was cut off is a shorter one).
    """
    if len(data) > limits.most_bytes:
        raise _too_large(f"{len(data)} bytes are more than {limits.most_bytes}")
    kind, suffix = _sniffed(data)
    sha256 = hashlib.sha256(data).hexdigest()
    if kind == "image":
        height, width = image_of(data, limits=limits).shape[:2]
        return ReferenceFile("image", sha256, suffix, width, height, frames=1, seconds=0.0)
    with tempfile.TemporaryDirectory(prefix="cvx-reference-") as folder:
        path = Path(folder) / f"reference{suffix}"
        path.write_bytes(data)
        try:
            (height, width), frames, seconds = _look(path, limits)
        except TooLargeError as error:
            raise _too_large("its pictures have too many pixels") from error
        except (MediaError, av.error.FFmpegError) as error:
            raise _unreadable("it is damaged, cut off or no video") from error
    return ReferenceFile("video", sha256, suffix, width, height, frames, seconds)


def image_of(data: bytes, *, limits: Limits = Limits()) -> UInt8[np.ndarray, "h w 3"]:
    """An image as RGB: upright (EXIF), transparency on white, 16 bits as 8. Raises RequestError as `checked`."""
    _, suffix = _sniffed(data)
    try:
        with Image.open(io.BytesIO(data), formats=[_PILLOW_NAMES[suffix]]) as image:
            _check_size(*image.size, limits=limits)
            return np.asarray(_rgb(image))
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large("it has too many pixels") from error
    except Exception as error:  # Pillow's readers raise whatever their parsing runs into
        raise _unreadable("it is damaged or cut off") from error


def clip_of(
    path: Path, *, num_frames: int, fps: float, height: int, width: int, limits: Limits = Limits()
) -> UInt8[np.ndarray, "t h w 3"]:
    """The first `num_frames` pictures of a video at `fps`, each what was on display then, covering height x width.

    Raises RequestError 400 reference_unreadable when it is damaged there, or shorter.
    """
    try:
        return sample_clip(
            path,
            start_seconds=0.0,
            num_frames=num_frames,
            fps=fps,
            height=height,
            width=width,
            max_pixels=limits.most_pixels,
        )
    except MediaError as error:
        raise _unreadable(error.message.replace(f"{path}: ", "it ").rstrip(".")) from error


def frames_of(storage: Storage, file: str, settings: JobSettings) -> UInt8[np.ndarray, "t h w 3"]:
    """The stored reference of a job as pictures: one, of its own size, for an image; what `clip_of` gives for a video.

    Raises RequestError as `checked`, RunError for other bytes than those the job was accepted with, StorageError.
    """
    assert settings.reference is not None, "only jobs with a reference have one"
    with storage.local_path(file) as path:
        if storage.checksum(file) != settings.reference.sha256:
            raise RunError(f"The reference {file} is not the one that the job was accepted with.")
        if settings.reference.kind == "image":
            return image_of(path.read_bytes())[None]
        return clip_of(
            path, num_frames=settings.num_frames, fps=settings.fps, height=settings.height, width=settings.width
        )


def check_kind(kind: Literal["image", "video"] | None, *, takes_image: bool) -> None:
    """Raises RequestError 400 for a reference that the model cannot start from, or for the lack of one it needs."""
    if takes_image and kind != "image":
        code = "missing_field" if kind is None else "unsupported_field"
        raise RequestError(400, code, "This model makes videos from a first picture: send an image.", param=PARAM)
    if kind == "image" and not takes_image:
        message = "This model makes videos from text, or from a video: it takes no image."
        raise RequestError(400, "unsupported_field", message, param=PARAM)


def check_length(file: ReferenceFile, *, num_frames: int, fps: float) -> None:
    """Raises RequestError 400 reference_unreadable for a video too short for `num_frames` at `fps`."""
    needed = (num_frames - 1) / fps
    if file.kind == "video" and file.seconds <= needed:
        raise _unreadable(f"it lasts {file.seconds:.2f} s, and {num_frames} frames at {fps:g} fps need {needed:.2f} s")


def _sniffed(data: bytes) -> tuple[Literal["image", "video"], str]:
    """Kind and suffix by magic bytes; what the client says of the file does not count."""
    if not data:
        raise _unreadable("it is empty")
    if data[4:8] == b"ftyp" and data[8:12] not in _IMAGE_BRANDS:
        return "video", ".mov" if data[8:12] == b"qt  " else ".mp4"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "video", ".webm" if b"webm" in data[:64] else ".mkv"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image", ".webp"
    for magic, suffix in ((b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif")):
        if data.startswith(magic):
            return "image", suffix
    raise _unreadable("it must be a PNG, JPEG, WebP or GIF image, or an MP4, MOV, WebM or Matroska video")


_PILLOW_NAMES = {".png": "PNG", ".jpg": "JPEG", ".gif": "GIF", ".webp": "WEBP"}


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        return Image.fromarray((np.asarray(upright, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        solid = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return upright.convert("RGB")


def _look(path: Path, limits: Limits) -> tuple[tuple[int, int], int, float]:
    """(rows, columns), frames and seconds of a video, of which one picture is decoded. Raises MediaError."""
    with opened(path, max_pixels=limits.most_pixels) as (container, stream):
        coded = stream.codec_context
        _check_size(coded.width, coded.height, limits=limits)
        frames, seconds = _counted(container, stream, limits)
        container.seek(0)
        for picture, _ in pictures(container, stream, path=path, on_damage=None):
            height, width = display_size(stream, picture)
            size = (width, height) if int(picture.rotation) % 180 else (height, width)
            _check_size(*size, limits=limits)
            return size, frames, seconds
    raise _unreadable("it holds no picture that can be decoded")


def _counted(container: Any, stream: Any, limits: Limits) -> tuple[int, float]:
    """Frames and seconds by what the file holds, not by what its header claims."""
    frames, ends, pixels = 0, 0, stream.codec_context.width * stream.codec_context.height
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise _unreadable("it is damaged or cut off")
        if packet.size:
            frames += 1
            ends = max(ends, (packet.pts or 0) + (packet.duration or 0))
        if frames > limits.most_frames:
            raise _too_large(f"it has more than {limits.most_frames} frames")
        if frames * pixels > limits.most_video_pixels:
            raise _too_large(f"its frames have more than {limits.most_video_pixels} pixels together")
    if stream.frames > frames:
        raise _unreadable(f"it is cut off: {frames} of {stream.frames} frames are there")
    return frames, float((ends - (stream.start_time or 0)) * stream.time_base)


def _check_size(width: int, height: int, *, limits: Limits) -> None:
    if width * height > limits.most_pixels:
        raise _too_large(f"{width}x{height} is more than {limits.most_pixels} pixels")
    if min(width, height) < limits.least_side:
        raise _unreadable(f"{width}x{height}: both sides must have at least {limits.least_side} pixels")
    if max(width, height) > limits.most_ratio * min(width, height):
        raise _unreadable(f"{width}x{height}: one side may be at most {limits.most_ratio:g} times the other")


def _unreadable(reason: str) -> RequestError:
    return RequestError(400, "reference_unreadable", f"The reference cannot be used: {reason}.", param=PARAM)


def _too_large(reason: str) -> RequestError:
    return RequestError(413, "input_too_large", f"The reference is too large: {reason}.", param=PARAM)
