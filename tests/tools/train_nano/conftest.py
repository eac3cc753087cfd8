import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the models here are too small for more

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))


@pytest.fixture(scope="session")
def book():
    from train_nano.font import DEFAULT_FONT
    from train_nano.sprites import SpriteBook

    if not DEFAULT_FONT.is_file():
        pytest.skip(f"{DEFAULT_FONT} is missing (package fonts-noto-color-emoji)")
    return SpriteBook()


@pytest.fixture(scope="session")
def shape_variants():
    """Variants of the kinds that need no font; others are empty and must not be drawn."""
    from train_nano.kinds import load_kinds
    from train_nano.scenes import Variant
    from train_nano.sprites import SpriteBook

    book = SpriteBook()
    return [[Variant(i, book.hull(i))] if k.is_shape else [] for i, k in enumerate(load_kinds())]


@pytest.fixture(scope="session")
def shape_material(shape_variants):
    """Training dataset of shapes alone: quick to make."""
    import numpy as np
    from train_nano.data import Dataset
    from train_nano.sprites import SpriteBook, _premultiplied

    book, drawn = SpriteBook(), []
    for i, variants in enumerate(shape_variants):
        empty = np.zeros((4, 96, 96), np.uint8)
        drawn.append(_premultiplied(book.sprite(i), 96) if variants else empty)
    return Dataset(np.stack(drawn), shape_variants, None, None, [])


@pytest.fixture
def shapes_only(monkeypatch):
    """Scenes made of shapes alone."""
    from train_nano.scenes import SceneSampler

    thing = SceneSampler._thing

    def shape(self):
        while True:
            drawn = thing(self)
            if drawn[1] is not None:
                return drawn

    monkeypatch.setattr(SceneSampler, "_thing", shape)
