"""Builds the Python package the way its users do and installs it.

OUT/dist       sdist, and the wheel built from it (so the sdist is complete)
OUT/venv       the wheel with what the tests need
OUT/minimal    the wheel with its required dependencies alone

Nothing is fetched: packages come from the folder of wheels. OUT/venv is kept between runs for as long as
its requirements are the same; the wheel is always built and installed anew.
"""

import argparse
import hashlib
import pathlib
import shutil
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "tools" / "requirements-clients.txt"


def run(*command):
    subprocess.run([str(part) for part in command], check=True, timeout=1500)


def make_venv(folder):
    venv.create(folder, clear=True, with_pip=True)
    return folder / "bin" / "python"


def pip(python, wheels, *arguments):
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
        "--find-links", wheels, *arguments)


def tools_environment(folder, wheels):
    stamp = folder / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        python = make_venv(folder)
        pip(python, wheels, "-r", REQUIREMENTS)
        stamp.write_text(wanted)
    return python


def build(python, out):
    """From a copy: a build writes into its source tree."""
    source, dist = out / "source", out / "dist"
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(dist, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*_pb2.py*", "*.binpb", "dist")
    shutil.copytree(ROOT / "clients" / "python", source / "clients" / "python", ignore=ignore)
    shutil.copytree(ROOT / "proto", source / "proto")
    run(python, "-m", "build", "--no-isolation", "--outdir", dist, source / "clients" / "python")
    (wheel,) = dist.glob("*.whl")
    return wheel


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    wheels = args.wheels.resolve()
    python = tools_environment(args.out / "venv", wheels)
    wheel = build(python, args.out)
    pip(python, wheels, "--force-reinstall", "--no-deps", wheel)
    pip(make_venv(args.out / "minimal"), wheels, wheel)


if __name__ == "__main__":
    sys.exit(main())
