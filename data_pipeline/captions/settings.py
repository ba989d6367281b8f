"""What a recipe may say about captions: which captioners, which models behind them, what a caption must be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from groundwork.config import FrozenModel

GIVEN = "given"
"""Route and name of the captioner whose captions came with the sources."""


class EndpointSettings(FrozenModel):
    """An OpenAI-compatible chat endpoint (`backend: endpoint`)."""

    url: str = ""
    """Base address, up to and with /v1."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key, on every node that asks; the key itself is stored nowhere.
    Empty: no key is sent."""
    concurrency: int = Field(default=8, gt=0)
    """Requests under way at once."""
    requests_per_minute: float = Field(default=0.0, ge=0)
    """At most so many requests are begun per minute (0: no limit)."""
    tries: int = Field(default=6, gt=0)
    """How often a request is sent before its clip fails: after 408, 409, 429, 5xx, time-outs and broken connections."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """How long an answer may take."""
    price_per_million_input_tokens: float = Field(default=0.0, ge=0)
    """What the endpoint charges, in any currency; with the next one it gives the cost of each caption."""
    price_per_million_output_tokens: float = Field(default=0.0, ge=0)
    """For what it writes."""
    jpeg_quality: int = Field(default=90, ge=1, le=100)
    """Of the frames that are sent."""


class ModelSettings(FrozenModel):
    """One model: what runs it, what it is asked, and which frames it sees."""

    backend: Literal["transformers", "cogvlm2", "vllm", "endpoint", "python", "rapidocr"] = "transformers"
    """transformers: in this process; cogvlm2: CogVLM2-Caption, whose code comes with its weights; vllm: vLLM's engine,
    where it is installed; endpoint: a chat endpoint; python: `model` is module:factory of your own code; rapidocr:
    reads text, and nothing else (extra `text`)."""
    model: str = ""
    """Hub id or local folder (on every node); the served name for an endpoint."""
    revision: str = ""
    """Commit of the hub repository. Code that comes with weights (cogvlm2) runs from a hub id only with one."""
    prompt: str = ""
    """What is asked; empty: the house's words for this part."""
    system: str = ""
    """The system message; empty: the house's words for a language model, none for the others."""
    frames: Literal["even", "spaced"] = "even"
    """even: `num_frames` frames over the whole clip; spaced: one every `spacing_seconds`, at most `num_frames`."""
    num_frames: int = Field(default=24, gt=0)
    """Pixel frames that the model sees of a clip (CogVLM2-Caption: 24)."""
    spacing_seconds: float = Field(default=2.0, gt=0)
    """Seconds between frames, where they are spaced (the paper's image captions: 2)."""
    short_side: int = Field(default=224, gt=0)
    """Pixels of the shorter side of these frames (CogVLM2-Caption: 224)."""
    shown_as: Literal["auto", "video", "pictures"] = "auto"
    """video: as one video, which takes a processor with torchvision; pictures: as pictures with their times between
    them; auto: as video where the processor can."""
    batch: int = Field(default=8, gt=0)
    """Clips, or single frames for an image model, that go through the model at once (transformers)."""
    max_new_tokens: int = Field(default=384, gt=0)
    """Longest answer."""
    temperature: float = Field(default=0.0, ge=0)
    """0: the likeliest word each time (deterministic)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of likely words that is drawn from, where the temperature is above 0."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; auto: that of the checkpoint on a GPU, float32 on a CPU."""
    endpoint: EndpointSettings = EndpointSettings()


class RuleSettings(FrozenModel):
    """What a caption must be. What can be mended is mended, the rest is rejected; both are noted with their reason."""

    max_words: int = Field(default=100, gt=0)
    """Longer captions lose their last sentences (the paper's bound)."""
    min_words: int = Field(default=5, gt=0)
    """Shorter ones are rejected as empty."""
    language: str = "en"
    """Rejected when it is plainly another one (en, de, fr, es, it, pt, nl, zh, ja, ko, ru, ar); empty: any."""
    say_video: bool = False
    """Whether a caption may say "video"."""
    numbers: bool = True
    """Whether numbers and times in a summary must occur in what it sums up, or in what was measured."""
    order: bool = True
    """Whether a caption must keep to the order of time."""
    max_repetition: float = Field(default=0.3, gt=0, le=1)
    """Share of the sequences of four words that may be repeats."""


class CaptionerSettings(FrozenModel):
    """One way to caption a clip; it writes captions/<name>/."""

    name: str = Field(default="measured", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Folder of its captions."""
    route: Literal["measured", "given", "video", "summary"] = "measured"
    """measured: sentences made only from measurements, no model; given: what a manifest says, kept as it came; video: a
    video model writes the caption; summary: the paper's way, a short caption by a video model, captions of single
    frames by an image model, summed up by a language model."""
    video: ModelSettings = ModelSettings()
    """Writes the caption (route video) or the short one (route summary)."""
    image: ModelSettings = ModelSettings(frames="spaced", max_new_tokens=256)
    """Captions single frames (route summary)."""
    language: ModelSettings = ModelSettings(max_new_tokens=256)
    """Sums up (route summary); sees no frames."""
    read_text: bool = False
    """Route measured: whether words in the picture are read and quoted (extra `text`)."""
    reader: ModelSettings = ModelSettings(backend="rapidocr", model="rapidocr", num_frames=3, short_side=480)
    """Reads them."""
    rules: RuleSettings = RuleSettings()
    retries: int = Field(default=2, ge=0)
    """How often a rejected caption is asked for again, each time with another seed …"""
    retry_temperature: float = Field(default=0.7, gt=0)
    """… at this temperature, if it was lower."""
    seed: int = 0
    """Where drawing begins; each clip and each try has a seed of its own that follows from it."""
    batch_clips: int = Field(default=8, gt=0)
    """Clips that are decoded, asked about and noted together; a killed run repeats at most one such batch per
    process."""
    workers: int = Field(default=1, gt=0)
    """Processes with the model: at most so many. An endpoint is asked from one process, whatever this says."""
    decoders: int = Field(default=2, gt=0)
    """Processes that decode frames ahead of the model: at most so many."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs (or a share of one) that each process with a model reserves; 0: it runs on the CPU."""


class CaptionSettings(FrozenModel):
    """Who writes the captions. Of a clip's captions the first one that is not rejected is trained on by default."""

    captioners: tuple[CaptionerSettings, ...] = Field(default=(CaptionerSettings(),), min_length=1)
    """In order of preference. The route `given` is always named `given`, and nothing else is."""
    ask: Literal["all", "until_ok"] = "all"
    """all: every captioner captions every clip, the later ones are alternatives; until_ok: a later one is asked only
    about clips that those before it did not caption."""
    agreement: str = ""
    """Folder of a CLIP-style model (CLIP, SigLIP) as transformers saves it: the report shows how well captions agree
    with frames. Empty: nothing is compared."""

    @model_validator(mode="after")
    def _names(self) -> CaptionSettings:
        names = [captioner.name for captioner in self.captioners]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"captioners of one name: {', '.join(twice)}; each writes a folder of that name")
        for captioner in self.captioners:
            if (captioner.name == GIVEN) != (captioner.route == GIVEN):
                raise ValueError(
                    f"captioner {captioner.name!r}: the route {GIVEN!r} has that name, and no other has it"
                )
        return self
