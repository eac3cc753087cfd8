"""Small random checkpoints of the Qwen2.5-VL architecture, each odd in its own way.

Written by hand and not by save_pretrained, so that every spelling of config.json and of the tensor
names that exists in the wild is covered. Norm weights are not 1 and biases not 0, else a dropped
one would go unnoticed; the head is scaled so that greedy choices are decided by more than rounding.
"""
import dataclasses
import json
import math
import os
import pathlib
import shutil

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Case:
    name: str
    why: str
    text: dict
    vision: dict
    nested: bool = False
    rope: str = "old"  # "old", "mid", "new": the three spellings of spec §1.2
    theta: float = 1e6
    names: str = "old"  # "old", "new": the two namings of spec §9.2
    dtype: str = "bfloat16"
    shard_bytes: int = 0
    tied: bool = False
    tokenizer: str = "nano"
    vocab: int = 4096
    generation: dict = dataclasses.field(default_factory=lambda: {"repetition_penalty": 1.05})
    pixels: tuple = (3136, 28 * 28 * 36)
    head: str = ""  # of a tied checkpoint: "stored" beside the embedding and another, or "alone"
    merge: int = 2
    temporal: int = 2


def text(hidden, layers, heads, kv, inner, sections, eps=1e-6):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv, intermediate_size=inner, rms_norm_eps=eps,
                sections=sections)


def vision(hidden, depth, heads, inner, full, window=112, patch=14):
    return dict(hidden_size=hidden, depth=depth, num_heads=heads, intermediate_size=inner,
                fullatt_block_indexes=full, window_size=window, patch_size=patch)


CASES = [
    Case("plain", "flat config, old names, the default of hub checkpoints",
         text(64, 2, 4, 2, 96, [2, 3, 3]), vision(64, 4, 4, 84, [1, 3])),
    Case("tied_nested", "nested config, new rope spelling, new names, tied head, float32 stored",
         text(64, 3, 4, 4, 100, [2, 3, 3], eps=1e-5), vision(64, 3, 2, 90, [2]), nested=True,
         rope="new", names="new", dtype="float32", tied=True),
    Case("gqa7", "seven query heads on one kv head, float16 stored",
         text(112, 2, 7, 1, 150, [2, 3, 3]), vision(96, 3, 6, 100, [0]), rope="mid",
         dtype="float16", theta=1e4),
    Case("sharded", "several shards, end id a single number, strong penalty",
         text(96, 3, 6, 3, 130, [2, 2, 4], eps=1e-4), vision(48, 3, 4, 60, [1]), shard_bytes=400_000,
         generation={"repetition_penalty": 1.3, "eos_token_id": 4084}),
    Case("sharded_new", "several shards of the new names in float32, head size 32",
         text(192, 2, 6, 2, 200, [4, 6, 6]), vision(64, 2, 4, 84, [1]), nested=True, rope="mid",
         names="new", dtype="float32", shard_bytes=1_000_000, generation={}),
    Case("real_heads", "head sizes 128 and 80, the real vocabulary and tokenizer, tied",
         text(256, 3, 2, 1, 344, [16, 24, 24]), vision(160, 4, 2, 216, [1, 3]), tied=True,
         tokenizer="qwen", vocab=151936, pixels=(3136, 28 * 28 * 20)),
    Case("real_vocab", "152064 rows, of which the tokenizer knows fewer; untied",
         text(64, 2, 2, 1, 96, [4, 6, 6]), vision(32, 2, 2, 44, [1]), nested=True, rope="new",
         tokenizer="qwen", vocab=152064, pixels=(3136, 28 * 28 * 12)),
    Case("windows_only", "no block attends to the whole image, small windows",
         text(64, 2, 4, 1, 80, [2, 3, 3]), vision(64, 3, 4, 68, [], window=56), dtype="float32"),
    Case("full_only", "every block attends to the whole image",
         text(64, 2, 2, 2, 80, [4, 6, 6]), vision(64, 2, 4, 68, [0, 1]), names="new",
         generation={"repetition_penalty": 1.0, "eos_token_id": [4084, 4082]}),
    Case("patch16", "another patch size, head size 8, many kv heads",
         text(64, 2, 8, 4, 72, [1, 1, 2]), vision(80, 3, 5, 76, [2], window=128, patch=16),
         rope="new", nested=True, pixels=(4096, 32 * 32 * 30)),
    Case("wide_mlp", "vision sides that are no multiple of any register, deep text",
         text(72, 6, 3, 3, 333, [4, 4, 4]), vision(36, 5, 3, 77, [0, 4]), dtype="float16",
         tied=True),
    Case("tied_but_two", "a tied config whose file has a head of its own, which counts",
         text(64, 2, 4, 2, 96, [2, 3, 3]), vision(64, 2, 4, 84, [1]), tied=True, head="stored"),
    Case("tied_head_alone", "a tied matrix stored under the head's name; sections of nothing",
         text(64, 2, 4, 1, 96, [0, 8, 0]), vision(64, 2, 4, 84, [1]), nested=True, rope="new",
         tied=True, head="alone", dtype="float32"),
    Case("merge3", "three by three patches a cell, one frame, windows that no cell divides",
         text(64, 2, 4, 2, 96, [2, 3, 3]), vision(48, 3, 3, 70, [1], window=100, patch=8), merge=3,
         temporal=1, pixels=(1, 24 * 24 * 50)),
    Case("merge1", "cells of one patch",
         text(64, 2, 4, 2, 96, [2, 3, 3]), vision(48, 3, 3, 70, [2, 2, 9], window=45), merge=1,
         pixels=(196, 14 * 14 * 60)),
]


def tokenizer_dir(kind):
    shared = pathlib.Path(os.environ.get("CHORD_SHARED", ROOT.parent / "shared"))
    if kind == "qwen":
        folder = shared / "data" / "qwen-tokenizer"
        return folder if (folder / "tokenizer.json").exists() else None
    for folder in (ROOT / "models" / "chord-nano", shared / "models" / "chord-nano"):
        if (folder / "tokenizer.json").exists():
            return folder
    return None


def special_ids(kind):
    base = 151643 if kind == "qwen" else 4082
    names = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start",
             "box_end", "quad_start", "quad_end", "vision_start", "vision_end", "vision_pad",
             "image_pad", "video_pad"]
    return {name: base + i for i, name in enumerate(names)}


def rope_fields(case):
    sections = case.text["sections"]
    if case.rope == "old":
        return {"rope_theta": case.theta, "rope_scaling": {"type": "mrope", "mrope_section": sections}}
    if case.rope == "mid":
        return {"rope_theta": case.theta,
                "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": sections}}
    return {"rope_parameters": {"rope_theta": case.theta, "rope_type": "default", "type": "mrope",
                                "mrope_section": sections}}


def config_of(case):
    ids = special_ids(case.tokenizer)
    body = {k: v for k, v in case.text.items() if k != "sections"}
    body.update(rope_fields(case))
    body.update(vocab_size=case.vocab, hidden_act="silu", max_position_embeddings=32768,
                use_sliding_window=False, sliding_window=4096, max_window_layers=2,
                attention_dropout=0.0, initializer_range=0.02, use_cache=True,
                bos_token_id=ids["endoftext"], eos_token_id=ids["im_end"])
    seen = dict(case.vision, model_type="qwen2_5_vl", hidden_act="silu", in_chans=3,
                out_hidden_size=case.text["hidden_size"], spatial_merge_size=case.merge,
                temporal_patch_size=case.temporal, tokens_per_second=2)
    config = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
              "image_token_id": ids["image_pad"], "video_token_id": ids["video_pad"],
              "vision_start_token_id": ids["vision_start"],
              "vision_end_token_id": ids["vision_end"], "vision_token_id": ids["vision_pad"],
              "vision_config": seen}
    dtype_key = "dtype" if case.nested else "torch_dtype"
    config[dtype_key] = case.dtype
    if case.nested:
        body.update(model_type="qwen2_5_vl_text", tie_word_embeddings=case.tied)
        config["text_config"] = body
        config["tie_word_embeddings"] = case.tied
    else:
        config.update(body, tie_word_embeddings=case.tied)
    return config


def write_tokenizer(case, out):
    source = tokenizer_dir(case.tokenizer)
    shutil.copy(source / "tokenizer.json", out)
    nano = tokenizer_dir("nano")
    tokenizer_config = json.loads((nano / "tokenizer_config.json").read_text())
    if case.tokenizer == "qwen":
        tokenizer_config["added_tokens_decoder"] = {
            str(id_): dict(content=f"<|{name}|>", lstrip=False, rstrip=False, normalized=False,
                           single_word=False, special=True)
            for name, id_ in special_ids("qwen").items()}
        tokenizer_config["model_max_length"] = 131072
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    shutil.copy(nano / "chat_template.json", out)
    for file in out.iterdir():
        file.chmod(0o644)


def random_weights(case, seed):
    """name (in memory) -> tensor, in the stored dtype."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(config_of(case)))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in model.named_parameters():
        shape = parameter.shape
        noise = torch.randn(shape, generator=generator)
        if name.endswith("bias"):
            value = 0.3 * noise
        elif "norm" in name or "ln_q" in name:
            value = 1 + 0.3 * noise
        elif "embed_tokens" in name:
            value = noise * (4 / math.sqrt(shape[1]) if case.tied else 1)
        elif "lm_head" in name:
            value = noise * 4 / math.sqrt(shape[1])
        else:
            value = noise / math.sqrt(shape[1:].numel())
        weights[name] = value.to(getattr(torch, case.dtype))
    embedding = "model.language_model.embed_tokens.weight"
    if case.head == "stored":
        weights["lm_head.weight"] = weights[embedding].roll(1, 0)
    elif case.head == "alone":
        weights["lm_head.weight"] = weights.pop(embedding)
    elif case.tied:
        weights.pop("lm_head.weight", None)
    return weights


def stored_name(name, names):
    if names == "new":
        return name
    for prefix, old in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if name.startswith(prefix):
            return old + name[len(prefix):]
    return name


def write_weights(case, weights, out):
    from safetensors.torch import save_file

    tensors = {stored_name(name, case.names): value.contiguous() for name, value in weights.items()}
    if not case.shard_bytes:
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return
    shards, size = [{}], 0
    for name, value in tensors.items():
        if size and size + value.nbytes > case.shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in shard})
    total = sum(value.nbytes for value in tensors.values())
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))


def write_case(case, out, seed):
    """Returns False when the tokenizer this case needs is not at hand."""
    if tokenizer_dir(case.tokenizer) is None:
        return False
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    ids = special_ids(case.tokenizer)
    (out / "config.json").write_text(json.dumps(config_of(case), indent=1))
    generation = {"bos_token_id": ids["endoftext"], "pad_token_id": ids["endoftext"],
                  "do_sample": True, "temperature": 1e-6,
                  "eos_token_id": [ids["im_end"], ids["endoftext"]]}
    generation.update(case.generation)
    (out / "generation_config.json").write_text(json.dumps(generation))
    (out / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": case.pixels[0], "max_pixels": case.pixels[1],
        "patch_size": case.vision["patch_size"], "temporal_patch_size": case.temporal, "merge_size": case.merge,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711]}))
    write_tokenizer(case, out)
    write_weights(case, random_weights(case, seed), out)
    return True


if __name__ == "__main__":
    import sys

    for index, case_ in enumerate(CASES):
        target = pathlib.Path(sys.argv[1]) / case_.name
        made = write_case(case_, target, seed=1000 + index)
        print(f"{case_.name:14s} {'' if made else 'SKIPPED (no tokenizer): '}{case_.why}")
