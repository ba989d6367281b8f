"""What a report says of captions: counts that add up, variety, and agreement by a real (untrained) SigLIP."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support import tiny_vlms

from data_pipeline.captions.agreement import TextEmbedder, agreement
from data_pipeline.captions.statistics import distinct, statistics
from groundwork.errors import RecipeError
from groundwork.records import Caption, to_table
from groundwork.storage import open_storage


def caption(number: int, **changes: object) -> Caption:
    values = {"text": f"A red car drives along street {number}.", "tries": 1, "output_tokens": 10, "cost": 0.25}
    return Caption(f"clip{number}", short_text="", frame_captions=[], model="m", version="1", **{**values, **changes})


def test_the_counts_of_captions_add_up() -> None:
    captions = [
        caption(0),
        caption(1, status="repaired", repairs=["introduction", "shortened"], tries=2),
        caption(2, status="repaired", repairs=["introduction"]),
        caption(3, status="rejected", reason="refusal", text="", tries=3),
    ]
    told = statistics(to_table(captions, Caption))
    assert told["asked"] == told["ok"] + told["repaired"] + told["rejected"] == 4
    assert told["rejected_by"] == {"refusal": 1}
    assert told["repairs"] == {"introduction": 2, "shortened": 1}
    assert told["words"] == {"least": 7, "median": 7.0, "mean": 7.0, "most": 7}
    assert (told["asked_again"], told["output_tokens"], told["cost"]) == (2, 40, 1.0)
    assert statistics(to_table([], Caption))["words"]["mean"] == 0.0


def test_distinct_is_the_share_of_different_sequences() -> None:
    assert distinct(["a b c", "a b d"], 1) == pytest.approx(4 / 6)
    assert distinct(["a b c", "a b d"], 2) == pytest.approx(3 / 4)
    assert distinct([], 2) == 0


def test_agreement_is_a_cosine_that_is_kept(tmp_path: Path) -> None:
    folder = str(tiny_vlms.save_siglip(tmp_path / "siglip"))
    out = open_storage(tmp_path / "out")
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    jpeg = bytes(cv2.imencode(".jpg", image)[1])
    texts = {"a": "a red car drives along a wet street", "b": "a small white dog"}
    found = agreement(out, texts, dict.fromkeys(texts, jpeg), folder=folder)
    assert all(-1 <= value <= 1 for value in found.values())
    assert found["a"] != found["b"]
    (kept,) = out.list("work/agreement")
    weights = tmp_path / "siglip" / "model.safetensors"
    assert agreement(out, texts, {}, folder=folder) == found  # nothing is embedded again
    assert weights.is_file()
    assert out.read_table(kept).num_rows == 2
    vectors = TextEmbedder(folder).embed(list(texts.values()))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_a_model_without_a_text_tower_is_told(tmp_path: Path) -> None:
    folder = tiny_vlms.save_videomae(tmp_path / "videomae")
    with pytest.raises(RecipeError, match="agreement"):
        TextEmbedder(str(folder))
    with pytest.raises(RecipeError, match=r"no config\.json"):
        agreement(open_storage(tmp_path), {}, {}, folder=str(tmp_path / "none"))
