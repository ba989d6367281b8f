"""Which films a run holds: series of the same prompts, each of one step."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from groundwork.storage import Storage
from training.run_folder import SAMPLES

_LIST = "films.json"


@dataclass(frozen=True)
class Film:
    """One film of a series: FOLDER/NAME-generated.mp4, whose caption is that of the clip RUN/samples/NAME-clip.mp4."""

    name: str
    caption: str


@dataclass(frozen=True)
class Series:
    """The films of a step, and their folder in the run."""

    step: int
    folder: str
    films: tuple[Film, ...]

    def path(self, film: Film) -> str:
        """Where a film lies in the run."""
        return f"{self.folder}/{film.name}-generated.mp4"


def folder_of(step: int) -> str:
    """Where films that are made during training lie; those of its end lie in RUN/samples itself."""
    return f"{SAMPLES}/step-{step:06d}"


def clip_path(film: Film) -> str:
    """Where the clip that a film should resemble lies."""
    return f"{SAMPLES}/{film.name}-clip.mp4"


def note_series(run: Storage, series: Series) -> None:
    """Write the list that makes a folder of films count: after the films."""
    run.write_json(f"{series.folder}/{_LIST}", {"step": series.step, "films": [asdict(film) for film in series.films]})


def made_series(run: Storage) -> list[Series]:
    """Every whole series of a run, by step."""
    found = []
    for path in run.list(SAMPLES, suffix=f"/{_LIST}"):
        listed = run.read_json(path)
        films = tuple(Film(**film) for film in listed["films"])
        found.append(Series(step=listed["step"], folder=path.rpartition("/")[0], films=films))
    return sorted(found, key=lambda series: series.step)
