"""Clients that mean no good, beyond bad images and prompts: broken HTTP, floods, slow senders, odd
JSON, files that cost more than they weigh; and model folders that are not whole."""

import base64
import io
import json
import shutil
import socket
import struct
import subprocess
import time
import zlib

import pytest
from PIL import Image
from chord_server import BIN, LEAKS, MODEL, Answer, Chord, assert_problem, demo, multipart
from test_bad_input import chunk, encoded, png_header

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)
TYPE, BODY = multipart([("image", ("x.png", GOOD)), ("prompt", PROMPT)])
HOST = b"Host: x\r\nConnection: close\r\n"
POST = b"POST /api/ground HTTP/1.1"
FORM = b"Content-Type: " + TYPE.encode() + b"\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = FORM + b"Transfer-Encoding: chunked\r\n"


def raw(chord, data, half_close=False, timeout=40, pause=None):
    """What the server says to these bytes, until it closes."""
    host, port = chord.http_address.split(":")
    out = b""
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.settimeout(timeout)
        try:
            for at in range(0, len(data), 1 if pause else len(data)):
                sock.sendall(data[at:at + 1] if pause else data)
                if pause:
                    time.sleep(pause)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before it had everything: the answer is there
        try:
            while part := sock.recv(65536):
                out += part
        except ConnectionResetError:
            pass
    head, _, body = out.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    return Answer(int(lines[0].split(" ")[1]), dict(line.split(": ", 1) for line in lines[1:]), body)


def request(line, fields=HOST, body=b""):
    return line + b"\r\n" + fields + b"\r\n" + body


BROKEN = {
    "connect": (request(b"CONNECT x:80 HTTP/1.1"), 400, "REQUEST_MALFORMED"),
    "http/0.9": (b"GET /healthz\r\n\r\n", 400, "REQUEST_MALFORMED"),
    "http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP_VERSION_UNSUPPORTED"),
    "no host": (request(b"GET /healthz HTTP/1.1", b""), 400, "REQUEST_MALFORMED"),
    "two lengths": (request(POST, HOST + FORM + LENGTH + b"Content-Length: 3\r\n", BODY), 400, "REQUEST_MALFORMED"),
    "negative length": (request(POST, HOST + FORM + b"Content-Length: -1\r\n"), 400, "REQUEST_MALFORMED"),
    "endless length": (request(POST, HOST + FORM + b"Content-Length: 99999999999999999999\r\n"), 400, "REQUEST_MALFORMED"),
    "length and chunks": (request(POST, HOST + CHUNKED + LENGTH, BODY), 400, "REQUEST_MALFORMED"),
    "length too small": (request(POST, HOST + FORM + b"Content-Length: %d\r\n" % (len(BODY) - 9), BODY), 400, "BODY_MALFORMED"),
    "chunk of nonsense": (request(POST, HOST + CHUNKED, b"zz\r\n"), 400, "REQUEST_MALFORMED"),
    "chunk of 16 EiB": (request(POST, HOST + CHUNKED, b"ffffffffffffffff\r\n"), 413, "BODY_TOO_LARGE"),
    "chunk extension flood": (request(POST, HOST + CHUNKED, b"1;" + b"x" * 200_000 + b"\r\na\r\n0\r\n\r\n"), 431, "HEADERS_TOO_LARGE"),
    "trailer flood": (request(POST, HOST + CHUNKED, b"0\r\n" + b"a: b\r\n" * 100_000 + b"\r\n"), 431, "HEADERS_TOO_LARGE"),
    "compressed body": (request(POST, HOST + FORM + LENGTH + b"Content-Encoding: gzip\r\n", BODY), 415, "CONTENT_TYPE_UNSUPPORTED"),
    "strange expectation": (request(POST, HOST + FORM + LENGTH + b"Expect: a miracle\r\n", BODY), 417, "EXPECTATION_UNSUPPORTED"),
    "100,000 fields": (request(b"GET / HTTP/1.1", HOST + b"".join(b"a%d: b\r\n" % i for i in range(100_000))), 431, "HEADERS_TOO_LARGE"),
    "a field of 8 MiB": (request(b"GET / HTTP/1.1", HOST + b"a: " + b"b" * (8 << 20) + b"\r\n"), 431, "HEADERS_TOO_LARGE"),
    "a target of 100 KB": (request(b"GET /" + b"a" * 100_000 + b" HTTP/1.1"), 431, "HEADERS_TOO_LARGE"),
    "NUL in a field": (request(b"GET /healthz HTTP/1.1", HOST + b"a: b\0c\r\n"), 400, "REQUEST_MALFORMED"),
    "a field without a colon": (request(b"GET /healthz HTTP/1.1", HOST + b"abc\r\n"), 400, "REQUEST_MALFORMED"),
    "an invented method": (request(b"BREW /api/ground HTTP/1.1"), 405, "METHOD_NOT_ALLOWED"),
    "no type": (request(POST, HOST + LENGTH, BODY), 415, "CONTENT_TYPE_UNSUPPORTED"),
    "no boundary": (request(POST, HOST + b"Content-Type: multipart/form-data\r\n" + LENGTH, BODY), 400, "BODY_MALFORMED"),
    "an image alone": (request(POST, HOST + b"Content-Type: image/png\r\nContent-Length: %d\r\n" % len(GOOD), GOOD), 415, "CONTENT_TYPE_UNSUPPORTED"),
    "a timeout of nonsense": (request(POST, HOST + FORM + LENGTH + b"X-Request-Timeout: soon\r\n", BODY), 400, "PARAMETER_INVALID"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_http_is_refused_by_its_name(chord, name):
    data, status, code = BROKEN[name]
    assert_problem(raw(chord, data), status, code)


@pytest.mark.parametrize("path", ["/", "/api/ground", "/healthz", "/readyz", "/metrics", "/app.js", "/nothing"])
@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "TRACE"])
def test_every_method_of_every_route(chord, method, path):
    answer = raw(chord, request(f"{method} {path} HTTP/1.1".encode()))
    if method == "HEAD":
        assert answer.body == b""
        assert answer.status == {"/api/ground": 405, "/nothing": 404}.get(path, 200)
        if answer.status >= 400:
            assert answer.headers["Content-Type"] == "application/problem+json"
    else:
        assert_problem(answer, 404 if path == "/nothing" else 405, "ROUTE_UNKNOWN" if path == "/nothing" else "METHOD_NOT_ALLOWED")


def test_a_body_that_ends_too_early(chord):
    longer = FORM + b"Content-Length: %d\r\n" % (len(BODY) + 100)
    assert_problem(raw(chord, request(POST, HOST + longer, BODY), half_close=True), 400, "REQUEST_MALFORMED")


def test_slow_senders_are_cut_off(chord):
    longer = FORM + b"Content-Length: %d\r\n" % (len(BODY) + 100)
    begin = time.monotonic()
    assert_problem(raw(chord, request(POST, HOST + longer, BODY)), 408, "REQUEST_TIMEOUT")
    assert_problem(raw(chord, b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 200, pause=0.1), 408, "REQUEST_TIMEOUT")
    assert time.monotonic() - begin < 60


def test_idle_connections_cost_little_and_good_clients_get_in(chord):
    before = {role: chord.memory(role) for role in chord.ROLES}
    host, port = chord.http_address.split(":")
    held = []
    try:
        for _ in range(900):  # more than the gateway keeps
            held.append(socket.create_connection((host, int(port)), 5))
        assert chord.post(GOOD, PROMPT).status == 200
        assert sum(chord.memory(role) - before[role] for role in chord.ROLES) < 100 << 20
    finally:
        for sock in held:
            sock.close()


def test_forms_that_are_not_as_asked(chord):
    image, prompt = ("image", ("x", GOOD)), ("prompt", PROMPT)
    for fields, code in [([image, image, prompt], "BODY_MALFORMED"), ([image, prompt, prompt], "BODY_MALFORMED"),
                         ([image, prompt] + [("a", "b")] * 10_000, "BODY_MALFORMED"),
                         ([image, prompt, ("max_new_tokens", "9" * 100_000)], "PARAMETER_INVALID"),
                         ([("image", "hello"), prompt], "IMAGE_FORMAT_UNKNOWN")]:
        answer = chord.post(extra=fields)
        assert_problem(answer, answer.status, code)
    for body in [b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", b"--b\r\n\r\nx\r\n--b--\r\n", b"",
                 b"--b\r\n" + b"A: b\r\n" * 100_000 + b"\r\nx\r\n--b--\r\n"]:
        answer = chord.request("POST", "/api/ground", body, {"Content-Type": "multipart/form-data; boundary=b"})
        assert_problem(answer, 400, "BODY_MALFORMED")
    answer = chord.request("POST", "/api/ground", BODY[:-10], {"Content-Type": TYPE})
    assert_problem(answer, 400, "BODY_MALFORMED")


DATA = "data:image/png;base64," + base64.b64encode(GOOD).decode()


@pytest.mark.parametrize("body", [
    "", "[]", '"x"', "{}", "{", "[" * 100_000, '{"a":' * 100_000, "NaN",
    '{"image":"data:image/png;base64,****","prompt":"x"}', '{"image":"data:,abc","prompt":"x"}',
    '{"image":"data:image/png;base64,","prompt":"x"}', '{"image":"file:///etc/passwd","prompt":"x"}',
    '{"image":null,"prompt":"x"}', '{"image":5,"prompt":"x"}',
    f'{{"image":"{DATA[:-3]}","prompt":"x"}}', f'{{"image":"{DATA}","prompt":5}}', f'{{"image":"{DATA}","prompt":"\\ud800"}}',
    f'{{"image":"{DATA}","prompt":"a\\u0000b"}}', f'{{"image":"{DATA}","prompt":"x","prompt":"y"}}',
    f'{{"image":"{DATA}","prompt":"x"}}tail', f'{{"image":"{DATA}","prompt":"x","unheard_of":1}}',
    f'{{"image":"{DATA}","prompt":"x","max_new_tokens":NaN}}', f'{{"image":"{DATA}","prompt":"x","max_new_tokens":1e999}}',
    f'{{"image":"{DATA}","prompt":"x","max_new_tokens":9223372036854775808}}',
    f'{{"image":"{DATA}","prompt":"x","max_new_tokens":"5"}}', f'{{"image":"{DATA}","prompt":"x","max_new_tokens":true}}'],
    ids=lambda body: body.replace(DATA, "…")[:40])
def test_json_that_is_not_as_asked(chord, body):
    answer = chord.request("POST", "/api/ground", body.encode(), {"Content-Type": "application/json"})
    assert answer.status == 400
    assert_problem(answer, 400, answer.json["code"])


def zeros(size):
    squeeze = zlib.compressobj(9)
    return b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(size >> 20)) + squeeze.flush()


def test_files_that_cost_more_than_they_weigh(chord):
    bomb = zeros(1 << 30)  # a MiB
    small = encoded(size=(10, 10))
    at = small.find(b"IDAT") - 4
    scans = encoded(size=(3000, 3000), fmt="JPEG", progressive=True)
    last = scans.rfind(b"\xff\xda")
    jpeg = encoded(size=(300, 200), fmt="JPEG")
    frame = jpeg.find(b"\xff\xc0")
    cases = {
        "compressed metadata": (small[:at] + chunk(b"iCCP", b"x\0\0" + bomb) + chunk(b"zTXt", b"x\0\0" + bomb) + small[at:], None),
        "100,000 chunks": (small[:at] + chunk(b"tEXt", b"a\0b") * 100_000 + small[at:], None),
        "pixels behind the last row": (png_header(10, 10) + chunk(b"IDAT", bomb) + chunk(b"IEND", b""), "IMAGE_CORRUPT"),
        "a chunk of 4 GiB": (png_header(10, 10) + struct.pack(">I", 2**32 - 1) + b"IDAT" + bytes(50), "IMAGE_CORRUPT"),
        "3000 scans": (scans[:-2] + scans[last:-2] * 3000 + b"\xff\xd9", "IMAGE_CORRUPT"),
        "40 Mpx of nothing": (jpeg[:frame + 5] + struct.pack(">HH", 7000, 7000) + jpeg[frame + 9:], "IMAGE_CORRUPT"),
        "40 Mpx of webp": (b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\x57\x1b\0\x57\x1b\0", "IMAGE_CORRUPT"),
        "13 MB of comments": (jpeg[:2] + (b"\xff\xfe\xff\xff" + bytes(65533)) * 200 + jpeg[2:], "IMAGE_METADATA_TOO_LARGE"),
    }
    chord.post(GOOD, PROMPT)
    before = {role: chord.memory(role) for role in chord.ROLES}
    for name, (data, code) in cases.items():
        chord.reset_peak()
        answer = chord.post(data, PROMPT)
        added = sum(chord.memory(role, "VmHWM") - before[role] for role in chord.ROLES)
        assert added < 1 << 30, (name, added)
        if code is None:
            assert answer.status == 200, (name, answer.body)
        else:
            assert_problem(answer, 400, code)


def test_the_same_scene_however_it_is_stored(chord):
    image = Image.open(io.BytesIO(GOOD)).convert("RGB")

    def stored(fmt, turn=1, mode="RGB", **options):
        out, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = turn
        image.convert(mode).save(out, fmt, exif=exif, **options)
        return out.getvalue()

    want = chord.post(GOOD, PROMPT).json["boxes"][0]
    near = lambda box: all(abs(a - b) <= 4 for a, b in zip(box, want))
    for data in [stored("PNG", mode="RGBA"), stored("PNG", mode="P"), stored("WEBP", quality=95), stored("JPEG", quality=95),
                 stored("JPEG", quality=95, progressive=True), stored("JPEG", mode="CMYK", quality=95),
                 stored("JPEG", turn=9, quality=95), stored("JPEG", turn=0, quality=95)]:
        answer = chord.post(data, PROMPT).json
        assert answer["image_size"] == list(image.size) and near(answer["boxes"][0]), answer
    for fmt in ("JPEG", "PNG", "WEBP"):
        for turn in (5, 6, 7, 8):
            assert chord.post(stored(fmt, turn=turn), PROMPT).json["image_size"] == list(image.size)[::-1], (fmt, turn)


def test_images_of_the_same_bytes_in_other_shapes_share_nothing(chord):
    pixels = Image.effect_noise((64 * 48, 1), 90).tobytes()
    wide, tall = io.BytesIO(), io.BytesIO()
    Image.frombytes("L", (64, 48), pixels).save(wide, "PNG")
    Image.frombytes("L", (48, 64), pixels).save(tall, "PNG")
    for _ in range(2):
        for data, size in [(wide, [64, 48]), (tall, [48, 64])]:
            answer = chord.post(data.getvalue(), PROMPT).json
            width, height = answer["frame"]["resized_size"]
            assert answer["image_size"] == size and (width > height) == (size[0] > size[1])


# --- model folders that are not whole ---------------------------------------------------------------

SPOILED = {
    "no configuration": lambda d: (d / "config.json").unlink(),
    "no tokenizer": lambda d: (d / "tokenizer.json").unlink(),
    "half the weights": lambda d: cut(d / "model.safetensors"),
    "missing weights": lambda d: (d / "model.safetensors").unlink(),
    "an empty configuration": lambda d: (d / "config.json").write_bytes(b""),
    "a configuration of another shape": lambda d: widen(d / "config.json"),
    "weights of overflowing shapes": lambda d: (d / "model.safetensors").write_bytes(overflow()),
    "an index that names a missing shard": lambda d: index(d),
}


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def widen(path):
    config = json.loads(path.read_text())
    config.get("text_config", config)["intermediate_size"] += 64
    path.write_text(json.dumps(config))


def overflow():
    header = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [4194305, 4194305, 211106198978564],
                                               "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


def index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}))


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_model_folder_is_told_by_doctor_and_never_serves(tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    SPOILED[name](folder)
    run = subprocess.run([BIN / "chord", "doctor", "--model", str(folder)], capture_output=True, timeout=120)
    assert run.returncode != 0, run
    text = (run.stdout + run.stderr).decode()
    assert "terminate" not in text and "0x" not in text and "std::" not in text, text
    with pytest.raises(RuntimeError) as error:
        with Chord(model=folder):
            pass
    assert "did not start" in str(error.value)
