import json
import random

import pytest
from train_nano.kinds import load_kinds
from train_nano.scenes import CATEGORIES, SceneSampler, Variant, covered, plural, superlative_target

SQUARE = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))


@pytest.fixture
def scenes():
    """Every kind as a square: what is sampled does not depend on the drawings."""
    variants = [[Variant(i, SQUARE)] for i in range(len(load_kinds()))]

    def sample(seed, count):
        sampler = SceneSampler(load_kinds(), variants, random.Random(seed))
        return [sampler.sample(448, 336, turns=4) for _ in range(count)]

    return sample


def test_a_seed_gives_the_same_scenes_and_another_seed_others(scenes):
    assert scenes("a", 20) == scenes("a", 20)
    assert scenes("a", 20) != scenes("b", 20)


def test_things_lie_inside_and_hardly_cover_each_other(scenes):
    for scene in scenes("a", 200):
        for i, o in enumerate(scene.objects):
            assert 0 <= o.box[0] < o.box[2] <= scene.width and 0 <= o.box[1] < o.box[3] <= scene.height
            assert all(covered(o.box, p.box) <= 0.12 for p in scene.objects[:i])


def test_both_languages_and_all_kinds_of_answer_occur(scenes):
    turns = [t for s in scenes("a", 200) for t in s.turns]
    assert 0.35 < sum(t.lang == "zh" for t in turns) / len(turns) < 0.55
    assert 0.08 < sum(not t.targets for t in turns) / len(turns) < 0.2
    assert any(len(t.targets) > 2 for t in turns)
    for t in turns:
        assert any("\u4e00" <= c <= "\u9fff" for c in t.prompt) == (t.lang == "zh")


def test_answers_are_the_boxes_of_what_was_asked_from_left_to_right(scenes):
    kinds = load_kinds()
    english = {c[1]: s for s, c in CATEGORIES.items()} | {c[0]: s for s, c in CATEGORIES.items()}
    for scene in scenes("b", 200):
        for turn in scene.turns:
            predicted = json.loads(scene.answer(turn))
            assert [a["bbox_2d"] for a in predicted] == [[round(v) for v in scene.objects[i].box]
                                                    for i in turn.targets]
            lefts = [scene.objects[i].box[0] for i in turn.targets]
            assert lefts == sorted(lefts)
            for i, label in zip(turn.targets, turn.labels):
                o = scene.objects[i]
                assert label == (o.zh if turn.lang == "zh" else o.en)
                categories = [s for n, s in english.items() if n in turn.prompt]
                names = {label, plural(label), *kinds[o.kind].en, kinds[o.kind].zh}
                assert categories or turn.lang == "zh" or any(n in turn.prompt for n in names), turn


def test_absent_things_are_absent(scenes):
    for scene in scenes("c", 300):
        for turn in scene.turns:
            if not turn.targets:
                assert turn.labels[0] not in {o.name(turn.lang) for o in scene.objects}
                assert scene.answer(turn) == "[]"


@pytest.mark.parametrize("key, index", [("left", 0), ("right", 1), ("top", 1), ("bottom", 0),
                                        ("big", 1), ("small", 0)])
def test_superlatives_choose_the_right_box(key, index):
    assert superlative_target([(10, 200, 50, 240), (200, 20, 300, 120)], key) == index


def test_superlatives_refuse_what_is_too_close_to_tell():
    boxes = [(10, 10, 50, 50), (25, 100, 65, 140)]
    assert superlative_target(boxes, "left") is None
    assert superlative_target(boxes, "big") is None
    assert superlative_target(boxes, "top") == 0


@pytest.mark.parametrize("one, many", [("box", "boxes"), ("cherry", "cherries"), ("key", "keys"),
                                       ("owl", "owls"), ("radish", "radishes")])
def test_plurals(one, many):
    assert plural(one) == many
