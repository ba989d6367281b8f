"""A text becomes the code of the language it is plainly in: by its script, then by its smallest words. No network."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CJK": "zh",
    "CYRILLIC": "ru",
    "ARABIC": "ar",
}
_MOST = 0.3  # of the letters, before a script decides
_WORDS = {
    "en": "the a an and of in is are with on to at as it its his her their by from while into over",
    "de": "der die das und ein eine einen einem ist sind mit auf im den dem von zu vor nicht sich auch",
    "fr": "le la les un une des et est sont avec dans sur du au aux qui pour par ses cette il elle",
    "es": "el la los las un una y es son con en del al que por para su se lo como una está",
    "it": "il la gli le un una e è sono con nel nella su del della che per di si dei alla",
    "pt": "o a os as um uma e é são com no na em do da que por para seu sua ao",
    "nl": "de het een en is zijn met op in van naar voor die dat er aan bij zich niet ook",
}
_SMALL = {code: frozenset(words.split()) for code, words in _WORDS.items()}
LANGUAGES = (*_SMALL, *dict.fromkeys(_SCRIPTS.values()))
"""Codes that `language_of` knows."""
_LEAST_WORDS = 4


def language_of(text: str) -> str:
    """The code of the language, empty where the text is too short or too odd to tell."""
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return ""
    scripts = Counter() if text.isascii() else Counter(_script(letter) for letter in letters)
    foreign = {script: count for script, count in scripts.items() if script in _SCRIPTS.values()}
    if sum(foreign.values()) >= _MOST * len(letters):
        return "ja" if foreign.get("ja") else max(foreign, key=lambda script: foreign[script])
    words = re.findall(r"[^\W\d_]+", text.lower())
    if len(words) < _LEAST_WORDS:
        return ""
    hits = {code: sum(word in small for word in words) for code, small in _SMALL.items()}
    best = max(hits, key=lambda code: hits[code])
    rivals = [count for code, count in hits.items() if code != best]
    return best if hits[best] >= 2 and hits[best] > max(rivals) else ""


def _script(letter: str) -> str:
    return _SCRIPTS.get(unicodedata.name(letter, "").split(" ")[0], "latin")
