"""Draws one scene on the CPU: large sprites, soft shadows, painted backgrounds, exact boxes.

Boxes are measured on the pixels that were drawn: the least box around a sprite's alpha above
EDGE_ALPHA, whole pixels, before anything covers it. Noise and choices come from random.Random and
all blending is integer work in Pillow, so a seed gives the same pixels wherever Pillow does.
"""
from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .scenes import Placed, Scene, bounds, placed_hull
from .sprites import EDGE_ALPHA, SpriteBook

Color = tuple[int, int, int]
IntBox = tuple[int, int, int, int]
_FINE = 4  # sprites are warped at this many times the canvas's resolution


@dataclass
class Drawing:
    image: Image.Image  # RGB
    boxes: list[IntBox]  # one per object of the scene
    contrasts: list[float]  # mean difference between an object and what lies under it, 0 - 255


def draw(scene: Scene, book: SpriteBook, rng: random.Random, background: str | None = None) -> Drawing:
    paint = BACKGROUNDS[background or rng.choice(sorted(BACKGROUNDS))]
    canvas = paint(scene.width, scene.height, rng)
    boxes, contrasts = [], []
    for placed in scene.objects:
        sprite, left, top = warped(placed, book)
        mask = sprite.getchannel("A").point(lambda a: 255 if a > EDGE_ALPHA else 0)
        x1, y1, x2, y2 = mask.getbbox()
        boxes.append((max(0, left + x1), max(0, top + y1),
                      min(scene.width, left + x2), min(scene.height, top + y2)))
        under = canvas.crop((left, top, left + sprite.width, top + sprite.height))
        change = np.abs(np.asarray(under, np.int16) - np.asarray(sprite.convert("RGB"), np.int16))
        contrasts.append(float(change.max(axis=2)[np.asarray(mask) > 0].mean()))
        _shade(canvas, sprite, left, top, placed.size)
        canvas.paste(sprite, (left, top), sprite)
    return Drawing(canvas, boxes, contrasts)


def warped(placed: Placed, book: SpriteBook) -> tuple[Image.Image, int, int]:
    """The sprite as it lies on the canvas: RGBA, and where its top left pixel goes."""
    master = book.sprite(placed.sprite)
    square = placed_hull([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)],
                         placed.size, placed.angle, placed.flip)
    x1, y1, x2, y2 = bounds(square)
    left, top = math.floor(placed.x + x1) - 1, math.floor(placed.y + y1) - 1
    width, height = math.ceil(placed.x + x2) + 1 - left, math.ceil(placed.y + y2) + 1 - top
    fine = min(_FINE, max(1, 4096 // max(width, height)))
    # Affine map from fine pixels back to the master: undo the place, the turn, the flip, the size.
    scale = master.width / placed.size / fine
    c, s = math.cos(placed.angle) * scale, math.sin(placed.angle) * scale
    f = -1 if placed.flip else 1
    cx, cy, half = (placed.x - left) * fine, (placed.y - top) * fine, master.width / 2
    matrix = (f * c, f * s, half - f * (c * cx + s * cy), -s, c, half + s * cx - c * cy)
    if scale > 2:  # the master is far too fine: shrink it first, or the warp would alias
        shrink = int(scale)
        master = master.reduce(shrink)
        matrix = tuple(v / shrink for v in matrix)
    image = master.transform((width * fine, height * fine), Image.Transform.AFFINE, matrix,
                               Image.Resampling.BICUBIC).reduce(fine)
    if placed.tint:
        image = _tinted(image, placed.tint)
    return image, left, top


def _tinted(shape: Image.Image, tint: Color) -> Image.Image:
    """Flat colour with a faint fall of light from top to bottom."""
    light = Image.linear_gradient("L").resize(shape.size).point(lambda v: 255 - v // 12)
    plain = ImageChops.multiply(Image.new("RGB", shape.size, tint), Image.merge("RGB", [light] * 3))
    plain.putalpha(shape.getchannel("A"))
    return plain


def _shade(canvas: Image.Image, sprite: Image.Image, left: int, top: int, size: float) -> None:
    blur, drop = max(1, round(size * 0.025)), max(1, round(size * 0.03))
    margin = 3 * blur
    alpha = Image.new("L", (sprite.width + 2 * margin, sprite.height + 2 * margin))
    alpha.paste(sprite.getchannel("A").point(lambda a: a * 70 // 255), (margin, margin))
    alpha = alpha.filter(ImageFilter.GaussianBlur(blur))
    canvas.paste((30, 30, 50), (left - margin, top - margin + drop), alpha)


# Backgrounds ------------------------------------------------------------------------------------

def _hsv(hue: float, saturation: float, value: float) -> Color:
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _mix(a: Color, b: Color, t: float) -> Color:
    return tuple(round(u + (v - u) * t) for u, v in zip(a, b))


def _fall(width: int, height: int, top: Color, bottom: Color) -> Image.Image:
    column = Image.new("RGB", (1, 64))
    column.putdata([_mix(top, bottom, i / 63) for i in range(64)])
    return column.resize((width, height), Image.Resampling.BICUBIC)


def _noise(width: int, height: int, rng: random.Random, across: int, down: int) -> Image.Image:
    small = Image.frombytes("L", (across, down), rng.randbytes(across * down))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def _glow(canvas: Image.Image, x: float, y: float, radius: float, color: Color, strength: int):
    r = max(1, round(radius))
    spot = Image.radial_gradient("L").resize((2 * r, 2 * r))  # 0 in the middle, 180 at the sides
    spot = spot.point(lambda v: max(0, 180 - v) ** 2 * strength // 180**2)
    canvas.paste(color, (round(x) - r, round(y) - r), spot)


def paint_dawn(width: int, height: int, rng: random.Random) -> Image.Image:
    """A clear sky with large soft lights."""
    hue = rng.random()
    canvas = _fall(width, height, _hsv(hue, 0.38, 0.88), _hsv(hue + rng.uniform(0.06, 0.14), 0.2, 0.99))
    for _ in range(rng.randint(4, 7)):
        _glow(canvas, rng.uniform(0, width), rng.uniform(0, height),
              rng.uniform(0.15, 0.4) * max(width, height), _hsv(hue + rng.uniform(-0.1, 0.16), 0.2, 1.0),
              rng.randint(60, 130))
    return canvas


def paint_hills(width: int, height: int, rng: random.Random) -> Image.Image:
    """Sky over three ranges of hills."""
    sky, land = rng.uniform(0.5, 0.6), rng.uniform(0.22, 0.42)
    canvas = _fall(2 * width, 2 * height, _hsv(sky, 0.4, 0.93), _hsv(sky - 0.04, 0.1, 1.0))
    _glow(canvas, rng.uniform(0.2, 1.8) * width, 0.35 * height, 0.7 * width, (255, 246, 214), 170)
    pen = ImageDraw.Draw(canvas)
    for layer in range(3):
        base = (0.56 + 0.16 * layer) * 2 * height
        waves = [(rng.uniform(0.5, 2.2), rng.uniform(0, 6.28), rng.uniform(0.01, 0.05)) for _ in range(3)]
        ridge = [(x, base + 2 * height * sum(a * math.sin(6.283 * f * x / (2 * width) + p)
                                             for f, p, a in waves))
                 for x in range(0, 2 * width + 9, 8)]
        color = _mix(_hsv(land, 0.28, 0.88), _hsv(land - 0.03, 0.45, 0.66), layer / 2)
        pen.polygon(ridge + [(2 * width + 8, 2 * height), (0, 2 * height)], fill=color)
    return canvas.reduce(2)


def paint_table(width: int, height: int, rng: random.Random) -> Image.Image:
    """Wooden boards with a fine grain."""
    wood = _hsv(rng.uniform(0.07, 0.11), rng.uniform(0.25, 0.45), rng.uniform(0.78, 0.93))
    canvas = Image.new("RGB", (width, height), wood)
    boards = rng.randint(4, 6)
    for i in range(boards):
        top, bottom = height * i // boards, height * (i + 1) // boards
        tone = rng.uniform(0.93, 1.03)
        board = Image.new("RGB", (width, bottom - top), tuple(min(255, round(v * tone)) for v in wood))
        grain = _noise(width, bottom - top, rng, 6, max(2, (bottom - top) // 3))
        board.paste(_mix(wood, (90, 60, 35), 0.55), (0, 0), grain.point(lambda v: max(0, v - 128) // 4))
        canvas.paste(board, (0, top))
        ImageDraw.Draw(canvas).line([(0, bottom - 1), (width, bottom - 1)], _mix(wood, (70, 45, 25), 0.5))
    return canvas


def paint_paper(width: int, height: int, rng: random.Random) -> Image.Image:
    """Two pale colours that run into each other, like a wash."""
    hue = rng.random()
    canvas = Image.new("RGB", (width, height), _hsv(hue, 0.12, 0.97))
    for across, depth in ((3, 130), (6, 90), (40, 22)):
        cloud = _noise(width, height, rng, across, max(2, across * height // width))
        canvas.paste(_hsv(hue + rng.uniform(-0.12, 0.12), 0.32, 0.9), (0, 0),
                     cloud.point(lambda v: v * depth // 255))
    return canvas


def paint_shore(width: int, height: int, rng: random.Random) -> Image.Image:
    """Sky, sea and sand."""
    canvas = _fall(2 * width, 2 * height, (176, 219, 245), (236, 247, 252))
    pen, horizon = ImageDraw.Draw(canvas), rng.uniform(0.28, 0.38) * 2 * height
    sand = rng.uniform(0.66, 0.74) * 2 * height
    sea = _fall(2 * width, 2 * height - round(horizon), (96, 178, 214), (178, 230, 232))
    canvas.paste(sea, (0, round(horizon)))
    for color, rise in (((240, 250, 250), 0.0), ((246, 228, 190), 0.02)):
        phase, depth = rng.uniform(0, 6.28), 0.018 * 2 * height
        edge = [(x, sand + rise * 2 * height + depth * math.sin(phase + 9.0 * x / (2 * width)))
                for x in range(0, 2 * width + 9, 8)]
        pen.polygon(edge + [(2 * width + 8, 2 * height), (0, 2 * height)], fill=color)
    return canvas.reduce(2)


def paint_dusk(width: int, height: int, rng: random.Random) -> Image.Image:
    """Deep evening colours."""
    hue = rng.uniform(0.58, 0.8)
    canvas = _fall(width, height, _hsv(hue, 0.6, 0.35), _hsv(hue + rng.uniform(0.08, 0.16), 0.5, 0.8))
    for _ in range(rng.randint(3, 5)):
        _glow(canvas, rng.uniform(0, width), rng.uniform(0.4, 1) * height,
              rng.uniform(0.2, 0.45) * max(width, height), _hsv(hue + rng.uniform(0.1, 0.3), 0.45, 0.95),
              rng.randint(40, 90))
    return canvas


BACKGROUNDS = {
    "dawn": paint_dawn, "dusk": paint_dusk, "hills": paint_hills, "paper": paint_paper,
    "shore": paint_shore, "table": paint_table,
}
