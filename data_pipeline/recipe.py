"""What a curation recipe may say, as frozen models: every field is also a command-line override."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, model_validator

from data_pipeline.captions.settings import CaptionSettings
from data_pipeline.labels.settings import LabelSettings
from data_pipeline.policy import Rule as Rule
from data_pipeline.policy import load_policy, merge
from groundwork.config import FrozenModel

RECIPES = Path(__file__).parent / "recipes"


class DecodeSettings(FrozenModel):
    """How sources are read."""

    damaged: Literal["keep", "reject"] = "keep"
    """A source damaged in its middle: keep what can be decoded, or reject the whole of it."""
    private_hosts: bool = False
    """Whether manifests may name hosts that are not on the public internet, and what lies on another host than they."""
    split_seconds: float = Field(default=600.0, ge=0)
    """Longer sources are measured in parts of about this length, side by side (0: never). Results do not depend on
    it; a killed run repeats at most one part per worker."""


class LimitSettings(FrozenModel):
    """What one source may cost: beyond it, its decoding process is ended and the source fails, with the reason."""

    cpu_seconds: float = Field(default=60.0, gt=0)
    """CPU seconds for any source, or part of one …"""
    cpu_seconds_per_minute: float = Field(default=600.0, ge=0)
    """… and this many more per minute of film."""
    idle_seconds: float = Field(default=300.0, gt=0)
    """Wall seconds without any use of the CPU, as when a file system does not answer."""
    memory_mib: int = Field(default=4096, gt=0)
    """Resident memory of the decoding process, in MiB."""
    max_frames: int = Field(default=4_000_000, gt=0)
    """Frames of a source; ten hours at 60 frames per second are 2.2 million."""
    max_pixels: int = Field(default=8192 * 8192, gt=0)
    """Pixels of a frame, as it is coded."""


class NeuralSettings(FrozenModel):
    """Doubtful cuts are judged by TransNetV2 (extra [shots]), about a second of CPU time each."""

    enabled: bool = False
    """Whether they are."""
    doubt_from: float = Field(default=5.0, ge=0)
    """A frame that changes most among its neighbours is doubtful from this mean HSV change (0 to 255) on …"""
    doubt_to: float = Field(default=40.0, ge=0)
    """… and a cut without doubt from this one on."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability that makes a cut."""


class ShotSettings(FrozenModel):
    """How cuts and fades are found, by the measures of PySceneDetect's detectors on small frames."""

    detector: Literal["adaptive", "content", "threshold", "none"] = "adaptive"
    """adaptive: ratio to the neighbouring frames (robust to fast cameras); content: plain threshold; threshold: fades
    alone; none: a film is one shot."""
    threshold: float = Field(default=3.0, gt=0)
    """adaptive: ratio to the neighbours' change, about 3; content: mean HSV change 0 to 255, about 27."""
    min_content: float = Field(default=15.0, ge=0)
    """adaptive only: a cut changes HSV by at least this much, 0 to 255."""
    min_shot_seconds: float = Field(default=0.6, ge=0)
    """No second cut follows a cut sooner than this."""
    flash_seconds: float = Field(default=0.2, ge=0)
    """A jump of light that is undone within this time is a flash and no cut (0: every jump is a cut)."""
    fades: bool = True
    """Fades through black or white end shots too, whatever the detector; their frames belong to no clip."""
    fade_level: float = Field(default=12.0, ge=0, le=127)
    """A fade reaches black, or white, within this many levels of mean brightness (0 to 255)."""
    dissolves: bool = True
    """Dissolves end shots too, whatever the detector; their frames belong to no clip."""
    dissolve_likeness: float = Field(default=0.85, gt=0, le=1)
    """How well a passage follows the law of mixed pictures to be taken for a dissolve: 1 is exactly."""
    neural: NeuralSettings = NeuralSettings()


class ClipSettings(FrozenModel):
    """How shots become clips."""

    fps: float = Field(default=8.0, gt=0)
    """Frame rate of the training clips."""
    trim_frames: int = Field(default=1, ge=0)
    """Source frames dropped on each side of a cut, so that no frame of the neighbour slips in."""
    min_seconds: float = Field(default=0.0, ge=0)
    """Shots shorter than this give no clip, even where a bucket would fit."""
    max_seconds: float = Field(default=0.0, ge=0)
    """Buckets longer than this are not used (0: all are)."""
    stride_seconds: float = Field(default=0.0, ge=0)
    """A clip begins every so many seconds of a shot (0: where the one before ends); less than a clip's length gives
    clips that overlap."""
    max_clips: int = Field(default=0, ge=0)
    """Keep at most this many clips (0: all); the rest is rejected as over_limit."""


class Bucket(FrozenModel):
    """Size class of a clip: pixel frames (4N+1), rows, columns."""

    num_frames: int = Field(gt=0)
    """Pixel frames of a clip, 4N + 1; 1: an image."""
    height: int = Field(gt=0)
    """Rows, a multiple of 16."""
    width: int = Field(gt=0)
    """Columns, a multiple of 16."""

    @property
    def folder(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"


class AestheticsSettings(FrozenModel):
    """Which model scores beauty; none ships here."""

    weights: str = ""
    """Local folder with clip/ (a CLIP image encoder saved by transformers) and head.safetensors (LAION's aesthetic
    head for it); on every node. Empty: no aesthetic score."""


class SignalSettings(FrozenModel):
    """Signals that take a closer look: at three large frames of each clip that the rules before theirs keep."""

    text: bool = False
    """Find text laid over the picture and text in the scene; needs the extra `text`."""
    aesthetics: AestheticsSettings = AestheticsSettings()

    @property
    def closer(self) -> tuple[str, ...]:
        """Names of those that are on."""
        on = {"text": self.text, "aesthetics": bool(self.aesthetics.weights)}
        return tuple(name for name, wanted in on.items() if wanted)


class HashSettings(FrozenModel):
    """When two clips are copies of each other, by their hash sequences."""

    max_bits: int = Field(default=10, ge=0, le=20)
    """Frames are alike when their 64-bit hashes differ in at most this many bits; other pictures differ in about 32."""
    min_share: float = Field(default=0.75, gt=0, le=1)
    """Share of the sampled frames that must be alike where both clips overlap."""
    min_overlap: float = Field(default=0.5, gt=0, le=1)
    """Share of the shorter clip that the other one must show too."""
    min_agreement: float = Field(default=0.4, ge=-1, le=1)
    """Correlation of movement and light over time (1: together, 0: unrelated), less a twelfth per differing bit, that a
    copy must reach; another moment before the same camera looks alike, but moves otherwise."""
    same_video: bool = False
    """Look for copies inside one video as well: loops and repeats, but also long shots in which little happens."""


class EmbeddingSettings(FrozenModel):
    """When two clips show the same, by an image encoder's vectors of their thumbnails."""

    model: str = ""
    """Folder of an image encoder that transformers can load (CLIP, SigLIP, DINO, …), with its image processor."""
    epsilon: float = Field(default=0.03, gt=0, lt=1)
    """Clips are duplicates when the cosine of their vectors is above 1 - epsilon."""
    same_video: bool = False
    """Compare clips of one video too."""
    cluster_size: int = Field(default=1000, gt=1)
    """Clips are compared within clusters of about this many (k-means); fewer clips than this are one cluster."""


class DuplicateSettings(FrozenModel):
    """Which clips are copies of others. Of each group the kept clip with most pixels stays, then with most bits."""

    mode: Literal["off", "hash", "embedding", "both"] = "hash"
    """hash: re-encoded, scaled, cropped, framed and time-shifted copies; embedding: clips that show the same."""
    hash: HashSettings = HashSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()


class MediaSettings(FrozenModel):
    """Whether kept clips become files of their own, media/<xx>/<clip id>.mp4."""

    mode: Literal["none", "copy", "encode"] = "none"
    """none: no files, latents come straight from the source; copy: cut out exactly, coded frames taken as they are and
    only the ends encoded again, or all of it where that cannot be; encode: at the bucket's size, length and rate."""
    crf: int = Field(default=18, ge=0, le=51)
    """Quality of what is encoded as a whole (x264's constant rate factor; lower is better and larger)."""
    verify: bool = True
    """Decode each copied file and compare every frame with the source; about twice the cost of decoding the clip."""


class EncodeSettings(FrozenModel):
    """How clips become latents."""

    weights: str = ""
    """Weights folder in the diffusers layout; empty: the autoencoder and text encoder that ship with the toy."""
    latent: Literal["mode", "sample", "moments"] = "mode"
    """What is kept of the autoencoder's Gaussian: its mode; one sample, drawn by clip and fingerprint; or mean and
    log-variance (twice the bytes), of which training draws a new sample at each step."""
    batch_pixels: int = Field(default=0, ge=0)
    """Pixels (frames x rows x columns) of clips that go through the autoencoder at once, as far as whole clips fit; 0:
    one clip at a time, best on a CPU. For a GPU some clips, e.g. 70000000 for four of 49x480x720."""
    texts_per_batch: int = Field(default=1, gt=0)
    """Captions that go through the text encoder at once; 1 is best on a CPU."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the autoencoder computes in."""
    shard_bytes: int = Field(default=256 << 20, gt=0)
    """Bytes of latents and text embeddings that a shard holds at most; most hold half as much or more."""


class WorkerSettings(FrozenModel):
    """How wide the Ray stages run. Results do not depend on it."""

    analyse: int = Field(default=2, gt=0)
    """Processes that decode and measure, one video at a time each: at most so many, as far as the cluster has room."""
    encode: int = Field(default=2, gt=0)
    """Processes that encode latents: at most so many."""
    at_least: int = Field(default=1, gt=0)
    """Processes that a stage waits for before it starts; it grows and shrinks between this and the number above."""
    encode_gpus: float = Field(default=0.0, ge=0)
    """GPUs (or a share of one) that each encoding process reserves; 0: it encodes on the CPU."""
    cpus: float = Field(default=0.5, gt=0)
    """Logical CPUs that each process reserves."""
    memory_mib: int = Field(default=0, ge=0)
    """Memory that each process reserves, in MiB, so that no node takes more of them than it can hold (0: none)."""


class CurateRecipe(FrozenModel):
    """Raw video to a bucketed, captioned, encoded dataset."""

    name: str = "toy"
    """Name of the dataset, on its report and card."""
    variant: str = "toy"
    """Model card whose autoencoder and text encoder make the latents."""
    licence: str = ""
    """Licence of the sources, written into the videos table and the dataset card."""
    decode: DecodeSettings = DecodeSettings()
    limits: LimitSettings = LimitSettings()
    shots: ShotSettings = ShotSettings()
    clips: ClipSettings = ClipSettings()
    buckets: tuple[Bucket, ...] = Field(min_length=1)
    """Size classes; a clip takes the longest that fits its shot, then the nearest shape."""
    policy: str = ""
    """Thresholds to start from: a shipped policy (`curate policies` lists them) or a file. Given on the command line it
    takes the place of all the recipe's rules; in a recipe file, `rules` beside it come on top. Empty: `rules` alone."""
    rules: dict[str, Rule] = Field(default_factory=dict)
    """Reason → rule, tried in this order; the first that fires names the reason of rejection."""
    rules_of: Annotated[str, tyro.conf.Suppress] = ""
    """The policy that `rules` hold already; filled in when the recipe is read."""
    signals: SignalSettings = SignalSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    labels: LabelSettings = LabelSettings()
    captions: CaptionSettings = CaptionSettings()
    media: MediaSettings = MediaSettings()
    encode: EncodeSettings = EncodeSettings()
    workers: WorkerSettings = WorkerSettings()

    @model_validator(mode="before")
    @classmethod
    def _with_policy(cls, data: Any) -> Any:
        """Put the policy's rules into `rules`, once; a policy named later (`--policy`) replaces them."""
        if not isinstance(data, dict) or data.get("policy", "") == data.get("rules_of", ""):
            return data
        if not data["policy"]:
            return {**data, "rules_of": ""}
        policy = load_policy(data["policy"])
        from_file = "rules_of" not in data
        rules = merge(policy, (data.get("rules") or {}) if from_file else {})
        return {**data, "policy": policy.name, "rules": rules, "rules_of": policy.name}

    @model_validator(mode="after")
    def _frame_rule(self) -> CurateRecipe:
        for bucket in self.buckets:
            if (bucket.num_frames - 1) % 4:
                raise ValueError(f"bucket {bucket.folder}: num_frames must be 4N + 1, e.g. 9, 17, 49")
            if bucket.height % 16 or bucket.width % 16:
                raise ValueError(f"bucket {bucket.folder}: height and width must be multiples of 16")
        return self
