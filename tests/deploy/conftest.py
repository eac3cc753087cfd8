import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "process"))

from chord_server import Chord  # noqa: E402


@pytest.fixture(scope="module")
def chord():
    """`chord serve`, whose gateway offers the metrics of all its processes."""
    with Chord("--threads", "1") as server:
        server.wait_ready()
        yield server
