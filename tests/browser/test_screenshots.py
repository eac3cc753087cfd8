"""The screenshots in docs/images can be made again, and show the page as it is."""

import importlib.util

from page import ROOT
from PIL import Image, ImageChops, ImageStat


def load():
    spec = importlib.util.spec_from_file_location("screenshots", ROOT / "tools" / "screenshots.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_screenshots_of_the_documentation_show_this_page(tmp_path):
    load().main(tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir())
    kept = sorted(path.name for path in (ROOT / "docs" / "images").glob("page_*.png"))
    assert made == kept
    for name in made:
        now, then = (Image.open(folder / name).convert("L") for folder in (tmp_path, ROOT / "docs" / "images"))
        assert now.size == then.size, name
        # Times and fonts may differ; another layout would not pass.
        assert ImageStat.Stat(ImageChops.difference(now, then)).mean[0] < 12, f"{name}: run tools/screenshots.py"
        assert (tmp_path / name).stat().st_size < 120_000, name
