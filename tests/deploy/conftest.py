import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "process"))

from chord_server import Chord  # noqa: E402


@pytest.fixture(scope="module")
def chord():
    """`chord serve` with the metrics of all its processes."""
    from deployed import serve_flags
    with Chord(*serve_flags()) as server:
        server.wait_ready()
        yield server
