"""The package is typed: mypy --strict is content with it, and with code that uses it."""

import os
import pathlib
import subprocess
import sys

import chord_client

PACKAGE = pathlib.Path(chord_client.__file__).parent
CONFIG = pathlib.Path(__file__).resolve().parents[2] / "clients" / "python" / "pyproject.toml"

GOOD = """
import asyncio
from chord_client import AsyncClient, Answer, Box, Client, GroundRequest, ImageHandle

def one(chord: Client) -> Box:
    handle: ImageHandle = chord.upload(b"...")
    answer: Answer = chord.ground(handle, "the vase", max_new_tokens=64, grammar="off")
    for result in chord.ground_batch([GroundRequest("a.jpg", "cat", tag="1")]):
        answer = result.unwrap()
    return answer.objects[0].box

async def two(chord: AsyncClient) -> float | None:
    async for event in chord.ground_stream("a.jpg", "cat"):
        print(event)
    return (await chord.ground("a.jpg", "cat")).confidence
"""


def mypy(*arguments, cwd):
    # The cache would be written beside the configuration.
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", os.devnull, *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300)


def test_ThePackageIsStrictlyTyped(tmp_path):
    done = mypy("--config-file", str(CONFIG), cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_UsersCodeIsCheckedAgainstIt(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    done = mypy("--strict", "good.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    (tmp_path / "bad.py").write_text(GOOD.replace('grammar="off"', 'grammar="maybe"').replace("-> float | None", "-> str"))
    done = mypy("--strict", "bad.py", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout.count("error:") == 2, done.stdout
