#!/usr/bin/env python3
"""Regenerates the screenshots of the web page in docs/images from a real `chord serve` with chord-nano.

    ~/.cache/chord/venv/bin/python tools/screenshots.py [FOLDER]

Needs a build in build/ (or CHORD_BIN_DIR) and what `tools/setup.sh --oracle` installs."""

import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "browser"), str(ROOT / "tests" / "process")]

from PIL import Image  # noqa: E402

import page as browser  # noqa: E402
from chord_server import Chord  # noqa: E402

DESKTOP, PHONE = (1200, 760), (390, 800)


def open_sample(page, name, **how):
    page.open(**how)
    page.click(f"[data-sample={name}]")
    page.wait(lambda: page.visible("#viewer"), "the example is shown")


def welcome(page):
    page.open(size=DESKTOP)


def answer(page):
    open_sample(page, "fruit", size=DESKTOP)
    page.ask("all red apples")
    page.js("document.querySelectorAll('.finding-main')[1].click(); document.activeElement.blur()")


def uncertain(page):
    open_sample(page, "farm", size=DESKTOP, dark=True)
    page.ask("all mammals")
    page.js("document.activeElement.blur()")


def region(page):
    open_sample(page, "night", size=DESKTOP)
    page.ask("all owls")
    page.js("document.querySelectorAll('.finding-main')[1].click()")
    page.settle()
    page.js("document.querySelector('.finding.selected [data-tool=editBox]').click(); document.activeElement.blur()")


def classes(page):
    open_sample(page, "farm", size=DESKTOP)
    page.js("document.querySelector('input[value=classes]').click()")
    page.ask("cow, tractor, house, guitar")
    page.js("document.activeElement.blur()")


def phone(page):
    open_sample(page, "shore", size=PHONE, language="zh-CN")
    page.ask("章鱼")
    page.js("document.activeElement.blur()")


# chord-nano is rarely unsure of what it finds in the examples: a stricter threshold shows what that looks like.
STRICT = ("--gateway-flag", "review_threshold=0.9", "--gateway-flag", "advice_threshold=0.9")
SCREENSHOTS = {
    (): {"page_welcome": welcome, "page_answer": answer, "page_region": region, "page_phone": phone,
         "page_classes": classes},
    STRICT: {"page_uncertain": uncertain},
}


def shrink(path):
    """256 colours are enough for a page, and a fifth of the bytes."""
    image = Image.open(path).convert("RGB")
    image.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)


def take(folder, downloads, flags, screenshots):
    with Chord(*flags) as chord:
        chord.wait_ready()
        driver = browser.start_driver(downloads)
        try:
            page = browser.Page(driver, chord.http_address, downloads)
            for name, show in screenshots.items():
                path = folder / f"{name}.png"
                show(page)
                page.js("scrollTo(0, 0)")
                driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 1, "y": 1})
                page.screenshot(path)
                shrink(path)
                print(f"{path.name} {path.stat().st_size // 1024} KiB")
        finally:
            driver.quit()


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        for flags, screenshots in SCREENSHOTS.items():
            take(folder, downloads, flags, screenshots)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
