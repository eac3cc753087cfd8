"""The second prompt on an image: how much sooner its first token comes than the first one's.

  python bench/second_request.py --bin build/bin [--rounds 20] [--only nano | wide]

For chord-nano at 448×560 and a random model as wide as the 3B at 1024×768. Each round takes pixels
that is new to the server, asks about the file (first prompt, which gives the image_id), then asks
another prompt by that image_id (second prompt). The time is from sending to the first event of
GroundStream, measured by the client; the server's own ttft_ms stands beside it. The checkpoint of
3B's width (hidden 2048, 16 heads, 2 kv heads, intermediate 11008; vision width 1280, 16 heads,
intermediate 3420) has few layers, random weights and chord-nano's vocabulary: enough to compare
times within this run, not to say how fast the 3B is.
"""

import importlib.util
import io
import pathlib
import statistics
import tempfile
import time

from measure import ROOT, Server, finish, parser, table

PROMPTS = ["the red circle", "all windows on the left side"]


def wide_checkpoint(folder, layers, blocks):
    spec = importlib.util.spec_from_file_location("make_checkpoints", ROOT / "tests" / "parity" / "make_checkpoints.py")
    maker = importlib.util.module_from_spec(spec)
    import sys
    sys.modules["make_checkpoints"] = maker  # dataclasses look their module up
    spec.loader.exec_module(maker)
    full = [blocks - 1] if blocks < 4 else [i for i in range(blocks) if i % 4 == 3]
    case = maker.Case(
        "wide", "as wide as the 3B, few layers",
        maker.text(2048, layers, 16, 2, 11008, [16, 24, 24]), maker.vision(1280, blocks, 16, 3420, full),
        tied=True, pixels=(3136, 12845056))
    out = pathlib.Path(folder) / "wide"
    if not maker.write_case(case, out, seed=3):
        raise SystemExit("the tokenizer for the checkpoint is not at hand")
    return out


def image(width, height, seed):
    """A PNG that no cache has seen: blocks of colour, others for each seed."""
    import random
    from PIL import Image, ImageDraw
    rng = random.Random(seed)
    image = Image.new("RGB", (width, height), tuple(rng.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = rng.randrange(width), rng.randrange(height)
        draw.rectangle([x, y, x + rng.randrange(10, 120), y + rng.randrange(10, 120)],
                       fill=tuple(rng.randrange(256) for _ in range(3)))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def ask(stub, pb, **fields):
    """(milliseconds to the first event, the whole answer)."""
    begin = time.perf_counter()
    first, answer = None, None
    for event in stub.GroundStream(pb.GroundRequest(**fields), timeout=600):
        if first is None:
            first = (time.perf_counter() - begin) * 1e3
        if event.HasField("response"):
            answer = event.response
    return first, answer


def measure(args, model, size, max_new_tokens):
    rows = []
    with Server(args, model=model) as server:
        from chord_server import grounding_pb2 as pb
        stub = server.stub()
        names = {v: k.removeprefix("CACHE_").lower() for k, v in pb.Cache.items()}
        for i in range(-2, args.rounds):
            data = image(*size, seed=1000 + i)
            first_ms, first = ask(stub, pb, image=data, prompt=PROMPTS[0], max_new_tokens=max_new_tokens)
            if not first.image_id:
                raise SystemExit("the first answer carries no image_id: this server keeps no images")
            second_ms, second = ask(stub, pb, image_id=first.image_id, prompt=PROMPTS[1], max_new_tokens=max_new_tokens)
            if i >= 0:  # the first two warm everything up
                rows.append({"first_ms": first_ms, "second_ms": second_ms, "cache": names[second.usage.cache],
                             "first_ttft_ms": first.timing.ttft_ms, "second_ttft_ms": second.timing.ttft_ms,
                             "image_tokens": first.usage.image_tokens})
    return rows


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--wide-rounds", type=int, default=5)
    arguments.add_argument("--only", choices=["nano", "wide"])
    arguments.add_argument("--layers", type=int, default=2, help="of the wide checkpoint's decoder")
    arguments.add_argument("--blocks", type=int, default=4, help="of its vision tower")
    arguments.add_argument("--max-new-tokens", type=int, default=8)
    args = arguments.parse_args()

    results = {}
    if args.only != "wide":
        results["chord-nano 448×560"] = measure(args, args.model, (448, 560), args.max_new_tokens)
    if args.only != "nano":
        with tempfile.TemporaryDirectory(prefix="chord-wide-") as folder:
            args.rounds = args.wide_rounds
            results[f"3B's width, {args.layers} layers, {args.blocks} blocks, 1024×768"] = measure(
                args, wide_checkpoint(folder, args.layers, args.blocks), (1024, 768), args.max_new_tokens)

    rows, summary, targets = [], {}, {}
    for name, samples in results.items():
        middle = {key: statistics.median(s[key] for s in samples)
                  for key in ("first_ms", "second_ms", "first_ttft_ms", "second_ttft_ms", "image_tokens")}
        saved = 1 - middle["second_ms"] / middle["first_ms"]
        caches = {c: sum(s["cache"] == c for s in samples) for c in sorted({s["cache"] for s in samples})}
        rows.append([name, f"{middle['image_tokens']:.0f}", f"{middle['first_ms']:.1f}", f"{middle['second_ms']:.1f}",
                     f"−{100 * saved:.1f} %", f"{middle['first_ttft_ms']:.1f}", f"{middle['second_ttft_ms']:.1f}",
                     " ".join(f"{c} {n}" for c, n in caches.items())])
        summary[name] = dict(middle, saved=saved, caches=caches, rounds=len(samples))
        targets[f"{name}: −80 % or better"] = saved >= 0.8
    table(["median, ms", "image tokens", "first", "second", "saved", "server first", "server second", "cache of second"], rows)
    finish(args, {"models": summary, "runs": results}, targets)


if __name__ == "__main__":
    main()
