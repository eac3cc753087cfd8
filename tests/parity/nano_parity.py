"""Asks Chord's engine and transformers about the same scenes: every token must be equal, and the boxes right.

usage: nano_parity.py --chord-inspect PATH [--count 30] [--seed parity] [--scenes DIR]

Scenes are drawn as by `python -m train_nano scenes`; chord-nano was not trained on them. Exit codes:
0 equal and right, 1 not, 77 something that the comparison needs is missing.
"""
import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

try:
    import torch
    from safetensors.torch import load_file
    from train_nano.evaluate import Score, Transformers, load_rows, parse_boxes, upright_rgb
    from train_nano.font import DEFAULT_FONT
    from train_nano.heldout import write_held_out
    from train_nano.sprites import SpriteBook
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

# Less than models/chord-nano/CARD.md tells, for what a few scenes more or less decide.
LEAST_EXACT = {"one": 0.95, "absent": 0.9, "several": 0.8}
LEAST_IOU = 0.93


def chord_tokens(arguments, image, prompt, out):
    subprocess.run([arguments.chord_inspect, "--model", arguments.model, "--image", image, "--prompt", prompt,
                    "--stage", "tokens", "--max-new-tokens", str(arguments.max_new_tokens), "--out", out],
                   check=True, timeout=120)
    made = load_file(out)
    return made["input_ids"].tolist(), made["tokens"].tolist()


def first_difference(ours, theirs):
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    return f"at {at} of {len(ours)} and {len(theirs)}: {ours[at:at + 8]} against {theirs[at:at + 8]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chord-inspect", required=True)
    parser.add_argument("--model", default=str(ROOT / "models" / "chord-nano"))
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", default="parity")
    parser.add_argument("--scenes", type=Path, help="a folder of scenes instead of fresh ones")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    arguments = parser.parse_args()
    if not arguments.scenes and not DEFAULT_FONT.is_file():
        print(f"skipped: {DEFAULT_FONT} is missing (package fonts-noto-color-emoji)")
        return 77
    torch.set_num_threads(1)  # the model is too small for more
    oracle = Transformers(Path(arguments.model), max_new_tokens=arguments.max_new_tokens)
    scores, different, chord_seconds, oracle_seconds = {}, 0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        scenes = arguments.scenes or Path(folder)
        rows = load_rows(scenes) if arguments.scenes else \
            write_held_out(scenes, arguments.count, arguments.seed, SpriteBook())
        rows = rows[:arguments.count]
        for row in rows:
            image = scenes / row["file"]
            began = time.monotonic()
            ids, tokens = chord_tokens(arguments, str(image), row["prompt"], str(Path(folder) / "tokens"))
            turned = time.monotonic()
            image = upright_rgb(image.read_bytes())
            oracle_ids, oracle_tokens, grid = oracle.generate(image, row["prompt"])
            chord_seconds += turned - began
            oracle_seconds += time.monotonic() - turned
            for what, ours, theirs in (("prompt ids", ids, oracle_ids), ("tokens", tokens, oracle_tokens)):
                if ours != theirs:
                    different += 1
                    print(f"{row['file']} {row['prompt']!r}: {what} differ {first_difference(ours, theirs)}")
            boxes = oracle.to_image(parse_boxes(oracle.decode(tokens)), image, grid)
            kind = ("absent", "one")[len(row["boxes"])] if len(row["boxes"]) < 2 else "several"
            if not scores.setdefault(kind, Score()).add(row["boxes"], boxes):
                print(f"{row['file']} {row['prompt']!r}: should be {row['boxes']}, is {oracle.decode(tokens)}")
    print(f"{len(rows)} scenes, {different} differences; "
          f"chord inspect {chord_seconds:.1f} s with its starts, transformers {oracle_seconds:.1f} s")
    good = not different
    for kind, score in sorted(scores.items()):
        print(f"{kind}: {score.as_dict()}")
        good &= score.exact >= LEAST_EXACT[kind] * score.asked
        good &= not score.boxes or score.iou_sum >= LEAST_IOU * score.boxes
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
