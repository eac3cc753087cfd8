"""What the tests of deploy/ share."""

import functools
import shutil
import subprocess

from chord_server import BIN, ROOT

DEPLOY = ROOT / "deploy"


def tool(name):
    """Path of a program of the system, or None."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


@functools.cache
def flag_help(program):
    return subprocess.run([str(BIN / program), "--help"], capture_output=True, text=True).stdout


def serve_flags():
    return ["--threads", "1"]
