"""python -m train_nano scenes|demo|train|export|evaluate"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"train_nano: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train_nano", description="The recipe of chord-nano.")
    commands = parser.add_subparsers(required=True, metavar="scenes|demo|train|export|evaluate")

    def command(name: str, run, about: str) -> argparse.ArgumentParser:
        p = commands.add_parser(name, help=about, description=about,
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        p.set_defaults(run=run)
        return p

    p = command("scenes", _scenes, "Draw test scenes with known boxes: PNGs and scenes.json.")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--count", type=int, default=100)
    p.add_argument("--seed", default="1", help="any text; scene i depends on it and on i alone")
    p.add_argument("--hard", action="store_true",
                   help="small, hidden and look-alike things, noise, JPEG and blur among plain scenes")
    _font(p)

    p = command("demo", _demo, "Draw the demonstration images and their scenes.json.")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    _font(p)

    p = command("train", _train, "Train, or go on from WORK's checkpoint. Under torchrun: one process per GPU.")
    p.add_argument("--work", type=Path, required=True, metavar="DIR", help="tokenizer, checkpoint, log")
    p.add_argument("--data", type=Path, metavar="DIR",
                   help="photographs and a second drawing style; without it: the font's drawings alone")
    p.add_argument("--steps", type=int, default=30_000)
    p.add_argument("--batch", type=int, default=256, help="per GPU, of the small sizes; half of it for the large")
    p.add_argument("--lr", type=float, default=1.2e-3)
    p.add_argument("--warmup", type=int, default=400, help="steps")
    p.add_argument("--photo-share", type=float, default=0.22, help="of the batches, with --data")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--minutes", type=float, help="stop after so long, with a checkpoint to go on from")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    p.add_argument("--workers", type=int, default=14, help="processes that make batches, per GPU")
    p.add_argument("--no-compile", action="store_true", help="do not torch.compile the blocks")
    p.add_argument("--log-every", type=int, default=200, metavar="STEPS")
    _font(p)

    p = command("export", _export, "Write WORK's averaged weights in the Hugging Face layout.")
    p.add_argument("--work", type=Path, required=True, metavar="DIR")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--name", default="chord-nano")

    p = command("evaluate", _evaluate, "Measure a model on scenes and on held-out photographs.")
    who = p.add_mutually_exclusive_group(required=True)
    who.add_argument("--model", type=Path, metavar="DIR", help="with transformers, in this process")
    who.add_argument("--http", metavar="HOST:PORT", help="a running Chord")
    who.add_argument("--grpc", metavar="HOST:PORT", help="a running Chord")
    p.add_argument("--scenes", type=Path, metavar="DIR", help="as `scenes` writes them")
    p.add_argument("--photos", type=Path, metavar="DIR", help="of real_heldout_*.tar")
    p.add_argument("--max-new-tokens", type=int, default=256)
    p.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="with --model")
    p.add_argument("--device", default="cpu", help="with --model")
    return parser


def _font(p: argparse.ArgumentParser) -> None:
    from .font import DEFAULT_FONT

    p.add_argument("--font", type=Path, default=DEFAULT_FONT, help="Noto Color Emoji with bitmaps (CBDT)")


def _scenes(a) -> int:
    from .hard import write_hard
    from .heldout import write_held_out
    from .sprites import SpriteBook

    (write_hard if a.hard else write_held_out)(a.out, a.count, a.seed, SpriteBook(a.font))
    return 0


def _demo(a) -> int:
    from .demo import write_demo
    from .sprites import SpriteBook

    write_demo(a.out, SpriteBook(a.font))
    return 0


def _train(a) -> int:
    from .data import Curriculum, lab_material, own_material
    from .model import Config
    from .train import Recipe, Run, Trainer

    dataset = lab_material(a.data) if a.data else own_material(a.font)
    curriculum = Curriculum(a.steps, a.batch, photo_share=a.photo_share)
    recipe = Recipe(Config(), curriculum, lr=a.lr, warmup=a.warmup, seed=a.seed)
    run = Run(a.work, a.device, a.workers, not a.no_compile, a.minutes, log_every=a.log_every)
    Trainer(recipe, run, dataset).train()
    return 0


def _export(a) -> int:
    from .export import export_checkpoint

    export_checkpoint(a.work, a.out, a.name)
    return 0


def _evaluate(a) -> int:
    from .evaluate import ChordGrpc, ChordHttp, Transformers, evaluate_photos, evaluate_scenes

    if not (a.scenes or a.photos):
        raise ValueError("nothing to measure on: give --scenes, --photos or both")
    if a.model:
        answer = Transformers(a.model, a.dtype, a.device, a.max_new_tokens)
    else:
        answer = ChordHttp(a.http, a.max_new_tokens) if a.http else ChordGrpc(a.grpc, a.max_new_tokens)
    summary = {}
    if a.scenes:
        summary["scenes"] = evaluate_scenes(a.scenes, answer, lambda line: print(line, file=sys.stderr))
    if a.photos:
        tars = sorted(a.photos.glob("real_heldout_*.tar"))
        if not tars:
            raise ValueError(f"{a.photos} holds no real_heldout_*.tar")
        summary["photos"] = evaluate_photos(tars, answer)
    print(json.dumps(summary, indent=1))
    return 0
