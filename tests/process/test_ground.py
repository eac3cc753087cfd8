"""HTTP and gRPC answer the bundled prompts, in the contract's form."""

import json
import subprocess

import pytest
from chord_server import BIN, ROOT, demo, iou


@pytest.mark.parametrize("image,prompt,boxes", demo())
def test_http_answers_the_bundled_prompts(chord, image, prompt, boxes):
    answer = chord.post(image, prompt)
    assert answer.status == 200, answer.body
    got = answer.json
    assert len(got["boxes"]) == len(boxes)
    for want in boxes:
        assert max(iou(want, box) for box in got["boxes"]) > 0.7
    width, height = got["image_size"]
    for box, found in zip(got["boxes"], got["objects"]):
        assert found["box"] == box and 0 <= found["confidence"] <= 1
        assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
        assert all(isinstance(v, int) for v in box)
    assert 0 <= got["confidence"] <= 1 and got["calibrated"] is True
    assert got["usage"]["cache"] == "none" and got["usage"]["completion_tokens"] > 0
    assert got["timing"]["total_ms"] >= got["timing"]["ttft_ms"] > 0
    assert got["model"] == "chord-nano" and got["finish_reason"] == "stop"
    assert ("advice" in got) == (got["confidence"] < 0.75)
    x1, y1, x2, y2 = (got["boxes"] or [[0, 0, 0, 0]])[0]
    if boxes:
        assert f"<box>({x1},{y1}),({x2},{y2})</box>" in got["text"]


def test_grpc_gives_the_same_answer(chord):
    image, prompt, _ = demo()[0]
    over_http, over_grpc = chord.post(image, prompt).json, chord.ground(image, prompt)
    assert [[b.x1, b.y1, b.x2, b.y2] for b in over_grpc.boxes] == over_http["boxes"]
    assert over_grpc.text == over_http["text"]
    assert over_grpc.confidence == pytest.approx(over_http["confidence"], abs=1e-6)


def test_answers_repeat_exactly(chord):
    image, prompt, _ = demo()[0]
    first, second = chord.post(image, prompt).json, chord.post(image, prompt).json
    assert first["boxes"] == second["boxes"] and first["text"] == second["text"]
    assert first["request_id"] != second["request_id"]


def test_a_short_answer_says_that_it_was_cut(chord):
    image, prompt, _ = next(d for d in demo() if d[2])
    answer = chord.post(image, prompt, [("max_new_tokens", "5")]).json
    assert answer["finish_reason"] == "length" and answer["usage"]["completion_tokens"] == 5


def test_health_readiness_and_metrics(chord):
    assert chord.get("/healthz").status == 200
    assert chord.get("/readyz").status == 200
    text = chord.get("/metrics").body.decode()
    assert "chord_requests_total" in text and "# TYPE" in text


def run(*args, check=True):
    return subprocess.run([str(BIN / "chord"), *map(str, args)], capture_output=True, check=check, timeout=120)


def test_command_line_asks_and_annotates(chord, tmp_path):
    scene = json.loads((ROOT / "demo" / "scenes.json").read_text())[0]
    out = tmp_path / "out.png"
    done = run("ground", ROOT / "demo" / scene["file"], scene["prompt"], "--server", chord.grpc_address,
               "--annotate", out, "--json")
    answer = json.loads(done.stdout)
    from PIL import Image, ImageOps
    drawn = Image.open(out).convert("RGB")
    assert list(drawn.size) == answer["image_size"]
    assert drawn.size == ImageOps.exif_transpose(Image.open(ROOT / "demo" / scene["file"])).size
    assert (0, 255, 0) in {color for _, color in drawn.getcolors(1 << 24)}


def test_command_line_answers_a_folder_in_order(chord, tmp_path):
    done = run("ground", ROOT / "demo", "the star", "--server", chord.grpc_address, "--json", "--annotate", tmp_path)
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    files = [line["file"] for line in lines]
    assert files == sorted(files) and len(files) >= 6
    assert len(list(tmp_path.glob("*.png"))) == len(files)


def test_command_line_says_what_is_wrong(chord, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    done = run("ground", bad, "x", "--server", chord.grpc_address, check=False)
    assert done.returncode == 1 and b"JPEG, PNG or WebP" in done.stderr
    done = run("ground", bad, "x", "--server", "127.0.0.1:1", check=False)
    assert done.returncode == 1 and b"chord serve" in done.stderr
    assert run("ground", check=False).returncode == 2
    assert run("nonsense", check=False).returncode == 2


def test_doctor_finds_this_installation_sound(chord):
    done = run("doctor", check=False)
    assert done.returncode == 0, done.stdout
    assert b"FAIL" not in done.stdout


def test_a_cut_answer_has_an_exit_code_of_its_own(chord):
    cut = run("ground", ROOT / "demo/farm.png", "find the tractor", "--server", chord.grpc_address,
              "--max-new-tokens", "12", check=False)
    assert cut.returncode == 3 and b"cut at max_new_tokens" in cut.stdout and b"not there" not in cut.stdout
    folder = run("ground", ROOT / "demo", "find the tractor", "--server", chord.grpc_address, "--max-new-tokens", "12",
                 check=False)
    assert folder.returncode == 3 and b"cut at --max-new-tokens" in folder.stderr


def test_the_name_of_the_annotated_image_chooses_its_format(chord, tmp_path):
    for name, magic in (("a.jpg", b"\xff\xd8"), ("a.JPEG", b"\xff\xd8"), ("a.png", b"\x89PNG")):
        out = tmp_path / name
        run("ground", ROOT / "demo/farm.png", "find the tractor", "--server", chord.grpc_address, "--annotate", out)
        assert out.read_bytes().startswith(magic)
