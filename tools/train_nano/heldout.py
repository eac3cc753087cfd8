"""Test scenes with known boxes: one thing, several, none; English and Chinese; many sizes.

Seeds are strings that training never uses (it counts from "train/..."), so no scene here was trained on.
"""
from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Sequence

from .draw import Drawing, draw
from .kinds import Kind
from .scenes import SceneSampler, Scene, Turn, Variant
from .sprites import SpriteBook

MODEL_PIXELS = 250_880  # chord-nano sees at most this many
SIZES = [  # width, height; as the model sees them no side is longer than the 560 px it was trained on
    (448, 336), (336, 448), (448, 448), (560, 420), (392, 392), (420, 560), (476, 364), (504, 336),
    (500, 375), (333, 451), (557, 389), (300, 300), (640, 480), (800, 600), (600, 800), (1024, 768),
]
# What is asked, in turn. A hundred scenes: 60 of one thing, 20 of several, 20 of none.
PLAN = ("one", "one", "several", "one", "absent")
LEAST_CONTRAST = 30.0


def kind_of(turn: Turn) -> str:
    return ("absent", "one")[len(turn.targets)] if len(turn.targets) < 2 else "several"


def held_out_scene(book: SpriteBook, seed: str, index: int) -> tuple[Scene, Turn, Drawing]:
    """Depends on seed and index alone."""
    rng = random.Random(f"held-out/{seed}/{index}")
    variants = own_variants(book)
    sampler = SceneSampler(book.kinds, variants, rng)
    width, height = rng.choice(SIZES)
    unit = max(1.0, math.sqrt(width * height / MODEL_PIXELS))
    wanted = PLAN[index % len(PLAN)], "zh" if index % 2 else "en"
    while True:
        scene = sampler.sample(width, height, turns=8, unit=unit, overlap=0.02)
        fitting = [t for t in scene.turns
                   if (kind_of(t), t.lang) == wanted and not ambiguous(scene, t, book.kinds)]
        if not fitting:
            continue
        drawing = draw(scene, book, rng)
        if min(drawing.contrasts, default=255.0) >= LEAST_CONTRAST:
            return scene, fitting[0], drawing


def write_held_out(out: Path, count: int, seed: str, book: SpriteBook) -> list[dict]:
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        scene, turn, drawing = held_out_scene(book, seed, index)
        name = f"scene_{index:04d}.png"
        drawing.image.save(out / name, compress_level=6)
        rows.append(row(name, turn, drawing))
    write_rows(out / "scenes.json", rows)
    return rows


def row(name: str, turn: Turn, drawing: Drawing) -> dict:
    """Boxes in pixels of the upright image, in the order in which the model names them."""
    return {"file": name, "prompt": turn.prompt, "lang": turn.lang, "kind": kind_of(turn),
            "label": turn.labels[0], "labels": list(turn.labels[: len(turn.targets)]),
            "boxes": [list(drawing.boxes[i]) for i in turn.targets]}


def write_rows(path: Path, rows: list[dict]) -> None:
    lines = ",\n".join(" " + json.dumps(r, ensure_ascii=False) for r in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def own_variants(book: SpriteBook) -> list:
    return [_OwnVariant(book, i) for i in range(len(book.kinds))]


class _OwnVariant:
    """The one drawing of a kind; its hull is found only when the kind is used."""

    def __init__(self, book: SpriteBook, index: int):
        self._book, self._index = book, index

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> Variant:
        if i:
            raise IndexError(i)
        return Variant(self._index, self._book.hull(self._index))


def ambiguous(scene: Scene, turn: Turn, kinds: Sequence[Kind]) -> bool:
    """Requests with no one right answer: hearts are both shapes and drawings, and a thing that is
    absent must not have a near relative in the image (a ledger looks like a notebook)."""
    if "heart" in turn.prompt or "心" in turn.prompt:
        return True
    present = {kinds[o.kind].subgroup for o in scene.objects}
    asked = {k.subgroup for k in kinds if {*k.en, k.zh} & set(turn.labels)}
    return not turn.targets and not present.isdisjoint(asked)
