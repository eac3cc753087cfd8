"""Boxes drawn on images. Needs Pillow (pip install 'chord-client[images]')."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Union

from PIL import Image as PilModule
from PIL import ImageDraw, ImageFont, ImageOps

from chord_client.image import Image, ImageSource
from chord_client.types import Answer, GroundedObject

if TYPE_CHECKING:
    Font = Union[ImageFont.FreeTypeFont, ImageFont.ImageFont]

GREEN = (0, 255, 0)
ORANGE = (255, 165, 0)
BLACK = (0, 0, 0)


def draw(
    image: ImageSource,
    answer: Answer | Iterable[GroundedObject],
    *,
    font: str | os.PathLike[str] | None = None,
    labels: bool = True,
) -> PilModule.Image:
    """A copy of the upright image with each box outlined: green, or orange where review is advised.

    font: a TrueType file. Pillow's own font, the default, has Latin letters only; of other labels the
    confidence alone is drawn.
    """
    canvas = _upright(image)
    pen = ImageDraw.Draw(canvas)
    line = max(2, max(canvas.size) // 300)
    letters = _font(font, max(12, 5 * line))
    for item in answer.objects if isinstance(answer, Answer) else answer:
        color = ORANGE if item.needs_review else GREEN
        box = item.box
        # The last pixel inside a box is the one before its right and lower edge.
        pen.rectangle((box.x1, box.y1, box.x2 - 1, box.y2 - 1), outline=color, width=line)
        if labels:
            _draw_label(pen, item, letters, color, latin=font is None, width=canvas.width)
    return canvas


def _upright(image: ImageSource) -> PilModule.Image:
    if isinstance(image, PilModule.Image):
        return ImageOps.exif_transpose(image).convert("RGB")
    return Image.of(image).to_pil()


def _font(path: str | os.PathLike[str] | None, size: int) -> Font:
    return ImageFont.truetype(os.fspath(path), size) if path else ImageFont.load_default(size)


def _draw_label(
    pen: ImageDraw.ImageDraw,
    item: GroundedObject,
    font: Font,
    color: tuple[int, int, int],
    *,
    latin: bool,
    width: int,
) -> None:
    """On a bar above the box, inside it where there is no room above."""
    shown = item.label if not latin or item.label.isascii() else ""
    text = f"{shown[:64]} {item.confidence:.2f}".strip()
    left, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    bar_width, bar_height = int(right - left) + 4, int(bottom) + 4
    x = max(0, min(item.box.x1, width - bar_width))
    y = item.box.y1 - bar_height if item.box.y1 >= bar_height else item.box.y1
    pen.rectangle((x, y, x + bar_width, y + bar_height), fill=color)
    pen.text((x + 2, y + 2), text, font=font, fill=BLACK)
