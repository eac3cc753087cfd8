import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "process"))

from chord_server import Chord  # noqa: E402


@pytest.fixture(scope="session")
def server():
    """One real Chord with chord-nano for a whole file."""
    with Chord() as running:
        running.wait_ready()
        yield running


def url_of(server, transport):
    return f"http://{server.http_address}" if transport == "http" else f"grpc://{server.grpc_address}"


@pytest.fixture(params=["http", "grpc"])
def url(request, server):
    return url_of(server, request.param)
