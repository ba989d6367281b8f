"""A pair becomes frames and words, and several the tensors of a forward pass, whose loss counts answers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from data_pipeline.captions.asks import Ask
from data_pipeline.captions.frames import conversation, read_frames, to_inputs
from data_pipeline.captions.training.pairs import Pair
from groundwork.errors import InputError, MediaError, StorageError
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import get_logger

NOT_LEARNT = -100
"""Label of a token that the loss leaves out."""
_MARK = "ANSWER"
_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
_NOT_FOR_THE_MODEL = ("video_metadata",)


@dataclass(frozen=True)
class Example:
    """What is asked, and what should be answered."""

    ask: Ask
    answer: str


class Examples(Dataset[Example]):
    """Pairs with their frames, decoded from the sources when they are asked for.

    Where a clip cannot be decoded, a row in RUN/failed/ says why and the next pair that can be takes its place: one bad
    file does not end a long training, and the same files give the same training. Raises InputError when none can.
    """

    def __init__(self, pairs: Sequence[Pair], *, short_side: int, run: Storage) -> None:
        self._pairs, self._short_side, self._run = pairs, short_side, run

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> Example:
        problem = ""
        alike = len(self._pairs[number].seconds)
        for offset in range(len(self._pairs)):
            pair = self._pairs[(number + offset) % len(self._pairs)]
            if len(pair.seconds) != alike:
                continue
            try:
                return read_example(pair, short_side=self._short_side)
            except (MediaError, StorageError) as error:
                problem = error.message
                self._note(pair, problem)
        raise InputError(f"No clip can be decoded: {problem}", "Are the sources still where the dataset names them?")

    def _note(self, pair: Pair, problem: str) -> None:
        get_logger("distil").warning("clip %s is left out: %s", pair.clip_id, problem)
        row = {"clip_id": pair.clip_id, "uri": pair.uri, "stage": "decode", "reason": "unreadable", "detail": problem}
        self._run.write_json(f"failed/{pair.clip_id}.json", row)


def read_example(pair: Pair, *, short_side: int) -> Example:
    """The pair with its frames. Raises MediaError or StorageError where they cannot be had."""
    if not pair.seconds:
        return Example(Ask(pair.prompt, pair.system), pair.answer)
    folder, name = _place(pair.uri)
    with open_storage(folder).local_path(name) as path:
        shown = read_frames(
            path,
            start_seconds=pair.start_seconds,
            stop_seconds=pair.stop_seconds,
            at={"": pair.seconds},
            short_side=short_side,
        )
    return Example(Ask(pair.prompt, pair.system, shown[""], pair.seconds), pair.answer)


def _place(uri: str) -> tuple[str, str]:
    """Folder and name of a source as the videos table names it; the query of a web address goes with the folder."""
    address, mark, query = uri.partition("?") if uri.startswith(("http://", "https://")) else (uri, "", "")
    folder, _, name = address.rpartition("/")
    return (folder or "/") + mark + query, name


class Teacher:
    """Examples → the batch of a forward pass: the prompt exactly as the captioner gives it, then the answer and the
    token that ends it. `labels` are those of the answer and its end; all else is NOT_LEARNT.

    `ends`: tokens at which the model stops to write. `processor`: a vision-language model's, or a language model's
    tokenizer.
    """

    def __init__(self, processor: Any, *, ends: Sequence[int], as_video: bool) -> None:
        self._processor, self._as_video = processor, as_video
        self._words = getattr(processor, "tokenizer", processor)
        self._before, self._end = self._around_an_answer(ends)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        asked = self.asked([example.ask for example in examples])
        answers = [self._answer(example.answer) for example in examples]
        batch = {name: value for name, value in asked.items() if name not in (*_PER_TOKEN, *_NOT_FOR_THE_MODEL)}
        kept = asked["attention_mask"].bool()
        pad = self._words.pad_token_id if self._words.pad_token_id is not None else self._end
        fill = {"input_ids": pad, "attention_mask": 0}
        for name in _PER_TOKEN:
            if name in asked:
                rows = [row[mask] for row, mask in zip(asked[name], kept, strict=True)]
                after = [_of_answer(name, answer) for answer in answers]
                batch[name] = _padded(rows, after, fill.get(name, 0))
        nothing = [torch.full((int(mask.sum()),), NOT_LEARNT) for mask in kept]
        batch["labels"] = _padded(nothing, answers, NOT_LEARNT)
        return batch

    def asked(self, asks: Sequence[Ask]) -> Mapping[str, Any]:
        """The prompts, open for the answer, padded on the left."""
        if self._words is not self._processor:
            return to_inputs(self._processor, asks, as_video=self._as_video and bool(len(asks[0].frames)))
        words = self._rendered([_talk(ask) for ask in asks], open_for_answer=True)
        found: Mapping[str, Any] = self._words(
            words, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=False
        )
        return found

    def _answer(self, text: str) -> Int[Tensor, " n"]:
        ids = self._words(self._before + text, add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, self._end])

    def _around_an_answer(self, ends: Sequence[int]) -> tuple[str, int]:
        """What the chat template puts between its prompt and an answer, and the token that ends the answer.

        Some templates write a closed answer otherwise than they ask for one (LLaVA-OneVision: "assistant " and
        "assistant\\n"). The prompt decides: it is what the captioner gives.
        """
        ask = Ask("Q")
        talk = (
            _talk
            if self._words is self._processor
            else lambda ask, answer=None: conversation(ask, as_video=False, answer=answer)
        )
        (prompt,) = self._rendered([talk(ask)], open_for_answer=True)
        (closed,) = self._rendered([talk(ask, _MARK)], open_for_answer=False)
        opened, _, rest = closed.rpartition(_MARK)
        before = opened[len(prompt) :] if opened.startswith(prompt) else ""
        after = self._words(rest, add_special_tokens=False)["input_ids"]
        return before, next((token for token in after if token in ends), ends[0])

    def _rendered(self, talks: Sequence[Any], *, open_for_answer: bool) -> list[str]:
        words: list[str] = self._processor.apply_chat_template(
            list(talks), tokenize=False, add_generation_prompt=open_for_answer
        )
        return words


def _talk(ask: Ask, answer: str | None = None) -> list[dict[str, str]]:
    """Messages as a language model's chat template takes them."""
    said = (("system", ask.system), ("user", ask.prompt), ("assistant", answer))
    return [{"role": role, "content": text} for role, text in said if text]


def _of_answer(name: str, answer: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """What stands for the tokens of an answer: themselves, seen, and of the kind text."""
    if name == "input_ids":
        return answer
    return torch.ones_like(answer) if name == "attention_mask" else torch.zeros_like(answer)


def _padded(rows: Sequence[Tensor], after: Sequence[Tensor], fill: int) -> Int[Tensor, "b n"]:
    joined = [torch.cat([row, own]) for row, own in zip(rows, after, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(joined, batch_first=True, padding_value=fill)
