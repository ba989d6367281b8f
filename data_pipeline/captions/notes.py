"""Answers of models on storage: one file per batch and part, a line per answer, so that a killed run loses a batch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from data_pipeline.captions.asks import Answer
from data_pipeline.fingerprint import short_hash
from groundwork.storage import Storage

FOLDER = "work/captions"

Found = Mapping[tuple[str, int], Answer]
"""(clip_id, number) → answer, of one part."""


def write_answers(out: Storage, key: str, answers: Found) -> None:
    """Note what a part answered in one batch. No answers: nothing is written."""
    if not answers:
        return
    lines = [
        json.dumps({"clip_id": clip_id, "number": number, **asdict(answer)}, sort_keys=True)
        for (clip_id, number), answer in sorted(answers.items())
    ]
    name = short_hash(sorted(answers))
    out.write_bytes(f"{FOLDER}/{key}/{name}.jsonl", ("\n".join(lines) + "\n").encode())


def read_answers(out: Storage, keys: Mapping[str, str]) -> dict[str, dict[str, dict[int, Answer]]]:
    """All that was answered under the parts' keys: clip_id → part → number → answer."""
    found: dict[str, dict[str, dict[int, Answer]]] = {}
    for part, key in keys.items():
        for path in out.list(f"{FOLDER}/{key}", suffix=".jsonl"):
            for clip_id, number, answer in _answers(out.read_bytes(path).decode().splitlines()):
                found.setdefault(clip_id, {}).setdefault(part, {})[number] = answer
    return found


def _answers(lines: Iterable[str]) -> Iterable[tuple[str, int, Answer]]:
    for line in lines:
        said = json.loads(line)
        yield said.pop("clip_id"), said.pop("number"), Answer(**said)
