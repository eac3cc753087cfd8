"""The examples run as their users run them, in an environment that has the wheel."""

import json
import pathlib
import subprocess
import sys

from PIL import Image as PilImage

from chord_server import ROOT
from conftest import url_of

EXAMPLES = ROOT / "examples" / "python"
FARM = ROOT / "demo" / "farm.png"


def run(name, *arguments, code=0):
    done = subprocess.run([sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_Ground(url, tmp_path):
    out = tmp_path / "found.png"
    assert "tractor: (26" in run("ground.py", url, FARM, "find the tractor", out)
    assert PilImage.open(out).size == (560, 420)
    assert "ImageError" in run("ground.py", url, __file__, "a cat", code=1)


def test_Conversation(url):
    text = run("conversation.py", url, FARM, "find the tractor", "find the tractor")
    assert text.count("1 found") == 2 and "cache kv" in text


def test_FolderToDataset(server, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("farm.png", "shore.png"):
        (folder / name).write_bytes((ROOT / "demo" / name).read_bytes())
    url = url_of(server, "grpc")
    text = run("folder_to_dataset.py", url, folder, "coco", tmp_path / "coco.json", "tractor", "octopus")
    assert "2 images" in text
    coco = json.loads((tmp_path / "coco.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    found = {(files[item["image_id"]], names[item["category_id"]]) for item in coco["annotations"]}
    assert {("farm.png", "tractor"), ("shore.png", "octopus")} <= found
    run("folder_to_dataset.py", url, folder, "yolo", tmp_path / "yolo", "tractor")
    assert (tmp_path / "yolo" / "labels" / "farm.txt").read_text().startswith("0 0.6")


def test_AsyncMany(url):
    paths = [ROOT / "demo" / name for name in ("farm.png", "shore.png", "night.png")]
    text = run("async_many.py", url, "find the tractor", *paths)
    assert all(pathlib.Path(path).name in text for path in paths)
