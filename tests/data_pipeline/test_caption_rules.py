"""Caption rules: what is mended, what is rejected and why, and what is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.captions.consistency import backwards, invented_numbers, numbers
from data_pipeline.captions.language import language_of
from data_pipeline.captions.rules import OK, REJECTED, REPAIRED, Facts, examine, num_words, repetition, sentences
from data_pipeline.captions.settings import RuleSettings

RULES = RuleSettings()
GOOD = "A brown dog runs across a wet meadow, shakes itself and lies down beside a wooden fence. The camera follows it."


def test_a_caption_that_keeps_every_rule_is_left_alone() -> None:
    assert examine(GOOD, RULES) == examine(GOOD, RULES, Facts())
    verdict = examine(GOOD, RULES)
    assert (verdict.status, verdict.text, verdict.repairs, verdict.reason) == (OK, GOOD, (), "")


@pytest.mark.parametrize(
    ("draft", "text", "repair"),
    [
        ("The video shows a dog on a beach at noon.", "A dog on a beach at noon.", "introduction"),
        ("This video clip depicts the old harbour of a town.", "The old harbour of a town.", "introduction"),
        ("In this video, we see two boys at a lake.", "Two boys at a lake.", "introduction"),
        ("The scene opens with a red car in the rain.", "A red car in the rain.", "introduction"),
        ("In the footage, there is a cat under a table.", "A cat under a table.", "introduction"),
        ("The black and white film shows how a train leaves.", "A train leaves.", "introduction"),
        ("Sure! Here is a caption: A man walks his dog.", "A man walks his dog.", "introduction"),
        ("Caption: A man walks his dog.", "A man walks his dog.", "introduction"),
        ("A man runs uphill. The video then shows a lake below.", "A man runs uphill. A lake below.", "introduction"),
        ("A man runs uphill throughout the video.", "A man runs uphill throughout.", "video"),
        ("In the corner of the video a clock is seen.", "In the corner a clock is seen.", "video"),
        ("**A man** walks\n\n- his dog\n- along a river", "A man walks his dog along a river", "markup"),
        ("A man walks\nhis dog along.", "A man walks his dog along.", "one_paragraph"),
        ("“A man walks his dog along.”", "A man walks his dog along.", "quotes"),
        ("A man walks his dog along.<|im_end|>", "A man walks his dog along.", "markup"),
        (
            "A dog runs on wet grass. It jumps a fence. It jumps a fence.",
            "A dog runs on wet grass. It jumps a fence.",
            "repeated_sentence",
        ),
    ],
)
def test_what_can_be_mended_is_mended_and_noted(draft: str, text: str, repair: str) -> None:
    verdict = examine(draft, RULES.model_copy(update={"min_words": 3}))
    assert (verdict.status, verdict.text) == (REPAIRED, text)
    assert repair in verdict.repairs


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        ("", "empty"),
        ("A dog.", "empty"),
        ("I'm sorry, but I cannot describe this video as I see nothing in it.", "refusal"),
        ("I cannot see any frames, please provide them.", "refusal"),
        ("As an AI language model, I do not watch films.", "refusal"),
        ("No image was provided, so there is nothing to say here.", "refusal"),
        ("The dog runs and runs and runs and runs and runs and runs over the grass.", "repetition"),
        ("a man walks down. a man walks down. a man walks down. a man walks down. a man walks down.", "repetition"),
        ("Ein Hund läuft über die Wiese und legt sich vor den Zaun, der im Schatten liegt.", "wrong_language"),
        ("一只棕色的狗在湿漉漉的草地上奔跑，然后躺在木栅栏旁边休息。", "wrong_language"),
        ("A boy plays a video game in a dark room with a friend.", "says_video"),
        ("Finally the dog lies down on the grass. At first it runs over the hill.", "out_of_order"),
        ("At 6 seconds the dog lies down, and at 2 seconds it runs over the hill.", "out_of_order"),
        (" ".join(f"word{number}" for number in range(140)) + ".", "too_long"),
    ],
)
def test_what_cannot_be_mended_is_rejected_with_its_reason(draft: str, reason: str) -> None:
    verdict = examine(draft, RULES)
    assert (verdict.status, verdict.reason, verdict.text) == (REJECTED, reason, "")


def test_a_long_caption_loses_whole_sentences_from_its_end() -> None:
    long = " ".join(f"Walker{i} in a coat{i} passes house{i} and the tree{i} beside gate{i}." for i in range(20))
    verdict = examine(long, RULES)
    assert verdict.repairs == ("shortened",)
    assert long.startswith(verdict.text)
    assert verdict.text.endswith(".")
    assert 90 <= num_words(verdict.text) <= 100


def test_a_caption_that_the_token_limit_cut_ends_at_its_last_full_stop() -> None:
    verdict = examine(f"{GOOD} Then it sudd", RULES, Facts(cut_off=True))
    assert (verdict.text, verdict.repairs) == (GOOD, ("unfinished_sentence",))
    assert examine("A brown dog runs across a wet meadow and", RULES, Facts(cut_off=True)).reason == "unfinished"


def test_rules_can_be_switched_off() -> None:
    free = RuleSettings(say_video=True, language="", order=False)
    assert examine("A boy plays a video game in a dark room.", free).status == OK
    assert examine("Ein Hund läuft über die Wiese und legt sich hin.", free).status == OK
    assert examine("Finally the dog lies down. At first it runs off.", free).status == OK


def test_numbers_that_no_source_gives_are_found_in_figures_and_words() -> None:
    given = ["Three people stand at a bus with the number 42.", "1,200 seats", "second 4: a clock at 0:15"]
    assert invented_numbers("Three of them wait for bus 42 among 1200 seats at 4 and 15.", given) == []
    assert invented_numbers("Five people wait for bus 43; one leaves, two stay.", given) == ["43", "5"]
    assert numbers("twelve, 12 and 0:12") == ["12", "12", "12"]
    facts = Facts(sources=given[:1], numbers_from=given)
    assert examine("Seven people wait for the bus in the rain.", RULES, facts).reason == "invented_number"
    assert examine("Seven people wait for the bus in the rain.", RULES).status == OK  # nothing to hold it against


def test_a_summary_that_runs_against_its_frames_is_seen() -> None:
    frames = ["A woman opens a green door.", "She pours coffee at a counter.", "A bicycle leaves through rain."]
    forwards = "A woman opens a green door. She pours coffee at the counter. A bicycle leaves in the rain."
    reverse = "A bicycle leaves in the rain. Coffee is poured at a counter. A green door opens."
    assert backwards(forwards, frames) == 0
    assert backwards(reverse, frames) == 1
    assert examine(reverse, RULES, Facts(sources=frames)).reason == "out_of_order"
    assert examine(forwards, RULES, Facts(sources=frames)).status == OK
    assert backwards("A door.", frames) == 0  # too little to tell


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GOOD, "en"),
        ("Un chien court dans la prairie et se couche sur une pierre.", "fr"),
        ("Un perro corre por el campo y se acuesta en la hierba.", "es"),
        ("Een hond rent over het gras en gaat bij het hek liggen.", "nl"),
        ("Um cão corre no campo e deita-se na relva com o dono.", "pt"),
        ("Un cane corre nel prato e si sdraia vicino alla staccionata con il padrone.", "it"),
        ("犬が草原を走っています。", "ja"),
        ("개가 풀밭을 달린다.", "ko"),
        ("Собака бежит по лугу.", "ru"),
        ("Dog, meadow.", ""),
        ("42", ""),
    ],
)
def test_the_language_is_told_where_it_is_plain(text: str, code: str) -> None:
    assert language_of(text) == code


@given(st.text(alphabet="abc .,!?AB\n\"'*0123456789", max_size=300))
def test_examining_is_total_and_a_mended_caption_keeps_the_rules(draft: str) -> None:
    rules = RULES.model_copy(update={"min_words": 1})
    verdict = examine(draft, rules)
    if verdict.status == REJECTED:
        assert verdict.reason
        return
    again = examine(verdict.text, rules)
    assert again.status in (OK, REPAIRED), (draft, verdict, again)
    assert "\n" not in verdict.text
    assert num_words(verdict.text) <= rules.max_words
    assert repetition(verdict.text) <= rules.max_repetition
    assert sentences(verdict.text)
