"""Images for the browser tests: demo scenes stored in every EXIF orientation, large ones, and what the page
draws of them."""

import base64
import io
import json

from PIL import Image
from page import DEMO

SCENES = json.loads((DEMO / "scenes.json").read_text(encoding="utf-8"))
ORIENTATION_TAG = 0x0112
# How an upright image is stored under each orientation: the inverse of what a viewer applies.
STORED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}


def upright(name="shore.png"):
    return Image.open(DEMO / name).convert("RGB")


def stored(image, format, orientation):
    """The bytes of a file that shows `image` once its orientation has been applied."""
    turned = image if STORED[orientation] is None else image.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    out = io.BytesIO()
    options = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}}[format]
    turned.save(out, format, exif=exif, **options)
    return out.getvalue()


def enlarged(image, pixels):
    """`image` scaled to about `pixels`, not more."""
    factor = (pixels / (image.width * image.height)) ** 0.5
    return image.resize((int(image.width * factor), int(image.height * factor)), Image.Resampling.BILINEAR)


# --- what the page has drawn ---

def stage_box(page, box, size):
    """Where a box of the image lies in the stage, in CSS px, by measuring the drawn image."""
    left, top, right, bottom = drawn_area(page)
    sx, sy = (right - left) / size[0], (bottom - top) / size[1]
    return [left + box[0] * sx, top + box[1] * sy, left + box[2] * sx, top + box[3] * sy]


def stage_pixels(page):
    data = page.js("return document.getElementById('canvas').toDataURL('image/png')")
    return Image.open(io.BytesIO(base64.b64decode(data.split(",")[1])))


def drawn_area(page):
    """The canvas is transparent where there is no image."""
    return stage_pixels(page).getchannel("A").getbbox()
