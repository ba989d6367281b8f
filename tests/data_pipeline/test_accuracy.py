"""Curation judged on graded films: cuts, fades and defects are found, clean shots pass, damaged films are told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_pipeline import rules
from data_pipeline.analysis import Analysis, analyse
from data_pipeline.assess import assess, measured_scores, shortest_seconds
from data_pipeline.recipe import CurateRecipe
from groundwork.errors import MediaError
from groundwork.media import probe
from tests.benchmarks.bench_transitions import SHOTS, boundaries, judge
from tests.support.corpus import labels
from tests.support.corpus.build import FILMS, LABELS, build_corpus, build_transitions
from tests.support.corpus.dataset import Truth, film_of
from tests.support.corpus.judge import Judged, Span, crossing_figures, cut_figures, label_figures, reason_figures

Labels = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def corpus(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen small films of a little of everything, from the footage that is always there."""
    folder = tmp_path_factory.mktemp("graded")
    build_corpus(folder, files=24, quick=True)
    return folder


@pytest.fixture(scope="module")
def truth(corpus: Path) -> Labels:
    return labels.read(corpus / LABELS)


@pytest.fixture(scope="module")
def analysed(corpus: Path, truth: Labels) -> dict[str, Analysis | MediaError]:
    """What the decode pass makes of each film; of equal files only the first."""
    found: dict[str, Analysis | MediaError] = {}
    for row in truth["files"]:
        path = corpus / FILMS / row["file"]
        if row["copy_kind"] != "same_bytes":
            try:
                found[row["file"]] = analyse(path, header=probe(path))
            except MediaError as error:
                found[row["file"]] = error
    return found


@pytest.fixture(scope="module")
def films(analysed: dict[str, Analysis | MediaError], truth: Labels, quick_recipe: CurateRecipe) -> list[Judged]:
    sound = Truth(truth).undamaged
    return [
        film_of(file, file, "ok", analysis, quick_recipe.shots)
        for file, analysis in analysed.items()
        if isinstance(analysis, Analysis) and file in sound
    ]


@pytest.fixture(scope="module")
def spans(
    analysed: dict[str, Analysis | MediaError], films: list[Judged], truth: Labels, quick_recipe: CurateRecipe
) -> list[Span]:
    told = Truth(truth)
    found = []
    for film in films:
        analysis = analysed[film.file]
        assert isinstance(analysis, Analysis)
        table = assess(film.file, analysis, quick_recipe)
        columns = {name: table.column(name).to_numpy() for name in measured_scores()}
        verdicts = rules.judge(columns, quick_recipe.rules, shortest_seconds=shortest_seconds(quick_recipe))
        for row, reason in zip(table.to_pylist(), verdicts.reason_column().to_pylist(), strict=True):
            found.append(told.span(film, row, reason=reason, scores={name: row[name] for name in columns}))
    return found


def test_every_frame_that_was_written_is_measured(films: list[Judged], truth: Labels) -> None:
    written = {row["file"]: row["num_frames"] for row in truth["files"]}
    assert {film.file: len(film.pts) for film in films} == {film.file: written[film.file] for film in films}


def test_cuts_are_found_to_the_frame_and_nothing_else_is_one(films: list[Judged], truth: Labels) -> None:
    figures = cut_figures(films, truth["boundaries"])
    assert figures["hard"]["hit"] >= 20
    assert figures["hard"]["f1"] >= 0.95, figures
    assert figures["fades"]["recall"] >= 0.9, figures


def test_dissolves_of_real_films_are_found_and_their_clips_are_not_cut_in_them(tmp_path: Path) -> None:
    build_transitions(tmp_path, "judging", None, files=2, seed=1)
    truth = labels.read(tmp_path / LABELS)
    paths = [tmp_path / FILMS / row["file"] for row in truth["files"]]
    found = {path.name: boundaries(analyse(path, header=probe(path)).series(), SHOTS) for path in paths}
    figures = judge(found, truth["boundaries"])
    assert figures["dissolve"]["hit"] >= 3
    assert (figures["dissolve"]["missed"], figures["dissolve"]["wrong"]) == (0, 0), figures
    assert figures["hard"]["wrong"] == 0, figures


def test_kept_clips_hold_pictures_of_one_shot(spans: list[Span]) -> None:
    figures = crossing_figures(spans)
    assert figures["kept"] >= 30
    assert figures.get("across_cut", 0) <= 1, figures


def test_clean_shots_are_kept_and_black_static_and_blurred_ones_are_not(spans: list[Span]) -> None:
    figures = label_figures(spans)
    assert figures["clean"]["share"] <= 0.1, figures["clean"]
    assert not [span for span in spans if span.kept and "black" in span.labels]
    for label in ("static", "blur"):
        assert figures[label]["share"] == 1.0, figures[label]
    assert figures["slow_pan"]["share"] == 0.0, figures["slow_pan"]


def test_rules_fire_on_what_they_are_for_and_on_little_else(spans: list[Span], quick_recipe: CurateRecipe) -> None:
    rules = [{"reason": reason, **rule.model_dump()} for reason, rule in quick_recipe.rules.items()]
    figures = reason_figures(spans, rules)
    for reason in ("blurry", "static"):
        assert figures[reason]["recall"] == 1.0, (reason, figures[reason])
        assert figures[reason]["wrong"] <= 1, (reason, figures[reason])


def test_damaged_films_fail_or_keep_what_can_be_read(analysed: dict[str, Analysis | MediaError], truth: Labels) -> None:
    expected = {row["file"]: row["expected"] for row in truth["files"]}
    fates = Counter(
        (expected[file], "ok" if isinstance(result, Analysis) else "failed") for file, result in analysed.items()
    )
    assert not {("ok", "failed"), ("failed", "ok")} & set(fates), fates


def test_building_again_makes_nothing_and_another_plan_is_refused(corpus: Path) -> None:
    from groundwork.errors import InputError

    before = {path.name: path.stat().st_mtime_ns for path in (corpus / FILMS).iterdir()}
    build_corpus(corpus, files=24, quick=True)
    assert {path.name: path.stat().st_mtime_ns for path in (corpus / FILMS).iterdir()} == before
    with pytest.raises(InputError, match="another seed"):
        build_corpus(corpus, files=24, seed=1, quick=True)
