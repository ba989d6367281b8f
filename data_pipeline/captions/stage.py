"""What the worker processes of captioning do with a batch: decode its frames, ask a model, note the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipeline.captions import frames, notes, routes
from data_pipeline.captions.asks import ANSWERED, REFUSED, Answer, Model
from data_pipeline.captions.models import load_model
from data_pipeline.captions.routes import SeenClip
from data_pipeline.captions.settings import CaptionerSettings
from data_pipeline.failures import DAMAGED, ERROR, UNREADABLE
from data_pipeline.outcome import ABORTED, FAILED, OK, Outcome
from groundwork.errors import MediaError, StorageError
from groundwork.storage import open_storage

STAGE = "captions"
NO_ANSWER = "no_answer"
"""Reason of a clip about which a model gave no answer, as when its endpoint failed."""

Row = dict[str, Any]
"""`payload`: JSON of the clips and of what became of some; `pictures`: their decoded frames, one after the other."""


def to_row(clips: Sequence[SeenClip]) -> Row:
    """A batch of clips as the row that the stages hand on."""
    return {"payload": json.dumps({"clips": [asdict(clip) for clip in clips], "gone": []}), "pictures": b""}


def num_clips(row: Row) -> int:
    """How many clips are in a batch."""
    return len(json.loads(row["payload"])["clips"])


class DecodeFrames:
    """Row of a batch → the same with the frames that the parts still to be asked see, from one pass over each clip."""

    def __init__(self, *, captioner: dict[str, Any]) -> None:
        self._captioner = CaptionerSettings.model_validate(captioner)

    def __call__(self, row: Row) -> Row:
        batch = Batch.of(row)
        for clip in batch.clips:
            at = self._wanted(clip)
            if not any(at.values()):
                continue
            try:
                batch.hold(clip.clip_id, at, self._read(clip, at))
            except StorageError as error:
                batch.lose(clip.clip_id, UNREADABLE, error.message)
            except MediaError as error:
                batch.lose(clip.clip_id, DAMAGED, error.message)
            except Exception as error:  # the row boundary
                batch.lose(clip.clip_id, ERROR, f"{type(error).__name__}: {error}")
        return batch.to_row()

    def _wanted(self, clip: SeenClip) -> dict[str, list[float]]:
        parts = routes.parts_of(self._captioner)
        return {
            part: routes.instants(self._captioner, part, clip)
            for part in parts
            if routes.wanting(self._captioner, part, clip)
        }

    def _read(self, clip: SeenClip, at: dict[str, list[float]]) -> dict[str, list[UInt8[np.ndarray, "h w 3"]]]:
        side = max(routes.settings_of(self._captioner, part).short_side for part in at if at[part])
        with open_storage(clip.folder).local_path(clip.name) as path:
            try:
                return frames.read_frames(
                    path, start_seconds=clip.start_seconds, stop_seconds=clip.stop_seconds, at=at, short_side=side
                )
            except MediaError as error:
                raise MediaError(error.message.replace(str(path), clip.name)) from error


class AskModel:
    """Row of a batch → the same with what one part's model answered, which is noted on storage.

    The last part asks again for drafts that break a rule. Calls may overlap: one batch is prepared while the model is
    at another.
    """

    def __init__(self, *, out: str, captioner: dict[str, Any], part: str, key: str, device: str) -> None:
        self._out, self._part, self._key = open_storage(out), part, key
        self._captioner = CaptionerSettings.model_validate(captioner)
        self._model = load_model(routes.settings_of(self._captioner, part), device=device)

    def __call__(self, row: Row) -> Row:
        batch = Batch.of(row)
        try:
            while asked := [
                (clip, number) for clip in batch.clips for number in routes.wanting(self._captioner, self._part, clip)
            ]:
                self._ask(batch, asked)
        except StorageError as error:
            batch.abort(str(error))
        last = self._part == routes.parts_of(self._captioner)[-1]
        return batch.to_row(with_pictures=not last)

    def _ask(self, batch: Batch, asked: Sequence[tuple[SeenClip, int]]) -> None:
        """Ask for all of these once; what gives no answer leaves the batch."""
        given: dict[tuple[str, int], Answer] = {}
        # At most two ways of drawing words: a first try, and further ones.
        for sampling in dict.fromkeys(routes.sampling(self._captioner, self._part, number) for _, number in asked):
            same = [one for one in asked if routes.sampling(self._captioner, self._part, one[1]) == sampling]
            asks = [
                routes.ask(self._captioner, self._part, clip, number, batch.pictures_of(clip.clip_id, self._part))
                for clip, number in same
            ]
            answers = answer_with_care(self._model, asks, sampling)
            given |= {(clip.clip_id, number): one for (clip, number), one in zip(same, answers, strict=True)}
        given = {key: replace(answer, by=self._model.version) for key, answer in given.items()}
        good = {key: answer for key, answer in given.items() if answer.status == ANSWERED}
        notes.write_answers(self._out, self._key, good)
        for (clip_id, number), answer in given.items():
            if answer.status == REFUSED:
                batch.abort(f"captions: {self._captioner.name} is refused: {answer.detail}")
            elif answer.status != ANSWERED:
                batch.lose(clip_id, NO_ANSWER, f"{self._captioner.name}: {answer.detail}")
            else:
                batch.answered(clip_id, self._part, number, answer)


def answer_with_care(model: Model, asks: Sequence[Any], sampling: Any) -> list[Answer]:
    """The model's answers; where it breaks over a batch, each ask alone, so that only the culprit has none."""
    try:
        return model.answer(asks, sampling)
    except Exception as error:  # the row boundary
        if len(asks) == 1:
            return [Answer("", "failed", f"{type(error).__name__}: {error}")]
        return [answer for ask in asks for answer in answer_with_care(model, [ask], sampling)]


class Batch:
    """Clips on their way through the stages of one captioner: what is answered, what left, the frames between."""

    def __init__(self, clips: list[SeenClip], gone: list[Outcome], held: dict[str, Any], pictures: bytes) -> None:
        self.clips, self.gone, self._held, self._pictures = clips, gone, held, pictures
        self._new: list[bytes] = []
        self._length = len(pictures)

    @classmethod
    def of(cls, row: Row) -> Batch:
        """The batch of a row."""
        said = json.loads(row["payload"])
        clips = []
        for one in said["clips"]:
            answers = {
                part: {int(number): Answer(**answer) for number, answer in given.items()}
                for part, given in one.pop("answers").items()
            }
            clips.append(SeenClip(**one, answers=answers))
        gone = [Outcome(**outcome) for outcome in said["gone"]]
        return cls(clips, gone, said.get("held", {}), bytes(row["pictures"]))

    def to_row(self, *, with_pictures: bool = True) -> Row:
        """The row of the batch; without pictures where nobody looks at them any more."""
        held = self._held if with_pictures else {}
        said = {
            "clips": [asdict(clip) for clip in self.clips],
            "gone": [asdict(outcome) for outcome in self.gone],
            "held": held,
        }
        pictures = b"".join([self._pictures, *self._new]) if with_pictures else b""
        return {"payload": json.dumps(said), "pictures": pictures}

    def hold(self, clip_id: str, at: dict[str, list[float]], seen: dict[str, list[Any]]) -> None:
        """Keep a clip's frames; one that several parts see is kept once."""
        places: dict[int, list[int]] = {}
        told: dict[str, list[list[int]]] = {}
        for part in at:
            for picture in seen[part]:
                if id(picture) not in places:
                    places[id(picture)] = [self._length, *picture.shape[:2]]
                    self._new.append(picture.tobytes())
                    self._length += picture.nbytes
                told.setdefault(part, []).append(places[id(picture)])
        self._held[clip_id] = told

    def pictures_of(self, clip_id: str, part: str) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The frames that a part sees of a clip; views, not copies."""
        return [
            np.frombuffer(self._pictures, np.uint8, rows * columns * 3, offset).reshape(rows, columns, 3)
            for offset, rows, columns in self._held.get(clip_id, {}).get(part, [])
        ]

    def answered(self, clip_id: str, part: str, number: int, answer: Answer) -> None:
        """The clip with one more answer."""
        self.clips = [
            clip.with_answer(part, number, answer) if clip.clip_id == clip_id else clip for clip in self.clips
        ]

    def lose(self, clip_id: str, reason: str, detail: str) -> None:
        """A clip leaves the batch as failed."""
        if any(clip.clip_id == clip_id for clip in self.clips):
            self.gone.append(Outcome(clip_id, FAILED, reason, detail, stage=STAGE))
        self.clips = [clip for clip in self.clips if clip.clip_id != clip_id]

    def abort(self, detail: str) -> None:
        """Nothing more can be done, for these clips or any."""
        self.gone += [Outcome(clip.clip_id, ABORTED, detail=detail, stage=STAGE) for clip in self.clips]
        self.clips = []

    def outcomes(self) -> list[Outcome]:
        """What became of each clip."""
        return [*self.gone, *(Outcome(clip.clip_id, OK, stage=STAGE) for clip in self.clips)]


def outcomes_of(row: Row) -> list[Outcome]:
    """What became of each clip of a batch that went through all stages."""
    return [replace(outcome, stage=STAGE) for outcome in Batch.of(row).outcomes()]
