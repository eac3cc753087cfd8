"""Compares chord::model::LoadModelConfig with transformers' own classes on random model folders.

usage: config_parity.py PATH_TO_CONFIG_TOOL [COUNT]

Each folder is a random mixture of what checkpoints do: flat or nested config.json, the spellings of
rope, keys left out or null, lists or numbers, settings in preprocessor_config.json,
processor_config.json or both. What the reference classes read must be what Chord reads.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from transformers import AutoImageProcessor, GenerationConfig, Qwen2_5_VLConfig
from transformers.utils import logging

logging.set_verbosity_error()


def maybe(rng, target, key, value, chance=0.5, null=0.0):
    draw = rng.random()
    if draw < chance:
        target[key] = value
    elif draw < chance + null:
        target[key] = None


def random_text(rng):
    head_dim = rng.choice([16, 32, 64, 128])
    heads = rng.choice([2, 4, 8, 14, 16, 24])
    text = {
        "hidden_size": head_dim * heads,
        "num_hidden_layers": rng.randint(1, 40),
        "num_attention_heads": heads,
        "intermediate_size": rng.randint(8, 30000),
        "vocab_size": rng.choice([4096, 151936, 152064]),
    }
    kv = rng.choice([d for d in range(1, heads + 1) if heads % d == 0])
    # The reference class cannot run an absent key unless 8 divides the heads.
    maybe(rng, text, "num_key_value_heads", kv, 0.7 if heads % 8 == 0 else 0.9, 0.3)
    if heads % 8 != 0:
        text.setdefault("num_key_value_heads", None)
    maybe(rng, text, "rms_norm_eps", rng.choice([1e-6, 1e-5, 3e-6]), 0.8)
    maybe(rng, text, "max_position_embeddings", rng.choice([512, 32768, 128000]), 0.8)
    maybe(rng, text, "hidden_act", "silu")
    maybe(rng, text, "use_sliding_window", False)
    maybe(rng, text, "sliding_window", rng.choice([4096, 32768]))
    maybe(rng, text, "max_window_layers", rng.choice([0, 28, 80]))
    maybe(rng, text, "tie_word_embeddings", rng.random() < 0.5)
    maybe(rng, text, "eos_token_id", rng.choice([7, [7, 8]]))
    maybe(rng, text, rng.choice(["dtype", "torch_dtype"]), rng.choice(["bfloat16", "float32"]))
    half = head_dim // 2
    a = rng.randint(0, half)
    b = rng.randint(0, half - a)
    sections = [a, b, half - a - b]
    theta = rng.choice([1000000.0, 10000, 5e5, 1e6])
    style = rng.choice(["old", "4.5x", "5.x", "both"])
    # Left out only where the default of the reference fits.
    rope = {} if head_dim == 128 and rng.random() < 0.3 else {"mrope_section": sections}
    if style == "old":
        maybe(rng, text, "rope_theta", theta, 0.8)
        text["rope_scaling"] = {"type": "mrope", **rope}
    elif style == "4.5x":
        maybe(rng, text, "rope_theta", theta, 0.8)
        text["rope_scaling"] = {"type": "default", "rope_type": "default", **rope}
    else:
        text["rope_parameters"] = {"rope_type": rng.choice(["default", "mrope"]), **rope}
        maybe(rng, text["rope_parameters"], "rope_theta", theta, 0.8)
        maybe(rng, text["rope_parameters"], "type", "mrope", 0.3)
        maybe(rng, text, "rope_theta", 777.0, 0.3)
        if style == "both":
            text["rope_scaling"] = rng.choice([None, {}, {"type": "mrope", "rope_theta": 42.0, **rope}])
    return text


def random_vision(rng, out_hidden):
    head_dim = rng.choice([16, 32, 80])
    heads = rng.choice([2, 4, 16])
    vision = {"hidden_size": head_dim * heads, "out_hidden_size": out_hidden}
    if heads != 16 or rng.random() < 0.5:
        vision[rng.choice(["num_heads", "num_heads", "num_attention_heads"])] = heads
    depth = rng.randint(1, 40)
    maybe(rng, vision, "depth", depth, 0.8)
    maybe(rng, vision, "intermediate_size", rng.randint(8, 5000))
    maybe(rng, vision, "in_chans", 3)
    maybe(rng, vision, "in_channels", 3)
    maybe(rng, vision, "patch_size", rng.choice([14, [14, 14]]))
    maybe(rng, vision, "spatial_patch_size", 14)
    maybe(rng, vision, "temporal_patch_size", rng.choice([2, [2, 2]]))
    maybe(rng, vision, "spatial_merge_size", 2)
    maybe(rng, vision, "window_size", rng.choice([28, 56, 112, 224]))
    maybe(rng, vision, "fullatt_block_indexes", sorted(rng.sample(range(depth), min(depth, 3))))
    maybe(rng, vision, "tokens_per_second", 2)
    maybe(rng, vision, "hidden_act", "silu")
    return vision


def random_processor(rng):
    settings = {"image_processor_type": "Qwen2VLImageProcessor"}
    edges = {"shortest_edge": rng.choice([3136, 784, 50176]), "longest_edge": rng.choice([1003520, 12845056])}
    maybe(rng, settings, "size", edges)
    maybe(rng, settings, "min_pixels", rng.choice([3136, 4 * 784]), 0.4, 0.1)
    maybe(rng, settings, "max_pixels", rng.choice([250880, 12845056]), 0.4, 0.1)
    maybe(rng, settings, "image_mean", [0.5, 0.25, 0.125])
    maybe(rng, settings, "image_std", [0.5, 0.26130258, 0.3])
    maybe(rng, settings, "patch_size", 14)
    maybe(rng, settings, "merge_size", 2)
    maybe(rng, settings, "temporal_patch_size", 2)
    maybe(rng, settings, "resample", 3)
    maybe(rng, settings, "do_resize", True)
    maybe(rng, settings, "rescale_factor", 1 / 255)
    return settings


def write_folder(rng, folder):
    text = random_text(rng)
    top = {"model_type": "qwen2_5_vl", "vision_config": random_vision(rng, text["hidden_size"])}
    top["image_token_id"] = rng.choice([4094, 100])
    maybe(rng, top, "vision_start_token_id", 4091)
    maybe(rng, top, "vision_end_token_id", 4092)
    if rng.random() < 0.5:
        top["text_config"] = text
        maybe(rng, top, "tie_word_embeddings", rng.random() < 0.5)
        maybe(rng, top, rng.choice(["dtype", "torch_dtype"]), "float16")
        maybe(rng, top, "hidden_size", 1, 0.2)
        maybe(rng, top, "rope_scaling", {"type": "yarn"}, 0.2)
    else:
        top.update(text)
    (folder / "config.json").write_text(json.dumps(top, indent=rng.choice([None, 2])))

    generation = rng.random() < 0.7
    if generation:
        settings = {"eos_token_id": rng.choice([9, [9, 5], [5]])}
        maybe(rng, settings, "repetition_penalty", rng.choice([1.0, 1.05, 1.2]))
        maybe(rng, settings, "do_sample", True)
        maybe(rng, settings, "temperature", 1e-6)
        (folder / "generation_config.json").write_text(json.dumps(settings))
    where = rng.choice(["preprocessor", "processor", "both", "other"])
    if where != "processor":
        (folder / "preprocessor_config.json").write_text(json.dumps(random_processor(rng)))
    if where in ("processor", "both"):
        nested = {"image_processor": random_processor(rng), "processor_class": "Qwen2_5_VLProcessor"}
        (folder / "processor_config.json").write_text(json.dumps(nested))
    if where == "other":
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    return generation


def list_of(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def reference(folder, generation):
    # The image processor writes min_pixels and max_pixels into a dict shared by the whole class.
    from transformers import Qwen2VLImageProcessor

    Qwen2VLImageProcessor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    text, vision = config.text_config, config.vision_config
    gen = GenerationConfig.from_pretrained(folder) if generation else GenerationConfig.from_model_config(config)
    images = AutoImageProcessor.from_pretrained(folder)
    rope = text.rope_parameters
    plain = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
             "vocab_size", "max_position_embeddings")
    result = {"text": {key: getattr(text, key) for key in plain}}
    result["text"]["rms_norm_eps"] = float(np.float32(text.rms_norm_eps))
    result["text"]["rope_theta"] = float(rope["rope_theta"])
    result["text"]["mrope_section"] = rope.get("mrope_section", [16, 24, 24])
    result["text"]["tie_word_embeddings"] = config.tie_word_embeddings
    plain = ("depth", "hidden_size", "num_heads", "intermediate_size", "out_hidden_size", "in_channels",
             "spatial_merge_size", "window_size")
    result["vision"] = {key: getattr(vision, key) for key in plain}
    for key in ("patch_size", "temporal_patch_size"):
        result["vision"][key] = list_of(getattr(vision, key))[0]
    result["vision"]["fullatt_block_indexes"] = [i for i in vision.fullatt_block_indexes if i < vision.depth]
    result["ids"] = [config.image_token_id, config.vision_start_token_id, config.vision_end_token_id]
    dtype = text.dtype if text.dtype is not None else config.dtype
    result["dtype"] = "" if dtype is None else str(dtype).removeprefix("torch.")
    eos = [] if gen.eos_token_id is None else list_of(gen.eos_token_id)
    result["eos"] = [i for i in eos if i < text.vocab_size]
    result["penalty"] = 1.0 if gen.repetition_penalty is None else float(np.float32(gen.repetition_penalty))
    result["pixels"] = [images.size["shortest_edge"], images.size["longest_edge"]]
    result["mean"] = [float(np.float32(v)) for v in images.image_mean]
    result["std"] = [float(np.float32(v)) for v in images.image_std]
    return result


def main():
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    tool = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    failed = 0
    for seed in range(count):
        rng = random.Random(seed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            generation = write_folder(rng, folder)
            want = reference(folder, generation)
            tool.stdin.write(f"{name}\n")
            tool.stdin.flush()
            got = json.loads(tool.stdout.readline())
            if got != want:
                failed += 1
                for key in want:
                    if got.get(key) != want[key]:
                        print(f"seed {seed}: {key}: {got.get(key, got)} instead of {want[key]}")
                print((folder / "config.json").read_text())
    tool.stdin.close()
    tool.wait()
    print(f"{count - failed} of {count} folders are read as transformers reads them")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
