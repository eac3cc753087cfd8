"""The things chord-nano knows by name: 790 emoji-like drawings and 12 shapes.

The table kinds.tsv is committed so that neither CLDR nor emoji-test is needed; its order is the
class index of the auxiliary loss, with the shapes after the drawings.
"""
from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

SHAPES = {
    "circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "五角星", "heart": "心形",
    "hexagon": "六边形", "diamond": "菱形", "cross": "十字", "ring": "圆环", "arrow": "箭头",
    "crescent": "月牙", "rectangle": "长方形",
}


@dataclass(frozen=True)
class Kind:
    en: tuple[str, ...]  # the name, then aliases that mean nothing else
    zh: str
    group: str
    subgroup: str  # decides the category ("food-fruit"); empty for shapes
    code_point: int | None  # None: a shape, drawn by sprites.py

    @property
    def is_shape(self) -> bool:
        return self.code_point is None


@functools.cache
def load_kinds() -> tuple[Kind, ...]:
    kinds = []
    for line in Path(__file__).with_name("kinds.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        code, en, zh, group, subgroup = line.split("\t")
        kinds.append(Kind(tuple(en.split("|")), zh, group, subgroup, int(code, 16)))
    kinds += [Kind((en,), zh, "Shapes", "", None) for en, zh in SHAPES.items()]
    return tuple(kinds)
