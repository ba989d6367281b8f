"""The six labels of the CogVideoX paper, their columns, and what each means: positive is the clip that HAS the defect.

The paper's table 14 leaves open which side it calls positive (its shares fit "acceptable" for some labels); here, in
scores, label files and confusion tables alike, positive means that the clip shows what the label names.
"""

from __future__ import annotations

from collections.abc import Mapping

MEANINGS: Mapping[str, str] = {
    "editing": "visible artificial processing: re-cuts, transitions, special effects",
    "lack_of_motion_connectivity": "pictures joined without coherent motion: spliced clips, slide shows, stills",
    "low_quality": "an unclear picture, or strong camera shake",
    "lecture_type": "mostly somebody talking, with little other motion: lectures, live talk",
    "text_dominated": "much visible text, or text as the main content",
    "noisy_screenshots": "captured from the screen of a phone or a computer, usually poorly",
}
"""CogVideoX, arXiv 2408.06072, section 3 and appendix."""
LABELS: tuple[str, ...] = tuple(MEANINGS)
"""Their order, everywhere."""
TITLES: Mapping[str, str] = dict(
    zip(LABELS, ("Editing", "Static", "Low quality", "Lecture", "Text", "Screenshot"), strict=True)
)
"""The names of table 14."""


def column(label: str) -> str:
    """The score of a label, 0 to 1, as rules name it."""
    return f"label_{label}"


STAGE = "labels"
"""Folder of these scores among the signals, and name of the step."""
COLUMNS: tuple[str, ...] = tuple(column(label) for label in LABELS)
CLASSIFIER, ZERO_SHOT, MEASURED = "classifier", "zero_shot", "measured"
"""Who says so: the column `source` of every row."""
NO_LABEL = "none"
"""What a reason of a policy may be made to stand for that is none of the six and says nothing about them."""
