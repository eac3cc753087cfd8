"""Writes a trained model as a Hugging Face Qwen2.5-VL directory that Chord and transformers read."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from .model import Config
from .tokenizer import SPECIAL, SYSTEM
from .train import MEAN, STD

MAX_POSITIONS = 4096
MIN_PIXELS, MAX_PIXELS = 224 * 224, 560 * 448
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def export_checkpoint(work: Path, out: Path, name: str) -> None:
    """The averaged weights of a run, in bf16."""
    recipe = json.loads((work / "recipe.json").read_text())
    config = Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in recipe["model"].items()})
    state = torch.load(work / "checkpoint.pt", map_location="cpu", weights_only=True)
    export(state["averaged"], config, work / "tokenizer.json", out, name)


def export(weights: dict[str, Tensor], config: Config, tokenizer: Path, out: Path, name: str,
           dtype: torch.dtype = torch.bfloat16) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tensors = {_published_name(k): v.to(dtype).contiguous() for k, v in sorted(weights.items())}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    ids = Tokenizer.from_file(str(tokenizer))
    special = {s: ids.token_to_id(s) for s in SPECIAL}
    files = {
        "config.json": _config(config, special, dtype),
        "generation_config.json": {
            "bos_token_id": special["<|endoftext|>"], "pad_token_id": special["<|endoftext|>"],
            "do_sample": False, "eos_token_id": [special["<|im_end|>"], special["<|endoftext|>"]],
            "repetition_penalty": 1.0},
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS, "patch_size": config.patch,
            "temporal_patch_size": 2, "merge_size": config.merge,
            "image_mean": list(MEAN), "image_std": list(STD)},
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "tokenizer_config.json": _tokenizer_config(special),
        "chord.json": {"name": name, "prompt_wrapper": "none", "label_passes": "per_label"},
    }
    for file, content in files.items():
        (out / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, out / "tokenizer.json")


def _published_name(name: str) -> str:
    """transformers' module names -> those of the published checkpoints; the head is tied, not stored."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def _config(c: Config, special: dict[str, int], dtype: torch.dtype) -> dict:
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
        "vocab_size": c.vocab, "hidden_size": c.width, "intermediate_size": c.mlp,
        "num_hidden_layers": c.depth, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
        "hidden_act": "silu", "max_position_embeddings": MAX_POSITIONS, "rms_norm_eps": c.eps,
        "rope_theta": c.theta, "rope_scaling": {"type": "mrope", "mrope_section": list(c.sections)},
        "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
        "use_sliding_window": False, "sliding_window": MAX_POSITIONS, "max_window_layers": c.depth,
        "tie_word_embeddings": True, "torch_dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": special["<|endoftext|>"], "eos_token_id": special["<|im_end|>"],
        "vision_start_token_id": special["<|vision_start|>"],
        "vision_end_token_id": special["<|vision_end|>"], "vision_token_id": special["<|vision_pad|>"],
        "image_token_id": special["<|image_pad|>"], "video_token_id": special["<|video_pad|>"],
        "vision_config": {
            "model_type": "qwen2_5_vl", "depth": c.vision_depth, "hidden_act": "silu",
            "hidden_size": c.vision_width, "intermediate_size": c.vision_mlp, "num_heads": c.vision_heads,
            "in_chans": 3, "in_channels": 3, "out_hidden_size": c.width, "patch_size": c.patch,
            "spatial_patch_size": c.patch, "spatial_merge_size": c.merge, "temporal_patch_size": 2,
            "tokens_per_second": 2, "window_size": c.window,
            "fullatt_block_indexes": list(c.full_blocks)},
    }


def _tokenizer_config(special: dict[str, int]) -> dict:
    return {
        "tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "add_bos_token": False,
        "add_prefix_space": False, "clean_up_tokenization_spaces": False, "errors": "replace",
        "model_max_length": MAX_POSITIONS, "split_special_tokens": False, "chat_template": CHAT_TEMPLATE,
        "added_tokens_decoder": {
            str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False, "special": True} for s, i in special.items()},
    }
