"""A summary held against what it sums up: numbers that nobody gave, events out of their order."""

from __future__ import annotations

import re
from collections.abc import Sequence

_COUNTED = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_TENS = {"thirty": "30", "forty": "40", "fifty": "50", "hundred": "100", "dozen": "12"}
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED.split(" "))} | _TENS
_FREE = frozenset({"0", "1", "2", "zero", "one", "two"})
"""Numbers that summing up gives by itself: "another one", "the two"."""
_FIRST = re.compile(r"\b(?:at first|initially|at the (?:beginning|start|outset)|to begin with|begins? with)\b", re.I)
_LAST = re.compile(r"\b(?:finally|lastly|at the end|in the end|by the end|ends? with|concludes? with)\b", re.I)
_INSTANT = re.compile(r"\bsecond (\d+(?:\.\d+)?)\b|\b(?:at|after|by) (\d+(?:\.\d+)?) ?s(?:ec(?:ond)?s?)?\b", re.I)
_LEAST_ALIGNED, _MOST_BACKWARDS = 3, 0.5
_SMALL_WORDS = (
    "the a an and or of in on at to with from by is are was were be been it its his her their this that as into over "
    "under near there while which who then"
)


def invented_numbers(text: str, given: Sequence[str]) -> list[str]:
    """Numbers of the text, in figures or words, that occur in none of the given texts. One and two are free."""
    known = {value for one in given for value in numbers(one)}
    return sorted({value for value in numbers(text) if value not in known and value not in _FREE})


def numbers(text: str) -> list[str]:
    """The numbers of a text as figures: "three" and "3" are one, "0:04" and "4" too."""
    found = []
    for word in re.findall(r"\d+(?::\d{2})+|\d+(?:[.,]\d+)*|[a-z]+", text.lower()):
        if word[0].isdigit():
            found.append(_figure(word))
        elif word in _NUMBERS:
            found.append(_NUMBERS[word])
    return found


def _figure(word: str) -> str:
    if ":" in word:
        seconds = 0
        for part in word.split(":"):
            seconds = 60 * seconds + int(part)
        return str(seconds)
    plain = re.sub(r",(?=\d{3}\b)", "", word)
    return f"{float(plain):g}" if plain.count(".") <= 1 and "," not in plain else plain


def out_of_order(text: str, sources: Sequence[str]) -> str:
    """Why the text does not keep the order of time; empty where it does, or where nothing shows that it does not.

    An end is told before a beginning; instants run backwards; or most pairs of its sentences take their words from
    frame captions (`sources`, in order of time) in the opposite order.
    """
    last, first = _LAST.search(text), _FIRST.search(text)
    if last and first and last.start() < first.start():
        return f"{last.group()!r} comes before {first.group()!r}"
    instants = [float(one or other) for one, other in _INSTANT.findall(text)]
    if instants != sorted(instants):
        return f"instants {', '.join(f'{value:g}' for value in instants)}"
    share = backwards(text, sources)
    return f"{share:.0%} of its sentences run against the frames" if share > _MOST_BACKWARDS else ""


def backwards(text: str, sources: Sequence[str]) -> float:
    """Share (0 to 1) of pairs of sentences in the opposite order of the captions that they take their words from.

    Only words that tell captions apart count; 0 where fewer than three sentences can be placed.
    """
    bags = [_content(source) for source in sources]
    counts: dict[str, int] = {}
    for bag in bags:
        for word in bag:
            counts[word] = counts.get(word, 0) + 1
    telling = {word for word, count in counts.items() if count == 1}
    places = []
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        words = _content(sentence) & telling
        hits = [len(words & bag) for bag in bags]
        if words and hits.count(max(hits)) == 1:
            places.append(hits.index(max(hits)))
    pairs = [(one, other) for at, one in enumerate(places) for other in places[at + 1 :] if one != other]
    if len(places) < _LEAST_ALIGNED or not pairs:
        return 0.0
    return sum(one > other for one, other in pairs) / len(pairs)


def _content(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", text.lower())) - set(_SMALL_WORDS.split(" "))
