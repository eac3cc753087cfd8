"""What can be taken away: images, COCO, JSON, commands that repeat the request."""

import json
import os
import stat
import subprocess
import sys

import pytest
from chord_server import BIN, ROOT
from page import DEMO
from PIL import Image
from scenes import stored, upright


def open_answer(page, path=DEMO / "fruit.webp", prompt="all red apples"):
    page.add(path)
    page.ask(prompt)
    return page.findings()


def test_the_image_with_boxes_has_the_original_size_and_the_boxes_in_place(page, tmp_path):
    image = upright("shore.png").resize((1260, 1680))
    path = tmp_path / "shore.jpg"
    path.write_bytes(stored(image, "JPEG", 6))
    [found] = open_answer(page, path, "the octopus")
    saved = Image.open(page.downloaded("shore_boxes.png", lambda: page.click("#save-image"))).convert("RGB")
    assert saved.size == (1260, 1680)
    x1, y1, x2, y2 = found["place"]
    green = (22, 163, 74)
    for x, y in ((x1, (y1 + y2) // 2), (x2, (y1 + y2) // 2), ((x1 + x2) // 2, y2)):
        assert saved.getpixel((x, y)) == green, "the lines lie on the coordinates"
    assert saved.getpixel((30, 30)) != green
    near = lambda a, b: all(abs(p - q) < 12 for p, q in zip(a, b))
    assert near(saved.getpixel((600, 60)), image.getpixel((600, 60))), "the rest is the image"


def test_coco_json_has_what_is_shown(page):
    found = open_answer(page)
    coco = json.loads(page.downloaded("fruit_coco.json", lambda: page.click("#save-coco")).read_text())
    assert coco["images"] == [{"id": 1, "file_name": "fruit.webp", "width": 560, "height": 420, "prompt": "all red apples"}]
    assert coco["categories"] == [{"id": 1, "name": "red apple"}]
    assert len(coco["annotations"]) == 3
    for annotation, row in zip(coco["annotations"], found):
        x, y, w, h = annotation["bbox"]
        assert [x, y, x + w, y + h] == row["place"] and annotation["area"] == w * h
        assert annotation["image_id"] == 1 and annotation["category_id"] == 1 and 0.9 < annotation["score"] <= 1
    assert sorted(a["id"] for a in coco["annotations"]) == [1, 2, 3]


def test_coco_json_of_several_images(page):
    open_answer(page)
    open_answer(page, DEMO / "farm.png", "all mammals")
    assert "2 images" in page.text("#save-coco")
    coco = json.loads(page.downloaded("images_coco.json", lambda: page.click("#save-coco")).read_text())
    assert [i["file_name"] for i in coco["images"]] == ["fruit.webp", "farm.png"]
    assert [a["image_id"] for a in coco["annotations"]] == [1, 1, 1, 2, 2]


def test_json_is_the_answer_as_it_came_and_can_be_copied(page):
    found = open_answer(page)
    page.tab("json")
    answer = json.loads(page.text("#json"))
    assert answer["boxes"] == [f["place"] for f in found] and answer["request_id"].startswith("req_")
    page.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": page.url.rstrip("/")})
    page.click("#copy-json")
    page.wait(lambda: page.text("#announcer") == "Copied", "it is copied")
    assert json.loads(page.js_async("return await navigator.clipboard.readText();")) == answer


def test_copying_works_without_the_clipboard_api(page):
    open_answer(page)
    page.tab("json")
    page.js("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as over plain HTTP
    page.click("#copy-json")
    page.wait(lambda: page.text("#announcer") == "Copied", "it is copied")


def code(page, kind, by_id=False):
    page.tab("code")
    page.js("document.querySelector(arguments[0]).click()", f"input[value={kind}]")
    if by_id != page.js("return document.getElementById('code-by-id').checked"):
        page.click("#code-by-id")
    page.settle()
    return page.text("#code")


TRICKY = """the "red" apple's \\ stem; $HOME `id` @x 苹果 100%"""


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("prompt", ["all red apples", TRICKY])
def test_curl_repeats_the_request(page, prompt, by_id):
    open_answer(page, prompt=prompt)
    command = code(page, "curl", by_id)
    page.tab("json")
    shown = json.loads(page.text("#json"))
    assert command.startswith("curl") and ("image_id=img_" in command) == by_id
    done = subprocess.run(["sh", "-c", f"{command} -sS"], cwd=DEMO, capture_output=True, text=True, timeout=60)
    again = json.loads(done.stdout)
    assert "code" not in again, again
    # Within the conversation the prompt is longer by the earlier turns; what is found is the same.
    assert len(again["boxes"]) == len(shown["boxes"])


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("prompt", ["all red apples", TRICKY])
def test_python_repeats_the_request(page, prompt, by_id):
    found = open_answer(page, prompt=prompt)
    program = code(page, "python", by_id)
    done = subprocess.run([sys.executable, "-c", program], cwd=DEMO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(found)


# grpcurl is not in Debian. This speaks to the server as grpcurl does: -d @ reads the message as JSON.
GRPCURL = """#!{python}
import sys
sys.path[:0] = [{process!r}]
import grpc
from chord_server import grounding_pb2, grounding_pb2_grpc
from google.protobuf import json_format
plaintext, d, at, address, method = sys.argv[1:]
assert (plaintext, d, at, method) == ("-plaintext", "-d", "@", "chord.v1.Grounding/Ground")
request = json_format.Parse(sys.stdin.read(), grounding_pb2.GroundRequest())
print(json_format.MessageToJson(grounding_pb2_grpc.GroundingStub(grpc.insecure_channel(address)).Ground(request, timeout=60)))
"""


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("prompt", ["all red apples", TRICKY])
def test_grpcurl_repeats_the_request(page, tmp_path, prompt, by_id):
    found = open_answer(page, prompt=prompt)
    command = code(page, "grpcurl", by_id)
    tool = tmp_path / "grpcurl"
    tool.write_text(GRPCURL.format(python=sys.executable, process=str(ROOT / "tests" / "process")))
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    done = subprocess.run(["sh", "-c", command], cwd=DEMO, capture_output=True, text=True, timeout=60,
                          env=dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}"))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout).get("boxes", [])) == len(found)


def test_the_start_message_names_the_page(chord):
    # What this suite opens is what `chord serve` announces.
    run = subprocess.Popen([BIN / "chord", "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--model", ROOT / "models" / "chord-nano"],
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        lines = [run.stdout.readline() for _ in range(4)]
    finally:
        run.terminate()
        run.wait(60)
    http = next(line for line in lines if "HTTP" in line).split()[1]
    page = next(line for line in lines if "Page" in line).split()[1]
    assert http == page + "api/ground"
