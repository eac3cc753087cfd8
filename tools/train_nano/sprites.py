"""Images of the kinds on transparent squares, and the convex hulls from which boxes follow.

A sprite's "size" everywhere in this package is the side of that square in pixels; hulls are in
units of it, with the origin at its centre.
"""
from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .font import BitmapFont
from .kinds import Kind, load_kinds

Point = tuple[float, float]
SHAPE_SIDE = 1024
EDGE_ALPHA = 100  # of 255: what is more opaque belongs to the thing


class SpriteBook:
    """Sprites by index into load_kinds(). Drawings need the font; shapes do not."""

    def __init__(self, font: Path | str | None = None):
        self.kinds = load_kinds()
        self._font_path = font
        self.sprite = functools.lru_cache(maxsize=256)(self._sprite)
        self.hull = functools.cache(self._hull)

    @functools.cached_property
    def _font(self) -> BitmapFont:
        return BitmapFont(self._font_path)

    def _sprite(self, index: int) -> Image.Image:
        """Square RGBA, straight alpha. Shapes are white; the scene tints them."""
        kind = self.kinds[index]
        return _shape(kind) if kind.is_shape else _square(self._font.image(kind.code_point))

    def _hull(self, index: int) -> tuple[Point, ...]:
        return hull_of_alpha(np.asarray(self.sprite(index))[..., 3])

    def atlas(self, side: int = 96) -> np.ndarray:
        """uint8 [kinds, 4, side, side], premultiplied RGBA: the GPU renderer's sprites."""
        return np.stack([_premultiplied(self.sprite(i), side) for i in range(len(self.kinds))])


def hull_of_alpha(alpha: np.ndarray) -> tuple[Point, ...]:
    """Convex hull of the pixels that are more opaque than EDGE_ALPHA, corners included."""
    side = alpha.shape[0]
    corners = []
    for y in np.flatnonzero((alpha > EDGE_ALPHA).any(axis=1)):
        row = np.flatnonzero(alpha[y] > EDGE_ALPHA)
        corners += [(int(x), int(y) + dy) for x in (row[0], row[-1] + 1) for dy in (0, 1)]
    return tuple((x / side - 0.5, y / side - 0.5) for x, y in _convex_hull(corners))


def _convex_hull(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Andrew's monotone chain."""
    points = sorted(set(points))

    def half(sequence):
        chain = []
        for q in sequence:
            while len(chain) >= 2:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (q[1] - ay) - (by - ay) * (q[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(q)
        return chain[:-1]

    return half(points) + half(points[::-1])


def _square(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _premultiplied(image: Image.Image, side: int) -> np.ndarray:
    small = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), np.float32)
    small = small * np.concatenate([small[..., 3:] / 255] * 3 + [np.ones_like(small[..., 3:])], -1)
    return small.round().astype(np.uint8).transpose(2, 0, 1)


def _polygon(count: int, start_degrees: float, radius: float) -> list[Point]:
    turn = [math.radians(start_degrees + 360 * i / count) for i in range(count)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in turn]


def _star() -> list[Point]:
    tips, notches = _polygon(5, -90, 1), _polygon(5, -54, 0.42)
    return [p for pair in zip(tips, notches) for p in pair]


def _heart() -> list[Point]:
    points = []
    for i in range(400):
        t = 2 * math.pi * i / 400
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17, -y / 17 - 0.1))
    return points


# Outlines in units of 0.48 of the square's side, origin at its centre.
_POLYGONS = {
    "square": lambda: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "rectangle": lambda: [(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)],
    "triangle": lambda: _polygon(3, -90, 1),
    "hexagon": lambda: _polygon(6, 0, 1),
    "diamond": lambda: [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)],
    "star": _star,
    "heart": _heart,
    "cross": lambda: [
        (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
        (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3),
    ],
    "arrow": lambda: [
        (-1, -0.25), (0, -0.25), (0, -0.7), (1, 0), (0, 0.7), (0, 0.25), (-1, 0.25),
    ],
}
# Discs: what is filled, then what is cut out of it (left, top, right, bottom).
_DISCS = {
    "circle": ((-1, -1, 1, 1), None),
    "ring": ((-1, -1, 1, 1), (-0.6, -0.6, 0.6, 0.6)),
    "crescent": ((-1, -1, 1, 1), (-0.4, -0.95, 1.5, 0.95)),
}


def _shape(kind: Kind) -> Image.Image:
    name, side = kind.en[0], SHAPE_SIDE * 2
    unit, centre = side * 0.48, side / 2
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    place = lambda values: [centre + unit * v for v in values]
    if name in _POLYGONS:
        pen.polygon([tuple(place(p)) for p in _POLYGONS[name]()], fill=255)
    else:
        outer, inner = _DISCS[name]
        pen.ellipse(place(outer), fill=255)
        if inner:
            pen.ellipse(place(inner), fill=0)
    shape = Image.new("RGBA", (SHAPE_SIDE, SHAPE_SIDE), "white")
    shape.putalpha(mask.reduce(2))
    return shape
