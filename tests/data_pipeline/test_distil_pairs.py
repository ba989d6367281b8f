"""What is learnt from a dataset, in which order: kept clips with captions, split by video, batched by length."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.captioned import CAPTIONER, Captioned, write_captioned

from data_pipeline.captions.training.order import num_steps, plan_passes
from data_pipeline.captions.training.pairs import Pair, held_out_videos, read_pairs
from data_pipeline.captions.training.settings import DistilSettings
from groundwork.errors import InputError
from groundwork.storage import Storage, open_storage


def captioned(small_films: dict[str, Path]) -> list[Captioned]:
    """Two clips of each film, and two that nothing is learnt from."""
    clips = [
        Captioned(film, start, start + 1.5, f"a {name} is seen, at {start:g}", ["it stands", "it moves"])
        for name, film in small_films.items()
        for start in (0.0, 2.0)
    ]
    film = small_films["bikes"]
    return [*clips, Captioned(film, 1.0, 2.0, "not kept", kept=False), Captioned(film, 1.2, 2.2, "  ")]


@pytest.fixture
def data(small_films: dict[str, Path], tmp_path: Path) -> Storage:
    out = open_storage(tmp_path / "data")
    write_captioned(out, captioned(small_films))
    return out


def test_kept_clips_with_captions_are_learnt_and_no_video_is_on_both_sides(data: Storage) -> None:
    pairs = read_pairs(data, DistilSettings(held_out=0.3))
    learnt, held_out = ({pair.video_id for pair in side} for side in (pairs.learnt, pairs.held_out))
    assert len(pairs.learnt) == 4
    assert len(pairs.held_out) == 2
    assert not learnt & held_out
    assert pairs.captioner == CAPTIONER
    ids = [pair.clip_id for pair in pairs.learnt]
    assert ids == sorted(ids)
    assert read_pairs(data, DistilSettings(held_out=0.3)) == pairs
    splits = {tuple(held_out_videos(["bikes", "bunny", "city"], share=0.3, seed=seed)) for seed in range(20)}
    assert len(splits) == 3


def test_a_video_model_learns_the_caption_from_frames_of_the_whole_clip(data: Storage) -> None:
    pair = read_pairs(data, DistilSettings(num_frames=3, held_out=0)).learnt[0]
    assert pair.seconds == (0.25, 0.75, 1.25)
    assert pair.answer == "a bikes is seen, at 0"
    assert "in the order in which it happens" in pair.prompt


def test_a_language_model_learns_the_caption_from_captions_of_frames(data: Storage) -> None:
    pair = read_pairs(data, DistilSettings(task="summary", held_out=0)).learnt[0]
    assert pair.prompt == "The whole: a bikes is seen\nsecond 0: it stands\nsecond 2: it moves"
    assert pair.seconds == ()
    assert "at most 100 words" in pair.system


def test_what_is_missing_is_said(data: Storage, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no captions by 'gpt'") as raised:
        read_pairs(data, DistilSettings(captioner="gpt"))
    assert f"Name one with --captioner: {CAPTIONER}." in str(raised.value)
    with pytest.raises(InputError, match="holds no finished dataset"):
        read_pairs(open_storage(tmp_path / "nothing"), DistilSettings())


def some_pairs(count: int) -> list[Pair]:
    return [
        Pair(f"c{number:04d}", "v", "u", 0, 1, (0.5,) * (1 + number % 2), "p", "", "a", length=number * 37 % 101)
        for number in range(count)
    ]


def test_every_epoch_shows_each_pair_once_in_passes_of_one_kind() -> None:
    pairs, settings = some_pairs(802), DistilSettings(batch_clips=4, accumulate=5, epochs=3)
    assert num_steps(802, settings, world=1) == 121
    passes = plan_passes(pairs, settings, rank=0, world=1)
    assert len(passes) == 121 * 5
    epoch = passes[:202]  # 401 pairs of each kind: 101 passes
    assert Counter(number for chosen in epoch for number in chosen) == Counter(range(802))
    assert all(len({len(pairs[number].seconds) for number in chosen}) == 1 for chosen in passes)
    assert passes[202:404] != epoch
    spread = [max(lengths) - min(lengths) for chosen in epoch if (lengths := [pairs[n].length for n in chosen])]
    assert sum(spread) / len(spread) < 10  # by lot it would be about 60


def test_workers_share_the_passes_of_each_step() -> None:
    pairs, settings = some_pairs(40), DistilSettings(batch_clips=2, accumulate=3, steps=7)
    alone = plan_passes(pairs, settings.model_copy(update={"accumulate": 6}), rank=0, world=1)
    first, second = (plan_passes(pairs, settings, rank=rank, world=2) for rank in (0, 1))
    assert [chosen for pair in zip(first, second, strict=True) for chosen in pair] == alone
