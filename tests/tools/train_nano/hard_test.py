import io
import json

from PIL import Image
from train_nano.hard import DIFFICULTIES, hard_scene, write_hard
from train_nano.heldout import held_out_scene
from train_nano.sprites import SpriteBook


def test_a_hard_scene_depends_on_seed_and_index_alone(book):
    for index in (4, 5, 7):  # noise, JPEG, both or blur
        one, again = hard_scene(book, "7", index), hard_scene(SpriteBook(), "7", index)
        assert one.file == again.file and one.turn == again.turn
        assert one.file != hard_scene(book, "8", index).file


def test_every_difficulty_and_kind_of_prompt_occurs(book, tmp_path):
    rows = write_hard(tmp_path, 40, "1", book)
    assert json.loads((tmp_path / "scenes.json").read_text()) == rows
    pairs = {(r["hard"], r["kind"]) for r in rows}
    assert {d for d, _ in pairs} == set(DIFFICULTIES)
    for difficulty in DIFFICULTIES:
        assert {k for d, k in pairs if d == difficulty} == {"one", "several", "absent"}
    for row in rows:
        data = (tmp_path / row["file"]).read_bytes()
        image = Image.open(io.BytesIO(data))
        assert image.format == ("JPEG" if row["file"].endswith(".jpg") else "PNG")
        assert row["hard"] != "jpeg" or image.format == "JPEG"
        for x1, y1, x2, y2 in row["boxes"]:
            assert 0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height


def test_small_things_are_small_and_hidden_things_are_covered(book):
    from train_nano.scenes import area, covered

    small = [hard_scene(book, "2", 1 + 8 * i).scene for i in range(5)]
    for scene in small:
        largest = max((area(o.box) for o in scene.objects), default=0)
        assert largest < 0.02 * scene.width * scene.height
    hidden = [hard_scene(book, "2", 2 + 8 * i).scene for i in range(5)]
    assert any(covered(a.box, b.box) > 0.1 for s in hidden for a in s.objects for b in s.objects if a is not b)


def test_seeds_are_not_those_of_other_scenes(book):
    assert hard_scene(book, "1", 0).drawing.image.tobytes() != held_out_scene(book, "1", 0)[2].image.tobytes()
