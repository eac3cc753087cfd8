"""What the tests of deploy/ share."""

import functools
import shutil
import socket
import subprocess

from chord_server import BIN, ROOT

DEPLOY = ROOT / "deploy"


def tool(name):
    """Path of a program of the system, or None."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


@functools.cache
def help_of(program, *command):
    return subprocess.run([str(BIN / program), *command, "--help"], capture_output=True, text=True).stdout


def serve_takes_settings():
    """Whether `chord serve --config` is there."""
    return (BIN / "chord").is_file() and "--config" in help_of("chord", "serve")


def free_port():
    """For programs that are given a port and cannot say which one they took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
