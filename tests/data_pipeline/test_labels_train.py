"""`curate label train`: films, labels and a real (untrained) encoder become heads; the second time costs no look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.__main__ import main
from data_pipeline.labels import train
from data_pipeline.labels.heads import read_heads
from data_pipeline.labels.train import TrainJob, train_heads
from groundwork.errors import InputError, WeightsError
from groundwork.media import write_video
from groundwork.storage import Storage, open_storage
from tests.support.tiny_vlms import save_siglip

FILMS, CLIPS = 9, 3


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_siglip(tmp_path_factory.mktemp("siglip")))


@pytest.fixture
def dataset(tmp_path: Path) -> Storage:
    """Nine films of three clips: the middle one flashes. The last film holds a copy of the first one's first clip, and
    its file is gone."""
    out, numbers = open_storage(tmp_path / "dataset"), np.random.default_rng(0)
    videos, clips, lines = [], [], ["clip_id,editing"]
    for film in range(FILMS):
        frames = np.repeat(numbers.integers(0, 255, (1, 48, 64, 3), dtype=np.uint8), 30, axis=0)
        frames[11:20:2] = 255 - frames[11:20:2]
        path = tmp_path / f"film{film}.mp4"
        write_video(path, frames, fps=10.0)
        videos.append(
            {"video_id": f"v{film}", "uri": str(path), "bytes": path.stat().st_size, "status": "ok", "reason": ""}
        )
        for clip in range(CLIPS):
            place = {"start_seconds": float(clip), "stop_seconds": clip + 1.0}
            clips.append({"clip_id": f"c{film}{clip}", "video_id": f"v{film}", **place})
            lines.append(f"c{film}{clip},{int(clip == 1)}")
    copies = [{"video_id": f"v{film}", "clip_id": f"c{film}0", "group": "c00"} for film in (0, FILMS - 1)]
    tables = {"videos": videos, "clips": clips, "duplicates": copies}
    for name, rows in tables.items():
        out.write_table(f"{name}/part.parquet", pa.Table.from_pylist(rows))
    files = {f"{name}/part.parquet": {} for name in tables}
    out.write_json("manifest.json", {"name": "films", "files": files, "dataset_hash": "feed"})
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "stranger,1"]) + "\n")
    path.unlink()
    return out


def test_the_command_trains_heads_and_a_second_training_looks_at_nothing(
    dataset: Storage, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["label", "train", dataset.uri, str(tmp_path / "labels.csv"), "--encoder", encoder]
    words += ["--num-frames", "4", "--precision", "0.6", "--training.weight-decay", "0"]
    assert main([*words, "--out", str(tmp_path / "heads"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["labelled"], result["strangers"]) == (CLIPS * (FILMS - 1), 1)
    assert result["left_out"] == {"unreadable": CLIPS}
    assert result["labels"] == ["editing"]
    assert set(result["untrained"]) >= {"lecture_type"}
    held = result["split"]["held_out"]
    assert held["films"] >= 1
    assert result["metrics"]["editing"]["half"]["clips"] == held["clips"] == CLIPS * held["films"]
    heads, card = read_heads(str(tmp_path / "heads"))
    assert card.weights_sha256 == result["version"]
    assert (card.encoder.num_frames, card.label_file["rows"], card.dataset["hash"]) == (4, CLIPS * FILMS + 1, "feed")
    assert heads.mean.shape == (card.encoder.width,)

    monkeypatch.setattr(train, "load_encoder", lambda *_, **__: pytest.fail("what is known is not looked at again"))
    (tmp_path / "labels.csv").write_text("".join(line for line in _known(tmp_path)))
    assert main([*words, "--out", str(tmp_path / "again")]) == 0
    text = capsys.readouterr().out
    assert "Positive: the clip has the defect" in text
    assert text.splitlines()[3].split()[0] == "Filter"
    again = (tmp_path / "again" / "heads.safetensors").read_bytes()
    assert again == (tmp_path / "heads" / "heads.safetensors").read_bytes()


def _known(folder: Path) -> list[str]:
    lines = (folder / "labels.csv").read_text().splitlines(keepends=True)
    return [line for line in lines if not line.startswith((f"c{FILMS - 1}", "stranger"))]


def test_copies_join_their_films_and_a_changed_source_is_left_out(
    dataset: Storage, encoder: str, tmp_path: Path
) -> None:
    manifest = dataset.read_json("manifest.json")
    assert train._groups(dataset, manifest, {"a": "v0", "b": "v3", "c": "v8", "d": "v0"}) == ["v0", "v3", "v0", "v0"]
    write_video(tmp_path / "film3.mp4", np.zeros((30, 48, 64, 3), np.uint8), fps=10.0)
    job = TrainJob(dataset.uri, str(tmp_path / "labels.csv"), encoder, str(tmp_path / "heads"), num_frames=2)
    assert train_heads(job)["left_out"] == {"unreadable": CLIPS, "changed": CLIPS}


def test_what_is_off_is_told_before_anything_is_looked_at(dataset: Storage, encoder: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"

    def trained(**changes: str) -> None:
        facts = {"dataset": dataset.uri, "labels": str(labels), "encoder": encoder, "out": str(tmp_path / "heads")}
        train_heads(TrainJob(**{**facts, **changes}))

    with pytest.raises(WeightsError, match=r"--encoder: 'nowhere' holds no config\.json"):
        trained(encoder="nowhere")
    with pytest.raises(InputError, match="No labels 'none'"):
        trained(labels="none")
    labels.write_text("clip_id,editing\nx,1\n")
    with pytest.raises(InputError, match="belongs to a clip"):
        trained()
    assert dataset.list("work") == []
    words = ["label", "train", dataset.uri, str(labels)]
    assert main(words) == 2
    assert main([*words, "--encoder", encoder, "--out", "x", "--alias", "blurry=foggy"]) == 2
    assert main([*words, "--encoder", encoder, "--out", "x", "--precision", "1.5"]) == 2
