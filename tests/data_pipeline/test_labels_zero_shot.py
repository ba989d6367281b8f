"""Zero-shot labels: real vision-language classes; shared frames change no answer; yes and no in every spelling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.labels.names import LABELS
from data_pipeline.labels.zero_shot import CLOSING, OPENING, QUESTIONS, Questions, answer_tokens, label_scores
from groundwork.errors import WeightsError
from tests.support.tiny_vlms import save_llava_onevision, save_qwen2_5_vl

FRAMES = 3


def clips(count: int, *, height: int = 72, width: int = 96) -> list[np.ndarray]:
    return list(np.random.default_rng(height).integers(0, 255, (count, FRAMES, height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=[save_qwen2_5_vl, save_llava_onevision])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Questions:
    save: Callable[[Path], Path] = request.param
    return Questions(str(save(tmp_path_factory.mktemp("vlm"))), num_frames=FRAMES)


def asked_alone(model: Questions, clip: np.ndarray, question: str) -> tuple[float, float]:
    """One clip and one question through the whole model: share of yes, share of both."""
    said = [{"role": "user", "content": [*[{"type": "image"}] * FRAMES, {"type": "text", "text": question}]}]
    words = model._processor.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    inputs = model._processor(text=[words], images=[list(clip)], return_tensors="pt")
    with torch.inference_mode():
        likely = model._model(**inputs).logits[0, -1].float().softmax(dim=-1)
    yes, no = (
        sum(float(likely[one]) for one in answer_tokens(model._processor.tokenizer, word)) for word in ("yes", "no")
    )
    return yes / (yes + no), yes + no


def test_six_questions_on_shared_frames_are_answered_as_if_each_were_asked_alone(model: Questions) -> None:
    shown = clips(2)
    found = model.vectors(shown)
    assert found.shape == (2, 12)
    for number, clip in enumerate(shown):
        for place, question in enumerate(QUESTIONS.values()):
            score, share = asked_alone(model, clip, f"{OPENING}{question}{CLOSING}")
            assert found[number, place] == pytest.approx(score, abs=2e-4)
            assert found[number, place + 6] == pytest.approx(share, abs=2e-4)
    assert np.abs(np.diff(found[:, :6], axis=0)).max() > 1e-5  # they look at the frames


def test_clips_of_different_sizes_are_asked_about_in_one_call(model: Questions) -> None:
    small, large = clips(1)[0], clips(1, height=112, width=70)[0]
    together = model.vectors([small, large])
    apart = np.concatenate([model.vectors([small]), model.vectors([large])])
    np.testing.assert_allclose(together, apart, atol=2e-4)


class Words:
    """A vocabulary in which only some spellings are words."""

    unk_token_id = 0

    def __init__(self, *words: str) -> None:
        self._ids = {word: number for number, word in enumerate(words, start=1)}

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [self._ids[text]] if text in self._ids else [self._ids.get(c, 0) for c in text]}

    def convert_tokens_to_ids(self, word: str) -> int:
        return self._ids.get(word, 0)


def test_every_spelling_that_is_one_token_counts_and_no_part_of_a_word() -> None:
    words = Words("Yes", "yes", " yes", "▁Yes", "y", "e", "s", "No", "YES", "nothing", "N", "n")
    assert answer_tokens(words, "yes") == [1, 2, 3, 4, 9]
    assert answer_tokens(words, "no") == [8]


def test_a_model_that_answers_something_else_gives_no_score() -> None:
    vectors = np.array([[0.9] * 6 + [0.8] * 5 + [0.01], [np.nan] * 12], np.float32)
    scores = label_scores(vectors, least_answer_share=0.05)
    assert scores[LABELS[0]][0] == 0.9
    assert np.isnan(scores[LABELS[5]][0])
    assert all(np.isnan(values[1]) for values in scores.values())


def test_a_folder_without_such_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be loaded as a vision-language model"):
        Questions(str(tmp_path))
