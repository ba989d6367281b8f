"""Image-to-video: widened from text-to-video weights it starts as they answer, learns to follow its first frame, and
diffusers loads what comes out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import CogVideoXTransformer3DModel

from cogvideox import CogVideoX
from cogvideox.denoiser import Denoiser
from cogvideox.variants import VARIANTS
from cogvideox.weights import load_denoiser, save_pipeline
from groundwork.errors import InputError, WeightsError
from groundwork.latents import IndexedClip
from groundwork.storage import open_storage
from tests.support.denoisers import ask_diffusers, relative_error
from training import checkpoint
from training.clips import EncodedClip
from training.datasets import open_data
from training.export import export_weights
from training.films import made_series
from training.initial import initial_denoiser, widened
from training.metrics import read_metrics
from training.previews import make_films
from training.recipe import ImageSettings, TrainRecipe
from training.step import Draw, ask, condition, plan_step
from training.worker import Job, run_worker

Make = Callable[..., TrainRecipe]
TOY, TOY_I2V = VARIANTS["toy"], VARIANTS["toy-i2v"]
STAGE = {"steps": 70, "tokens_per_pack": 110, "packs_per_step": 3, "learning_rate": 3e-3, "warmup_steps": 5}


@pytest.fixture(scope="module")
def text_to_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text-to-video")
    return save_pipeline(folder, variant=TOY, denoiser=Denoiser(TOY.denoiser).initialize(seed=5))


@pytest.fixture(scope="module")
def recipe(recipe_with: Make, text_to_video: Path) -> TrainRecipe:
    """Half of the texts are dropped, so that the first frame is what tells clips apart."""
    return recipe_with(
        variant="toy-i2v",
        initial_weights=str(text_to_video),
        stages=[STAGE],
        text_dropout=0.5,
        engine={"kind": "ddp"},
        checkpoints={"every_steps": 100},
    )


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """This process as the only worker."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def run(alone: None, recipe: TrainRecipe, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and exported run."""
    out = tmp_path_factory.mktemp("run")
    run_worker(Job(recipe, (str(dataset),), str(out)), report=lambda _: None)
    found = checkpoint.newest_complete(open_storage(out))
    assert found is not None
    export_weights(open_storage(out), found, recipe=recipe)
    return out


def test_the_first_frame_decides_the_film(run: Path, recipe: TrainRecipe, dataset: Path) -> None:
    rows = read_metrics(open_storage(run))
    assert rows[-1].loss < 0.5 * rows[0].loss
    data = open_data(recipe, [str(dataset)])
    latents = [data.reader().read(n).latent.float() for n, clip in enumerate(data.clips) if clip.bucket[0] == "9"]
    denoiser, generator = load_denoiser(run / "weights" / "plain"), torch.Generator().manual_seed(0)
    errors: dict[bool, list[float]] = {True: [], False: []}
    for latent in latents:
        noise = torch.randn(latent.shape, generator=generator)
        for given in latents:
            image = condition(given, Draw(0, "x", 999, False, 1.0), seed=0, step=0, variant=TOY_I2V)
            with torch.no_grad():  # at the last timestep the velocity is minus the clean latent
                clean = -denoiser(
                    torch.cat((noise, image))[None],
                    timestep=torch.tensor([999]),
                    text_embedding=torch.zeros(1, TOY.text.max_tokens, TOY.text.width),
                )[0]
            errors[given is latent].append(float((clean - latent).square().mean()))
    own, others = (sum(found) / len(found) for found in (errors[True], errors[False]))
    assert own < 0.95 * others


def test_the_export_is_diffusers_image_to_video_model(run: Path) -> None:
    weights = run / "weights"
    assert json.loads((weights / "model_index.json").read_text())["_class_name"] == "CogVideoXImageToVideoPipeline"
    theirs, ours = CogVideoXTransformer3DModel.from_pretrained(weights / "transformer"), load_denoiser(weights)
    latent, timestep, text = torch.randn(1, 32, 5, 12, 18), torch.tensor([300]), torch.randn(1, 32, 256)
    with torch.no_grad():
        answer = ours(latent, timestep=timestep, text_embedding=text)
        assert relative_error(answer, ask_diffusers(theirs.eval(), TOY_I2V.denoiser, latent, timestep, text)) < 1e-5
    model = CogVideoX.from_pretrained(weights)
    assert model.variant.name == "toy-i2v"
    image = torch.randint(0, 255, (32, 48, 3), dtype=torch.uint8)
    assert model.generate("a city", image=image, num_frames=9, height=32, width=48, num_steps=2).shape == (9, 32, 48, 3)


def test_films_of_an_adapters_checkpoint_on_an_object_store(
    run: Path, recipe: TrainRecipe, dataset: Path, s3_uri: str
) -> None:
    fields = {
        "initial_weights": str(run / "weights"),
        "adapter": {"rank": 2},
        "stages": [STAGE | {"steps": 1}],
        "samples": {"count": 1, "num_steps": 1},
    }
    adapting = TrainRecipe.model_validate(recipe.model_dump() | fields)
    out = open_storage(s3_uri).child("adapter")
    run_worker(Job(adapting, (str(dataset),), out.uri), report=lambda _: None)
    assert make_films(adapting, out, datasets=[str(dataset)], step=1) == 1
    (series,) = made_series(out)
    assert [out.size(series.path(film)) > 1000 for film in series.films] == [True]


def test_a_widened_model_answers_as_before_whatever_the_image(recipe: TrainRecipe, text_to_video: Path) -> None:
    before, widened_model = load_denoiser(text_to_video), initial_denoiser(recipe)
    latent, image = torch.randn(1, 16, 3, 4, 6), torch.randn(1, 16, 3, 4, 6)
    timestep, text = torch.tensor([300]), torch.randn(1, 32, 256)
    with torch.no_grad():
        old = before(latent, timestep=timestep, text_embedding=text)
        new = widened_model(torch.cat((latent, image), dim=1), timestep=timestep, text_embedding=text)
    assert relative_error(new, old) < 1e-5
    assert widened_model.patch_projection.weight.requires_grad


def test_what_image_models_have_more_starts_without_a_voice() -> None:
    small = {"num_layers": 1, "num_heads": 2, "sample_frames": 3, "sample_height": 4, "sample_width": 6}
    narrow = replace(VARIANTS["cogvideox1.5-5b"].denoiser, **small)
    wide = replace(VARIANTS["cogvideox1.5-5b-i2v"].denoiser, **small)
    old, new = Denoiser(narrow).initialize(seed=1), Denoiser(wide)
    new.load_state_dict(widened(old.state_dict(), wide, seed=2))
    latent, image = torch.randn(1, 16, 3, 4, 6), torch.randn(1, 16, 3, 4, 6)
    timestep, text = torch.tensor([300]), torch.randn(1, 4, 4096)
    with torch.no_grad():
        answer = new(torch.cat((latent, image), dim=1), timestep=timestep, text_embedding=text)
        assert relative_error(answer, old(latent, timestep=timestep, text_embedding=text)) < 1e-5
    learned = replace(VARIANTS["cogvideox-5b-i2v"].denoiser, **small)
    added = widened(Denoiser(replace(narrow, patch_frames=1)).state_dict(), learned, seed=2)
    assert not added["learned_positions"].any()


def test_an_adapter_cannot_train_new_channels(recipe: TrainRecipe) -> None:
    with pytest.raises(WeightsError, match="new channels would stay untrained"):
        initial_denoiser(TrainRecipe.model_validate(recipe.model_dump() | {"adapter": {"rank": 2}}))


CLIPS = [IndexedClip(f"clip{n}", "s", 0, "b", (16, 3, 4, 6), (32, 256), 18) for n in range(10)]


def test_noise_and_dropout_of_the_image_know_only_seed_step_and_clip() -> None:
    image, packs = ImageSettings(), [tuple(range(10))]
    many = [plan_step(step, packs, CLIPS, seed=3, text_dropout=0.0, image=image).draws for step in range(200)]
    noises = torch.tensor([draw.image_noise for draws in many for draw in draws]).log()
    assert float(noises.mean()) == pytest.approx(-3.0, abs=0.05)
    assert float(noises.std()) == pytest.approx(0.5, abs=0.03)
    assert 0.03 < sum(draw.drop_image for draws in many for draw in draws) / 2000 < 0.07
    turned = plan_step(7, [(9, 3), (1,)], CLIPS, seed=3, text_dropout=0.0, image=image).draws
    known = {draw.name: (draw.image_noise, draw.drop_image) for draw in many[7]}
    assert all(known[draw.name] == (draw.image_noise, draw.drop_image) for draw in turned)
    plain = plan_step(7, packs, CLIPS, seed=3, text_dropout=0.0).draws
    assert {(draw.image_noise, draw.drop_image) for draw in plain} == {(0.0, False)}


def test_the_image_stands_in_the_first_frame_behind_the_noisy_channels() -> None:
    clip = EncodedClip(torch.randn(16, 3, 4, 6).bfloat16(), torch.randn(32, 256).bfloat16())
    draw = Draw(0, "a", 500, drop_text=False, weight=1.0)
    question = ask([draw], [clip], seed=1, step=2, variant=TOY_I2V)
    (asked,) = question.batch.latents
    assert asked.shape == (32, 3, 4, 6)
    assert question.targets[0].shape == (16, 3, 4, 6)
    assert torch.allclose(asked[16:, 0], clip.latent[:, 0].float())
    assert not asked[16:, 1:].any()
    assert (
        not ask([replace(draw, drop_image=True)], [clip], seed=1, step=2, variant=TOY_I2V).batch.latents[0][16:].any()
    )
    noisy = ask([replace(draw, image_noise=0.5)], [clip], seed=1, step=2, variant=TOY_I2V).batch.latents[0]
    assert float((noisy - asked)[16:, 0].std()) == pytest.approx(0.5, rel=0.15)
    assert torch.equal(noisy[:16], asked[:16])


@pytest.mark.parametrize(("placement", "held"), [("first", 1), ("repeated", 2)])
def test_tokens_of_two_frames_are_completed_at_the_front(placement: str, held: int) -> None:
    card = replace(VARIANTS["cogvideox1.5-5b-i2v"], image_placement=placement)  # type: ignore[arg-type]
    latent = torch.randn(16, 3, 4, 6)
    clip = EncodedClip(latent.bfloat16(), torch.randn(4, 4096).bfloat16())
    question = ask([Draw(0, "a", 0, drop_text=False, weight=1.0)], [clip], seed=1, step=2, variant=card)
    (asked,) = question.batch.latents
    assert asked.shape == (32, 4, 4, 6)
    assert not torch.equal(asked[:16, 0], asked[:16, 1])  # each frame has noise of its own, as in generation
    scale = card.image_latent_scale / card.scale_factor
    for frame in range(held):
        assert torch.allclose(asked[16:, frame], clip.latent[:, 0].float() * scale)
    assert not asked[16:, held:].any()


def test_text_to_video_datasets_serve_and_other_sizes_than_the_learned_ones_do_not(
    recipe: TrainRecipe, dataset: Path, tmp_path: Path
) -> None:
    assert len(open_data(recipe, [str(dataset)]).clips) == 7
    with pytest.raises(InputError, match="encoded for variant 'toy'"):
        open_data(recipe.model_copy(update={"variant": "cogvideox-5b-i2v"}), [str(dataset)])
    assert math.isclose(TOY_I2V.image_latent_scale, TOY_I2V.scale_factor)
