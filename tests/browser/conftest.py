import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "process"))

import page as browser  # noqa: E402
from chord_server import Chord  # noqa: E402


def pytest_collection_modifyitems(items):
    why = browser.missing()
    if why:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f"browser tests skipped: {why}"))


@pytest.fixture(scope="module")
def chord():
    """One real Chord with chord-nano for a whole file."""
    with Chord() as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    driver = browser.start_driver(downloads)
    driver.downloads = downloads
    yield driver
    driver.quit()


@pytest.fixture
def page(chord, driver):
    """The page, freshly opened at desktop width in English; no script may fail while it is used."""
    page = browser.Page(driver, chord.http_address, driver.downloads).open()
    yield page
    assert page.errors() == []
