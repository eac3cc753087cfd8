"""The ML backend example, driven as Label Studio does."""

import http.server
import subprocess
import sys
import threading

import httpx
import pytest

from chord_client import Image
from chord_server import ROOT, demo, iou
from conftest import url_of

EXAMPLE = ROOT / "examples" / "label_studio"
CONFIG = (EXAMPLE / "labeling_config.xml").read_text()
FARM, _, TRACTOR = demo()[0]
FRUIT, _, APPLES = demo()[1]
TOKEN = "secret-token"


class LabelStudio(http.server.BaseHTTPRequestHandler):
    """The part of Label Studio that serves uploaded files to holders of the token."""

    def do_GET(self):
        allowed = self.headers.get("Authorization") == f"Token {TOKEN}"
        self.send_response(200 if allowed and self.path == "/data/upload/1/farm.png" else 401)
        self.end_headers()
        if allowed:
            self.wfile.write(FARM)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def studio():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), LabelStudio) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def backend(server, studio):
    process = subprocess.Popen(
        [sys.executable, EXAMPLE / "backend.py", "--chord", url_of(server, "grpc"), "--port", "0", "--label-studio", studio,
         "--token", TOKEN, "--local-files", ROOT / "demo"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=address, timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def predict(backend, *images, config=CONFIG):
    tasks = [{"id": number, "data": {"image": image}} for number, image in enumerate(images)]
    response = backend.post("/predict", json={"tasks": tasks, "label_config": config, "project": "1.1", "params": {}})
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert len(results) == len(images)
    return results


def boxes(result, label):
    """In pixels, of the regions with that label."""
    out = []
    for region in result["result"]:
        assert (region["type"], region["from_name"], region["to_name"]) == ("rectanglelabels", "label", "image")
        value, width, height = region["value"], region["original_width"], region["original_height"]
        if value["rectanglelabels"] == [label]:
            x, y = value["x"] * width / 100, value["y"] * height / 100
            out.append([x, y, x + value["width"] * width / 100, y + value["height"] * height / 100])
    return out


def test_HealthAndSetup(backend):
    assert backend.get("/health").json()["status"] == "UP"
    answer = backend.post("/setup", json={"project": "1.1", "schema": CONFIG, "hostname": "h", "access_token": "t"})
    assert answer.status_code == 200 and answer.json()["model_version"]
    assert backend.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200
    assert backend.get("/elsewhere").status_code == 404


def test_EveryLabelIsFoundInEveryTask(backend, studio):
    uploaded, absolute, local, inline = predict(
        backend, "/data/upload/1/farm.png", f"{studio}/data/upload/1/farm.png", "/data/local-files/?d=farm.png",
        Image(FRUIT).to_data_url())
    for result in (uploaded, absolute, local):
        (box,) = boxes(result, "tractor")
        assert iou(box, TRACTOR[0]) > 0.7 and 0 < result["score"] <= 1 and result["model_version"] == "chord-nano"
    found = boxes(inline, "red apple")
    assert len(found) == 3 and all(iou(a, b) > 0.7 for a, b in zip(found, APPLES))


def test_WhatMayNotBeReadIsAnEmptyPrediction(backend, studio):
    port = studio.rsplit(":", 1)[1]
    images = ["http://127.0.0.1:1/a.png", f"http://localhost:{port}/data/upload/1/farm.png", f"{studio}.evil.example/a.png",
              "/data/local-files/?d=../README.md", "/data/local-files/?d=/etc/passwd", "file:///etc/passwd", "/data/upload/other",
              "data:image/png;base64,eA==", ""]
    *empty, good = predict(backend, *images, "/data/local-files/?d=farm.png")
    assert all(result["result"] == [] and result["score"] == 0 for result in empty)
    assert boxes(good, "tractor")


@pytest.mark.parametrize("config", ["", "<View>", "<View/>", '<View><Image name="i" value="$i"/></View>'])
def test_AConfigurationWithoutBoxesIsRefused(backend, config):
    assert backend.post("/setup", json={"schema": config}).status_code == 400
    assert "error" in backend.post("/predict", json={"tasks": [], "label_config": config}).json()


def test_BodiesThatAreNoneAreRefused(backend):
    for body in (b"[]", b"{", b'{"tasks": 1}', b'"x"'):
        assert backend.post("/predict", content=body).status_code == 400
