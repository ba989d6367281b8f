"""Decoded pictures become RGB as an ordinary screen shows it, and RGB becomes pictures, by the colours they are tagged.

One place for matrix, range, transfer and gamut, so that latents, thumbnails, signals and files agree. Untagged video is
taken as players take it: BT.709 from 1280 columns or 577 rows on, else BT.601 (as mpv guesses), in video range.
High dynamic range and wide gamuts are mapped to BT.709 as follows: PQ (SMPTE ST 2084) or HLG (ITU-R BT.2100-2 tables 4
and 5) to light, BT.2020 to BT.709 (BT.2087), highlights rolled off as in BT.2390-10 section 5.4, with the reference
white of 203 cd/m² (BT.2408) as the screen's brightest, then the inverse of BT.1886. What is transparent lies on white,
as on a page.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from jaxtyping import Float32, UInt8, UInt16

Transfer = Literal["sdr", "pq", "hlg"]

FAST = Interpolation.BILINEAR
"""Within 3 levels of the exact value; at 1080p a tenth of the cost of `EXACT`."""
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Within 1 level of the exact value."""

_HD_WIDTH, _SD_HEIGHT = 1280, 576
_MATRICES = {  # AVColorSpace → what the scaler knows; others (YCgCo, ICtCp, reserved) are guessed from the size
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_WIDE_GAMUTS = (ColorPrimaries.BT2020, ColorPrimaries.SMPTE432)


@dataclass(frozen=True)
class Colours:
    """How a picture's numbers mean colours. `matrix` is None for RGB; `gamut`: its primaries where they are wider than
    BT.709's; `alpha`: it can be transparent."""

    matrix: Colorspace | None
    color_range: ColorRange
    transfer: Transfer = "sdr"
    gamut: ColorPrimaries | None = None
    alpha: bool = False

    @property
    def ordinary(self) -> bool:
        """Whether the scaler alone gives the right RGB: standard range, BT.709's gamut or near, opaque."""
        return self.transfer == "sdr" and self.gamut is None and not self.alpha


def colours_of(picture: Any) -> Colours:
    """The colours of a decoded `av.VideoFrame`: its tags, and what players take for granted where it has none."""
    tags = picture.colorspace, picture.color_range, picture.color_trc, picture.color_primaries
    return _colours(*(int(tag) for tag in tags), form=picture.format.name, size=(picture.height, picture.width))


@lru_cache(maxsize=256)
def _colours(space: int, value_range: int, trc: int, primaries: int, *, form: str, size: tuple[int, int]) -> Colours:
    described = av.VideoFormat(form)
    rgb = described.is_rgb or described.has_palette
    full = rgb or value_range == ColorRange.JPEG or form.startswith("yuvj")
    transfers: dict[int, Transfer] = {int(ColorTrc.SMPTE2084): "pq", int(ColorTrc.ARIB_STD_B67): "hlg"}
    return Colours(
        matrix=None if rgb else _MATRICES.get(space, usual_matrix(height=size[0], width=size[1])),
        color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        transfer=transfers.get(trc, "sdr"),
        gamut=next((gamut for gamut in _WIDE_GAMUTS if primaries == gamut), None),
        alpha=described.has_palette or any(component.is_alpha for component in described.components),
    )


def usual_matrix(*, height: int, width: int) -> Colorspace:
    """The matrix of video of this size that does not name its own, and the one we write."""
    return Colorspace.ITU709 if width >= _HD_WIDTH or height > _SD_HEIGHT else Colorspace.ITU601


def reformat(
    picture: Any, *, form: str, height: int, width: int, quality: Interpolation = FAST, full_range: bool = False
) -> Any:
    """The picture scaled and in another pixel format, from its true matrix and range; transfer and gamut stay.
    With `full_range`, what is Y'CbCr stays in its matrix and fills 0 to 255.

    Pictures that are not `Colours.ordinary` want `to_rgb`. Keep no context of your own: one per thread is shared.
    """
    colours = colours_of(picture)
    return _scaler().reformat(
        picture,
        format=form,
        width=width,
        height=height,
        src_colorspace=colours.matrix,
        src_color_range=colours.color_range,
        dst_colorspace=colours.matrix if full_range else None,
        dst_color_range=ColorRange.JPEG if full_range else None,
        interpolation=quality,
        threads=1,
    )


def to_rgb(picture: Any, *, height: int, width: int, quality: Interpolation = FAST) -> UInt8[np.ndarray, "h w 3"]:
    """The decoder's picture at `height` x `width`, not rotated, as BT.709 RGB of standard dynamic range."""
    colours = colours_of(picture)
    if colours.ordinary:
        image: UInt8[np.ndarray, "h w 3"] = _rgb(picture, "rgb24", height, width, quality)
        return image
    if colours.alpha and colours.transfer == "sdr":
        # Scaled behind the mixing: colours of what is invisible must not bleed into what is seen.
        seen = _on_white(_rgb(picture, "rgba", picture.height, picture.width, quality))
        return seen if seen.shape[:2] == (height, width) else _resized(seen, height=height, width=width)
    # The scaler's full chroma spoils 16-bit RGB: red and blue come out as noise.
    return to_standard(_rgb(picture, "rgb48le", height, width, quality & ~Interpolation.FULL_CHR_H_INT), colours)


def from_rgb(image: UInt8[np.ndarray, "h w 3"], *, form: str = "yuv420p") -> Any:
    """RGB as a tagged picture of video range for an encoder; `to_rgb` gives even areas back within 2 levels."""
    rows, columns = image.shape[:2]
    matrix = usual_matrix(height=rows, width=columns)
    plain = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    picture = _scaler().reformat(
        plain,
        format=form,
        dst_colorspace=matrix,
        dst_color_range=ColorRange.MPEG,
        interpolation=EXACT,
        threads=1,
    )
    tag(picture, height=rows, width=columns)
    return picture


def tag(target: Any, *, height: int, width: int) -> None:
    """Name the colours that `from_rgb` writes on a picture or an encoder."""
    target.colorspace = 6 if usual_matrix(height=height, width=width) == Colorspace.ITU601 else 1
    target.color_range = ColorRange.MPEG
    target.color_trc, target.color_primaries = ColorTrc.BT709, ColorPrimaries.BT709


def to_standard(image: UInt16[np.ndarray, "h w 3"], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of high dynamic range or a wide gamut, full range 0 to 65535, as BT.709 of standard dynamic range."""
    light: Float32[np.ndarray, "h w 3"] = _eotf(colours.transfer)[image]
    if colours.transfer == "hlg":
        light = _hlg_display(light)
    if colours.gamut is not None:
        light = cv2.transform(light, _to_bt709(colours.gamut))
    np.maximum(light, 0.0, out=light)
    if colours.transfer != "sdr":
        # All channels by one factor, so that hues stay.
        excess = np.maximum(light.max(axis=2) / _PEAK, 1e-12)
        steps = np.sqrt(np.sqrt(np.minimum(excess, 1.0))) * (len(_gain()) - 1)
        light *= (_gain()[np.rint(steps).astype(np.intp)] / np.maximum(excess, 1.0))[..., None]
    np.minimum(light, 1.0, out=light)
    levels: Float32[np.ndarray, "h w 3"] = cv2.pow(light, 1 / 2.4)
    return np.rint(255.0 * levels).astype(np.uint8)


_WHITE = 203.0
"""cd/m² of what a standard screen shows as white; light is counted in it."""
_PEAK_NITS = 1000.0
_PEAK = _PEAK_NITS / _WHITE
"""Masters are taken as graded for 1000 cd/m²; what is brighter is cut off there."""
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
_PQ = (2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128)


def pq_encode(nits: Any) -> Any:
    """Light in cd/m² to a PQ signal, 0 to 1 (BT.2100-2 table 4)."""
    m1, m2, c1, c2, c3 = _PQ
    power = (np.asarray(nits, np.float64) / 10_000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def pq_decode(signal: Any) -> Any:
    """A PQ signal, 0 to 1, to light in cd/m²."""
    m1, m2, c1, c2, c3 = _PQ
    power = np.asarray(signal, np.float64) ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def roll_off(nits: Any) -> Any:
    """Light of a master to light on the screen, both in cd/m²: straight up to the knee, then a spline that reaches the
    screen's white at the master's peak (BT.2390-10, 5.4.1)."""
    peak = pq_encode(_PEAK_NITS)
    signal = pq_encode(np.minimum(nits, _PEAK_NITS)) / peak
    top = pq_encode(_WHITE) / peak
    knee = 1.5 * top - 0.5
    t = np.maximum(signal - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * top
    return pq_decode(np.where(signal < knee, signal, spline) * peak)


@lru_cache(maxsize=1)
def _gain() -> Float32[np.ndarray, " n"]:
    """What `roll_off` multiplies light by, over the fourth root of light / peak: dense where it is dark."""
    nits = np.linspace(0, 1, 4096)[1:] ** 4 * _PEAK_NITS
    gains = roll_off(nits) / nits
    return np.concatenate([gains[:1], gains]).astype(np.float32)


@lru_cache(maxsize=3)
def _eotf(transfer: Transfer) -> Float32[np.ndarray, " n"]:
    """Light for each 16-bit signal, in units of white; for HLG that of the scene, 0 to 1."""
    signal = np.arange(65536) / 65535
    light: np.ndarray = signal**2.4
    if transfer == "pq":
        light = pq_decode(signal) / _WHITE
    elif transfer == "hlg":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return light.astype(np.float32)


def _hlg_display(scene: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Scene light as a display of 1000 cd/m² shows it: the system gamma of 1.2 acts on luminance."""
    luminance = np.maximum(scene @ _LUMINANCE, 1e-6)
    shown: Float32[np.ndarray, "h w 3"] = scene * (_PEAK * luminance**0.2)[..., None]
    return shown


@lru_cache(maxsize=4)
def _to_bt709(gamut: ColorPrimaries) -> Float32[np.ndarray, "3 3"]:
    """Linear light of the gamut to that of BT.709, from the chromaticities of the primaries; white is D65 in all."""
    corners = {
        ColorPrimaries.BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
        ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
        ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    }

    def to_xyz(chosen: ColorPrimaries) -> np.ndarray:
        columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in corners[chosen]]).T
        white = np.array([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290])
        scaled: np.ndarray = columns * np.linalg.solve(columns, white)
        return scaled

    return np.linalg.solve(to_xyz(ColorPrimaries.BT709), to_xyz(gamut)).astype(np.float32)


def _rgb(picture: Any, form: str, height: int, width: int, quality: Interpolation) -> np.ndarray:
    made: np.ndarray = reformat(picture, form=form, height=height, width=width, quality=quality).to_ndarray()
    return made


def _on_white(image: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    alpha = image[..., 3:].astype(np.uint16)
    return ((image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _resized(image: UInt8[np.ndarray, "h w 3"], *, height: int, width: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    resized: UInt8[np.ndarray, "h2 w2 3"] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return resized


_LOCAL = threading.local()


def _scaler() -> VideoReformatter:
    """One per thread: setting the scaler up anew costs more than a small picture."""
    if not hasattr(_LOCAL, "scaler"):
        _LOCAL.scaler = VideoReformatter()
    scaler: VideoReformatter = _LOCAL.scaler
    return scaler
