import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "process"))

from chord_server import Chord  # noqa: E402
from fleet import free_port  # noqa: E402


@pytest.fixture(scope="module")
def chord():
    """`chord serve`; `targets` are the addresses whose /metrics together have all its series."""
    workers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with Chord("--threads", "1", "--vision-flag", f"metrics_address={workers[0]}",
               "--language-flag", f"metrics_address={workers[1]}") as server:
        server.wait_ready()
        server.targets = [server.http_address, *workers]
        yield server
