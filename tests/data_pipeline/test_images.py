"""Images come in by the same door as film: found, decoded, measured without motion, put into buckets of one frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipeline import reach
from data_pipeline.analysis import analyse
from data_pipeline.assess import BUCKET, assess
from data_pipeline.captions import given, measured
from data_pipeline.failures import UNREADABLE
from data_pipeline.ingest import find_sources
from data_pipeline.recipe import Bucket, CurateRecipe
from data_pipeline.rules import judge
from groundwork import media
from groundwork.errors import MediaError

WIDE, TALL = Bucket(num_frames=1, height=64, width=96), Bucket(num_frames=1, height=96, width=64)
FILM = Bucket(num_frames=9, height=32, width=48)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene in four formats, one turned by EXIF, one half transparent, one broken, and a text file."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    scene = np.kron(random.integers(0, 255, (15, 25, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    image = Image.fromarray(scene)
    for suffix in ("jpg", "png", "webp", "avif"):
        image.save(folder / f"scene.{suffix}", quality=95)
    turned = Image.Exif()
    turned[0x112] = 6
    image.save(folder / "turned.JPEG", quality=95, exif=turned)
    clear = np.dstack([scene, np.full(scene.shape[:2], 255, np.uint8)])
    clear[:, 200:, 3] = 0
    Image.fromarray(clear).save(folder / "clear.png")
    (folder / "broken.jpg").write_bytes((folder / "scene.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("no image")
    return folder


def recipe_of(quick: CurateRecipe) -> CurateRecipe:
    return quick.model_copy(update={"buckets": (FILM, WIDE, TALL)})


def test_a_folder_gives_its_images_only_where_they_are_asked_for(pictures: Path, footage: Path) -> None:
    found = find_sources([str(pictures), str(footage)], images=True)
    assert len(found) == 7 + 3
    assert all(
        not source.name.endswith((".jpg", ".png")) for source in find_sources([str(pictures.parent), str(footage)])
    )


@pytest.mark.parametrize("name", ["scene.jpg", "scene.png", "scene.webp", "scene.avif", "turned.JPEG", "clear.png"])
def test_an_image_is_one_clip_of_one_frame_without_scores_of_motion(
    pictures: Path, quick_recipe: CurateRecipe, name: str
) -> None:
    recipe = recipe_of(quick_recipe)
    path = pictures / name
    (row,) = assess("v", analyse(path, header=media.probe(path)), recipe).to_pylist()
    tall = name == "turned.JPEG"
    assert (row[BUCKET], row["num_frames"]) == ((TALL if tall else WIDE).folder, 1)
    assert (row["width"], row["height"]) == ((240, 400) if tall else (400, 240))
    for score in ("motion_score", "still_share", "flashes_per_second", "seconds", "source_fps"):
        assert row.get(score) is None
    assert row["luma_mean"] > 0
    columns = {score: np.array([np.nan if row[score] is None else row[score]]) for score in row if _number(row[score])}
    columns |= {score: np.array([np.nan]) for score in ("motion_score", "seconds")}
    static = {"static": recipe.rules["static"]}
    assert judge(columns, static, shortest_seconds=1.0).kept.tolist() == [True]
    scores = {score: float("nan") if value is None else value for score, value in row.items() if _number(value)}
    caption = measured.caption("c", scores)
    assert caption.text.startswith("A picture with")
    frames = media.sample_clip(path, start_seconds=0.0, num_frames=1, fps=8, height=64, width=96)
    assert frames.shape == (1, 64, 96, 3)


def _number(value: object) -> bool:
    return value is None or isinstance(value, float)


def test_an_image_fits_no_bucket_of_film(pictures: Path, quick_recipe: CurateRecipe) -> None:
    path = pictures / "scene.png"
    (row,) = assess("v", analyse(path, header=media.probe(path)), quick_recipe).to_pylist()
    assert row[BUCKET] is None
    with pytest.raises(MediaError):
        media.probe(pictures / "broken.jpg")


def test_manifests_as_laion_and_coyo_write_them_give_captions(pictures: Path, tmp_path: Path) -> None:
    names = ["scene.jpg", "scene.png", "gone.jpg"]
    for uri, text in (("URL", "TEXT"), ("url", "text"), ("uri", "caption")):
        table = {uri: [str(pictures / name) for name in names], text: ["a  scene\n", "", "lost"], "WIDTH": [400] * 3}
        pq.write_table(pa.table(table), tmp_path / "list.parquet")
        found = {Path(source.uri).name: source for source in find_sources([str(tmp_path / "list.parquet")])}
        assert json.loads(found["scene.jpg"].metadata) == {"caption": "a  scene\n", "WIDTH": 400}
        assert found["gone.jpg"].reason == UNREADABLE
        clips = [("c1", "jpg"), ("c2", "png"), ("c3", "jpg")]
        said = {"jpg": found["scene.jpg"].metadata, "png": found["scene.png"].metadata}
        rows = given.given_captions(clips, said).to_pylist()
        assert [(row["clip_id"], row["text"], row["model"]) for row in rows] == [
            ("c1", "a scene", "given"),
            ("c3", "a scene", "given"),
        ]


def test_a_manifest_may_not_make_us_read_what_only_we_can(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri\nhttp://127.0.0.1:9/x.jpg\nhttp://169.254.169.254/latest/meta.jpg\n")
    found = find_sources([str(tmp_path / "list.csv")])
    assert {source.reason for source in found} == {UNREADABLE}
    assert all("public internet" in source.detail for source in found)
    assert all(
        "public internet" not in s.detail for s in find_sources([str(tmp_path / "list.csv")], private_hosts=True)
    )
    assert reach.refusal("/etc/hosts.jpg", named_by="http://example.org/lists")
    assert not reach.refusal("/data/x.jpg", named_by="/data")
    assert not reach.refusal("http://127.0.0.1:8000/a/x.jpg", named_by="http://127.0.0.1:8000/a")
    assert reach.refusal("http://127.0.0.1:8001/a/x.jpg", named_by="http://127.0.0.1:8000/a")
