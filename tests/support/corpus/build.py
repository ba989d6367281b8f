"""A plan becomes files: each is made once, whole or not at all, so that an interrupted build goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np

from groundwork.errors import InputError
from groundwork.media import read_frames

from . import labels
from .effects import frames_of
from .footage import Reel, all_takes, find_films
from .graded import Graded
from .plan import plan
from .record import damage, record, record_audio
from .transitions import HALVES, plan_transitions

FILMS, LABELS = "films", "labels"


def build_corpus(
    out: Path,
    *,
    files: int = 200,
    seed: int = 0,
    footage: Path | None = None,
    quick: bool = False,
    kinds: Sequence[str] = (),
) -> list[Graded]:
    """Make `out`/films and `out`/labels; what stands already is kept.

    `quick`: shorter and smaller films, for tests. `footage`: a folder with films of known shots, besides those of the
    sample packages. `kinds`: only films of these kinds, so many of each. Raises InputError when `out` holds a corpus of
    another plan.
    """
    found = find_films(footage)
    if kinds:
        many = plan(
            all_takes(list(found)), files=files * 60, seed=seed, quick=quick
        )  # each kind is some fortieth of it
        films = [film for kind in kinds for film in [one for one in many if one.kind == kind][:files]]
    else:
        films = plan(all_takes(list(found)), files=files, seed=seed, quick=quick)
    make_films(out, films, found)
    return films


def build_transitions(out: Path, half: str, footage: Path | None, *, files: int, seed: int = 0) -> list[Graded]:
    """Make `out` of films that dissolve, from one half of the footage; of films that are not there none is used."""
    found = find_films(footage, HALVES[half])
    shots = {name: spans for name, spans in HALVES[half].items() if name in found}
    films = plan_transitions(shots, files=files, seed=seed)
    make_films(out, films, found)
    return films


def make_films(out: Path, films: Sequence[Graded], found: dict[str, Path]) -> None:
    """The files and labels of any plan, from films by name. Raises InputError like `build_corpus`."""
    cv2.setNumThreads(1)
    _claim(out, films)
    labels.write(films, out / LABELS)
    reel = Reel(found)
    recordings = {film.name: film for film in films}
    for film in films:
        path = out / FILMS / film.file
        if not path.exists():
            _make(path, film, recordings, reel)


def _claim(out: Path, films: Sequence[Graded]) -> None:
    """Another plan's films would not fit these labels; a longer plan of one seed begins with a shorter one."""
    lines = [sha256(json.dumps(asdict(film)).encode()).hexdigest() for film in films]
    (out / FILMS).mkdir(parents=True, exist_ok=True)
    note = out / "plan.json"
    before = json.loads(note.read_text()) if note.exists() else []
    shared = min(len(before), len(lines))
    if before[:shared] != lines[:shared]:
        raise InputError(f"{out} holds a corpus of another seed or footage.", "Name another folder.")
    note.write_text(json.dumps(max(lines, before, key=len)))


def _make(path: Path, film: Graded, films: dict[str, Graded], reel: Reel) -> None:
    part = path.with_name(f".{path.name}.part")
    if film.damage == "audio":
        record_audio(part, seconds=3.0, hertz=200.0 + len(film.name) + sum(film.name.encode()) % 97)
    elif film.copy is not None and film.copy.kind == "same_bytes":
        part.write_bytes((path.parent / films[film.copy.of].file).read_bytes())
    elif film.copy is not None:
        record(part, _copied(path.parent / films[film.copy.of].file, film), film.recording)
    elif film.segments:
        record(part, frames_of(film.segments, film.recording, reel), film.recording)
    else:
        part.touch()
    if film.damage not in ("", "audio"):
        part.write_bytes(damage(part.read_bytes(), film.damage, name=film.name))
    part.rename(path)


def _copied(path: Path, film: Graded) -> Iterator[np.ndarray]:
    """The decoded frames of the original, later, cropped and scaled as the copy asks."""
    assert film.copy is not None
    size = (film.recording.width, film.recording.height)
    for index, frame in enumerate(read_frames(path)):
        if index < film.copy.skip:
            continue
        rows, columns = (round(side * film.copy.crop) for side in frame.image.shape[:2])
        image = frame.image[rows : frame.image.shape[0] - rows, columns : frame.image.shape[1] - columns]
        same = (image.shape[1], image.shape[0]) == size
        yield np.ascontiguousarray(image) if same else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
