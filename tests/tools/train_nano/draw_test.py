import json
import random

import numpy as np
import pytest
from PIL import Image
from train_nano.draw import BACKGROUNDS, draw, warped
from train_nano.heldout import held_out_scene, kind_of, write_held_out
from train_nano.scenes import Placed, Scene, bounds, placed_hull
from train_nano.sprites import EDGE_ALPHA, SpriteBook, hull_of_alpha


def shape_index(name):
    return next(i for i, k in enumerate(SpriteBook().kinds) if k.is_shape and k.en[0] == name)


def placed(book, index, x, y, size, angle=0.0, flip=False, tint=(200, 30, 30)):
    x1, y1, x2, y2 = bounds(placed_hull(book.hull(index), size, angle, flip))
    tint = tint if book.kinds[index].is_shape else None
    return Placed(index, index, x, y, size, angle, flip, tint, "", "", (x + x1, y + y1, x + x2, y + y2))


def test_the_hull_of_a_known_shape_is_its_corners():
    alpha = np.zeros((10, 10), np.uint8)
    alpha[2:5, 1:7] = 255
    alpha[8, 8] = EDGE_ALPHA  # not opaque enough to count
    corners = {(round(x, 9), round(y, 9)) for x, y in hull_of_alpha(alpha)}
    assert corners == {(-0.4, -0.3), (0.2, -0.3), (0.2, 0.0), (-0.4, 0.0)}


@pytest.mark.parametrize("size", [40, 77.3, 260])
@pytest.mark.parametrize("angle", [0.0, 0.3, -0.35])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", ["star", "arrow", "crescent", "rectangle"])
def test_sampled_boxes_agree_with_drawn_pixels(name, size, angle, flip):
    book = SpriteBook()
    o = placed(book, shape_index(name), 200.4, 210.7, size, angle, flip)
    sprite, left, top = warped(o, book)
    alpha = np.asarray(sprite)[..., 3] > EDGE_ALPHA
    ys, xs = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    measured = left + xs[0], top + ys[0], left + xs[-1] + 1, top + ys[-1] + 1
    assert max(abs(a - b) for a, b in zip(measured, o.box)) <= 1.6, (measured, o.box)


def test_boxes_are_tight_around_what_changed_in_the_image():
    book = SpriteBook()
    scene = Scene(300, 200, [placed(book, shape_index("circle"), 90.2, 100, 120, tint=(10, 10, 10)),
                             placed(book, shape_index("square"), 230, 60.5, 70, 0.2, tint=(10, 10, 10))])
    drawing = draw(scene, book, random.Random(1), "paper")
    dark = np.asarray(drawing.image.convert("L")) < 60  # the pale paper and the shadows are not
    for box in drawing.boxes:
        x1, y1, x2, y2 = box
        inside = dark[y1:y2, x1:x2]
        assert inside[:2].any() and inside[-2:].any() and inside[:, :2].any() and inside[:, -2:].any()
        dark[y1:y2, x1:x2] = False
    assert not dark.any()
    assert min(drawing.contrasts) > 100


def test_drawings_keep_their_colours(book):
    index = next(i for i, k in enumerate(book.kinds) if k.en[0] == "red apple")
    scene = Scene(200, 200, [placed(book, index, 100, 100, 136)])
    drawing = draw(scene, book, random.Random(1), "paper")
    x1, y1, x2, y2 = drawing.boxes[0]
    red, green, blue = np.asarray(drawing.image)[(y1 + y2) // 2, (x1 + x2) // 2].astype(int)
    assert red > 180 and red - green > 80 and red - blue > 80


@pytest.mark.parametrize("name", sorted(BACKGROUNDS))
@pytest.mark.parametrize("size", [(56, 300), (561, 421)])
def test_backgrounds_fill_any_size_and_repeat(name, size):
    first, again, other = (BACKGROUNDS[name](*size, random.Random(s)) for s in (1, 1, 2))
    assert first.size == size and first.mode == "RGB"
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_a_held_out_scene_depends_on_seed_and_index_alone(book):
    _, turn, drawing = held_out_scene(book, "7", 3)
    _, turn_again, again = held_out_scene(SpriteBook(), "7", 3)
    assert (turn, drawing.boxes, drawing.image.tobytes()) == (turn_again, again.boxes, again.image.tobytes())
    assert drawing.image.tobytes() != held_out_scene(book, "8", 3)[2].image.tobytes()


def test_held_out_scenes_hold_what_their_list_says(book, tmp_path):
    rows = write_held_out(tmp_path, 10, "3", book)
    assert json.loads((tmp_path / "scenes.json").read_text()) == rows
    assert [r["kind"] for r in rows].count("one") == 6
    assert {r["lang"] for r in rows} == {"en", "zh"}
    for r in rows:
        assert len(r["boxes"]) == len(r["labels"])
        assert {"absent": not r["boxes"], "one": len(r["boxes"]) == 1}.get(r["kind"], len(r["boxes"]) > 1)
        with Image.open(tmp_path / r["file"]) as image:
            for x1, y1, x2, y2 in r["boxes"]:
                assert 0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height


def test_demo_images_are_those_that_are_committed(book, tmp_path):
    from pathlib import Path

    from PIL import ImageOps
    from train_nano.demo import write_demo

    committed = Path(__file__).resolve().parents[3] / "demo"
    rows = write_demo(tmp_path, book)
    assert json.loads((committed / "scenes.json").read_text()) == rows
    for r in rows:
        with Image.open(committed / r["file"]) as kept, Image.open(tmp_path / r["file"]) as made:
            assert (kept.format, kept.size, kept.mode) == (made.format, made.size, made.mode)
            a, b = (np.asarray(ImageOps.exif_transpose(i).convert("RGB"), int) for i in (kept, made))
        assert np.abs(a - b).mean() < 1  # coders may differ in the last bit between releases
        assert all(x2 <= a.shape[1] and y2 <= a.shape[0] for _, _, x2, y2 in r["boxes"])
