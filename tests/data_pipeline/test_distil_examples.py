"""What the loss counts: the answer and the token that ends it, after the very prompt that the captioner gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_vlms
from transformers import AutoModelForImageTextToText, AutoTokenizer

from data_pipeline.captions.asks import Ask
from data_pipeline.captions.frames import to_inputs
from data_pipeline.captions.processors import load_processor
from data_pipeline.captions.training.examples import NOT_LEARNT, Example, Examples, Teacher
from data_pipeline.captions.training.pairs import Pair
from groundwork.errors import InputError
from groundwork.storage import open_storage

SAVE: dict[str, Callable[[Path], Path]] = {
    "qwen2_5_vl": tiny_vlms.save_qwen2_5_vl,
    "llava_onevision": tiny_vlms.save_llava_onevision,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: save(folder / name) for name, save in SAVE.items()}


def example(answer: str, *, num_frames: int, prompt: str = "What happens?") -> Example:
    numbers = np.random.default_rng(num_frames)
    frames = [numbers.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(num_frames)]
    return Example(Ask(prompt, "", frames, [0.5 * index for index in range(num_frames)]), answer)


def ends(tokenizer: Any) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(tokenizer.eos_token)]


@pytest.mark.parametrize("as_video", [True, False], ids=["video", "pictures"])
@pytest.mark.parametrize("family", list(SAVE))
def test_labels_are_the_answer_and_its_end(bases: dict[str, Path], family: str, as_video: bool) -> None:
    processor = load_processor(str(bases[family]))
    tokenizer = processor.tokenizer
    examples = [example("a red car, then a dog", num_frames=2), example("no", num_frames=2, prompt="Is it night?")]
    batch = Teacher(processor, ends=ends(tokenizer), as_video=as_video)(examples)
    for row, labels, one in zip(batch["input_ids"], batch["labels"], examples, strict=True):
        learnt = labels != NOT_LEARNT
        assert tokenizer.decode(labels[learnt]) == f"{one.answer}<|im_end|>"
        assert torch.equal(row[learnt], labels[learnt])
        prompt = to_inputs(processor, [one.ask], as_video=as_video)["input_ids"][0]
        assert torch.equal(row[: len(prompt)], prompt)  # as when it captions, token for token
        assert not learnt[: len(prompt)].any()
        first = int(learnt.nonzero()[0])
        assert first == len(prompt)
    assert batch["attention_mask"].sum(1).tolist() == [
        len(row[row != tokenizer.pad_token_id]) for row in batch["input_ids"]
    ]


@pytest.mark.parametrize("family", list(SAVE))
def test_a_batch_of_unequal_clips_has_the_loss_of_its_clips(bases: dict[str, Path], family: str) -> None:
    """Padding, masks and the order of pixels: any slip moves the loss."""
    processor = load_processor(str(bases[family]))
    model = AutoModelForImageTextToText.from_pretrained(bases[family])
    teacher = Teacher(processor, ends=ends(processor.tokenizer), as_video=False)
    examples = [example("a red car, then a dog", num_frames=2), example("no", num_frames=4, prompt="Is it night now?")]

    def summed(batch: Any) -> float:
        with torch.no_grad():
            return float(model(**batch).loss) * int((batch["labels"] != NOT_LEARNT).sum())

    together, alone = summed(teacher(examples)), sum(summed(teacher([one])) for one in examples)
    assert together == pytest.approx(alone, rel=1e-5)
    assert summed(teacher(examples[::-1])) == pytest.approx(alone, rel=1e-5)
    swapped = [Example(examples[1].ask, examples[0].answer), Example(examples[0].ask, examples[1].answer)]
    assert summed(teacher(swapped)) != pytest.approx(alone, rel=1e-3)


def test_a_language_models_template_may_put_a_space_before_the_answer(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_vlms.save_llama(tmp_path))
    batch = Teacher(tokenizer, ends=[tokenizer.eos_token_id], as_video=False)(
        [Example(Ask("sum up", "rules"), "a dog")]
    )
    (row,), (labels,) = batch["input_ids"], batch["labels"]
    assert tokenizer.decode(row) == "<s>[INST] <<SYS>>\nrules\n<</SYS>>\n\nsum up [/INST] a dog</s>"
    assert tokenizer.decode(labels[labels != NOT_LEARNT]) == " a dog</s>"


def pair(clip_id: str, film: Path) -> Pair:
    return Pair(clip_id, film.stem, str(film), 0.5, 2.0, (0.25, 1.0), "p", "", f"answer of {clip_id}", 1)


def test_a_clip_that_cannot_be_decoded_is_a_row_and_the_next_one_takes_its_place(
    small_films: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    run = open_storage(tmp_path / "run")
    pairs = [pair("a", broken), pair("b", tmp_path / "gone.mp4"), pair("c", small_films["bunny"])]
    examples = Examples(pairs, short_side=48, run=run)
    assert examples[0].answer == "answer of c"
    assert [frame.shape for frame in examples[2].ask.frames] == [(48, 72, 3)] * 2
    assert not np.array_equal(*examples[2].ask.frames)
    assert run.list("failed") == ["failed/a.json", "failed/b.json"]
    assert run.read_json("failed/a.json")["reason"] == "unreadable"
    with pytest.raises(InputError, match="No clip can be decoded"):
        Examples(pairs[:2], short_side=48, run=run)[0]
