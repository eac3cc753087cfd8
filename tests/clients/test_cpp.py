"""A C++ program that knows nothing but the installed package."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from chord_server import ROOT

BUILD = pathlib.Path(os.environ.get("CHORD_BUILD_DIR", ROOT / "build"))


def run(*command, code=0):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """examples/cpp, copied so that no file of the source tree is in reach, built against a prefix."""
    place = tmp_path_factory.mktemp("cpp")
    prefix = place / "prefix"
    run("cmake", "--install", BUILD, "--component", "Development", "--prefix", prefix)
    shutil.copytree(ROOT / "examples" / "cpp", place / "source")
    run("cmake", "-S", place / "source", "-B", place / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", place / "build")
    return place / "build" / "chord_example"


def test_TheExampleFindsThings(example, server):
    text = run(example, server.grpc_address, ROOT / "demo" / "farm.png", "find the tractor", "a ship")
    assert re.search(r"find the tractor: tractor at 26\d,22\d,42\d,35\d \(0\.\d+\)", text)
    assert "a ship: not there" in text


def test_TheExampleReportsRefusals(example, server):
    assert "JPEG, PNG or WebP" in run(example, server.grpc_address, ROOT / "README.md", "a cat", code=1)


def test_TheInstalledConfigNamesNoBuildFolder(example):
    package = example.parents[1] / "prefix" / "lib" / "cmake" / "chord"
    for file in package.iterdir():
        assert str(BUILD) not in file.read_text() and str(ROOT) not in file.read_text(), file
