"""`chord ground --format` and `--prompts`, and that it writes what the Python client writes."""

import json
import shutil
import subprocess

import pytest

from chord_client import Client
from chord_client.export import FORMATS, Dataset, render
from chord_server import BIN, ROOT
from conftest import url_of

PROMPTS = [("tractor", "find the tractor"), ("", "找出所有红苹果"), ("sea & <life>", "where is the octopus?")]
FILES = ["farm.png", "fruit.webp", "shore.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("images")
    for name in FILES:
        shutil.copy(ROOT / "demo" / name, out)
    (out / "notes.txt").write_text("not an image")
    return out


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    lines = [f"{category}\t{prompt}" if category else prompt for category, prompt in PROMPTS]
    file.write_text("# what to find\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def expected(server):
    """The same by the Python client."""
    out = Dataset()
    with Client(url_of(server, "http")) as chord:
        for name in FILES:
            handle = chord.upload(ROOT / "demo" / name)
            for category, prompt in PROMPTS:
                out.add(name, prompt, chord.ground(handle, prompt), category=category)
    return out


def ground(server, *arguments, code=0):
    done = subprocess.run([BIN / "chord", "ground", *map(str, arguments), "--server", server.grpc_address],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("format", FORMATS)
def test_TheCommandAndTheClientWriteTheSame(server, folder, prompts, expected, format, tmp_path):
    out = tmp_path / "out"
    ground(server, folder, "--prompts", prompts, "--format", format, "--out", out)
    written = {str(file.relative_to(out)) if out.is_dir() else "": file.read_text(encoding="utf-8")
               for file in ([out] if out.is_file() else sorted(out.rglob("*.*")))}
    wanted = render(format, expected)
    if format in ("coco", "labelstudio"):
        assert json.loads(written[""]) == json.loads(wanted[""])
    else:
        assert written == wanted


def test_OnePromptAboutOneImage(server, tmp_path):
    out = tmp_path / "coco.json"
    done = ground(server, ROOT / "demo" / "farm.png", "find the tractor", "--format", "coco", "--out", out)
    assert "1 of 1 prompts answered" in done.stderr
    coco = json.loads(out.read_text())
    assert [image["file_name"] for image in coco["images"]] == ["farm.png"]
    assert [category["name"] for category in coco["categories"]] == ["tractor"]


def test_JsonLinesHaveEveryPromptInOrder(server, folder, prompts):
    done = ground(server, folder, "--prompts", prompts, "--json", "--parallel", 3)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["file"], line["prompt"]) for line in lines] == [(name, prompt) for name in FILES for _, prompt in PROMPTS]
    assert all("objects" in line for line in lines)
    assert [line["usage"]["cache"] for line in lines].count("kv") == 6  # all but the first about each image


def test_AnImageThatFailsIsNamedAndTheOthersAreWritten(server, folder, tmp_path):
    broken = tmp_path / "images"
    shutil.copytree(folder, broken)
    (broken / "broken.png").write_bytes((broken / "farm.png").read_bytes()[:500])
    out = tmp_path / "coco.json"
    done = ground(server, broken, "find the tractor", "--format", "coco", "--out", out, code=1)
    assert "broken.png" in done.stderr and "1 failed" in done.stderr
    assert [image["file_name"] for image in json.loads(out.read_text())["images"]] == FILES
    done = ground(server, broken / "broken.png", "a cat", "--format", "coco", "--out", tmp_path / "none.json", code=1)
    assert not (tmp_path / "none.json").exists()


def test_WithoutAServerOneSentenceSaysSoAndNothingIsWritten(folder, tmp_path):
    out = tmp_path / "coco.json"
    done = subprocess.run([BIN / "chord", "ground", folder, "a cat", "--format", "coco", "--out", out, "--server", "127.0.0.1:1"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("chord serve") == 1 and not out.exists()


def test_WrongCommandLinesAreRefusedBeforeAnyWork(server, folder, prompts, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")
    (tmp_path / "bare").mkdir()
    twins = tmp_path / "twins"
    twins.mkdir()
    for name in ("a.png", "a.webp"):
        shutil.copy(folder / "farm.png", twins / name)
    for arguments in ([folder, "a cat", "--format", "voc", "--out", tmp_path / "x"], [folder, "a cat", "--format", "coco"],
                      [folder, "a cat", "--out", tmp_path / "x"], [folder, "--prompts", prompts],
                      [twins, "a cat", "--format", "yolo", "--out", tmp_path / "x"],
                      [folder, "a cat", "--prompts", prompts, "--json"], [folder, "--prompts", empty, "--json"],
                      [folder, "--prompts", tmp_path / "absent", "--json"],
                      [tmp_path / "bare", "a cat", "--format", "coco", "--out", tmp_path / "x"],
                      [folder, "a cat", "--format", "coco", "--out", tmp_path / "no" / "such" / "folder.json"],
                      [folder, "a cat", "--format", "coco", "--out", tmp_path / "x", "--annotate", tmp_path / "y"]):
        done = ground(server, *arguments, code=2)
        assert done.stderr.startswith("chord ground: ") and not done.stdout, arguments
    assert not (tmp_path / "x").exists()
