"""The demonstration images: composed by hand, drawn and measured like every other scene.

Between them they cover one thing, several and none, English and Chinese, PNG with alpha, JPEG with
an EXIF orientation, WebP, and an image larger than what the model sees.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .draw import Drawing, draw
from .heldout import row, write_rows
from .scenes import COLORS, Placed, Scene, Turn, bounds, placed_hull
from .sprites import SpriteBook

_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Thing:
    name: str  # English name of a drawing, or "<color> <shape>"
    x: float  # centre and size as parts of the image's width, height and shorter side
    y: float
    size: float
    angle: float = 0.0
    flip: bool = False


@dataclass(frozen=True)
class DemoImage:
    file: str
    width: int
    height: int
    background: str
    prompt: str
    lang: str
    wanted: str  # English name of what the prompt asks for
    things: tuple[Thing, ...]
    pick: int | None = None  # of several of its name, the one that is meant (left to right)
    transparent: bool = False
    orientation: int = 1


IMAGES = (
    DemoImage("farm.png", 560, 420, "hills", "find the tractor", "en", "tractor", (
        Thing("house with garden", 0.20, 0.40, 0.36), Thing("tractor", 0.62, 0.66, 0.42),
        Thing("ewe", 0.20, 0.80, 0.24), Thing("cow", 0.87, 0.40, 0.26, flip=True))),
    DemoImage("fruit.webp", 560, 420, "table", "找出所有红苹果", "zh", "red apple", (
        Thing("red apple", 0.16, 0.28, 0.30), Thing("red apple", 0.47, 0.70, 0.34, 0.15),
        Thing("red apple", 0.84, 0.62, 0.26, -0.2), Thing("banana", 0.50, 0.24, 0.34),
        Thing("grapes", 0.17, 0.74, 0.34), Thing("pineapple", 0.81, 0.24, 0.36))),
    DemoImage("shore.png", 420, 560, "shore", "where is the octopus?", "en", "octopus", (
        Thing("sailboat", 0.28, 0.26, 0.36), Thing("octopus", 0.66, 0.54, 0.40),
        Thing("crab", 0.26, 0.84, 0.24), Thing("tropical fish", 0.22, 0.56, 0.22))),
    DemoImage("music.png", 448, 336, "paper", "图中的自行车", "zh", "bicycle", (
        Thing("guitar", 0.20, 0.46, 0.54), Thing("violin", 0.52, 0.62, 0.46),
        Thing("trumpet", 0.82, 0.34, 0.40))),
    DemoImage("sky.jpg", 1280, 960, "dawn", "找到图中的火箭", "zh", "rocket", (
        Thing("rocket", 0.66, 0.34, 0.36), Thing("helicopter", 0.22, 0.24, 0.26),
        Thing("parachute", 0.28, 0.70, 0.30), Thing("balloon", 0.88, 0.70, 0.28),
        Thing("butterfly", 0.58, 0.80, 0.20, 0.25))),
    DemoImage("badges.png", 448, 448, "paper", "the blue star", "en", "blue star", (
        Thing("blue star", 0.70, 0.30, 0.40), Thing("red heart shape", 0.26, 0.26, 0.30),
        Thing("green hexagon", 0.26, 0.72, 0.34), Thing("orange ring", 0.72, 0.76, 0.30)),
        transparent=True),
    DemoImage("lunch.jpg", 420, 560, "table", "Find the hamburger in the image.", "en", "hamburger", (
        Thing("hamburger", 0.36, 0.30, 0.50), Thing("french fries", 0.76, 0.56, 0.36),
        Thing("cup with straw", 0.24, 0.72, 0.36), Thing("cookie", 0.72, 0.84, 0.24)),
        orientation=6),
    DemoImage("night.png", 560, 420, "dusk", "最左边的猫头鹰", "zh", "owl", (
        Thing("owl", 0.20, 0.54, 0.32), Thing("owl", 0.54, 0.32, 0.38), Thing("owl", 0.84, 0.66, 0.30, flip=True),
        Thing("yellow crescent", 0.86, 0.22, 0.24), Thing("cactus", 0.50, 0.80, 0.26)), pick=0),
)


def write_demo(out: Path, book: SpriteBook) -> list[dict]:
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for image in IMAGES:
        scene, turn = compose(image, book)
        drawing = draw(scene, book, random.Random(f"demo/{image.file}"), image.background)
        _save(out / image.file, image, scene, drawing, book)
        rows.append(row(image.file, turn, drawing))
    write_rows(out / "scenes.json", rows)
    return rows


def compose(image: DemoImage, book: SpriteBook) -> tuple[Scene, Turn]:
    objects = [_placed(thing, image, book) for thing in image.things]
    found = sorted((i for i, o in enumerate(objects) if o.en == image.wanted),
                   key=lambda i: objects[i].box[0])
    if image.pick is not None:
        found = [found[image.pick]]
    kinds = {k.en[0]: k for k in book.kinds}
    label = objects[found[0]].name(image.lang) if found else (
        kinds[image.wanted].zh if image.lang == "zh" else image.wanted)
    turn = Turn(image.prompt, image.lang, tuple(found), (label,) * max(1, len(found)))
    return Scene(image.width, image.height, objects, [turn]), turn


def _placed(thing: Thing, image: DemoImage, book: SpriteBook) -> Placed:
    color, _, shape = thing.name.removesuffix(" shape").partition(" ")
    drawings = {k.en[0]: i for i, k in enumerate(book.kinds) if not k.is_shape}
    shapes = {k.en[0]: i for i, k in enumerate(book.kinds) if k.is_shape}
    if thing.name in drawings:
        index, tint = drawings[thing.name], None
        en, zh = thing.name, book.kinds[index].zh
    else:
        index, tint = shapes[shape], COLORS[color][1]
        en, zh = f"{color} {shape}", COLORS[color][0] + book.kinds[index].zh
    x, y = thing.x * image.width, thing.y * image.height
    size = thing.size * min(image.width, image.height)
    x1, y1, x2, y2 = bounds(placed_hull(book.hull(index), size, thing.angle, thing.flip))
    return Placed(index, index, x, y, size, thing.angle, thing.flip, tint, en, zh,
                  (x + x1, y + y1, x + x2, y + y2))


def _save(path: Path, spec: DemoImage, scene: Scene, drawing: Drawing, book: SpriteBook) -> None:
    image = drawing.image
    if spec.transparent:
        image = _cut_out(scene, book)
    if path.suffix == ".png":
        image.save(path, optimize=True)
    elif path.suffix == ".webp":
        image.save(path, quality=90, method=6)
    else:
        exif = Image.Exif()
        if spec.orientation == 6:  # stored turned; viewers turn it a quarter clockwise
            image = image.transpose(Image.Transpose.ROTATE_90)
            exif[_ORIENTATION] = 6
        image.save(path, quality=90, optimize=True, exif=exif)


def _cut_out(scene: Scene, book: SpriteBook) -> Image.Image:
    """The same things on nothing."""
    from .draw import warped

    canvas = Image.new("RGBA", (scene.width, scene.height))
    for placed in scene.objects:
        sprite, left, top = warped(placed, book)
        canvas.alpha_composite(sprite, (left, top))
    return canvas
