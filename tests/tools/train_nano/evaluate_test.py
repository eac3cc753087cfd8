import io
import json
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from PIL import Image
from train_nano.evaluate import ChordHttp, Score, evaluate_scenes, iou, matched, parse_boxes, upright_rgb


def test_iou_of_known_boxes():
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0


def test_an_answer_serves_one_thing_only():
    assert matched([(0, 0, 10, 10), (0, 0, 10, 9)], [(0, 0, 10, 10)]) == [1, 0]
    assert matched([(0, 0, 10, 10)], []) == [0]


def test_exact_means_every_box_and_none_besides():
    box, far = (0, 0, 10, 10), (50, 50, 60, 60)
    score = Score()
    assert score.add([box], [box])
    assert not score.add([box], [box, far])
    assert not score.add([box, far], [box])
    assert score.add([], [])
    assert not score.add([], [far])
    assert score.as_dict() == {"asked": 5, "exact": 2, "acc_at_0.5": 0.75, "mean_iou": 0.75}


def test_boxes_are_read_from_the_models_words():
    predicted = '[{"bbox_2d": [1, 2, 30, 40], "label": "owl"}, {"bbox_2d": [5, 6, 70, 80], "label": "\u732b"}]'
    assert parse_boxes(predicted) == [(1, 2, 30, 40), (5, 6, 70, 80)]
    assert parse_boxes("[]") == []


def test_images_are_turned_upright_and_laid_on_white():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, clear = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (20, 10)).save(turned, "JPEG", exif=exif)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(clear, "PNG")
    assert upright_rgb(turned.getvalue()).size == (10, 20)
    assert upright_rgb(clear.getvalue()).getpixel((1, 1)) == (255, 255, 255)


def test_http_sends_the_fields_of_the_api_and_scores_by_kind_and_language(tmp_path):
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = BytesParser().parsebytes(head + body).get_payload()
            names = {p.get_param("name", header="content-disposition"): p.get_payload(decode=True) for p in parts}
            seen.append((self.path, names))
            answer = json.dumps({"boxes": [[1, 2, 30, 40]]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    rows = [{"file": "a.png", "prompt": "the owl", "lang": "en", "boxes": [[1, 2, 30, 40]]},
            {"file": "a.png", "prompt": "猫头鹰", "lang": "zh", "boxes": []}]
    (tmp_path / "scenes.json").write_text(json.dumps(rows))
    image = b"\x89PNG\r\n\r\n--not really"
    (tmp_path / "a.png").write_bytes(image)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        wrong = []
        summary = evaluate_scenes(tmp_path, ChordHttp(f"127.0.0.1:{server.server_port}", 99), wrong.append)
    finally:
        server.shutdown()
        server.server_close()
    path, fields = seen[1]
    assert path == "/api/ground"
    assert fields == {"prompt": "猫头鹰".encode(), "max_new_tokens": b"99", "image": image}
    assert summary["one"]["exact"] == 1 and summary["absent"]["exact"] == 0 and len(wrong) == 1
