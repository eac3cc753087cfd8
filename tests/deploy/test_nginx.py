"""The shipped nginx configuration, by use: a real nginx in front of `chord serve`."""

import base64
import http.client
import json
import time

import grpc
import pytest
from chord_server import Answer, demo, iou, multipart
from deployed import free_port
from proxy import NGINX, USERS, Nginx

from chord.v1 import grounding_pb2, grounding_pb2_grpc

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: tools/setup.sh --ops")
IMAGE, PROMPT, BOXES = next(d for d in demo() if len(d[2]) == 1)
USER, PASSWORD = next(iter(USERS.items()))
AUTH = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture(scope="module")
def nginx(chord, tmp_path_factory):
    proxy = Nginx(tmp_path_factory.mktemp("nginx"), [(chord.http_address, chord.grpc_address)],
                  f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    checked = proxy.check()
    assert checked.returncode == 0 and "warn" not in checked.stderr, checked.stderr
    yield proxy.start()
    proxy.stop()


def request(nginx, method, path, body=None, headers=None, auth=AUTH):
    connection = nginx.connect()
    try:
        connection.request(method, path, body, {**(headers or {}), **({"Authorization": auth} if auth else {})})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def ground(nginx, *extra, image=IMAGE, auth=AUTH):
    content_type, body = multipart([("image", ("image.png", image)), ("prompt", PROMPT), *extra])
    return request(nginx, "POST", "/api/ground", body, {"Content-Type": content_type}, auth)


def logged(nginx, request_id):
    """The line of a request in the access log, which nginx writes after the answer."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for text in (nginx.folder / "access.log").read_text().splitlines():
            if json.loads(text)["request_id"] == request_id:
                return json.loads(text)
        time.sleep(0.02)
    raise AssertionError(f"no line of {request_id} in the access log")


def test_a_file_is_answered_through_the_proxy(nginx):
    answer = ground(nginx)
    assert answer.status == 200, (answer.body, nginx.log())
    assert iou(answer.json["boxes"][0], BOXES[0]) > 0.7
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
    line = logged(nginx, answer.json["request_id"])
    assert line["user"] == USER and line["status"] == 200


@pytest.mark.parametrize("auth", [None, "Basic " + base64.b64encode(b"user0:wrong").decode(), "Bearer x"])
def test_without_a_password_nothing_is_answered(nginx, auth):
    answer = ground(nginx, auth=auth)
    assert answer.status == 401 and answer.headers["WWW-Authenticate"].startswith("Basic")
    assert answer.headers["Content-Type"] == "application/problem+json" and answer.json["code"] == "UNAUTHENTICATED"
    assert request(nginx, "GET", "/", auth=auth).status == 401
    assert request(nginx, "GET", "/v1/models", auth=auth).status == 401


def test_probes_need_no_password_and_metrics_stay_inside(nginx):
    assert request(nginx, "GET", "/healthz", auth=None).status == 200
    assert request(nginx, "GET", "/readyz", auth=None).status == 200
    assert request(nginx, "GET", "/metrics").status == 404


def test_plain_http_is_sent_to_tls(nginx):
    host, port = nginx.plain.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("POST", "/api/ground", b"x")
    response = connection.getresponse()
    assert response.status == 308 and response.getheader("Location").startswith("https://")
    connection.close()


def test_a_body_over_the_limit_is_refused_before_it_is_read(nginx):
    connection = nginx.connect(10)
    connection.putrequest("POST", "/api/ground")
    connection.putheader("Authorization", AUTH)
    connection.putheader("Content-Length", str(100 << 20))
    connection.endheaders()
    response = connection.getresponse()
    problem = json.loads(response.read())
    assert response.status == 413 and problem["code"] == "BODY_TOO_LARGE" and problem["status"] == 413
    connection.close()


def test_what_chord_refuses_comes_through_unchanged(nginx):
    answer = ground(nginx, image=b"no image")
    assert answer.status == 415 and answer.json["code"] == "IMAGE_FORMAT_UNKNOWN"
    assert answer.headers["X-Request-Id"] == answer.json["request_id"]


def test_events_arrive_while_the_answer_is_made(nginx, chord):
    content_type, body = multipart([("image", ("i.png", IMAGE)), ("prompt", PROMPT), ("stream", "true")])
    connection = nginx.connect()
    connection.request("POST", "/api/ground", body, {"Content-Type": content_type, "Authorization": AUTH})
    response = connection.getresponse()
    assert response.status == 200 and response.getheader("Content-Type").startswith("text/event-stream")
    at, text = [], b""
    while block := response.read1(65536):
        at.append(time.monotonic())
        text += block
    connection.close()
    assert b"event: response" in text, text
    # Not in one piece at the end.
    assert len(at) >= 3, text


def channel(nginx, auth=AUTH):
    credentials = grpc.ssl_channel_credentials((nginx.folder / "tls" / "tls.crt").read_bytes())
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.max_send_message_length", -1)]
    return grpc.secure_channel(nginx.https, credentials, options), [("authorization", auth)] if auth else []


def test_grpc_through_the_proxy(nginx):
    secure, metadata = channel(nginx)
    with secure:
        stub = grounding_pb2_grpc.GroundingStub(secure)
        message = grounding_pb2.GroundRequest(image=IMAGE, prompt=PROMPT)
        answer = stub.Ground(message, timeout=60, metadata=metadata)
        assert len(answer.objects) == 1
        events = list(stub.GroundStream(message, timeout=60, metadata=metadata))
        assert len(events) >= 2
        # A stream of more than the proxy's limit of a body.
        items = [grounding_pb2.GroundBatchRequest(
            tag=str(i), request=grounding_pb2.GroundRequest(image=IMAGE + bytes(9 << 20), prompt=PROMPT)) for i in range(8)]
        batch = list(stub.GroundBatch(iter(items), timeout=120, metadata=metadata))
        assert {result.tag for result in batch} == {str(i) for i in range(8)}
        with pytest.raises(grpc.RpcError) as error:
            stub.Ground(grounding_pb2.GroundRequest(image=b"no image", prompt=PROMPT), timeout=60, metadata=metadata)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_grpc_without_a_password(nginx):
    secure, _ = channel(nginx, None)
    with secure, pytest.raises(grpc.RpcError) as error:
        grounding_pb2_grpc.GroundingStub(secure).Ground(grounding_pb2.GroundRequest(image=IMAGE, prompt=PROMPT), timeout=30)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_without_a_gateway_clients_hear_to_try_again(nginx, tmp_path):
    dead = f"127.0.0.1:{free_port()}"
    proxy = Nginx(tmp_path / "alone", [(dead, dead)], f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}").start()
    try:
        answer = ground(proxy)
        assert answer.status == 503 and answer.headers["Retry-After"] == "1", (answer.body, proxy.log())
        assert answer.json["code"] == "GATEWAY_UNAVAILABLE" and answer.json["retry_after_seconds"] == 1
        secure, metadata = channel(proxy)
        with secure, pytest.raises(grpc.RpcError) as error:
            grounding_pb2_grpc.GroundingStub(secure).Ground(grounding_pb2.GroundRequest(image=IMAGE, prompt=PROMPT), timeout=30,
                                                            metadata=metadata)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        proxy.stop()

