"""Weights on disk: round trips, shards, every sort of bad file, whole models."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox import CogVideoX
from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import Denoiser
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.variants import VARIANTS
from cogvideox.weights import load_autoencoder, load_card, load_denoiser, save_denoiser, save_pipeline
from cogvideox.weights.denoiser_keys import from_diffusers_key, to_diffusers_key
from groundwork.errors import WeightsError
from tests.support.denoisers import SWITCHES, random_denoiser

TOY = VARIANTS["toy"]
FILE = "diffusion_pytorch_model.safetensors"


def _equal(first, second):
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def folder(tmp_path):
    return save_denoiser(random_denoiser(SWITCHES["rope"]), tmp_path / "transformer")


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 100_000])
def test_saving_and_loading_changes_nothing(name, max_shard_bytes, tmp_path):
    denoiser = random_denoiser(SWITCHES[name])
    save_denoiser(denoiser, tmp_path, max_shard_bytes=max_shard_bytes)
    assert (tmp_path / f"{FILE}.index.json").exists() == (max_shard_bytes < 10**9)
    loaded = load_denoiser(tmp_path)
    assert loaded.config == denoiser.config
    assert _equal(loaded, denoiser)


def test_saving_fewer_shards_leaves_no_stale_ones(tmp_path):
    save_denoiser(random_denoiser(SWITCHES["rope"]), tmp_path, max_shard_bytes=100_000)
    save_denoiser(random_denoiser(SWITCHES["rope"], seed=1), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", FILE]
    assert _equal(load_denoiser(tmp_path), random_denoiser(SWITCHES["rope"], seed=1))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "toy"])
def test_names_go_both_ways_for_every_published_tensor(name):
    with torch.device("meta"):
        names = list(Denoiser(VARIANTS[name].denoiser).state_dict())
    assert [from_diffusers_key(to_diffusers_key(key)) for key in names] == names


def test_loading_casts_to_the_type_asked(folder):
    assert {p.dtype for p in load_denoiser(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_given_tensors_replace_the_modules_own(tmp_path):
    average = random_denoiser(SWITCHES["rope"], seed=1)
    save_denoiser(random_denoiser(SWITCHES["rope"]), tmp_path, tensors=average.state_dict())
    assert _equal(load_denoiser(tmp_path), average)
    with pytest.raises(ValueError, match="names do not fit"):
        save_denoiser(average, tmp_path, tensors={"odd": torch.zeros(1)})


def test_one_error_lists_every_missing_superfluous_and_misshapen_tensor(folder):
    tensors = load_file(folder / FILE)
    del tensors["proj_out.bias"], tensors["norm_final.weight"]
    tensors["odd.weight"] = torch.zeros(2)
    tensors["patch_embed.proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / FILE)
    with pytest.raises(WeightsError) as caught:
        load_denoiser(folder)
    message = str(caught.value)
    assert "4 problem(s)" in message
    for expected in (
        "missing: proj_out.bias",
        "missing: norm_final.weight",
        "superfluous: odd.weight",
        "misshapen: patch_embed.proj.weight is [3, 3], must be [128, 16, 2, 2]",
    ):
        assert expected in message


def test_a_truncated_file_is_named(folder):
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=f"unreadable file {FILE}"):
        load_denoiser(folder)


def test_a_missing_shard_is_named(tmp_path):
    save_denoiser(random_denoiser(SWITCHES["rope"]), tmp_path, max_shard_bytes=100_000)
    lost = sorted(tmp_path.glob("*-of-*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(WeightsError, match=f"missing file {lost.name}"):
        load_denoiser(tmp_path)


def test_pickled_weights_are_refused_unless_allowed(folder):
    torch.save(load_file(folder / FILE), folder / "diffusion_pytorch_model.bin")
    (folder / FILE).unlink()
    with pytest.raises(WeightsError, match="is pickled and may run code"):
        load_denoiser(folder)
    assert _equal(load_denoiser(folder, allow_pickle=True), random_denoiser(SWITCHES["rope"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "config.json lacks 'num_layers'"),
        ('{"num_layers": 1, "num_attention_heads": 2, "activation_fn": "relu"}', "activation_fn='relu'"),
    ],
)
def test_a_bad_configuration_is_named(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        load_denoiser(folder)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"config.json does not exist"):
        load_denoiser(tmp_path)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CogVideoX.from_parts(
        "toy",
        denoiser=random_denoiser(TOY.denoiser),
        autoencoder=Autoencoder(TOY.autoencoder),
        text_encoder=HashTextEncoder(TOY.text),
    )


def test_a_whole_model_comes_back_with_its_card(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = CogVideoX.from_pretrained(tmp_path)
    assert loaded.variant == TOY
    assert _equal(loaded.denoiser, model.denoiser)
    assert _equal(loaded.autoencoder, model.autoencoder)
    assert loaded.text_encoder.fingerprint == model.text_encoder.fingerprint
    assert _equal(load_denoiser(tmp_path), model.denoiser)
    assert _equal(load_autoencoder(tmp_path), model.autoencoder)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["text_encoder"] == ["cogvideox", "HashTextEncoder"]


def test_the_card_reads_what_the_folder_says(model, tmp_path):
    model.save_pretrained(tmp_path)
    for path, key, value in (
        ("vae/config.json", "scaling_factor", 1.15258426),
        ("scheduler/scheduler_config.json", "snr_shift_scale", 3.0),
    ):
        config = json.loads((tmp_path / path).read_text())
        (tmp_path / path).write_text(json.dumps({**config, key: value}))
    card = load_card(tmp_path)
    assert (card.scale_factor, card.snr_shift) == (1.15258426, 3.0)


def test_a_whole_folder_with_several_faults_gives_one_error(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "vae" / "config.json").unlink()
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "epsilon"}))
    with pytest.raises(WeightsError) as caught:
        load_card(tmp_path)
    assert "missing: vae/config.json" in str(caught.value)
    assert "prediction_type is 'epsilon', must be 'v_prediction'" in str(caught.value)


def test_only_the_toy_has_a_shipped_autoencoder(tmp_path):
    with pytest.raises(ValueError, match="only the toy has a shipped one"):
        save_pipeline(tmp_path, variant=VARIANTS["cogvideox-2b"], denoiser=random_denoiser(TOY.denoiser))
