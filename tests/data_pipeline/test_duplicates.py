"""Near-duplicates: copies are found whatever was done to them, other moments are not, and one of each group stays."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from data_pipeline.analysis import analyse
from data_pipeline.duplicates.align import align, correlations
from data_pipeline.duplicates.candidates import find_candidates
from data_pipeline.duplicates.find import hash_pairs
from data_pipeline.duplicates.groups import EMBEDDING, HASH, Member, Pair, group, superseded
from data_pipeline.duplicates.hashes import FRAMES, NUM_VIEWS, TICKS_PER_SECOND, ClipHashes, clip_hashes
from data_pipeline.duplicates.step import near_duplicates
from data_pipeline.recipe import DuplicateSettings, HashSettings
from groundwork import media
from groundwork.records import Duplicate, to_table
from tests.support.hashes import hash_table

SETTINGS = HashSettings()


def invented(seed: int, *, ticks: int = 60, first: int = 0, noise: int = 0) -> ClipHashes:
    """A clip of a film whose picture is another one each quarter of a second; `noise` bits of each hash are turned."""
    film, own = np.random.default_rng(seed), np.random.default_rng((seed, first, noise))
    pictures = film.integers(1, 1 << 63, 80, dtype=np.uint64)
    movement, light = film.gamma(2.0, 0.005, 240).astype(np.float32), film.normal(0, 1, 240).astype(np.float32)
    shown = pictures[(first + np.arange(ticks)) // 3].copy()
    for _ in range(noise):
        shown ^= np.uint64(1) << own.integers(0, 64, ticks, dtype=np.uint64)
    samples = np.arange(0, ticks, 3)
    probes = np.zeros((len(samples), NUM_VIEWS), np.uint64)
    probes[:, 0] = shown[samples]
    return ClipHashes(shown, probes, samples, movement[first : first + ticks], light[first : first + ticks])


def pairs_of(
    clips: Mapping[str, ClipHashes], videos: Mapping[str, str], settings: HashSettings = SETTINGS
) -> list[Pair]:
    table = hash_table(clips, videos)
    frames = table.select(["clip_id", "video_id", *FRAMES])
    return hash_pairs(
        frames, settings, whole=lambda ids: table.filter(pc.is_in(table.column("clip_id"), value_set=ids))
    )


def test_a_shifted_copy_is_aligned_where_it_belongs() -> None:
    original, copy = invented(1), invented(1, first=16, noise=4)
    match = align(original, copy, view=0, settings=SETTINGS)
    assert match is not None
    assert match.offset_seconds == pytest.approx(-16 / TICKS_PER_SECOND, abs=1.01 / TICKS_PER_SECOND)
    assert 0.8 < match.similarity < 1
    back = align(copy, original, view=0, settings=SETTINGS)
    assert back is not None
    assert back.offset_seconds == pytest.approx(-match.offset_seconds, abs=2.01 / TICKS_PER_SECOND)


def test_alike_pictures_that_move_otherwise_are_no_copy() -> None:
    one, other = invented(1), invented(2)
    still = replace(one, dense=np.full_like(one.dense, one.dense[0]), probes=one.probes[:1].repeat(len(one.probes), 0))
    moment = replace(still, movement=other.movement, light=other.light)
    assert align(still, still, view=0, settings=SETTINGS) is not None
    assert align(still, moment, view=0, settings=SETTINGS) is None
    nothing = np.zeros_like(one.movement)
    frozen = replace(still, movement=nothing, light=nothing)
    assert align(frozen, frozen, view=0, settings=SETTINGS) is not None
    assert align(replace(still, probes=still.probes * np.uint64(0)), still, view=0, settings=SETTINGS) is None


def test_correlations_are_pearsons_at_every_offset() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30)).astype(np.float32)
    found = correlations(x, y[:20])
    for offset in (-10, -3, 0, 5):
        first, stop = max(1, 1 - offset), min(30, 20 - offset)
        expected = np.corrcoef(x[first:stop], y[first + offset : stop + offset])[0, 1]
        assert found[offset + 29] == pytest.approx(expected, abs=1e-9)


def test_all_copies_are_found_among_many_clips_in_any_order() -> None:
    clips = {f"{seed:04d}": invented(seed) for seed in range(400)}
    clips |= {f"copy-{seed:04d}": invented(seed, first=15, noise=5) for seed in range(0, 400, 4)}
    videos = {name: name for name in clips}
    pairs = pairs_of(clips, videos)
    assert {(pair.left[-4:], pair.right[-4:]) for pair in pairs} == {(f"{n:04d}", f"{n:04d}") for n in range(0, 400, 4)}
    shuffled = random.Random(0).sample(sorted(clips), len(clips))
    assert pairs_of({name: clips[name] for name in shuffled}, videos) == pairs
    table = hash_table(clips, videos)
    candidates = find_candidates(table, np.arange(len(clips)), max_bits=10, same_video=False)
    assert len(candidates) < 3 * len(pairs)


def test_clips_of_one_video_are_compared_only_when_asked() -> None:
    clips, videos = {"a": invented(1), "b": invented(1, first=15)}, {"a": "v", "b": "v"}
    assert pairs_of(clips, videos) == []
    assert len(pairs_of(clips, videos, HashSettings(same_video=True))) == 1


COPIES = ("low", "half", "cropped", "framed", "shifted")


@pytest.fixture(scope="module")
def films(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClipHashes]:
    """Three real films, and each worse, halved, cropped by a tenth, in black bars, from 1.3 s on, and mirrored."""
    folder = tmp_path_factory.mktemp("copies")
    found = {}
    for name, start in (("bunny.mp4", 0.5), ("city.mpg", 0.2), ("city.mpg", 4.8)):
        frames = [*media.read_frames(footage / name, start_seconds=start, stop_seconds=start + 2.8, short_side=144)]
        image = media.stack_frames(frames)[:, :144, :256]
        height, width = image.shape[1:3]
        small = np.stack([cv2.resize(one, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for one in image])
        inner = image[:, height // 20 : -(height // 20), width // 20 : -(width // 20)]
        made = {
            "original": (image, 20),
            "low": (image, 38),
            "half": (small, 26),
            "cropped": (inner, 26),
            "framed": (np.pad(image, ((0, 0), (24, 24), (0, 0), (0, 0))), 26),
            "shifted": (image[32:], 26),
            "mirrored": (image[:, :, ::-1], 26),
        }
        for copy, (pictures, crf) in made.items():
            path = folder / f"{Path(name).stem}-{start}-{copy}.mp4"
            even = pictures[:, : pictures.shape[1] // 2 * 2, : pictures.shape[2] // 2 * 2]
            media.write_video(path, np.ascontiguousarray(even), fps=25.0, crf=crf)
            found[path.stem] = clip_hashes(analyse(path, header=media.probe(path)).series())
    return found


def test_copies_of_real_films_are_found_and_nothing_else(films: dict[str, ClipHashes]) -> None:
    pairs = pairs_of(films, {name: name for name in films})
    found = {frozenset((pair.left, pair.right)) for pair in pairs}
    originals = [name for name in films if name.endswith("original")]
    expected = {frozenset((name, name.replace("original", copy))) for name in originals for copy in COPIES}
    assert len(expected - found) <= 1
    for one, other in itertools.combinations(films, 2):
        same = one.rsplit("-", 1)[0] == other.rsplit("-", 1)[0] and ("mirrored" in one) == ("mirrored" in other)
        assert same or frozenset((one, other)) not in found, (one, other)


def member(clip_id: str, *, pixels: int = 100, bits: float = 1.0, kept: bool = True) -> Member:
    return Member(clip_id, "v" + clip_id, pixels, bits, kept)


def test_the_member_with_most_pixels_then_bits_stays_and_all_are_recorded() -> None:
    members = {m.clip_id: m for m in (member("a"), member("b", pixels=400), member("c", bits=9.0), member("d"))}
    pairs = [Pair("a", "b", 0.9, 1.5, HASH), Pair("c", "a", 0.8, 0.0, HASH), Pair("a", "b", 0.7, None, EMBEDDING)]
    for order in itertools.permutations(pairs):
        rows = group(members, order, same_video=False)
        assert [(row.clip_id, row.rank, row.representative) for row in rows] == [
            ("b", 0, "b"),
            ("c", 1, "b"),
            ("a", 2, "b"),
        ]
        assert {row.group for row in rows} == {"a"}
        assert [row.offset_seconds for row in rows] == [0.0, None, 1.5]
        assert [row.similarity for row in rows] == [1.0, 0.8, 0.9]


def test_a_kept_clip_only_leaves_for_a_kept_one() -> None:
    members = {m.clip_id: m for m in (member("a", pixels=900, kept=False), member("b"), member("c", bits=0.5))}
    rows = group(members, [Pair("a", "b", 0.9, 0.0, HASH), Pair("b", "c", 0.9, 0.0, HASH)], same_video=False)
    assert [(row.clip_id, row.representative) for row in rows] == [("a", "b"), ("b", "b"), ("c", "b")]
    table, ids = to_table(rows, Duplicate), pa.array(["c", "x", "b", "a"])
    for kept, leaves in (([1, 1, 1, 0], [1, 0, 0, 0]), ([1, 1, 1, 1], [1, 0, 1, 0]), ([1, 1, 0, 0], [0, 0, 0, 0])):
        assert near_duplicates(ids, np.array(kept, bool), table, DuplicateSettings()).tolist() == [
            bool(value) for value in leaves
        ]
    nothing = np.zeros(0)
    assert superseded(np.zeros(0, bool), nothing, nothing, nothing, same_video=False).tolist() == []


def test_a_copy_cut_at_other_places_does_not_make_clips_of_its_original_leave() -> None:
    """Two clips of v joined by a worse copy that lies half over each: the copy leaves, they both stay."""
    members = {name: replace(member(name), video_id="v") for name in ("a", "b")} | {"c": member("c", pixels=50)}
    pairs = [Pair("a", "c", 0.9, 1.0, HASH), Pair("c", "b", 0.9, 1.0, HASH)]
    rows = group(members, pairs, same_video=False)
    assert [(row.clip_id, row.representative) for row in rows] == [("a", "a"), ("b", "b"), ("c", "a")]
    every, table, ids = np.ones(3, bool), to_table(rows, Duplicate), pa.array(["a", "b", "c"])
    assert near_duplicates(ids, every, table, DuplicateSettings()).tolist() == [False, False, True]
    within = DuplicateSettings(hash=HashSettings(same_video=True))
    assert [row.representative for row in group(members, pairs, same_video=True)] == ["a"] * 3
    assert near_duplicates(ids, every, table, within).tolist() == [False, True, True]
