"""Tiny checkpoints of true classes, as a model hub holds them: random weights, real tokenizer and processor files.

Each function fills an empty folder and returns it; what it writes depends on its arguments alone. The folders load
through transformers' Auto classes; a vision-language one through `data_pipeline.captions.processors.load_processor`,
which knows what to do where torchvision is missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5EncoderModel,
    VideoMAEConfig,
    VideoMAEModel,
)

SENTENCES = (
    "a red car drives along a wet street at night while the camera follows it",
    "two people walk through a quiet green forest and the light slowly fades",
    "a small white dog runs across the sand towards the blue sea",
    "the camera pans left over a busy market, then a woman in a yellow coat turns around",
    "a bird lands on a wooden fence and looks around before it flies away",
    "yes no describe what happens in these frames in time order",
)
"""What the tokenizers have read; other text falls back to bytes or pieces, never to nothing."""

QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""The published chat templates, less their branches for tools and several systems (Llama: that of Llama 2)."""

_QWEN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
               "<|image_pad|>", "<|video_pad|>")  # fmt: skip
_LLAVA_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")


def save_qwen2_5_vl(folder: Path, *, hidden: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """Qwen2.5-VL: windowed vision tower, 2×2 merger, multimodal rotary positions. Images become 4 to 16 tokens."""
    tokenizer = _byte_tokenizer(_QWEN_MARKS, end="<|im_end|>", template=QWEN_TEMPLATE)
    _save_processor(
        folder,
        tokenizer,
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": 56 * 56,
            "max_pixels": 112 * 112,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
    )
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in _QWEN_MARKS}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": hidden,
              "fullatt_block_indexes": [1], "window_size": 112}  # fmt: skip
    # The three sections (time, height, width) fill half of a head.
    half = hidden // 4 // 2
    sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    config = Qwen2_5_VLConfig(
        text_config={
            **_decoder(tokenizer, hidden, layers),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
        },
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return _save_model(Qwen2_5_VLForConditionalGeneration, config, folder, tokenizer, seed=seed)


def save_llava_onevision(folder: Path, *, hidden: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """LLaVA-OneVision: SigLIP tower, projector, Qwen2. Several images become 17 tokens each."""
    tokenizer = _byte_tokenizer(_LLAVA_MARKS, end="<|im_end|>", template=LLAVA_TEMPLATE)
    side, patch = 56, 14
    pinpoints = [[side, side], [side, 2 * side], [2 * side, side]]
    _save_processor(
        folder,
        tokenizer,
        {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
            "size": {"height": side, "width": side},
            "image_grid_pinpoints": pinpoints,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
        {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": (side // patch) ** 2,
            "vision_feature_select_strategy": "full",
            "image_token": "<image>",
            "video_token": "<video>",
            "vision_aspect_ratio": "anyres_max_9",
        },
    )
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": side, "patch_size": patch, "vision_use_head": False}  # fmt: skip
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_decoder(tokenizer, hidden, layers)},
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    return _save_model(LlavaOnevisionForConditionalGeneration, config, folder, tokenizer, seed=seed)


def save_llama(folder: Path, *, hidden: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """Llama with the chat template of Llama 2: the language model of a summary."""
    tokenizer = _byte_tokenizer(("<unk>", "<s>", "</s>"), end="</s>", template=LLAMA_TEMPLATE, start="<s>")
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(**_decoder(tokenizer, hidden, layers))
    return _save_model(LlamaForCausalLM, config, folder, tokenizer, seed=seed)


def save_siglip(folder: Path, *, hidden: int = 32, seed: int = 0) -> Path:
    """SigLIP, both towers: images of 32 pixels to vectors, texts to the same space."""
    folder.mkdir(parents=True, exist_ok=True)
    _train_sentencepiece(folder, "spiece", pad_id=-1, unk_id=2, eos_id=1)
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "SiglipTokenizer", "processor_class": "SiglipProcessor", "model_max_length": 32},
    )
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "size": {"height": 32, "width": 32},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )
    tower = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": _pieces(folder, "spiece"), "max_position_embeddings": 32,
                     "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
    )  # fmt: skip
    return _save_model(SiglipModel, config, folder, seed=seed)


def save_videomae(folder: Path, *, hidden: int = 32, num_frames: int = 8, seed: int = 0) -> Path:
    """VideoMAE's encoder: `num_frames` frames of 32 pixels to one row per 2×8×8 tube."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "VideoMAEImageProcessor",
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
        },
    )
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=num_frames, hidden_size=hidden, intermediate_size=2 * hidden,
        num_hidden_layers=2, num_attention_heads=2,
    )  # fmt: skip
    return _save_model(VideoMAEModel, config, folder, seed=seed)


def save_t5(folder: Path, *, hidden: int = 32, seed: int = 0) -> Path:
    """T5's encoder with its sentencepiece tokenizer, as published: no converted tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    _train_sentencepiece(folder, "spiece", pad_id=0, eos_id=1, unk_id=2)
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "eos_token": "</s>", "pad_token": "<pad>",
         "unk_token": "<unk>", "model_max_length": 512},
    )  # fmt: skip
    config = T5Config(
        vocab_size=_pieces(folder, "spiece"), d_model=hidden, d_kv=hidden // 4, d_ff=2 * hidden, num_layers=2,
        num_heads=4, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return _save_model(T5EncoderModel, config, folder, seed=seed)


def _byte_tokenizer(marks: tuple[str, ...], *, end: str, template: str, start: str | None = None) -> Any:
    """A byte-level BPE that has learnt SENTENCES: every text comes back exactly."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    core.train_from_iterator(SENTENCES, trainer)
    learnt = json.loads(core.to_str())["model"]
    special = {"eos_token": end, "pad_token": marks[0], "additional_special_tokens": list(marks)}
    if start is None:  # the Qwen family: the class of the published files
        merges = [tuple(merge) for merge in learnt["merges"]]
        tokenizer: Any = Qwen2Tokenizer(vocab=learnt["vocab"], merges=merges, unk_token=marks[0], **special)
    else:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token=marks[0], bos_token=start, **special)
    tokenizer.chat_template = template
    return tokenizer


def _decoder(tokenizer: Any, hidden: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": hidden, "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 4096, "initializer_range": hidden**-0.5,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip


def _save_processor(
    folder: Path, tokenizer: Any, images: dict[str, Any], processor: dict[str, Any] | None = None
) -> None:
    tokenizer.save_pretrained(folder)
    _write_json(folder / "preprocessor_config.json", images)
    if processor is not None:
        _write_json(folder / "processor_config.json", processor)


def _save_model(model_class: Any, config: Any, folder: Path, tokenizer: Any = None, *, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    if tokenizer is not None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return folder


def _train_sentencepiece(folder: Path, name: str, **ids: int) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 8), model_prefix=str(folder / name), vocab_size=120, bos_id=-1,
        hard_vocab_limit=False, byte_fallback=False, minloglevel=2, **ids,
    )  # fmt: skip
    (folder / f"{name}.vocab").unlink()
    (folder / f"{name}.model").rename(folder / "spiece.model")


def _pieces(folder: Path, name: str) -> int:
    return int(sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.model")).get_piece_size())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
