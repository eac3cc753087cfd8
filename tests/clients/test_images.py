"""Images of every kind through a real Chord, and what is drawn on them."""

import io

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageOps

from chord_client import Client, GroundedObject
from chord_client.drawing import GREEN, ORANGE, draw
from chord_client.types import Box
from chord_server import ROOT, demo, iou

FARM, PROMPT, BOXES = demo()[0]


def test_PathBytesFilePillowAndNumpyGiveTheSameBoxes(url):
    path = ROOT / "demo" / "farm.png"
    opened = PilImage.open(path).convert("RGB")
    array = np.asarray(opened)
    with Client(url) as chord, open(path, "rb") as file:
        boxes = {chord.ground(source, PROMPT).boxes for source in (path, str(path), FARM, file, opened, array)}
    assert len(boxes) == 1


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_BoxesLieRightOnATurnedJpeg(url, orientation):
    """The file is stored turned, with the EXIF mark that turns it back."""
    upright = PilImage.open(io.BytesIO(FARM)).convert("RGB")
    turns = {3: PilImage.Transpose.ROTATE_180, 6: PilImage.Transpose.ROTATE_90, 8: PilImage.Transpose.ROTATE_270}
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    upright.transpose(turns[orientation]).save(out, "JPEG", quality=95, exif=exif)
    with Client(url) as chord:
        answer = chord.ground(out.getvalue(), PROMPT)
        same = chord.ground(PilImage.open(io.BytesIO(out.getvalue())), PROMPT)
    assert answer.image_size == upright.size and answer.frame.orientation == orientation
    assert iou(answer.boxes[0], BOXES[0]) > 0.7 and iou(same.boxes[0], BOXES[0]) > 0.7
    drawn = np.asarray(answer.draw(out.getvalue()))
    assert drawn.shape[:2] == (420, 560)
    box = answer.boxes[0]
    middle = (box.y1 + box.y2) // 2
    assert (drawn[middle, box.x1] == GREEN).all() and (drawn[middle, box.x2 - 1] == GREEN).all()


def test_WhatNeedsReviewIsOrangeAndTheImageIsNotChanged():
    image = PilImage.new("RGB", (100, 80))
    objects = [GroundedObject("cup", Box(10, 20, 40, 60), 0.9, False), GroundedObject("杯", Box(50, 0, 100, 80), 0.4, True)]
    drawn = draw(image, objects)
    assert drawn.getpixel((10, 40)) == GREEN and drawn.getpixel((39, 40)) == GREEN
    assert drawn.getpixel((99, 79)) == ORANGE and drawn.getpixel((49, 60)) == (0, 0, 0)
    assert image.getextrema() == ((0, 0),) * 3
    plain = np.asarray(draw(image, objects[:1], labels=False))
    inside = plain[22:58, 12:38]
    assert (inside == 0).all()


def test_AnUprightPilImageIsDrawnInItsOwnFrame():
    exif = PilImage.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    PilImage.new("RGB", (60, 40)).save(out, "JPEG", exif=exif)
    image = PilImage.open(io.BytesIO(out.getvalue()))
    assert draw(image, []).size == ImageOps.exif_transpose(image).size == (40, 60)
