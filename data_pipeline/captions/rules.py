"""What a model wrote becomes a caption that keeps the paper's rules, or a reason why it cannot: pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from data_pipeline.captions.consistency import invented_numbers, out_of_order
from data_pipeline.captions.language import language_of
from data_pipeline.captions.settings import RuleSettings

OK, REPAIRED, REJECTED = "ok", "repaired", "rejected"
STATUSES = (OK, REPAIRED, REJECTED)

EMPTY, REFUSAL, UNFINISHED = "empty", "refusal", "unfinished"
REPETITION, TOO_LONG, SAYS_VIDEO = "repetition", "too_long", "says_video"
WRONG_LANGUAGE, INVENTED_NUMBER, OUT_OF_ORDER = "wrong_language", "invented_number", "out_of_order"
REASONS = (
    EMPTY,
    REFUSAL,
    UNFINISHED,
    REPETITION,
    WRONG_LANGUAGE,
    SAYS_VIDEO,
    TOO_LONG,
    INVENTED_NUMBER,
    OUT_OF_ORDER,
)
"""Why a caption is rejected, in the order in which it is tested."""


@dataclass(frozen=True)
class Facts:
    """What a caption is held against. `sources`: the captions a summary sums up, in order of time, the short one not
    among them; `numbers_from`: texts whose numbers a summary may use; empty: numbers are not judged. `cut_off`: the
    model was stopped by the limit of tokens."""

    sources: Sequence[str] = ()
    numbers_from: Sequence[str] = ()
    cut_off: bool = False


@dataclass(frozen=True)
class Verdict:
    """`text` is empty for a rejected caption. `repairs`: what was done to it; `reason`: why it was rejected."""

    status: str
    text: str
    repairs: tuple[str, ...] = ()
    reason: str = ""
    detail: str = field(default="", compare=False)


def examine(draft: str, settings: RuleSettings, facts: Facts | None = None) -> Verdict:
    """Mend what can be mended of a draft, then say whether it keeps every rule."""
    facts = facts or Facts()
    if is_refusal(draft):
        return Verdict(REJECTED, "", reason=REFUSAL)
    text, repairs = draft.strip(), []
    for name, mend in _mends(settings, facts):
        mended = mend(text)
        if mended != text:
            repairs.append(name)
            text = mended
    reason, detail = _fault(text, settings, facts)
    if reason:
        return Verdict(REJECTED, "", tuple(repairs), reason, detail)
    return Verdict(REPAIRED if repairs else OK, text, tuple(repairs))


def _mends(settings: RuleSettings, facts: Facts) -> list[tuple[str, Callable[[str], str]]]:
    """Name of each repair and what makes it, in order."""
    found: list[tuple[str, Callable[[str], str]]] = [
        ("markup", without_markup),
        ("one_paragraph", one_paragraph),
        ("quotes", without_quotes),
        ("introduction", without_introduction),
    ]
    if not settings.say_video:
        found.append(("video", without_video))
    if facts.cut_off:
        found.append(("unfinished_sentence", without_unfinished))
    found += [
        ("repeated_sentence", without_repeats),
        ("shortened", lambda text: shortened(text, settings.max_words)),
    ]
    return found


def _fault(text: str, settings: RuleSettings, facts: Facts) -> tuple[str, str]:
    """The first rule that the text breaks, and by what; empty for none."""
    count = num_words(text)
    if count < settings.min_words:
        return (UNFINISHED if facts.cut_off else EMPTY), f"{count} words"
    share = repetition(text)
    if share > settings.max_repetition or has_loop(text):
        return REPETITION, f"{share:.0%} of its sequences of four words are repeats"
    found = language_of(text)
    if settings.language and found and found != settings.language:
        return WRONG_LANGUAGE, found
    if not settings.say_video and (said := _VIDEO.search(text)):
        return SAYS_VIDEO, text[max(0, said.start() - 20) : said.end() + 20]
    if count > settings.max_words:
        return TOO_LONG, f"{count} words"
    if settings.numbers and facts.numbers_from and (numbers := invented_numbers(text, facts.numbers_from)):
        return INVENTED_NUMBER, ", ".join(numbers)
    if settings.order and (why := out_of_order(text, facts.sources)):
        return OUT_OF_ORDER, why
    return "", ""


_VIDEO = re.compile(r"\bvideos?\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?m|i am)\s+(?:really\s+|very\s+)?(?:sorry|unable|afraid|not able)"
    r"|(?:sorry|unfortunately|apologies),?\s+(?:but\s+)?i\b"
    r"|i\s+(?:can(?:not|['’]t| not)|could(?: not|n['’]t)|won['’]t|am unable|don['’]t have|do not have)\b"
    r"|as an? (?:ai|language model|artificial)"
    r"|(?:there (?:is|are) no|no) (?:video|image|picture|frame)s? (?:was |were |is |are )?"
    r"(?:provided|given|attached|visible|to describe)"
    r"|(?:please|could you) (?:provide|upload|share|attach))",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether the model says that it cannot or will not describe, in place of describing."""
    return bool(_REFUSAL.match(text))


def without_markup(text: str) -> str:
    """No Markdown emphasis, headings, list marks, code fences, nor special tokens that a tokenizer let through."""
    text = re.sub(r"<\|[^|>]*\|>|</?s>|<end_of_utterance>", "", text)
    text = re.sub(r"^\s*```\w*\s*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(?:#{1,6}\s+|[-*•]\s+|\d{1,2}[.)]\s+)", "", text, flags=re.MULTILINE)
    return re.sub(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1|(?<!\w)\*(?=\S)([^*\n]+?)(?<=\S)\*(?!\w)", r"\2\3", text).strip()


def one_paragraph(text: str) -> str:
    """One line with single spaces."""
    return " ".join(text.split())


def without_quotes(text: str) -> str:
    """Without quotation marks around the whole."""
    pairs = {'"': '"', "“": "”", "'": "'", "«": "»"}
    inside = text[1:-1]
    if len(text) > 1 and pairs.get(text[0]) == text[-1] and text[0] not in inside and text[-1] not in inside:
        return inside.strip()
    return text


_MEDIUM = r"(?:video|clip|footage|scene|shot|sequence|film|animation|image|picture|photo|photograph|frame|recording)"
_SHOWS = (
    r"(?:shows?|showing|depicts?|depicting|features?|featuring|presents?|presenting|captures?|capturing|displays?"
    r"|displaying|portrays?|portraying|showcases?|showcasing|illustrates?|contains?|is (?:of|about)"
    r"|(?:begins?|opens?|starts?|starting|opening|beginning) (?:with|on|by showing|in|as)|ends? with|consists of"
    r"|focuses on|then (?:shows?|cuts to|transitions to)|transitions to|cuts to|provides(?: us with)?|takes place in)"
)
_ADVERB = r"(?:(?:also|then|primarily|mainly|mostly|clearly|next|now)\s+)?"
_OF_SENTENCE = re.compile(
    r"^(?:(?:in|throughout) )?(?:this|the|these|a)\s+(?:black[- ]and[- ]white\s+)?(?:[\w-]+\s+){0,2}?"
    rf"{_MEDIUM}s?(?:\s+clip)?,?\s+{_ADVERB}{_SHOWS}(?:\s+(?:us|that|how))?[\s:,]+",
    re.IGNORECASE,
)
_WE_SEE = re.compile(
    rf"^(?:in|throughout) (?:this|the)\s+(?:[\w-]+\s+)?{_MEDIUM}(?:\s+clip)?,?\s+"
    r"(?:(?:we|you|one)\s+(?:can\s+)?(?:see|observe|watch)\s+|there (?:is|are)\s+)?",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely)[!,.:]*\s+)?"
    r"(?:(?:here(?:['’]s| is| are)|below is|the following is|this is)\s+(?:a|an|the|your)?\s*(?:[\w-]+\s+){0,3}?"
    r"(?:caption|description|summary|paragraph)\b[^.:]{0,60}[:.]\s*"
    r"|(?:caption|description|summary|answer|assistant)\s*:\s*)",
    re.IGNORECASE,
)
_SURE = re.compile(r"^(?:sure|certainly|of course|absolutely)\s*[!,.:]\s+", re.IGNORECASE)


def without_introduction(text: str) -> str:
    """Without what comes before the content: "Sure! Here is a caption:", "The video shows …", "In this clip, we see …"
    at the head of any sentence; the sentence begins with a capital again."""
    while text:
        stripped = _SURE.sub("", _PREAMBLE.sub("", text, count=1), count=1)
        if stripped == text:
            break
        text = stripped
    return " ".join(_sentence_without_introduction(sentence) for sentence in sentences(text))


def _sentence_without_introduction(sentence: str) -> str:
    for pattern in (_OF_SENTENCE, _WE_SEE):
        rest = pattern.sub("", sentence, count=1)
        if rest != sentence and rest:
            return capitalised(rest)
    return sentence


_CALLED = r"video(?: clip| sequence)?\b"
_POINTERS = tuple(
    (re.compile(pattern, re.IGNORECASE), plain)
    for pattern, plain in (
        (rf",?\s*\b(?:in|of|from|within|during) (?:this|the|our) {_CALLED}", ""),
        (rf"\bthroughout (?:this|the)(?: entire| whole)? {_CALLED}", "throughout"),
        (r"\b(?:as )?(?:this|the) video (?:progresses|continues|goes on|unfolds)\b", "later"),
        (r"\bvideo (clip|footage|sequence)\b", r"\1"),
    )
)


def without_video(text: str) -> str:
    """Turns of phrase that point at the video itself, without it: "throughout the video" becomes "throughout"."""
    for pattern, plain in _POINTERS:
        text = pattern.sub(plain, text)
    text = re.sub(r"\s+([,.;])", r"\1", text).strip()
    return " ".join(capitalised(sentence.lstrip(" ,;")) for sentence in sentences(text))


def without_unfinished(text: str) -> str:
    """Up to the last full stop; a text without one stays empty."""
    ends = [match.end() for match in re.finditer(r"[.!?][\"'”’)]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else ""


def without_repeats(text: str) -> str:
    """Each sentence once; a text that only repeats itself stays as it is, for the rule on repetition to see."""
    found = sentences(text)
    first: dict[str, str] = {}
    for sentence in found:
        first.setdefault(re.sub(r"\W+", " ", sentence.lower()).strip(), sentence)
    once = list(first.values())
    return " ".join(once) if len(found) - len(once) <= len(once) / 2 else text


def shortened(text: str, max_words: int) -> str:
    """As many whole sentences from the beginning as fit; a first sentence that is too long stays."""
    kept: list[str] = []
    count = 0
    for sentence in sentences(text):
        count += num_words(sentence)
        if kept and count > max_words:
            break
        kept.append(sentence)
    return " ".join(kept)


def repetition(text: str, *, length: int = 4) -> float:
    """Share of the sequences of `length` words that occurred before in the text, 0 to 1."""
    words = _words(text)
    grams = [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def has_loop(text: str, *, times: int = 4, longest: int = 12) -> bool:
    """Whether one to `longest` words come `times` times one after the other, as when a model does not find an end."""
    words = _words(text)
    for length in range(1, longest + 1):
        run = 0
        for at in range(length, len(words)):
            run = run + 1 if words[at] == words[at - length] else 0
            if run >= length * (times - 1):
                return True
    return False


_BETWEEN_SENTENCES = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'”’)]))\s+(?=[\"'“‘(]?[A-ZÀ-Ý0-9])")


def sentences(text: str) -> list[str]:
    """Sentences of a paragraph, with their marks."""
    return [part for part in _BETWEEN_SENTENCES.split(text.strip()) if part]


def num_words(text: str) -> int:
    """Words as people count them; for scripts without spaces, half the letters."""
    wide = len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]", text))
    return len(re.sub(r"[\u3040-\u30ff\u3400-\u9fff]", " ", text).split()) + wide // 2


def capitalised(text: str) -> str:
    """With its first letter as a capital."""
    return text[:1].upper() + text[1:]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
