"""What a graded film is made of, as frozen rows: shots, what is injected, how it is recorded, what is true."""

from __future__ import annotations

from dataclasses import dataclass, field

CLEAN = "clean"
DEFECTS = (
    *("static", "black", "letterbox", "blur", "flashing", "subtitles", "blocky", "slow_pan"),
    *("scene_text", "white", "pillarbox", "whip_pan"),
)
"""What may be injected into a shot. slow_pan, scene_text and whip_pan are no defects: they look like a still picture,
subtitles, cuts."""
CUT, JUMP_CUT, FADE_BLACK, FADE_WHITE, DISSOLVE = "cut", "jump_cut", "fade_black", "fade_white", "dissolve"
"""How a shot follows another. A jump cut joins two views of one shot: the picture changes little."""
HARD = (CUT, JUMP_CUT)


@dataclass(frozen=True)
class Take:
    """A shot of real footage as the corpus shows it. `turn`: 1 mirrors it, 2 turns it upside down, 3 both;
    `window`: 0 is the whole picture, 1 to 4 seven tenths of it at a corner."""

    film: str
    first: int
    stop: int
    turn: int = 0
    window: int = 0

    @property
    def name(self) -> str:
        """Equal for shots that show the same."""
        return f"{self.film}:{self.first}-{self.stop}:{self.turn}{self.window}"


@dataclass(frozen=True)
class Segment:
    """`frames` of a take from frame `offset` on, with `label` injected; `into` says how the next segment follows, in a
    transition of `transition` frames centred on the boundary."""

    take: Take
    frames: int
    offset: int = 0
    label: str = CLEAN
    strength: float = 1.0
    into: str = CUT
    transition: int = 0


@dataclass(frozen=True)
class Recording:
    """How a film is written: PyAV's names for codec, container and pixel format."""

    codec: str = "libx264"
    container: str = "mp4"
    suffix: str = ".mp4"
    pixel_format: str = "yuv420p"
    width: int = 426
    height: int = 240
    fps: int = 25
    gop: int = 30
    quality: int = 23
    variable_rate: bool = False
    rotation: int = 0
    pixel_aspect: tuple[int, int] = (1, 1)
    high_dynamic_range: bool = False


@dataclass(frozen=True)
class Copy:
    """A film made from another corpus film: `skip` frames later, `crop` of each side cut off, at its own recording.
    `kind`: same_bytes, reencoded, scaled, cropped, shifted, all."""

    of: str
    kind: str
    skip: int = 0
    crop: float = 0.0


@dataclass(frozen=True)
class Graded:
    """One file and what is true of it. `damage` is done to the finished bytes; `expected`: ok, failed, either (rows may
    be kept or not, but must be there) or duplicate (equal bytes)."""

    name: str
    segments: tuple[Segment, ...] = ()
    recording: Recording = field(default_factory=Recording)
    kind: str = CLEAN
    damage: str = ""
    expected: str = "ok"
    copy: Copy | None = None

    @property
    def file(self) -> str:
        """Its name on disk."""
        return f"{self.name}{self.recording.suffix}"

    @property
    def num_frames(self) -> int:
        """Frames of all segments."""
        return sum(segment.frames for segment in self.segments)
