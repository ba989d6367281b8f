"""What the models are asked, in the house's words, after the rules of the CogVideoX paper's appendix G."""

from __future__ import annotations

from collections.abc import Sequence

VIDEO = (
    "Describe what can be seen in detail, in one paragraph of at most 100 English words, in the order in which it "
    "happens: people, animals and objects, what they do, the place, the light, and how the camera moves. Begin with "
    "the content itself, without any introduction, and do not use the word video."
)
"""For a model that captions a clip on its own."""

SHORT = "Say in one short sentence what happens here."
"""For the short caption of a clip."""

IMAGE = (
    "Describe this picture in detail: people, animals and objects with their looks and places, the surroundings, the "
    "light and the point of view. Say only what can be seen."
)
"""For a model that captions one frame."""

SUMMARY_SYSTEM = (
    "You are given descriptions of single pictures of one shot, each with the second at which the picture was taken, "
    "and often a short description of the whole. Write what can be seen as one continuous description.\n"
    "Keep the order of time and tell what changes. Cover people, animals, objects, scenery and the movement of the "
    "camera where the descriptions allow to see it. Begin with the content itself: no introduction, no remark about "
    "the descriptions or their number. Do not use the word video, do not mention seconds. Add nothing that is not in "
    "the descriptions. Write one paragraph without line breaks, in English, of at most 100 words."
)
"""For the language model that sums up."""

CAPTION_OF_PART = {"video": VIDEO, "short": SHORT, "image": IMAGE}


def summary_request(short: str, captions: Sequence[tuple[float, str]]) -> str:
    """What the language model sums up: the short caption, then each frame's caption with its second."""
    lines = [f"second {seconds:g}: {' '.join(caption.split())}" for seconds, caption in captions]
    whole = [f"The whole: {' '.join(short.split())}"] if short.strip() else []
    return "\n".join([*whole, *lines])
