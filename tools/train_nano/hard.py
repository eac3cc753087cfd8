"""Test scenes that a good share of answers gets wrong: what confidences are fitted and judged on.

Of eight scenes one is plain and seven are hard in one way each: small things, things behind others,
look-alikes (also: a prompt for the near relative of what is there), noise, JPEG, blur, and several
of these together. Requests ask for one thing, several or none as in heldout.py. A scene depends on
its seed and index alone; seeds are of a form that neither training nor heldout.py uses.
"""
from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from .draw import Drawing, draw
from .heldout import (LEAST_CONTRAST, MODEL_PIXELS, PLAN, SIZES, ambiguous, kind_of, own_variants, row,
                      write_rows)
from .scenes import COLORS, SceneSampler, Scene, Turn
from .sprites import SpriteBook

DIFFICULTIES = ("plain", "small", "hidden", "alike", "noise", "jpeg", "blur", "mixed")


@dataclass
class HardScene:
    scene: Scene
    turn: Turn
    drawing: Drawing
    difficulty: str
    file: bytes
    suffix: str  # of a file name that tells its format


class HardSampler(SceneSampler):
    def __init__(self, kinds, variants, rng: random.Random, small: bool, hidden: bool, alike: bool):
        super().__init__(kinds, variants, rng)
        self.alike, self._first = alike, None
        self._overlap = 0.75 if hidden else 0.02
        if small:
            self.SMALLEST, self.LARGEST, self.THINNEST = 11, 0.09, 5
        if hidden or alike:
            self.COUNTS = ((3, 4, 5, 6, 7, 8), (1, 2, 3, 3, 2, 1))

    def draw_scene(self, width: int, height: int, unit: float) -> Scene:
        self._first = None
        return self.sample(width, height, 8, turns=8, unit=unit, overlap=self._overlap)

    def _thing(self):
        thing = super()._thing()
        if not self.alike:
            return thing
        if self._first is None or self.rng.random() < 0.2:
            self._first = self._first or thing
            return thing
        return self._relative(self._first) or thing

    def _relative(self, thing):
        """Another of the same family; of shapes, the same in another colour or form."""
        rng, (kind, _, en, _) = self.rng, thing
        if self.kinds[kind].is_shape:
            color = en.split(" ")[0]
            if rng.random() < 0.5:
                color = rng.choice(list(COLORS))
            else:
                kind = rng.choice(self._shapes)
            tint = tuple(min(255, max(0, v + rng.randint(-18, 18))) for v in COLORS[color][1])
            return (kind, tint, f"{color} {self.kinds[kind].en[0]}",
                    COLORS[color][0] + self.kinds[kind].zh)
        family = [i for i in self._drawings if self.kinds[i].subgroup == self.kinds[kind].subgroup]
        kind = rng.choice(family)
        return kind, None, self.kinds[kind].en[0], self.kinds[kind].zh

    def _absent(self, objects, lang) -> Turn:
        if self.alike and objects:
            present = {o.en for o in objects}
            for _ in range(20):
                o = self.rng.choice(objects)
                kind, _, en, zh = self._relative((o.kind, o.tint, o.en, o.zh))
                # No other word for the same drawing, no shape that shares a drawing's name.
                if en not in present and not {*self.kinds[kind].en} & present:
                    name = zh if lang == "zh" else en
                    return Turn(self._ask_one(name, lang), lang, (), (name,))
        return super()._absent(objects, lang)


def hard_scene(book: SpriteBook, seed: str, index: int) -> HardScene:
    rng = random.Random(f"hard/{seed}/{index}")
    difficulty = DIFFICULTIES[index % len(DIFFICULTIES)]
    step = index // len(DIFFICULTIES)
    wanted = PLAN[step % len(PLAN)], "zh" if step // len(PLAN) % 2 else "en"
    mixed = difficulty == "mixed"
    sampler = HardSampler(book.kinds, own_variants(book), rng,
                          small=difficulty == "small" or mixed and rng.random() < 0.4,
                          hidden=difficulty == "hidden" or mixed and rng.random() < 0.4,
                          alike=difficulty == "alike" or mixed and rng.random() < 0.4)
    width, height = rng.choice(SIZES)
    unit = max(1.0, math.sqrt(width * height / MODEL_PIXELS))
    while True:
        scene = sampler.draw_scene(width, height, unit)
        fitting = [t for t in scene.turns if (kind_of(t), t.lang) == wanted
                   and (not ambiguous(scene, t, book.kinds) or _near_relative(scene, t, sampler))]
        if not fitting:
            continue
        drawing = draw(scene, book, rng)
        if min(drawing.contrasts, default=255.0) >= LEAST_CONTRAST * (1 if difficulty == "plain" else 0.5):
            break
    image = drawing.image
    damages = {"noise": ["noise"], "jpeg": ["jpeg"], "blur": ["blur"],
               "mixed": rng.sample(["noise", "jpeg", "blur"], rng.randint(1, 2))}.get(difficulty, [])
    if "blur" in damages:
        image = image.filter(ImageFilter.GaussianBlur(unit * rng.uniform(1.5, 6)))
    if "noise" in damages:
        image = _noisy(image, rng.uniform(25, 95), rng)
    out = io.BytesIO()
    if "jpeg" in damages:
        image.save(out, "JPEG", quality=rng.randint(2, 12))
    else:
        image.save(out, "PNG", compress_level=3)
    return HardScene(scene, fitting[0], drawing, difficulty, out.getvalue(),
                     "jpg" if "jpeg" in damages else "png")


def _near_relative(scene: Scene, turn: Turn, sampler: HardSampler) -> bool:
    """Look-alike scenes may ask for the absent relative of what is there; hearts stay out."""
    return (sampler.alike and not turn.targets and "heart" not in turn.prompt
            and "心" not in turn.prompt)


def _noisy(image: Image.Image, sigma: float, rng: random.Random) -> Image.Image:
    """Nearly Gaussian noise: a sum of four uniform bytes, whose deviation is 147.8."""
    pixels = np.asarray(image, np.int16)
    noise = np.frombuffer(rng.randbytes(4 * pixels.size), np.uint8).reshape(4, *pixels.shape)
    noise = (noise.sum(axis=0, dtype=np.int16) - 510) * (sigma / 147.8)
    return Image.fromarray(np.clip(pixels + np.round(noise), 0, 255).astype(np.uint8))


def write_hard(out: Path, count: int, seed: str, book: SpriteBook) -> list[dict]:
    """As write_held_out, with hard scenes; rows tell their difficulty in "hard"."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        made = hard_scene(book, seed, index)
        name = f"scene_{index:05d}.{made.suffix}"
        (out / name).write_bytes(made.file)
        rows.append(row(name, made.turn, made.drawing) | {"hard": made.difficulty})
    write_rows(out / "scenes.json", rows)
    return rows
