"""Samples grounding scenes: what lies where, and prompts with their answers.

Pure Python driven by one random.Random, so a seed gives the same scene on every machine. Boxes are
those of the sprites' hulls in canvas pixels, overlaps notwithstanding. draw.py and render.py turn
scenes into images.
"""
from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from typing import Callable, Sequence

from .kinds import Kind
from .sprites import Point

Box = tuple[float, float, float, float]  # x1, y1, x2, y2

COLORS = {  # name -> (Chinese, RGB)
    "red": ("红色", (220, 40, 40)), "green": ("绿色", (40, 170, 60)), "blue": ("蓝色", (45, 90, 220)),
    "yellow": ("黄色", (240, 215, 40)), "orange": ("橙色", (245, 140, 30)),
    "purple": ("紫色", (140, 60, 190)), "pink": ("粉色", (245, 130, 180)),
    "brown": ("棕色", (130, 85, 45)), "black": ("黑色", (25, 25, 25)),
    "white": ("白色", (245, 245, 245)), "gray": ("灰色", (135, 135, 135)),
    "cyan": ("青色", (50, 200, 210)),
}

ONE = {
    "en": ["find the {n}", "locate the {n}", "where is the {n}?", "the {n}", "{n}",
           "point out the {n}", "Find the {n} in the image.",
           "Locate the {n} and return its bounding box.", "detect the {n}", "show me the {n}",
           "box the {n}", "Where is the {n} in this image?", "Please find the {n}", "find {n}",
           "ground the {n}"],
    "zh": ["找到图中的{n}", "定位{n}", "{n}在哪里？", "{n}", "找到图里那个{n}", "请找出{n}",
           "定位图中的{n}", "{n}在哪？", "图中的{n}", "标出{n}的位置", "找到{n}"],
}
ALL = {  # {p}: the plural
    "en": ["find all {p}", "locate every {n}", "all {p}", "detect all the {p} in the image",
           "find every {n}", "Mark all {p}.", "where are the {p}?"],
    "zh": ["找出所有{n}", "所有{n}", "定位所有{n}", "找到图中所有的{n}", "标出全部{n}", "图中所有{n}"],
}
SUPERLATIVES = {
    "left": {"en": ["{n} on the left", "leftmost {n}", "left {n}"],
             "zh": ["左边的{n}", "最左边的{n}", "左侧的{n}"]},
    "right": {"en": ["{n} on the right", "rightmost {n}", "right {n}"],
              "zh": ["右边的{n}", "最右边的{n}", "右侧的{n}"]},
    "top": {"en": ["{n} at the top", "topmost {n}", "upper {n}"],
            "zh": ["上面的{n}", "最上面的{n}", "上方的{n}"]},
    "bottom": {"en": ["{n} at the bottom", "bottommost {n}", "lower {n}"],
               "zh": ["下面的{n}", "最下面的{n}", "下方的{n}"]},
    "big": {"en": ["big {n}", "largest {n}", "larger {n}"], "zh": ["大的{n}", "最大的{n}", "较大的{n}"]},
    "small": {"en": ["small {n}", "smallest {n}", "smaller {n}"],
              "zh": ["小的{n}", "最小的{n}", "较小的{n}"]},
}
CATEGORIES = {  # emoji subgroup -> (English, English plural, Chinese): names that no kind carries
    "animal-mammal": ("mammal", "mammals", "哺乳动物"),
    "animal-bird": ("bird species", "birds of any kind", "鸟类"),
    "animal-reptile": ("reptile", "reptiles", "爬行动物"),
    "animal-marine": ("sea creature", "sea creatures", "海洋生物"),
    "animal-bug": ("insect", "insects", "昆虫"),
    "plant-flower": ("flower", "flowers", "花朵"),
    "food-fruit": ("fruit", "fruits", "水果"),
    "food-vegetable": ("vegetable", "vegetables", "蔬菜"),
    "food-sweet": ("dessert", "desserts", "甜点"),
    "drink": ("drink", "drinks", "饮料"),
    "food-prepared": ("prepared food", "prepared foods", "熟食"),
    "transport-ground": ("land vehicle", "land vehicles", "陆上交通工具"),
    "transport-air": ("aircraft", "aircraft", "飞行器"),
    "transport-water": ("watercraft", "watercraft", "船只"),
    "musical-instrument": ("musical instrument", "musical instruments", "乐器"),
    "clothing": ("piece of clothing", "pieces of clothing", "衣物"),
    "tool": ("tool", "tools", "工具"),
    "sport": ("sports item", "sports items", "体育用品"),
}


@dataclass(frozen=True)
class Variant:
    """One way to draw a kind: a row of the atlas, or of the SpriteBook."""

    sprite: int
    hull: Sequence[Point]


@dataclass(frozen=True)
class Placed:
    kind: int
    sprite: int
    x: float  # centre of the sprite's square, canvas px
    y: float
    size: float  # side of that square, px
    angle: float  # radians, clockwise on the screen
    flip: bool  # mirrored left to right, before the turn
    tint: tuple[int, int, int] | None  # shapes only
    en: str
    zh: str
    box: Box

    def name(self, lang: str) -> str:
        return self.zh if lang == "zh" else self.en


@dataclass(frozen=True)
class Turn:
    prompt: str
    lang: str
    targets: tuple[int, ...]  # into the scene's objects, left to right; empty: it is not there
    labels: tuple[str, ...]  # one per target; of an absent thing, its name alone


@dataclass
class Scene:
    width: int
    height: int
    objects: list[Placed]
    turns: list[Turn] = field(default_factory=list)

    def answer(self, turn: Turn) -> str:
        return answer_text([self.objects[i].box for i in turn.targets], turn.labels)


def answer_text(boxes: Sequence[Box], labels: Sequence[str]) -> str:
    """What the model is taught to say."""
    items = [{"bbox_2d": [round(v) for v in b], "label": l} for b, l in zip(boxes, labels)]
    return json.dumps(items, ensure_ascii=False)


def plural(name: str) -> str:
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def covered(a: Box, b: Box) -> float:
    """Shared area over the smaller one's."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return 0.0 if w <= 0 or h <= 0 else w * h / min(area(a), area(b))


def placed_hull(hull: Sequence[Point], size: float, angle: float, flip: bool) -> list[Point]:
    """The hull around its sprite's centre, in px."""
    c, s = size * math.cos(angle), size * math.sin(angle)
    sign = -1 if flip else 1
    return [(sign * x * c - y * s, sign * x * s + y * c) for x, y in hull]


def bounds(points: Sequence[Point]) -> Box:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return min(xs), min(ys), max(xs), max(ys)


_RANK: dict[str, Callable[[Box], float]] = {  # the least is the one that is asked for
    "left": lambda b: b[0] + b[2],
    "right": lambda b: -(b[0] + b[2]),
    "top": lambda b: b[1] + b[3],
    "bottom": lambda b: -(b[1] + b[3]),
    "big": lambda b: -area(b),
    "small": area,
}


def superlative_target(boxes: Sequence[Box], key: str, unit: float = 1.0) -> int | None:
    """Which box is the leftmost, biggest, ...; None when the runner-up is too close to tell."""
    rank = _RANK[key]
    order = sorted(range(len(boxes)), key=lambda i: rank(boxes[i]))
    gap = rank(boxes[order[1]]) - rank(boxes[order[0]])
    least = 0.35 * area(boxes[order[0]]) if key in ("big", "small") else 40 * unit
    return order[0] if gap > least else None


class SceneSampler:
    """Draws scenes from the distribution that chord-nano was trained on.

    variants[k] are the drawings of kind k; hulls are in units of the sprite's side.
    """

    COUNTS = ((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 3, 2, 2, 1, 1))
    SMALLEST = 34  # px of a sprite's side in the image that the model sees
    LARGEST = 0.55  # of the image's shorter side
    THINNEST = 10  # px of a box's shorter side, as the model sees it

    def __init__(self, kinds: Sequence[Kind], variants: Sequence[Sequence[Variant]],
                 rng: random.Random):
        self.kinds, self.variants, self.rng = kinds, variants, rng
        self._drawings = [i for i, k in enumerate(kinds) if not k.is_shape]
        self._shapes = [i for i, k in enumerate(kinds) if k.is_shape]

    def sample(self, width: int, height: int, max_objects: int = 6, turns: int = 3,
               unit: float = 1.0, overlap: float = 0.12) -> Scene:
        """`unit`: canvas px per px of the image that the model will see."""
        scene = Scene(width, height, self._objects(width, height, max_objects, unit, overlap))
        scene.turns = [self.turn(scene.objects, unit) for _ in range(turns)]
        return scene

    def turn(self, objects: Sequence[Placed], unit: float = 1.0) -> Turn:
        rng = self.rng
        lang = "zh" if rng.random() < 0.45 else "en"
        if not objects or rng.random() < 0.12:
            return self._absent(objects, lang)
        if rng.random() < 0.10:
            turn = self._category(objects, lang)
            if turn:
                return turn
        chosen = rng.choice(objects)
        same = [i for i, o in enumerate(objects) if o.en == chosen.en]
        same.sort(key=lambda i: objects[i].box[0])
        label = chosen.name(lang)
        kind = self.kinds[chosen.kind]
        name = label if kind.is_shape else self._some_name(kind, lang)
        if len(same) > 1 and rng.random() < 0.6:
            key = rng.choice(list(SUPERLATIVES))
            best = superlative_target([objects[i].box for i in same], key, unit)
            if best is not None:
                phrase = rng.choice(SUPERLATIVES[key][lang]).format(n=name)
                return Turn(self._ask_one(phrase, lang), lang, (same[best],), (label,))
        if len(same) > 1 or rng.random() < 0.25:
            prompt = self._ask_all(name, plural(name), lang)
        else:
            prompt = self._ask_one(name, lang)
        return Turn(prompt, lang, tuple(same), (label,) * len(same))

    def place(self, hull: Sequence[Point], width: int, height: int, others: Sequence[Placed],
              unit: float, overlap: float) -> tuple | None:
        """x, y, size, angle, flip, box; None when no room was found."""
        rng = self.rng
        for _ in range(20):
            low, high = math.log(self.SMALLEST * unit), math.log(min(width, height) * self.LARGEST)
            size = math.exp(rng.uniform(low, high))
            angle = rng.uniform(-0.35, 0.35) if rng.random() < 0.5 else 0.0
            flip = rng.random() < 0.3
            x1, y1, x2, y2 = bounds(placed_hull(hull, size, angle, flip))
            if x2 - x1 >= width or y2 - y1 >= height:
                continue
            x, y = rng.uniform(-x1, width - x2), rng.uniform(-y1, height - y2)
            if min(x2 - x1, y2 - y1) < self.THINNEST * unit:
                continue
            box = (x + x1, y + y1, x + x2, y + y2)
            if all(covered(box, o.box) <= overlap for o in others):
                return x, y, size, angle, flip, box
        return None

    def _objects(self, width, height, max_objects, unit, overlap) -> list[Placed]:
        rng = self.rng
        objects: list[Placed] = []
        again = None  # what may come once more, so that "all" and "leftmost" have a meaning
        for _ in range(min(max_objects, rng.choices(*self.COUNTS)[0])):
            if again and rng.random() < 0.55:
                kind, variant, tint, en, zh = again
                if rng.random() < 0.15:
                    variant = rng.choice(self.variants[kind])
            else:
                kind, tint, en, zh = self._thing()
                variant = rng.choice(self.variants[kind])
                if rng.random() < 0.30:
                    again = kind, variant, tint, en, zh
            spot = self.place(variant.hull, width, height, objects, unit, overlap)
            if spot:
                x, y, size, angle, flip, box = spot
                objects.append(Placed(kind, variant.sprite, x, y, size, angle, flip, tint, en, zh, box))
        return objects

    def _thing(self):
        rng = self.rng
        if not self._shapes or rng.random() < 0.72:
            kind = rng.choice(self._drawings)
            return kind, None, self.kinds[kind].en[0], self.kinds[kind].zh
        kind, color = rng.choice(self._shapes), rng.choice(list(COLORS))
        tint = tuple(min(255, max(0, v + rng.randint(-18, 18))) for v in COLORS[color][1])
        return kind, tint, f"{color} {self.kinds[kind].en[0]}", COLORS[color][0] + self.kinds[kind].zh

    def _absent(self, objects, lang) -> Turn:
        rng = self.rng
        present = {o.en for o in objects}
        draw = rng.random()
        categories = sorted(set(CATEGORIES) - {self.kinds[o.kind].subgroup for o in objects})
        if draw < 0.12 and categories:
            en, en_plural, zh = CATEGORIES[rng.choice(categories)]
            name = zh if lang == "zh" else en
            return Turn(self._ask_all(name, en_plural, lang), lang, (), (name,))
        for _ in range(100):
            if self._shapes and draw < 0.27:
                kind, color = self.kinds[rng.choice(self._shapes)], rng.choice(list(COLORS))
                en = f"{color} {kind.en[0]}"
                name = COLORS[color][0] + kind.zh if lang == "zh" else en
            else:
                kind = self.kinds[rng.choice(self._drawings)]
                en, name = kind.en[0], self._some_name(kind, lang)
            if en not in present:
                return Turn(self._ask_one(name, lang), lang, (), (name,))
        raise RuntimeError("every kind is in the scene")

    def _category(self, objects, lang) -> Turn | None:
        present = sorted({self.kinds[o.kind].subgroup for o in objects} & set(CATEGORIES))
        if not present:
            return None
        subgroup = self.rng.choice(present)
        en, en_plural, zh = CATEGORIES[subgroup]
        same = [i for i, o in enumerate(objects) if self.kinds[o.kind].subgroup == subgroup]
        same.sort(key=lambda i: objects[i].box[0])
        prompt = self._ask_all(zh if lang == "zh" else en, en_plural, lang)
        return Turn(prompt, lang, tuple(same), tuple(objects[i].name(lang) for i in same))

    def _some_name(self, kind: Kind, lang: str) -> str:
        if lang == "zh":
            return kind.zh
        return kind.en[0] if self.rng.random() < 0.7 else self.rng.choice(kind.en)

    def _ask_one(self, name: str, lang: str) -> str:
        return self.rng.choice(ONE[lang]).format(n=name)

    def _ask_all(self, name: str, en_plural: str, lang: str) -> str:
        return self.rng.choice(ALL[lang]).format(n=name, p=en_plural)
