"""What the tests of deploy/ share."""

import shutil

from chord_server import ROOT

DEPLOY = ROOT / "deploy"


def tool(name):
    """Path of a program of the system, or None."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
