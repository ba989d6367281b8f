"""Prompts to embeddings: the built-in encoder, T5, and prompts that are too long."""

import json

import pytest
import sentencepiece
import torch
from transformers import T5Config, T5EncoderModel

from cogvideox.text_encoder import HashTextEncoder, PromptTooLongWarning, T5TextEncoder
from cogvideox.variants import TextConfig

LONG = " ".join(f"word{index}" for index in range(40))


def test_the_built_in_encoder_pads_with_zeros():
    rows = HashTextEncoder().encode(["A panda plays guitar", ""])
    assert rows.shape == (2, 32, 256)
    assert rows[0, :4].abs().sum(dim=-1).all()
    assert not rows[0, 4:].any()
    assert not rows[1].any()


def test_the_built_in_encoder_hears_words_order_and_not_case():
    encode = HashTextEncoder().encode
    assert torch.equal(encode(["A Panda"]), encode(["a panda!"]))
    assert not torch.equal(encode(["a panda"]), encode(["panda a"]))
    assert not torch.equal(encode(["a panda"]), encode(["a bear"]))


def test_a_prompt_that_is_too_long_is_an_error_or_a_warning_by_choice():
    with pytest.raises(ValueError, match="40 tokens, 8 more than the 32"):
        HashTextEncoder().encode([LONG])
    with pytest.warns(PromptTooLongWarning, match="is cut"):
        rows = HashTextEncoder(too_long="warn").encode([LONG])
    assert torch.equal(rows, HashTextEncoder().encode([" ".join(LONG.split()[:32])]))


def test_fingerprints_name_what_changes_the_embedding():
    other = HashTextEncoder(TextConfig("hash", 16, 256))
    assert HashTextEncoder().fingerprint != other.fingerprint


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    """A tiny T5 with a real sentencepiece tokenizer, in the diffusers layout."""
    folder = tmp_path_factory.mktemp("t5")
    corpus = folder / "corpus.txt"
    corpus.write_text("a panda plays the guitar in a quiet bamboo forest\n" * 40 + LONG + "\n")
    (folder / "tokenizer").mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer" / "spiece"), vocab_size=60, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    # As published: the sentencepiece model and a configuration, no converted tokenizer.json.
    settings = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 0,
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=100, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder


def _t5(folder, **choices):
    return T5TextEncoder.from_folder(folder, config=TextConfig("t5", 12, 24), dtype=torch.float32, **choices)


def test_t5_pads_to_the_models_tokens_and_uses_no_mask(t5_folder):
    encoder = _t5(t5_folder)
    embedding = encoder.encode(["a panda"])
    assert embedding.shape == (1, 12, 24)
    ids = encoder.tokenizer("a panda", padding="max_length", max_length=12, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 12)
    torch.testing.assert_close(embedding, encoder.model(ids)[0])


def test_t5_refuses_or_cuts_a_prompt_that_is_too_long(t5_folder):
    with pytest.raises(ValueError, match="more than the 12 of this model"):
        _t5(t5_folder).encode([LONG])
    with pytest.warns(PromptTooLongWarning):
        assert _t5(t5_folder, too_long="warn").encode([LONG]).shape == (1, 12, 24)


def test_t5_fingerprint_is_stable(t5_folder):
    assert _t5(t5_folder).fingerprint == _t5(t5_folder).fingerprint
