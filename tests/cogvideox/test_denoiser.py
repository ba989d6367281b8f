"""Laws of the denoiser: sizes, positions, packing, memory-saving forms, compilation."""

import shutil
from dataclasses import replace

import pytest
import torch

from cogvideox.denoiser import Denoiser, DenoiserConfig, PackedBatch, streaming
from cogvideox.denoiser import modulation as modulation_module
from cogvideox.denoiser.patches import patchify, unpatchify
from cogvideox.denoiser.positions import Grid, rope_table, sincos_table
from cogvideox.variants import VARIANTS
from tests.support.denoisers import SWITCHES, question, random_denoiser, relative_error

CPU = torch.device("cpu")
PUBLISHED = {
    "cogvideox-2b": (1_693_783_872, 736),
    "cogvideox-5b": (5_570_283_072, 1024),
    "cogvideox-5b-i2v": (5_570_479_680 + 54_607_872, 1025),
    "cogvideox1.5-5b": (5_570_676_352, 1024),
    "cogvideox1.5-5b-i2v": (5_571_594_880, 1028),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_and_tensor_counts_are_the_published_ones(name):
    with torch.device("meta"):
        denoiser = Denoiser(VARIANTS[name].denoiser)
    tensors = list(denoiser.state_dict().values())
    assert (sum(tensor.numel() for tensor in tensors), len(tensors)) == PUBLISHED[name]


@pytest.mark.parametrize("name", SWITCHES)
def test_the_answer_has_the_output_channels_and_the_frames_asked(name):
    config = SWITCHES[name]
    latent, timestep, text = question(config, frames=3)
    velocity = random_denoiser(config)(latent, timestep=timestep, text_embedding=text)
    assert velocity.shape == (2, 16, 3, 8, 12)


@pytest.mark.parametrize("name", SWITCHES)
def test_the_memory_saving_form_without_gradients_answers_the_same(name, monkeypatch):
    monkeypatch.setitem(streaming._CHUNK_TOKENS, "cpu", 10)
    config = SWITCHES[name]
    denoiser = random_denoiser(config)
    latent, timestep, text = question(config)
    before = latent.clone()
    with torch.no_grad():
        streamed = denoiser(latent, timestep=timestep, text_embedding=text)
    assert relative_error(streamed, denoiser(latent, timestep=timestep, text_embedding=text)) < 2e-6
    assert torch.equal(latent, before)


@pytest.mark.parametrize("name", [name for name in SWITCHES if name != "learned"])
@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_packed_clip_answers_as_it_does_alone(name, gathered, gradients, monkeypatch):
    if gathered:
        monkeypatch.setattr(modulation_module, "_MAX_LOOPED_SEGMENTS", 0)
    config = SWITCHES[name]
    denoiser = random_denoiser(config)
    clips = [
        question(config, frames=f, height=h, width=w, batch=1, seed=f) for f, h, w in [(3, 8, 12), (1, 4, 4), (5, 6, 8)]
    ]
    pack = PackedBatch(
        latents=tuple(latent[0] for latent, _, _ in clips),
        timesteps=torch.cat([timestep for _, timestep, _ in clips]),
        text_embeddings=tuple(text[0, : 7 - index] for index, (_, _, text) in enumerate(clips)),
    )
    with torch.set_grad_enabled(gradients):
        packed = denoiser.forward_packed(pack)
        for velocity, single in zip(packed, pack.split(), strict=True):
            alone = denoiser(
                single.latents[0][None], timestep=single.timesteps, text_embedding=single.text_embeddings[0][None]
            )
            assert relative_error(velocity, alone[0]) < 2e-6


def test_a_pack_never_mixes_attention_between_clips():
    config = SWITCHES["rope"]
    denoiser = random_denoiser(config)
    first, time, text = question(config, batch=1, seed=1)
    answers = []
    for seed in (2, 3):
        other, other_time, other_text = question(config, frames=2, batch=1, seed=seed)
        pack = PackedBatch((first[0], other[0]), torch.cat((time, other_time)), (text[0], other_text[0]))
        with torch.no_grad():
            answers.append(denoiser.forward_packed(pack)[0])
    assert torch.equal(*answers)


def test_cu_seqlens_mark_the_borders_between_clips():
    config = SWITCHES["rope"]
    pack = PackedBatch(
        (torch.zeros(16, 3, 8, 12), torch.zeros(16, 1, 4, 4)),
        torch.tensor([1, 2]),
        (torch.zeros(7, 24), torch.zeros(5, 24)),
    )
    assert pack.cu_seqlens(config).tolist() == [0, 7 + 3 * 4 * 6, 7 + 3 * 4 * 6 + 5 + 4]


def test_an_odd_latent_count_is_completed_at_the_front():
    config = SWITCHES["two-frame patches"]
    denoiser = random_denoiser(config)
    latent, timestep, text = question(config, frames=3)
    padded = torch.cat((latent[:, :, :1], latent), dim=2)
    with torch.no_grad():
        odd = denoiser(latent, timestep=timestep, text_embedding=text)
        even = denoiser(padded, timestep=timestep, text_embedding=text)
    assert torch.equal(odd, even[:, :, 1:])


def test_unpatchify_inverts_patchify():
    for config in SWITCHES.values():
        latent = torch.randn(2, config.in_channels, 4, 8, 12)
        grid = Grid(4 // config.patch_frames, 4, 6)
        assert torch.equal(unpatchify(patchify(latent, config), grid, config), latent)


def test_rope_channels_turn_with_time_then_rows_then_columns():
    config = VARIANTS["cogvideox-5b"].denoiser
    table = rope_table(Grid(3, 4, 5), config, device=CPU).view(3, 4, 5, 32, 2)
    base = table[1, 1, 1]
    for moved, pairs in ((table[2, 1, 1], (0, 8)), (table[1, 2, 1], (8, 20)), (table[1, 1, 2], (20, 32))):
        changed = (moved != base).any(dim=-1).nonzero().flatten().tolist()
        assert changed
        assert min(changed) >= pairs[0]
        assert max(changed) < pairs[1]


def test_an_extrapolated_table_begins_with_the_small_one():
    config = VARIANTS["cogvideox-5b"].denoiser
    large = rope_table(Grid(4, 6, 8), config, device=CPU).view(4, 6, 8, 32, 2)
    assert torch.equal(large[:2, :3, :5].reshape(-1, 32, 2), rope_table(Grid(2, 3, 5), config, device=CPU))


def test_interpolated_and_extrapolated_tables_agree_at_the_native_size_only():
    config = VARIANTS["cogvideox-5b"].denoiser
    other = replace(config, rope_mode="interpolate")
    native, larger = Grid(2, 30, 45), Grid(2, 48, 72)
    torch.testing.assert_close(rope_table(native, config, device=CPU), rope_table(native, other, device=CPU))
    assert not torch.allclose(rope_table(larger, config, device=CPU), rope_table(larger, other, device=CPU))


def test_sincos_positions_exist_at_any_size():
    config = VARIANTS["cogvideox-2b"].denoiser
    assert sincos_table(Grid(3, 5, 7), config, device=CPU).shape == (105, 1920)


@pytest.mark.parametrize("size", [(4, 8, 12), (3, 8, 8), (3, 10, 12)])
def test_learned_positions_refuse_every_other_size(size):
    config = SWITCHES["learned"]
    frames, height, width = size
    latent, timestep, text = question(config, frames=frames, height=height, width=width)
    with pytest.raises(ValueError, match="learned positions only fit 3x8x12"):
        random_denoiser(config)(latent, timestep=timestep, text_embedding=text)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 15, 3, 8, 12), "15 channels"), ((1, 16, 3, 7, 12), "divide by 2"), ((1, 16, 3, 8, 11), "divide by 2")],
)
def test_a_latent_that_does_not_fit_is_refused(shape, message):
    config = SWITCHES["rope"]
    with pytest.raises(ValueError, match=message):
        random_denoiser(config)(torch.zeros(shape), timestep=torch.tensor([1]), text_embedding=torch.zeros(1, 7, 24))


def test_a_pack_with_missing_text_is_refused():
    with pytest.raises(ValueError, match="1 latents, 0 texts"):
        PackedBatch((torch.zeros(16, 1, 4, 4),), torch.tensor([1]), ())


def test_an_untrained_denoiser_starts_as_zero_modulation():
    denoiser = Denoiser(VARIANTS["toy"].denoiser).initialize(seed=1)
    again = Denoiser(VARIANTS["toy"].denoiser).initialize(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), again.parameters(), strict=True))
    assert not denoiser.blocks[0].attention_norm.modulation.weight.any()


def test_a_head_width_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="head_width=24"):
        DenoiserConfig(num_layers=1, num_heads=1, head_width=24)


@pytest.mark.compile
@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("gradients", [False, True])
def test_the_denoiser_compiles_without_a_graph_break(name, gradients):
    _compare_compiled(SWITCHES[name], gradients=gradients, backend="aot_eager")


@pytest.mark.compile
@pytest.mark.skipif(shutil.which("g++") is None, reason="code for the CPU is compiled with g++")
def test_the_compiled_code_answers_the_same():
    _compare_compiled(SWITCHES["rope"], gradients=False, backend="inductor")


def _compare_compiled(config, *, gradients, backend):
    denoiser = random_denoiser(config)
    latent, timestep, text = question(config, frames=3)
    torch._dynamo.reset()
    compiled = torch.compile(denoiser, fullgraph=True, backend=backend)
    with torch.set_grad_enabled(gradients):
        expected = denoiser(latent, timestep=timestep, text_embedding=text)
        assert relative_error(compiled(latent, timestep=timestep, text_embedding=text), expected) < 1e-5
