"""A vision-language model is asked six questions about the frames of a clip: what it would answer becomes the scores.

The model writes nothing. Of the distribution over its next token the tokens that say yes or no are taken, in every
spelling that is one token ("yes", " Yes", "YES" …): the score is the share of yes among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from data_pipeline.captions.processors import load_processor
from data_pipeline.labels.names import LABELS
from groundwork.errors import WeightsError

Frames = UInt8[np.ndarray, "t h w 3"]

OPENING = "These frames were taken from one video clip, in the order of time. "
QUESTIONS: dict[str, str] = {
    "editing": "Does the clip show editing, such as cuts, transitions between shots, overlaid graphics or effects?",
    "lack_of_motion_connectivity": (
        "Does the clip lack connected motion: is it a still picture, a slide show, or pictures that do not follow from "
        "each other?"
    ),
    "low_quality": "Is the picture of low quality: blurred, blocky, far too dark or too bright, or shaken?",
    "lecture_type": "Does the clip mostly show somebody talking, as in a lecture or a live talk, with little motion?",
    "text_dominated": "Is text the main content of the clip, or does text cover much of the picture?",
    "noisy_screenshots": "Was the clip captured from the screen of a computer or a phone?",
}
CLOSING = " Answer with yes or no."


class Questions:
    """A model that answers. Raises WeightsError when transformers cannot open it as AutoModelForImageTextToText."""

    def __init__(
        self, model: str, *, revision: str = "", num_frames: int = 8, device: str = "cpu", dtype: str = "auto"
    ) -> None:
        self.num_frames = num_frames
        self._device = torch.device(device)
        self._model, self._processor = _load(model, revision or None, self._dtype(dtype))
        self._model.to(self._device)
        self._known_tokens: dict[tuple[int, ...], list[list[int]]] = {}
        self._yes, self._no = (answer_tokens(self._processor.tokenizer, word) for word in ("yes", "no"))
        if not self._yes or not self._no:
            raise WeightsError(f"{model}: its tokenizer has no single token for yes, or for no.")

    def _dtype(self, dtype: str) -> Any:
        if dtype == "auto":
            return "auto" if self._device.type == "cuda" else torch.float32
        return getattr(torch, dtype)

    @torch.inference_mode()
    def vectors(self, clips: Sequence[Frames]) -> Float[np.ndarray, "n 12"]:
        """Per clip the six scores (share of yes, 0 to 1), then the six shares of probability that yes and no have
        together. The frames go through the model once, and the six questions go on from there."""
        prompts = [self._prompt(question) for question in QUESTIONS.values()]
        # Frames of one size have equally many tokens, so that nothing need be padded; others go by themselves.
        alike = len({clip.shape for clip in clips}) == 1
        groups = [list(clips)] if alike else [[clip] for clip in clips]
        found = [self._answers(group, prompts) for group in groups]
        return torch.cat(found).cpu().numpy()

    def _answers(self, clips: Sequence[Frames], prompts: Sequence[str]) -> Float[Tensor, "n 12"]:
        batch = self._inputs(clips, prompts[0])
        tokens = self._tokens(clips[0], prompts)
        shared = common_prefix(tokens)
        prefix = {**batch, "input_ids": batch["input_ids"][:, :shared]}
        for name in ("attention_mask", "mm_token_type_ids"):
            if name in batch:
                prefix[name] = batch[name][:, :shared]
        seen = self._model(**prefix, use_cache=True)
        rest, last = padded([row[shared:] for row in tokens], filler=tokens[0][-1])
        count, questions = len(clips), len(prompts)
        seen.past_key_values.batch_repeat_interleave(questions)
        # No mask: nothing is padded but behind the last token. With one, Qwen's classes would place its tokens anew.
        asked = self._model(
            input_ids=rest.repeat(count, 1).to(self._device), past_key_values=seen.past_key_values, use_cache=True
        )
        logits = asked.logits[torch.arange(count * questions), last.repeat(count).to(self._device)]
        shares: Tensor = self._shares(logits).reshape(count, questions, 2).transpose(1, 2).flatten(1)
        return shares

    def _tokens(self, clip: Frames, prompts: Sequence[str]) -> list[list[int]]:
        """Each prompt as tokens, those of the frames among them: their number depends on the frames' size alone."""
        if clip.shape not in self._known_tokens:
            rows = [self._inputs([clip], prompt)["input_ids"][0].tolist() for prompt in prompts]
            self._known_tokens[clip.shape] = rows
        return self._known_tokens[clip.shape]

    def _shares(self, logits: Float[Tensor, "m v"]) -> Float[Tensor, "m 2"]:
        """Share of yes among yes and no; share of both among all tokens."""
        likely = logits.float().log_softmax(dim=-1)
        yes, no = (likely[:, ids].logsumexp(dim=-1) for ids in (self._yes, self._no))
        return torch.stack([(yes - no).sigmoid(), torch.logaddexp(yes, no).exp()], dim=-1)

    def _prompt(self, question: str) -> str:
        frames = [{"type": "image"}] * self.num_frames
        content = [*frames, {"type": "text", "text": f"{OPENING}{question}{CLOSING}"}]
        said = [{"role": "user", "content": content}]
        prompt: str = self._processor.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return prompt

    def _inputs(self, clips: Sequence[Frames], prompt: str) -> dict[str, Tensor]:
        """The same words about each of the clips."""
        images = [list(clip) for clip in clips]
        made = self._processor(text=[prompt] * len(clips), images=images, return_tensors="pt")
        dtype = self._model.dtype
        return {
            name: value.to(self._device, dtype if value.is_floating_point() else value.dtype)
            for name, value in made.items()
        }


def answer_tokens(tokenizer: Any, word: str) -> list[int]:
    """Ids of the tokens that are this word by themselves, in every spelling: with and without a space before it, with
    and without capitals."""
    found = set()
    for space, spelling in product(("", " ", "▁", "\n"), (word.lower(), word.capitalize(), word.upper())):
        ids = tokenizer(f"{space}{spelling}", add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            found.add(ids[0])
        vocabulary_id = tokenizer.convert_tokens_to_ids(f"{space}{spelling}")
        if vocabulary_id is not None and vocabulary_id != tokenizer.unk_token_id:
            found.add(vocabulary_id)
    return sorted(found)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with; each keeps one of its own at least."""
    count = 0
    while count < min(map(len, rows)) - 1 and len({row[count] for row in rows}) == 1:
        count += 1
    return count


def padded(rows: Sequence[Sequence[int]], *, filler: int) -> tuple[Int[Tensor, "m n"], Int[Tensor, " m"]]:
    """Rows of one length, filled at their end, and the place of each row's last own token. What comes after that token
    cannot change what is said at it."""
    longest = max(map(len, rows))
    filled = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])
    return filled, torch.tensor([len(row) - 1 for row in rows])


def label_scores(
    vectors: Float[np.ndarray, "n 12"], *, least_answer_share: float
) -> dict[str, Float[np.ndarray, " n"]]:
    """Label → score, 0 to 1, rounded to four digits; NaN where the model did not answer with yes or no."""
    count = len(LABELS)
    if not vectors.shape[1]:
        return {label: np.full(len(vectors), np.nan) for label in LABELS}
    scores, shares = vectors[:, :count].astype(float), vectors[:, count:]
    answered = np.where(shares >= least_answer_share, scores, np.nan)
    return {label: np.round(answered[:, number], 4) for number, label in enumerate(LABELS)}


def _load(model: str, revision: str | None, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText

    try:
        loaded, report = AutoModelForImageTextToText.from_pretrained(
            model, revision=revision, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        processor = load_processor(model, revision=revision)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise WeightsError(f"{model}: cannot be loaded as a vision-language model: {error}") from error
    if report["missing_keys"]:
        raise WeightsError(f"{model}: lacks {', '.join(sorted(report['missing_keys']))}.")
    return loaded.eval(), processor


assert tuple(QUESTIONS) == LABELS, "one question per label, in their order"
