"""Captioning in a real run on Ray: the paper's route by true models and an endpoint, measured captions behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import tiny_vlms
from support.chat_endpoint import chat_endpoint

from data_pipeline.captions.models import load_model
from data_pipeline.captions.settings import (
    CaptionerSettings,
    CaptionSettings,
    EndpointSettings,
    ModelSettings,
    RuleSettings,
)
from data_pipeline.pipeline import curate
from data_pipeline.recipe import CurateRecipe
from groundwork.ray_session import ray_session
from groundwork.records import Caption, Latent, from_table
from groundwork.storage import Storage, open_storage

ANY = RuleSettings(min_words=1, language="", say_video=True, numbers=False, order=False, max_repetition=1)
"""Untrained models write no sentences: here it is the way that is judged, not the words."""


def captions(out: Storage, name: str) -> list[Caption]:
    return from_table(out.read_table(f"captions/{name}"), Caption)


def few(recipe: CurateRecipe, captioners: Sequence[CaptionerSettings], **changes: Any) -> CurateRecipe:
    clips = recipe.clips.model_copy(update={"max_clips": 3})
    settings = CaptionSettings(captioners=tuple(captioners), **changes)
    return recipe.model_copy(update={"clips": clips, "captions": settings})


def test_the_papers_route_by_true_models_and_an_endpoint_with_measured_captions_behind(
    footage: Path, quick_recipe: CurateRecipe, tmp_path: Path
) -> None:
    qwen = ModelSettings(model=str(tiny_vlms.save_qwen2_5_vl(tmp_path / "qwen")), num_frames=3, max_new_tokens=4)
    image = qwen.model_copy(update={"frames": "spaced", "spacing_seconds": 1.0})
    words = load_model(ModelSettings(model=str(tiny_vlms.save_llama(tmp_path / "llama"))), device="cpu")
    out = open_storage(tmp_path / "out")
    with chat_endpoint(lambda ask, sampling: words.answer([ask], sampling)[0]) as endpoint:
        endpoint.faults = [(429, {"retry-after": "0.1"}, "later"), (200, {}, "no JSON")]
        served = EndpointSettings(url=endpoint.url, price_per_million_output_tokens=1e6)
        language = ModelSettings(model="llama", backend="endpoint", max_new_tokens=4, endpoint=served)
        paper = CaptionerSettings(
            name="paper", route="summary", video=qwen, image=image, language=language, rules=ANY, batch_clips=2
        )
        recipe = few(quick_recipe, [paper, CaptionerSettings()])
        with ray_session():
            summary = curate(recipe, inputs=[str(footage / "city.mpg")], out=out.uri)
        asked = len(endpoint.requests)
    assert summary["clips"]["kept"] == 3
    made, plain = captions(out, "paper"), captions(out, "measured")
    assert asked == sum(one.tries for one in made) + 2  # the two faults were sent again
    assert [one.clip_id for one in made] == [one.clip_id for one in plain]
    trained = {row.clip_id: row.caption for row in from_table(out.read_table("latents"), Latent)}
    # A draft that is rejected leaves the clip to the next captioner.
    assert trained == {one.clip_id: one.text or other.text for one, other in zip(made, plain, strict=True)}
    for one in made:
        assert len(one.frame_captions) == len(one.frame_seconds) >= 2
        assert one.short_text
        assert one.cost == pytest.approx(one.output_tokens - 4 * (1 + len(one.frame_captions)), abs=8)
        assert "transformers" in one.version
        assert "chat completions" in one.version
        assert '"system": "You are given' in one.made_by
    manifest = out.read_json("manifest.json")
    assert [one["name"] for one in manifest["captions"]] == ["paper", "measured"]
    page = out.read_bytes("report/index.html").decode()
    assert "<h2>Captions</h2>" in page
    assert not any(b"api_key" in out.read_bytes(path) for path in out.list("captions"))
