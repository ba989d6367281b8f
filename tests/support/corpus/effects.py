"""A picture of a shot becomes the same picture with one known defect; each is a pure function of picture and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from .footage import Reel
from .graded import CLEAN, DISSOLVE, FADE_WHITE, HARD, Recording, Segment

LINES = (
    *(
        "I told you not to come here",
        "We have to leave right now",
        "Where did you see him last",
        "Nobody knows his name",
    ),
    *("It was raining that morning", "Give me the keys and go", "You never listen to me", "This is how it all began"),
)
BAR_SHARE = 0.13
FLASHES_PER_SECOND = 5
PAN_PER_SECOND = 0.03  # shares of the short side: slow, and yet a film
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def frames_of(segments: tuple[Segment, ...], recording: Recording, reel: Reel) -> Iterator[np.ndarray]:
    """RGB frames of the whole film, transitions blended in."""
    height, width = recording.height, recording.width
    for number, segment in enumerate(segments):
        before = segments[number - 1] if number else None
        after = segments[number + 1] if number + 1 < len(segments) else None
        for index in range(segment.frames):
            image = picture(segment, index, recording, reel)
            if before is not None and before.into not in HARD and index < before.transition // 2:
                other = picture(before, before.frames + index, recording, reel)
                share = 0.5 + (index + 0.5) / before.transition
                image = _blend(other, image, share, before.into)
            if after is not None and segment.into not in HARD and index >= segment.frames - segment.transition // 2:
                left = segment.frames - index
                other = picture(after, -left, recording, reel)
                image = _blend(image, other, 0.5 - (left - 0.5) / segment.transition, segment.into)
            assert image.shape == (height, width, 3)
            yield image


def picture(segment: Segment, index: int, recording: Recording, reel: Reel) -> np.ndarray:
    """Frame `index` of a segment, defect included; indices outside 0..frames serve transitions."""
    height, width = recording.height, recording.width
    still = segment.label in ("static", "slow_pan", "scene_text")
    if segment.label in _MAKERS:
        return _MAKERS[segment.label](segment, index, recording)
    image = reel.picture(segment.take, segment.offset + (0 if still else index), height=height, width=width)
    return image if segment.label == CLEAN else _EFFECTS[segment.label](image, segment, index, recording.fps)


def _blend(first: np.ndarray, second: np.ndarray, share: float, into: str) -> np.ndarray:
    """`share` 0 to 1 of the way from first to second; fades pass through black or white in the middle."""
    if into == DISSOLVE:
        return cv2.addWeighted(first, 1 - share, second, share, 0)
    image, left = (first, 1 - 2 * share) if share < 0.5 else (second, 2 * share - 1)
    colour = np.full_like(image, 255 if into == FADE_WHITE else 0)
    return cv2.addWeighted(image, left, colour, 1 - left, 0)


def _noise(segment: Segment, index: int, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Sensor noise: one tile per segment, rolled from frame to frame."""
    rng = np.random.default_rng(len(segment.take.name) + segment.frames)
    tile = rng.normal(0, sigma, shape[:2]).astype(np.float32)
    return np.roll(tile, (7 * index, 13 * index), axis=(0, 1))[..., None]


def _noisy(image: np.ndarray, segment: Segment, index: int, sigma: float) -> np.ndarray:
    return np.clip(image + _noise(segment, index, image.shape, sigma), 0, 255).astype(np.uint8)


def _static(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    return _noisy(image, segment, index, segment.strength) if segment.strength > 0 else image


def _pan(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    height, width = image.shape[:2]
    moved = PAN_PER_SECOND * segment.strength * min(height, width) * index / fps
    # Half a margin on each side; the picture is enlarged by a fifth so that there is something to pan over.
    span = 0.19 * width
    x = abs((moved + span) % (2 * span) - span) - span / 2
    scale = np.array([[1.2, 0, -0.1 * width - x], [0, 1.2, -0.1 * height]], dtype=np.float64)
    return cv2.warpAffine(image, scale, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _bars(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """The picture between black bars, as a wide film on television."""
    height, width = image.shape[:2]
    upright = segment.label == "letterbox"
    bar = round((height if upright else width) * BAR_SHARE * segment.strength)
    inner = image[bar : height - bar] if upright else image[:, bar : width - bar]
    framed = np.zeros_like(image)
    if upright:
        framed[bar : height - bar] = inner
    else:
        framed[:, bar : width - bar] = inner
    return framed


def _write(image: np.ndarray, line: str, *, bottom: int, centre: int, scale: float) -> np.ndarray:
    thickness = max(1, round(2 * scale))
    (wide, _), _ = cv2.getTextSize(line, _FONT, scale, thickness)
    place = (centre - wide // 2, bottom)
    written = image.copy()
    cv2.putText(written, line, place, _FONT, scale, (0, 0, 0), thickness + max(2, round(3 * scale)), cv2.LINE_AA)
    cv2.putText(written, line, place, _FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return written


def _subtitles(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """A line at the foot of the picture that changes every two seconds."""
    height, width = image.shape[:2]
    line = LINES[(len(segment.take.name) + index // (2 * fps)) % len(LINES)]
    return _write(image, line, bottom=round(height * 0.92), centre=width // 2, scale=height / 360 * segment.strength)


def _scene_text(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """A sign painted on the scene: it moves with the camera."""
    height, width = image.shape[:2]
    line = LINES[len(segment.take.name) % len(LINES)].split()[-1].upper()
    painted = _write(image, line, bottom=round(height * 0.55), centre=round(width * 0.5), scale=height / 300)
    return _pan(painted, segment, 8 * index, fps)


def _whip(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """The camera is torn aside for a third of a second in the middle of each second."""
    width = image.shape[1]
    at = (index / fps) % 1.0
    moved = round(width * segment.strength * (index // fps + min(1.0, max(0.0, 3 * (at - 1 / 3)))))
    wide = np.concatenate([image, image[:, ::-1]], axis=1)
    shown = np.roll(wide, -moved, axis=1)[:, :width]
    return cv2.blur(shown, (width // 24, 1)) if 1 / 3 < at < 2 / 3 else shown


def _fast_pan(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """A turn of the camera by a fifth to most of the picture's width in a second, over a picture and its mirror."""
    width = image.shape[1]
    wide = np.concatenate([image, image[:, ::-1]], axis=1)
    return np.roll(wide, -round(0.4 * width * segment.strength * index / fps), axis=1)[:, :width]


def _wall(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """As a fast pan, past a plain wall of half the picture's width on either side of it."""
    height, width = image.shape[:2]
    wall = np.full((height, width // 2, 3), image.mean(axis=(0, 1)), np.float32)
    wall = (wall * np.linspace(0.8, 1.2, height)[:, None, None]).clip(0, 255).astype(np.uint8)
    wide = np.concatenate([image, wall, image[:, ::-1], wall], axis=1)
    return np.roll(wide, -round(0.8 * width * segment.strength * index / fps), axis=1)[:, :width]


def _zoom(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """Towards the middle and back, by 30 to 120 per cent in two seconds."""
    height, width = image.shape[:2]
    depth = 1 - abs(index / (2 * fps) % 2 - 1)
    scale = 1 + 0.6 * segment.strength * depth
    matrix = np.array([[scale, 0, (1 - scale) * width / 2], [0, scale, (1 - scale) * height / 2]])
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)


def _light(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """A lamp is dimmed and turned up on one side of the room, each within a fifth of a second to a second."""
    lit = np.clip((index / fps % 2 - 0.9) * 2.5 / segment.strength, 0, 1)
    lit = lit if int(index / fps) // 2 % 2 else 1 - lit
    side = np.linspace(1.0, 0.3, image.shape[1], dtype=np.float32)[None, :, None]
    return np.clip(image * (0.5 + 0.7 * lit * side), 0, 255).astype(np.uint8)


def _ripple(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """The picture as mirrored in moving water."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    depth = 0.02 * segment.strength * height
    x = columns + depth * np.sin(rows / height * 40 + 9 * index / fps)
    y = rows + depth * np.sin(columns / height * 25 + 14 * index / fps)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _crowd(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """Pieces of the picture that cross it in all directions, in front of each other."""
    height, width = image.shape[:2]
    shown, rng = image.copy(), np.random.default_rng(len(segment.take.name))
    side = height // 5
    for _ in range(24):
        top, left, x, y = (int(rng.integers(0, high)) for high in (height - side, width - side, width, height))
        right, down = rng.uniform(-0.5, 0.5, 2) * height * segment.strength * index / fps
        x, y = int(x + right) % (width - side), int(y + down) % (height - side)
        shown[y : y + side, x : x + side] = image[top : top + side, left : left + side]
    return shown


def _blur(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 4.0 * segment.strength * min(image.shape[:2]) / 256)


def _blocky(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    """What a starved encoder leaves of a picture: 8 x 8 blocks."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, round(6 / segment.strength)])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def _flashing(image: np.ndarray, segment: Segment, index: int, fps: int) -> np.ndarray:
    lit = int(index * 2 * FLASHES_PER_SECOND / fps) % 2
    gain = 1.0 + 0.45 * segment.strength * (1 if lit else -1)
    return cv2.convertScaleAbs(image, alpha=gain)


def _flat(level: int) -> Callable[[Segment, int, Recording], np.ndarray]:
    def make(segment: Segment, index: int, recording: Recording) -> np.ndarray:
        return _noisy(
            np.full((recording.height, recording.width, 3), level, np.uint8), segment, index, 1.5 * segment.strength
        )

    return make


_MAKERS = {"black": _flat(3), "white": _flat(252)}
_EFFECTS = {
    "static": _static,
    "slow_pan": _pan,
    "letterbox": _bars,
    "pillarbox": _bars,
    "subtitles": _subtitles,
    "scene_text": _scene_text,
    "blur": _blur,
    "blocky": _blocky,
    "flashing": _flashing,
    "whip_pan": _whip,
    "fast_pan": _fast_pan,
    "wall": _wall,
    "zoom": _zoom,
    "light": _light,
    "ripple": _ripple,
    "crowd": _crowd,
}
