"""HTTP as clients of all kinds use it: half-closed connections, forms, base64, nulls, query parameters, other origins."""

import base64
import json
import os
import signal
import socket
import urllib.parse

import pytest
from chord_server import Chord, assert_problem, demo, multipart
from test_stream import events

GOOD, PROMPT, BOXES = next(d for d in demo() if len(d[2]) == 1)
SEVERAL, ALL, MANY = max(demo(), key=lambda d: len(d[2]))
JSON = {"Content-Type": "application/json"}


def post_json(chord, body, path="/api/ground"):
    return chord.request("POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body), JSON)


def data_url(image):
    return "data:image/png;base64," + base64.b64encode(image).decode()


def half_closed(chord, body, content_type):
    host, port = chord.http_address.split(":")
    out = b""
    with socket.create_connection((host, int(port)), 30) as sock:
        sock.sendall(f"POST /api/ground HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
                     f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(65536):
            out += part
    return out


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_half_closed_client_gets_its_answer(chord, stream):
    content_type, body = multipart([("image", ("x.png", GOOD)), ("prompt", PROMPT), ("stream", stream)])
    answer = half_closed(chord, body, content_type)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"Connection: close" in answer
    assert b'"finish_reason":"stop"' in answer
    assert chord.metric("chord_http_responses_total") is not None


def test_a_client_that_closes_cancels_its_request(chord):
    content_type, body = multipart([("image", ("x.png", GOOD)), ("prompt", PROMPT)])
    host, port = chord.http_address.split(":")
    before = chord.metric("chord_cancelled_total") or 0
    language = chord.pid("language")
    os.kill(language, signal.SIGSTOP)  # so that the answer is not faster
    try:
        with socket.create_connection((host, int(port)), 30) as sock:
            sock.sendall(f"POST /api/ground HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
                         f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            chord.wait_for(lambda: (chord.metric("chord_inflight_requests") or 0) >= 1)
        chord.wait_for(lambda: (chord.metric("chord_cancelled_total") or 0) > before)
    finally:
        os.kill(language, signal.SIGCONT)
    chord.wait_ready()


def test_version(chord):
    answer = chord.get("/version")
    assert answer.status == 200
    assert set(answer.json) == {"version", "model", "model_fingerprint"}
    assert len(answer.json["model_fingerprint"]) == 64 and answer.json["model"] == "chord-nano"


def test_unknown_query_parameters_are_refused(chord):
    content_type, body = multipart([("image", ("x.png", GOOD)), ("prompt", PROMPT)])
    answer = chord.request("POST", "/api/ground?max_new_tokens=5", body, {"Content-Type": content_type})
    assert "max_new_tokens" in assert_problem(answer, 400, "FIELD_UNKNOWN")["detail"]
    assert_problem(chord.get("/version?x=1"), 400, "FIELD_UNKNOWN")
    assert chord.get("/healthz?probe=1").status == 200
    assert chord.get("/?utm_source=x").status == 200


def test_base64_with_line_breaks_and_without_padding(chord):
    plain = base64.b64encode(GOOD).decode()
    lines = "\r\n".join(plain[at:at + 76] for at in range(0, len(plain), 76))
    for text in (lines, plain.rstrip("="), " " + plain):
        answer = post_json(chord, {"image": "data:image/png;base64," + text, "prompt": PROMPT})
        assert answer.status == 200, answer.body


def test_null_is_absent(chord):
    fields = {"max_new_tokens": None, "session_id": None, "image_id": None, "grammar": None, "stream": None}
    assert post_json(chord, {"image": data_url(GOOD), "prompt": PROMPT, **fields}).status == 200
    assert_problem(post_json(chord, {"image": None, "prompt": PROMPT}), 400, "IMAGE_MISSING")
    assert_problem(post_json(chord, {"image": data_url(GOOD), "prompt": None}), 400, "PROMPT_MISSING")


@pytest.mark.parametrize("body,named", [
    ('{"prompt": "\\ud800"}', "surrogate"), (b'{"prompt": "a\0"}', "NUL"), ('{"a":' * 1000, "nested"),
    ('{"prompt": "x", "colour": 1}', '"colour"'), ('{"prompt": "x", "prompt": "y"}', '"prompt"')])
def test_json_errors_name_what_is_wrong(chord, body, named):
    answer = post_json(chord, body)
    assert answer.status == 400 and named in answer.json["detail"], answer.body


@pytest.mark.parametrize("content_type,named", [
    ("multipart/form-data; boundary", "boundary"), ("multipart/form-data; boundary=\"x", "boundary"),
    ("application/json; charset=latin-1", "charset")])
def test_content_type_errors_name_the_parameter(chord, content_type, named):
    answer = chord.request("POST", "/api/ground", b"{}", {"Content-Type": content_type})
    assert named in assert_problem(answer, 415, "CONTENT_TYPE_UNSUPPORTED")["detail"]


def test_an_urlencoded_follow_up_request(chord):
    first = chord.post(GOOD, PROMPT).json
    body = urllib.parse.urlencode({"image_id": first["image_id"], "prompt": PROMPT})
    answer = chord.request("POST", "/api/ground", body, {"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 200 and answer.json["boxes"] == first["boxes"], answer.body
    assert answer.json["usage"]["cache"] in ("embeddings", "kv")


def test_a_file_with_an_empty_image_id_is_a_form_error(chord):
    problem = assert_problem(chord.post(GOOD, PROMPT, [("image_id", "")]), 400, "PARAMETER_INVALID")
    assert "image_id" in problem["detail"]


def test_a_long_file_name_is_cut_between_characters(chord):
    name = "图" * 30 + ".png"
    content_type, body = multipart([("image", (name, GOOD)), ("image", ("b.png", GOOD)), ("prompt", PROMPT)])
    answer = chord.request("POST", "/api/ground/batch", body, {"Content-Type": content_type})
    assert [r["tag"] for r in answer.json["results"]] == ["图" * 21, "b.png"]


def test_a_truncated_answer_is_no_absence(chord):
    streamed = None
    for tokens in (1, 5, 10, 20, 30, 40):
        answer = chord.post(SEVERAL, ALL, [("max_new_tokens", str(tokens))]).json
        assert answer["finish_reason"] == "length", tokens
        assert "max_new_tokens" in answer["advice"]
        assert ("confidence" in answer) == bool(answer["boxes"]), answer
        assert answer["text"] != "[]" and answer["text"].count("<box>") == len(answer["boxes"]), answer
        content_type, body = multipart([("image", ("x.png", SEVERAL)), ("prompt", ALL), ("stream", "true"),
                                        ("max_new_tokens", str(tokens))])
        got = events(chord.request("POST", "/api/ground", body, {"Content-Type": content_type}).body)
        streamed = [data["box"] for kind, data in got if kind == "object"]
        assert streamed == got[-1][1]["boxes"] == answer["boxes"], "a streamed object is never taken back"
    assert streamed, "the longest had a box"
    grpc_answer = chord.ground(SEVERAL, ALL, max_new_tokens=1)
    assert not grpc_answer.HasField("confidence") and "max_new_tokens" in grpc_answer.advice


def test_pages_of_allowed_origins(tmp_path):
    with Chord("--gateway-flag", "cors_allowed_origins=https://app.example") as chord:
        origin = {"Origin": "https://app.example"}
        preflight = chord.request("OPTIONS", "/api/ground", headers={**origin, "Access-Control-Request-Method": "POST"})
        assert preflight.status == 204 and "POST" in preflight.headers["Access-Control-Allow-Methods"]
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example"
        refused = chord.request("POST", "/api/ground", b"{", {**JSON, **origin})
        assert refused.status == 400 and refused.headers["Access-Control-Allow-Origin"] == "https://app.example"
        other = chord.request("GET", "/version", headers={"Origin": "https://other.example"})
        assert "Access-Control-Allow-Origin" not in other.headers and other.headers["Vary"] == "Origin"


def test_a_worker_that_is_down_is_named(chord):
    supervisor = chord.process.pid
    vision = chord.pid("vision")
    os.kill(supervisor, signal.SIGSTOP)  # so that it is not restarted
    try:
        os.kill(vision, signal.SIGKILL)
        chord.wait_for(lambda: chord.get("/readyz").status == 503)
        content_type, body = multipart([("image", ("x.png", SEVERAL)), ("prompt", ALL)])
        answer = chord.request("POST", "/api/ground", body, {"Content-Type": content_type, "X-Request-Timeout": "1"})
        assert "vision" in assert_problem(answer, 503, "WORKER_UNAVAILABLE")["detail"]
    finally:
        os.kill(supervisor, signal.SIGCONT)
    chord.wait_ready()
