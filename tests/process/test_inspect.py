"""`chord inspect` and `chord tokenize` from outside: their files, exit codes and messages."""

import pathlib
import shutil
import subprocess

import pytest
from PIL import Image
from safetensors import safe_open
from chord_server import BIN, MODEL, ROOT

FARM = str(ROOT / "demo" / "farm.png")


def inspect(out, *arguments):
    return subprocess.run([BIN / "chord", "inspect", "--model", MODEL, "--out", out, *arguments],
                          capture_output=True, timeout=120)


def image(path, mode, size, **options):
    Image.new(mode, size).save(path, **options)
    return str(path)


def shapes(path):
    with safe_open(path, "np") as file:
        return {key: (file.get_slice(key).get_dtype(), file.get_slice(key).get_shape()) for key in file.keys()}


def test_every_stage_writes_its_tensors(tmp_path):
    one = image(tmp_path / "one.png", "RGB", (1, 1))
    out = tmp_path / "o.safetensors"
    for stage in ("pixels", "embeddings", "logits", "tokens"):
        run = inspect(out, "--image", one, "--image", FARM, "--prompt", "cow", "--stage", stage, "--max-new-tokens", "5")
        assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
        tensors = shapes(out)
        if stage == "pixels":
            grids = tensors["image_grid_thw"]
            assert grids == ("I64", [2, 3]) and tensors["pixel_values"][0] == "F32"
            assert tensors["pixel_values"][1][1] == 1176
        elif stage == "embeddings":
            assert set(tensors) == {"image_embeds"}
        elif stage == "logits":
            length = tensors["input_ids"][1][0]
            assert tensors["position_ids"] == ("I64", [3, length]) and tensors["logits"][1][0] == length
        else:
            assert set(tensors) == {"input_ids", "tokens"} and tensors["tokens"][1][0] <= 5


def test_no_limit_of_the_service_applies(tmp_path):
    out = tmp_path / "o.safetensors"
    for size in [(1, 1), (200, 1), (12000, 10000), (70000, 400)]:
        run = inspect(out, "--image", image(tmp_path / "p.png", "1", size), "--prompt", "x", "--stage", "pixels")
        assert run.returncode == 0, run.stderr
    run = inspect(out, "--prompt", "word " * 3_000, "--stage", "tokens", "--max-new-tokens", "1")
    assert run.returncode == 0, run.stderr


def bad_files(folder):
    farm = pathlib.Path(FARM).read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(farm[: len(farm) // 2])
    (folder / "text.jpg").write_bytes(b"hello")
    image(folder / "a.gif", "P", (9, 9))
    image(folder / "thin.png", "RGB", (201, 1))
    return ["empty.png", "cut.png", "text.jpg", "a.gif", "thin.png", "absent.png", "."]


def test_a_failure_is_one_line_and_no_file(tmp_path):
    out = tmp_path / "o.safetensors"
    cases = [["--image", str(tmp_path / name), "--prompt", "x", "--stage", "pixels"] for name in bad_files(tmp_path)]
    cases += [
        ["--image", FARM, "--image", str(tmp_path / "cut.png"), "--prompt", "x", "--stage", "tokens"],
        ["--prompt", "x", "--stage", "pixels"],
        ["--prompt", "x", "--stage", "logits", "--dtype", "fp7"],
        ["--prompt", b"a\xff", "--stage", "tokens"],
        ["--prompt", "x", "--stage", "tokens", "--model", "/absent"],
    ]
    words = [  # not understood: nothing is touched, nothing written
        ["--prompt", "x", "--stage", "nonsense"],
        ["--prompt", "x", "--stage", "tokens", "--max-new-tokens", "0"],
        ["--stage", "tokens"],
        ["--prompt", "x", "--stage"],
    ]
    for arguments in cases + words:
        if arguments not in words:
            out.write_bytes(b"an older result")
        run = inspect(out, *arguments)
        assert run.returncode > 0 and run.stdout == b"", (arguments, run)
        assert run.stderr.count(b"\n") == 1 and run.stderr.endswith(b"\n"), (arguments, run.stderr)
        assert not out.exists(), arguments
    assert not list(tmp_path.glob("o.safetensors*"))


def test_the_result_never_takes_the_place_of_an_input(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    link = tmp_path / "link.png"
    link.symlink_to(FARM)
    names = ["model.safetensors", "config.json", "tokenizer.json", "chat_template.json"]
    for out in [*(model / name for name in names), link]:
        before = out.read_bytes()
        for image in (FARM, "absent"):
            run = inspect(out, "--model", model, "--image", FARM, "--image", image, "--stage", "pixels")
            assert run.returncode > 0 and run.stderr.startswith(b"chord inspect: --out is"), (out, run)
            assert out.read_bytes() == before


def tokenize(text, *arguments):
    return subprocess.run([BIN / "chord", "tokenize", "--model", MODEL, *arguments], input=text,
                          capture_output=True, timeout=60)


def test_tokenize_answers_a_line_with_a_line():
    run = tokenize(b'"a cow"\n""\n"\\ud800"\n"<|im_end|>"')
    assert run.returncode == 0 and run.stderr == b""
    lines = run.stdout.split(b"\n")
    assert len(lines) == 5 and lines[1] == b"[]" and lines[4] == b""
    assert lines[3].count(b",") > 0 and tokenize(b'"<|im_end|>"', "--special").stdout.count(b",") == 0


@pytest.mark.parametrize("text", [b"not json\n", b"[1]\n", b"\n", b'"a\xff"\n'])
def test_tokenize_refuses_what_is_no_json_string(text):
    run = tokenize(text)
    assert run.returncode != 0 and run.stdout == b"" and run.stderr.count(b"\n") == 1
