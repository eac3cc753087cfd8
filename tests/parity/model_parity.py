"""Whole-model parity: the engine (chord-inspect) against transformers, live.

    model_parity.py --inspect build/bin/chord-inspect [--work DIR] [--device cpu|cuda]
                    [--only NAME]... [--model DIR --scenes scenes.json]

Without --model: the random checkpoints of make_checkpoints.py, each with no, one and two images.
With it: that checkpoint on a folder of images and prompts, [{"file": ..., "prompt": ...}], tokens
only. Exit code 0: all equal within the spec's tolerances (§10.4); 1: not; 77: no oracle here.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

try:
    import numpy
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    import oracle
except ImportError as error:
    print(f"skipped: no oracle here ({error})")
    sys.exit(77)

import make_checkpoints

# Relative L2 of the difference, float32 (three times what two orders of summation differ by).
EMBEDDINGS_LIMIT = 1.2e-5
LOGITS_LIMIT = 4e-5
# bf16: how much further from float32 than transformers' own bf16 the engine may be.
BF16_FACTOR = 1.2
TOKENS = 64


def make_images(folder):
    """Sizes that round up, down and to partial windows; smooth, noisy and edged."""
    rng = numpy.random.default_rng(7)
    images = {}
    for name, (width, height) in {"a": (97, 61), "b": (45, 130), "c": (301, 43)}.items():
        y, x = numpy.mgrid[0:height, 0:width]
        smooth = numpy.stack([x * 255 / width, y * 255 / height, (x + y) * 127 / (width + height)], 2)
        noise = rng.integers(0, 256, (height, width, 3))
        edges = ((x // 9 + y // 7) % 2 * 255)[:, :, None]
        mixed = numpy.where(x[:, :, None] < width // 3, smooth,
                            numpy.where(x[:, :, None] < 2 * width // 3, noise, edges))
        images[name] = folder / f"{name}.png"
        Image.fromarray(mixed.astype(numpy.uint8)).save(images[name])
    return images


class Engine:
    def __init__(self, program, model, work, device):
        self.program, self.model, self.work, self.device = program, model, work, device

    def run(self, stage, images, prompt, dtype="fp32", tokens=TOKENS):
        out = self.work / "out.safetensors"
        out.unlink(missing_ok=True)
        command = [self.program, "--model", self.model, "--prompt", prompt, "--stage", stage,
                   "--out", out, "--dtype", dtype, "--max-new-tokens", str(tokens),
                   "--device", self.device]
        for image in images:
            command += ["--image", image]
        result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{stage}: {result.stderr.strip()}")
        return load_file(out)


def distance(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


class Table:
    def __init__(self):
        self.failures = 0
        print(f"{'checkpoint':14s} {'prompt':10s} {'point':12s} {'value':>12s} {'limit':>10s}")

    def row(self, case, prompt, point, value, limit, good):
        shown = value if isinstance(value, str) else f"{value:.2e}"
        bound = limit if isinstance(limit, str) else f"{limit:.1e}"
        print(f"{case:14s} {prompt:10s} {point:12s} {shown:>12s} {bound:>10s}"
              f"{'' if good else '  FAILED'}", flush=True)
        self.failures += not good

    def exact(self, case, prompt, point, ours, theirs):
        good = ours.shape == theirs.shape and torch.equal(ours, theirs)
        self.row(case, prompt, point, "equal" if good else "differs", "equal", good)

    def near(self, case, prompt, point, ours, theirs, limit):
        value = distance(ours, theirs) if ours.shape == theirs.shape else float("inf")
        self.row(case, prompt, point, value, limit, value <= limit)


def compare(table, name, engine, reference, rounded, label, images, prompt):
    inputs = reference.inputs(images, prompt)
    if images:
        pixels = engine.run("pixels", images, prompt)
        table.exact(name, label, "pixels", pixels["pixel_values"], inputs["pixel_values"].cpu())
        table.exact(name, label, "grid", pixels["image_grid_thw"], inputs["image_grid_thw"].cpu())
        theirs = reference.embeddings(inputs)
        ours = engine.run("embeddings", images, prompt)["image_embeds"]
        table.near(name, label, "embeddings", ours, theirs, EMBEDDINGS_LIMIT)
        if rounded:
            bf16(table, name, label, "embeddings",
                 engine.run("embeddings", images, prompt, "bf16")["image_embeds"],
                 rounded.embeddings(inputs), theirs)
    ours = engine.run("logits", images, prompt)
    theirs = reference.logits(inputs)
    table.exact(name, label, "ids", ours["input_ids"], inputs["input_ids"][0].cpu())
    table.exact(name, label, "positions", ours["position_ids"], reference.positions(inputs))
    table.near(name, label, "logits", ours["logits"], theirs, LOGITS_LIMIT)
    table.exact(name, label, "argmax", ours["logits"].argmax(-1), theirs.argmax(-1))
    if rounded:
        bf16(table, name, label, "logits", engine.run("logits", images, prompt, "bf16")["logits"],
             rounded.logits(inputs), theirs)
    tokens = engine.run("tokens", images, prompt)
    table.exact(name, label, "tokens", tokens["tokens"], reference.tokens(inputs, TOKENS))
    return tokens["tokens"]


def bf16(table, name, label, point, ours, theirs, exact):
    ratio = distance(ours, exact) / distance(theirs, exact)
    table.row(name, label, f"bf16 {point[:6]}", f"{ratio:.2f}", f"{BF16_FACTOR:.2f}",
              ratio <= BF16_FACTOR)


def stops_at_end(table, name, engine, folder, images, prompt, tokens):
    """The answer ends with the first end id, which is part of it, also when it is one of a list."""
    end = int(tokens[9])
    config = json.loads((folder / "generation_config.json").read_text())
    for form in (end, [end, 1]):
        config["eos_token_id"] = form
        (folder / "generation_config.json").write_text(json.dumps(config))
        first = tokens.tolist().index(end)
        got = engine.run("tokens", images, prompt)["tokens"]
        table.exact(name, "one", f"end {'list' if form != end else 'id'}", got, tokens[:first + 1])


def random_checkpoints(options, work, table):
    images = make_images(work)
    prompts = [
        ("text", [], "Count from 1 to 10, then 右下角的红色椅子 please."),
        ("one", [images["a"]], "Locate the 3 white vases, output bbox coordinates in JSON."),
        ("two", [images["b"], images["c"]], "Which of them shows 2 cats? 哪一个?"),
    ]
    checked = False
    for index, case in enumerate(make_checkpoints.CASES):
        if options.only and case.name not in options.only:
            continue
        folder = work / case.name
        if not make_checkpoints.write_case(case, folder, seed=1000 + index):
            print(f"{case.name:14s} skipped: its tokenizer is not here")
            continue
        reference = oracle.Oracle(folder, device=options.oracle_device)
        rounded = oracle.Oracle(folder, torch.bfloat16, options.oracle_device)
        if not checked:
            oracle.check_oracle(reference.model)
            checked = True
        engine = Engine(options.inspect, folder, work, options.device)
        for label, images, prompt in prompts:
            # One image is enough for bf16, which is slow where the processor lacks it.
            tokens = compare(table, case.name, engine, reference,
                             rounded if label == "one" else None, label, images, prompt)
            if label == "one" and index == 0:
                generation = (folder / "generation_config.json").read_text()
                stops_at_end(table, case.name, engine, folder, images, prompt, tokens)
                (folder / "generation_config.json").write_text(generation)
        shutil.rmtree(folder)


def scenes(options, work, table):
    listed = json.loads(options.scenes.read_text())
    reference = oracle.Oracle(options.model, device=options.oracle_device)
    oracle.check_oracle(reference.model)
    engine = Engine(options.inspect, options.model, work, options.device)
    for scene in listed[:options.limit]:
        image = options.scenes.parent / scene["file"]
        inputs = reference.inputs([image], scene["prompt"])
        ours = engine.run("tokens", [image], scene["prompt"], tokens=options.max_new_tokens)
        theirs = reference.tokens(inputs, options.max_new_tokens)
        table.exact(options.model.name, scene["file"][-10:], "tokens", ours["tokens"], theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inspect", required=True, type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--device", default="cpu", help="the engine's")
    parser.add_argument("--oracle-device", default="cpu")
    parser.add_argument("--only", action="append")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--scenes", type=pathlib.Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    begin = time.time()
    table = Table()
    with tempfile.TemporaryDirectory(prefix="chord-parity-") as scratch:
        work = options.work or pathlib.Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        if options.scenes:
            scenes(options, work, table)
        else:
            random_checkpoints(options, work, table)
    print(f"transformers {oracle.transformers.__version__}, torch {torch.__version__}: "
          f"{table.failures} failed, {time.time() - begin:.0f} s")
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
