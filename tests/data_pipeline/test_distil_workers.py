"""Several workers share each step: the gradient is that of one worker who takes their passes one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import tiny_vlms
from support.captioned import Captioned, write_captioned

from data_pipeline.captions.training.settings import DistilSettings, WorkerSettings
from data_pipeline.captions.training.trainer import train_captioner
from groundwork.ray_session import ray_session
from groundwork.storage import open_storage


def test_two_workers_train_what_one_would(small_films: dict[str, Path], tmp_path: Path) -> None:
    data, base = tmp_path / "data", tiny_vlms.save_llama(tmp_path / "llama", hidden=32)
    clips = [
        Captioned(film, start, start + 1.5, f"the {name} begins, and ends at {start:g}", [f"a {name}"] * (1 + index))
        for name, film in small_films.items()
        for index, start in enumerate((0.0, 2.0))
    ]
    write_captioned(open_storage(data), clips)
    alone = DistilSettings(
        model=str(base), task="summary", batch_clips=1, accumulate=4, steps=4, lora_dropout=0, learning_rate=1e-2,
        checkpoint_every=2, held_out=0.3,
    )  # fmt: skip
    shared = alone.model_copy(update={"accumulate": 2})
    one, two = tmp_path / "one", tmp_path / "two"
    first = train_captioner(alone, WorkerSettings(), dataset=str(data), out=str(one))
    with ray_session():
        second = train_captioner(shared, WorkerSettings(workers=2), dataset=str(data), out=str(two))
    assert second["steps"] == first["steps"] == 4
    assert second["final_loss"] == pytest.approx(first["final_loss"], rel=1e-4)
    ours, theirs = (load_file(run / "captioner" / "adapter_model.safetensors") for run in (one, two))
    assert ours.keys() == theirs.keys()
    assert all(pytest.approx(ours[name], abs=1e-4) == theirs[name] for name in ours)
    assert max(float(ours[name].abs().max()) for name in ours if "lora_B" in name) > 1e-2
    assert not (two / "work" / "ray").exists()
