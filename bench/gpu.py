"""Real model sizes on a GPU: floors, transformers, the engine by stage, and three processes.

  python bench/gpu.py --bin build/bin --out out/gpu [--shapes 3b,7b] [--steps floors,engine,service]

Makes random checkpoints of the 3B and the 7B shape (bf16, Hugging Face layout, written tensor by
tensor), then measures on the same device, in the same run:

  floors        device copy, one large product
  transformers  the vision tower, the prefill, a decode step (eager, sdpa)
  engine        tower_steps (from pixels, from patches; our kernels and cuBLASLt's) and in_process
  service       chord serve and chord bench at 1, 8 and 32 clients, --new-tokens each, the grammar off

and writes gpu.json, gpu.md and gpu.png into --out. Needs torch; `transformers` also its package. No
network. --lib-dir is a folder of shared libraries for programs that were built on another system
(torch's own are found beside Python's torch).
"""

import argparse
import gc
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
NANO = ROOT / "models" / "chord-nano"
STEPS = ("floors", "transformers", "engine", "service")

VISION = dict(model_type="qwen2_5_vl", depth=32, hidden_act="silu", hidden_size=1280, intermediate_size=3420,
              num_heads=16, in_channels=3, in_chans=3, patch_size=14, spatial_patch_size=14, spatial_merge_size=2,
              temporal_patch_size=2, tokens_per_second=2, window_size=112, fullatt_block_indexes=[7, 15, 23, 31])
SHAPES = {
    "3b": dict(hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
               num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True),
    "7b": dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
               num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False),
}


# --- checkpoints ----------------------------------------------------------------------------------

def config_of(shape):
    """config.json of a shape, with the special ids of chord-nano's tokenizer."""
    nano = json.loads((NANO / "config.json").read_text())
    ids = {k: v for k, v in nano.items() if k.endswith("_token_id")}
    return dict(architectures=["Qwen2_5_VLForConditionalGeneration"], model_type="qwen2_5_vl", hidden_act="silu",
                max_position_embeddings=128000, rms_norm_eps=1e-6, rope_theta=1e6, use_sliding_window=False,
                rope_scaling=dict(type="mrope", mrope_section=[16, 24, 24]), torch_dtype="bfloat16", **ids,
                **SHAPES[shape], vision_config=dict(VISION, out_hidden_size=SHAPES[shape]["hidden_size"]))


def tensors_of(config):
    """Names and shapes, in the order of the file."""
    def linear(name, out, into, bias):
        yield name + ".weight", (out, into)
        if bias:
            yield name + ".bias", (out,)

    v = config["vision_config"]
    width, inner, merged = v["hidden_size"], v["intermediate_size"], 4 * v["hidden_size"]
    yield "visual.patch_embed.proj.weight", (width, 3, 2, 14, 14)
    for i in range(v["depth"]):
        block = f"visual.blocks.{i}."
        yield block + "norm1.weight", (width,)
        yield block + "norm2.weight", (width,)
        yield from linear(block + "attn.qkv", 3 * width, width, True)
        yield from linear(block + "attn.proj", width, width, True)
        yield from linear(block + "mlp.gate_proj", inner, width, True)
        yield from linear(block + "mlp.up_proj", inner, width, True)
        yield from linear(block + "mlp.down_proj", width, inner, True)
    yield "visual.merger.ln_q.weight", (width,)
    yield from linear("visual.merger.mlp.0", merged, merged, True)
    yield from linear("visual.merger.mlp.2", v["out_hidden_size"], merged, True)
    h, i = config["hidden_size"], config["intermediate_size"]
    kv = h // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], h)
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        yield layer + "input_layernorm.weight", (h,)
        yield layer + "post_attention_layernorm.weight", (h,)
        yield from linear(layer + "self_attn.q_proj", h, h, True)
        yield from linear(layer + "self_attn.k_proj", kv, h, True)
        yield from linear(layer + "self_attn.v_proj", kv, h, True)
        yield from linear(layer + "self_attn.o_proj", h, h, False)
        yield from linear(layer + "mlp.gate_proj", i, h, False)
        yield from linear(layer + "mlp.up_proj", i, h, False)
        yield from linear(layer + "mlp.down_proj", h, i, False)
    yield "model.norm.weight", (h,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], h)


def make_checkpoint(shape, folder):
    """A random checkpoint; one that is there already, by its size, is kept."""
    import torch
    config = config_of(shape)
    header, offset = {}, 0
    for name, sides in tensors_of(config):
        size = 2
        for side in sides:
            size *= side
        header[name] = dict(dtype="BF16", shape=list(sides), data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = folder / "model.safetensors"
    if file.exists() and file.stat().st_size == 8 + len(text) + offset:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.json"):
        shutil.copy(NANO / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    preprocessor = json.loads((NANO / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(dict(preprocessor, min_pixels=3136, max_pixels=12845056)))
    generation = json.loads((NANO / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(dict(generation, repetition_penalty=1.05)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator(device).manual_seed(1)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, sides in tensors_of(config):
            values = torch.empty(sides, dtype=torch.bfloat16, device=device)
            if "norm" in name or "ln_q" in name:
                values.fill_(1)
            else:
                values.normal_(0, 0.02, generator=random)
            out.write(values.view(torch.int16).cpu().numpy().tobytes())


def make_images(folder, count=10):
    """JPEG files of 1024x768 that look like photographs to the decoder: smooth noise of several scales."""
    import numpy as np
    from PIL import Image
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for i in range(count):
        pixels = np.zeros((768, 1024, 3))
        for scale in (4, 16, 64):
            small = random.integers(0, 256, (768 // scale + 1, 1024 // scale + 1, 3), dtype=np.uint8)
            pixels += np.asarray(Image.fromarray(small).resize((1024, 768), Image.BICUBIC)) * {4: 0.2, 16: 0.3, 64: 0.5}[scale]
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"image_{i}.jpg", quality=90)
    return sorted(folder.glob("*.jpg"))


# --- measurements ---------------------------------------------------------------------------------

def milliseconds(fn, rounds):
    """Median of `rounds` calls by device events."""
    import torch
    for _ in range(2):
        fn()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        fn()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def floors():
    import torch
    a = torch.empty(1 << 31, dtype=torch.uint8, device="cuda").random_()
    b = torch.empty_like(a)
    copy = milliseconds(lambda: b.copy_(a), 10)
    x, y = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    product = milliseconds(lambda: x @ y, 10)
    return dict(device=torch.cuda.get_device_name(), copy_tb_s=2 * a.numel() / copy / 1e9,
                gemm_tflop_s=2 * 8192**3 / product / 1e9)


def with_transformers(folder):
    """The reference: its tower, its prefill and its decode steps on the same weights."""
    import torch
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda",
                                                               attn_implementation="sdpa").eval()
    config = AutoConfig.from_pretrained(folder)
    grid = torch.tensor([[1, 54, 74]], device="cuda")
    patches = torch.randn(3996, 1176, device="cuda").bfloat16()
    image, start, end = (config.image_token_id, config.vision_start_token_id, config.vision_end_token_id)
    ids = torch.tensor([[1] * 20 + [start] + [image] * 999 + [end] + [2] * 18], device="cuda")
    common = dict(pixel_values=patches, image_grid_thw=grid, attention_mask=torch.ones_like(ids))
    if "mm_token_type_ids" in Qwen2_5_VLForConditionalGeneration.forward.__code__.co_varnames:
        common["mm_token_type_ids"] = (ids == image).int()
    with torch.inference_mode():
        tower = milliseconds(lambda: model.model.visual(patches, grid_thw=grid), 10)

        def generate(tokens):
            model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **common)
            torch.cuda.synchronize()
        one = milliseconds(lambda: generate(1), 4)
        many = milliseconds(lambda: generate(65), 3)
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return dict(tower_ms=tower, prefill_ms=one - tower, decode_ms=(many - one) / 64, total_ms=many)


class Programs:
    def __init__(self, args):
        self.bin = pathlib.Path(args.bin).resolve()
        self.device = args.device
        import torch
        site = pathlib.Path(torch.__file__).parent
        folders = [site / "lib", *sorted((site.parent / "nvidia").glob("*/lib"))]
        if args.lib_dir:
            folders.insert(0, pathlib.Path(args.lib_dir).resolve())
        path = ":".join([*map(str, folders), os.environ.get("LD_LIBRARY_PATH", "")])
        self.env = dict(os.environ, LD_LIBRARY_PATH=path)

    def run(self, *command, text=None):
        done = subprocess.run([str(self.bin / command[0]), *map(str, command[1:])], input=text, env=self.env,
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]}: {done.stderr.strip()[-2000:]}")
        return done.stdout


def engine(programs, folder, images, new_tokens):
    sizes = ["756x1036", ",".join(["756x1036"] * 4), "364x364"]
    out = dict(tower={})
    for name, device in (("own", programs.device), ("portable", programs.device + ":portable")):
        for line in programs.run("tower_steps", folder, device, 20, *sizes).splitlines():
            row = json.loads(line)
            if "batch" in row:
                out["tower"][f"{name} {row['patches']}"] = row
            else:
                out[f"{name}_load_ms"] = row["load_ms"]
    # One image several times: the first answers warm up.
    lines = "".join(f"{images[0]}\tall cats\n" for _ in range(8))
    rows = [json.loads(line) for line in programs.run("in_process", folder, programs.device, text=lines).splitlines()]
    out["in_process"] = {key: statistics.median(row[key] for row in rows[3:]) for key in rows[0]}
    out["in_process"]["decode_ms_per_token"] = out["in_process"]["decode_ms"] / max(1, out["in_process"]["tokens"] - 1)
    return out


class Service:
    """chord serve until the end of the block."""

    def __init__(self, programs, folder, flags):
        self.dir = tempfile.TemporaryDirectory(prefix="chord-gpu-")
        self.log = open(pathlib.Path(self.dir.name) / "log", "w+b")
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [str(programs.bin / "chord"), "serve", "--model", str(folder), "--http", "127.0.0.1:0", "--grpc",
             "127.0.0.1:0", "--vision-device", programs.device, "--language-device", programs.device, *flags],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env=dict(programs.env, XDG_RUNTIME_DIR=self.dir.name))
        text = "".join(self.process.stdout.readline() for _ in range(3))
        found = re.search(r"gRPC\s+(\S+)", text)
        if not found:
            self.__exit__()
            raise RuntimeError(f"chord serve did not start: {text} {self.text()[-3000:]}")
        self.address, self.ready_s = found.group(1), time.perf_counter() - begin

    def text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def service(programs, folder, images, new_tokens, seconds, flags):
    out = dict(clients={})
    with Service(programs, folder, flags) as chord:
        out["ready_s"] = chord.ready_s
        for clients in (1, 8, 32):
            row = json.loads(programs.run(
                "chord", "bench", images[0].parent, "--prompt", "all cats", "--json", "--server", chord.address,
                "--concurrency", clients, "--duration", seconds, "--warmup", 3, "--grammar", "off",
                "--max-new-tokens", new_tokens))
            stages = {name: value["p50"] for name, value in row.get("stages_seconds", {}).items()}
            out["clients"][clients] = dict(
                rps=row["completed_rps"], errors=row["errors"],
                total_ms=1e3 * (row["total_seconds"]["p50"] or float("nan")),
                ttft_ms=1e3 * (row["ttft_seconds"]["p50"] or float("nan")),
                stages_ms={name: 1e3 * value for name, value in stages.items() if value is not None})
        begin = time.perf_counter()
        row = json.loads(programs.run(
            "chord", "bench", images[0].parent, "--prompt", "all cats", "--json", "--server", chord.address,
            "--concurrency", 10, "--duration", seconds, "--warmup", 1, "--grammar", "off", "--max-new-tokens", new_tokens))
        out["batch_of_10"] = dict(rps=row["completed_rps"], wall_s=time.perf_counter() - begin)
        out["log"] = [line for line in chord.text().splitlines() if "kv" in line.lower() or "memory" in line.lower()][:20]
    return out


# --- results --------------------------------------------------------------------------------------

def rows_of(name, result, floor):
    """(what, Chord, transformers) of one shape, in ms unless the name says otherwise."""
    e, t, s = (result.get(k, {}) for k in ("engine", "transformers", "service"))
    process = e.get("in_process", {})
    tower = e.get("tower", {}).get("own 3996", {})
    yield f"{name}: tower, 3996 patches", tower.get("pixels_median"), t.get("tower_ms")
    yield f"{name}: tower, cuBLASLt", e.get("tower", {}).get("portable 3996", {}).get("pixels_median"), None
    yield f"{name}: file to pixels", process.get("pixels_ms"), None
    yield f"{name}: prefill", process.get("prefill_ms"), t.get("prefill_ms")
    yield f"{name}: decode, a token", process.get("decode_ms_per_token"), t.get("decode_ms")
    for clients, row in s.get("clients", {}).items():
        yield f"{name}: whole request, {clients} at once", row["total_ms"], t.get("total_ms") if str(clients) == "1" else None
        yield f"{name}: requests/s, {clients} at once", row["rps"], None
    if "batch_of_10" in s:
        yield f"{name}: requests/s, 10 at once", s["batch_of_10"]["rps"], None


def write(out, results):
    (out / "gpu.json").write_text(json.dumps(results, indent=1))
    floor = results.get("floors", {})
    cell = lambda x: "–" if x is None else f"{x:.2f}"
    lines = []
    if floor:
        lines += [f"{floor['device']}: copy {floor['copy_tb_s']:.2f} TB/s, product {floor['gemm_tflop_s']:.0f} TFLOP/s", ""]
    lines += ["| | Chord | transformers | ratio |", "|---|---|---|---|"]
    rows = [row for shape in SHAPES if shape in results for row in rows_of(shape.upper(), results[shape], floor)]
    for what, chord, reference in rows:
        ratio = f"{reference / chord:.1f} ×" if chord and reference else "–"
        lines.append(f"| {what} | {cell(chord)} | {cell(reference)} | {ratio} |")
    (out / "gpu.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    both = [row for row in rows if row[1] and row[2]]
    if not both:
        return
    figure, axis = pyplot.subplots(figsize=(9, 1 + 0.6 * len(both)))
    at = range(len(both))
    axis.barh([i + 0.2 for i in at], [row[2] for row in both], 0.4, label="transformers", color="#b0b0b0")
    axis.barh([i - 0.2 for i in at], [row[1] for row in both], 0.4, label="Chord", color="#2060c0")
    axis.set_yticks(list(at), [row[0] for row in both])
    axis.set_xscale("log")
    axis.set_xlabel("ms (logarithmic)")
    axis.legend()
    figure.tight_layout()
    figure.savefig(out / "gpu.png", dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "build" / "bin"))
    parser.add_argument("--out", default=str(ROOT / "out" / "gpu"))
    parser.add_argument("--work", default=str(pathlib.Path(tempfile.gettempdir()) / "chord-gpu"),
                        help="where the checkpoints go: 8 GB for 3b, 17 GB for 7b")
    parser.add_argument("--lib-dir")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", default="3b,7b")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10, help="of each number of clients")
    parser.add_argument("--serve-flag", action="append", default=[])
    args = parser.parse_args()
    shapes, steps = args.shapes.split(","), args.steps.split(",")
    if unknown := [x for x in shapes if x not in SHAPES] + [x for x in steps if x not in STEPS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    out, work = pathlib.Path(args.out), pathlib.Path(args.work)
    out.mkdir(parents=True, exist_ok=True)
    programs = Programs(args)
    images = make_images(work / "images")
    results = {}
    if "floors" in steps:
        results["floors"] = floors()
    failed = False
    for shape in shapes:
        folder = work / shape
        begin = time.perf_counter()
        make_checkpoint(shape, folder)
        result = results[shape] = dict(checkpoint_s=time.perf_counter() - begin)
        jobs = dict(transformers=lambda: with_transformers(folder),
                    engine=lambda: engine(programs, folder, images, args.new_tokens),
                    service=lambda: service(programs, folder, images, args.new_tokens, args.seconds, args.serve_flag))
        for step, job in jobs.items():
            if step not in steps:
                continue
            try:
                result[step] = job()
            except (RuntimeError, OSError, ImportError, KeyError, ValueError) as error:
                failed = True
                result[step + "_error"] = str(error)
                print(f"{shape}, {step}: {error}", file=sys.stderr)
            write(out, results)  # after every step: a later one may not come to its end
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
