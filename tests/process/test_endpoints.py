"""HTTP and gRPC endpoints against clients that announce much and send little, or send little that costs much; and
every refusal has a reason, whichever layer makes it."""

import base64
import contextlib
import json
import os
import pathlib
import socket
import threading

import grpc
import pytest
from chord_server import LEAKS, Reason, admin_pb2, assert_problem, demo, grounding_pb2, images_pb2, images_pb2_grpc
from test_hostile import CHUNKED, FORM, HOST, POST, raw, request

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)
MIB = 1 << 20
GROUND = "/chord.v1.Grounding/"
REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"


@contextlib.contextmanager
def channel(chord):
    with grpc.insecure_channel(chord.grpc_address, options=[("grpc.max_send_message_length", -1)]) as out:
        yield out


def send(chord, method, *messages, kind="unary_unary"):
    """Raw messages to a method; the raw answers."""
    with channel(chord) as to:
        call = getattr(to, kind)(method, request_serializer=bytes, response_deserializer=bytes)
        answer = call(messages[0] if kind.startswith("unary") else iter(messages), timeout=30)
        return [answer] if kind.endswith("unary") else list(answer)


def refused(chord, method, *messages, kind="unary_unary"):
    """Code and reason of a refusal, which has a request id and shows nothing."""
    with pytest.raises(grpc.RpcError) as error:
        send(chord, method, *messages, kind=kind)
    found = Reason(error.value)
    assert found.request_id and not LEAKS.search(error.value.details()), error.value
    return error.value.code().name, found.reason


def cpu_seconds(chord, role):
    fields = pathlib.Path(f"/proc/{chord.pid(role)}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(total):
    return images_pb2.UploadRequest(start=images_pb2.UploadStart(total_bytes=total))


def upload(chord, total, chunks):
    with channel(chord) as to:
        parts = [start(total), *(images_pb2.UploadRequest(chunk=chunk) for chunk in chunks)]
        return images_pb2_grpc.ImagesStub(to).Upload(iter(parts), timeout=60)


def cut(data, size):
    return [data[at:at + size] for at in range(0, len(data), size)]


# --- rooms that are booked and not used -------------------------------------------------------------

def test_bodies_that_are_only_announced_do_not_block_other_clients(chord):
    """Together they announce all the room there is."""
    host, port = chord.http_address.split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            sock = stack.enter_context(socket.create_connection((host, int(port)), 10))
            sock.sendall(request(b"POST /api/ground/batch HTTP/1.1",
                                 b"Host: x\r\n" + FORM + b"Expect: 100-continue\r\nContent-Length: %d\r\n" % (64 * MIB)))
            assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        assert chord.post(GOOD, PROMPT).status == 200


def test_uploads_that_are_only_announced_do_not_block_other_clients_and_end(chord):
    stop = threading.Event()

    def silent():
        yield start(20 * MIB)
        stop.wait(60)

    with channel(chord) as to:
        calls = [images_pb2_grpc.ImagesStub(to).Upload.future(silent()) for _ in range(13)]
        chord.wait_for(lambda: chord.metric("chord_inflight_requests") >= 13)
        assert chord.post(GOOD, PROMPT).status == 200
        assert chord.ground(GOOD, PROMPT).boxes
        for call in calls:
            error = call.exception(timeout=40)
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert Reason(error).reason == "REQUEST_TIMEOUT"
        stop.set()


# --- little that costs much -------------------------------------------------------------------------

def lengthy(count):
    """A field 15, unknown, of the given number of empty fields."""
    size, length = 2 * count, b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return length + bytes([size]) + b"\x7a\0" * count


HALF = 10 * MIB  # fields of two bytes

DENSE = {
    "prompts of nothing": ("GroundList", b"\x0a\0" * HALF, "BATCH_TOO_LONG"),
    "prompts of empty prompts": ("GroundList", b"\x0a\x02\x12\0" * (HALF // 2), "BATCH_TOO_LONG"),
    "a prompt of unknown fields": ("GroundList", b"\x0a" + lengthy(HALF), "BODY_MALFORMED"),
    "unknown fields": ("Ground", b"\x7a\0" * HALF, "BODY_MALFORMED"),
    "unknown numbers": ("Ground", b"\x78\1" * HALF, "BODY_MALFORMED"),
    "unknown groups": ("Ground", b"\x7b\x7c" * HALF, "BODY_MALFORMED"),
    "an item of unknown fields": ("GroundBatch", b"\x7a\0" * HALF, "BODY_MALFORMED"),
    "a chunk of unknown fields": ("Upload", b"\x7a\0" * (MIB // 2), "BODY_MALFORMED"),
    "a name of unknown fields": ("Touch", b"\x7a\0" * 30_000, "BODY_MALFORMED"),
    "a prompt about health": ("/grpc.health.v1.Health/Check", b"\x7a\0" * HALF, "BODY_MALFORMED"),
    "a watch of health": ("/grpc.health.v1.Health/Watch", b"\x7a\0" * HALF, "BODY_MALFORMED"),
    "a prompt about the protocol": (REFLECTION.format("v1alpha"), b"\x7a\0" * HALF, "BODY_MALFORMED"),
}


@pytest.mark.parametrize("name", DENSE)
def test_messages_of_many_small_fields_are_refused_before_they_take_memory(chord, name):
    method, message, reason = DENSE[name]
    kind = {"Upload": "stream_unary", "GroundBatch": "stream_stream"}.get(method, "unary_unary")
    if method.startswith("/grpc.reflection"):
        kind = "stream_stream"
    elif method.endswith("Watch"):
        kind = "unary_stream"
    if not method.startswith("/"):
        method = ("/chord.v1.Images/" if method in ("Upload", "Touch") else GROUND) + method
    chord.reset_peak()
    before = chord.memory("gateway")
    assert refused(chord, method, message, kind=kind) == ("INVALID_ARGUMENT", reason)
    assert chord.memory("gateway", "VmHWM") - before < 64 * MIB


def test_an_image_in_small_chunks_costs_no_more_than_in_large_ones(chord):
    """A header that never ends, looked at again with each chunk, would take half a minute here."""
    comments = b"\xff\xd8\xff\xe0\x00\x02" + b"\xff\xfe\x00\x02" * 300_000
    before = cpu_seconds(chord, "gateway")
    with pytest.raises(grpc.RpcError) as error:
        upload(chord, len(comments) + 1, cut(comments, 64))
    assert Reason(error.value).reason == "UPLOAD_MISMATCH"
    assert cpu_seconds(chord, "gateway") - before < 10


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_image_may_come_in_chunks_of_any_size(chord, size):
    small = GOOD if size == 1000 else base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")
    assert upload(chord, len(small), cut(small, size)).image_id


# --- reasons ----------------------------------------------------------------------------------------

def test_calls_that_do_not_exist(chord):
    for method in ("/chord.v1.Grounding/Nope", "/x.Y/Z", "/", "/chord.internal.v1.Language/Decode"):
        assert refused(chord, method, b"") == ("UNIMPLEMENTED", "CALL_UNKNOWN")


def test_health_of_nothing(chord):
    assert refused(chord, "/grpc.health.v1.Health/Check", b"\x0a\x04nope") == ("NOT_FOUND", "SERVICE_UNKNOWN")
    assert refused(chord, "/grpc.health.v1.Health/Check", b"\xff") == ("INVALID_ARGUMENT", "BODY_MALFORMED")


def test_messages_that_cannot_be_read(chord):
    for method in ("Images/Touch", "Images/Delete", "Grounding/Ground", "Grounding/GroundList"):
        for message in (b"\xff" * 20, b"\x0a\x01\xff", b"\x0a\x05a"):
            if method == "Grounding/Ground" and message == b"\x0a\x01\xff":
                continue  # an image of one byte
            assert refused(chord, "/chord.v1." + method, message) == ("INVALID_ARGUMENT", "BODY_MALFORMED")
    assert refused(chord, "/chord.v1.Admin/ListModels", b"\xff") == ("INVALID_ARGUMENT", "BODY_MALFORMED")
    for method in ("PlanModel", "LoadModel", "SwapModel", "RollBack"):
        assert refused(chord, "/chord.v1.Admin/" + method, b"\xff") == ("UNIMPLEMENTED", "NOT_IMPLEMENTED")


def test_the_models_are_those_of_http(chord):
    (answer,) = send(chord, "/chord.v1.Admin/ListModels", b"")
    (model,) = admin_pb2.ListModelsResponse.FromString(answer).models
    served = chord.get("/version").json
    assert (model.model.name, model.fingerprint) == (served["model"], served["model_fingerprint"])
    assert model.state == admin_pb2.ModelState.STATE_SERVING
    assert [card["id"] for card in chord.get("/v1/models").json["data"]] == [model.model.name]


def test_a_message_over_the_limit(chord):
    image = grounding_pb2.GroundRequest(image=bytes(25 * MIB), prompt="x")
    assert refused(chord, GROUND + "Ground", image.SerializeToString()) == ("INVALID_ARGUMENT", "BODY_TOO_LARGE")
    items = grounding_pb2.GroundListRequest(requests=[grounding_pb2.GroundBatchRequest(request=image)])
    assert refused(chord, GROUND + "GroundList", items.SerializeToString()) == ("INVALID_ARGUMENT", "BODY_TOO_LARGE")


def test_a_tag_that_is_too_long_spoils_no_answer(chord):
    with channel(chord) as to:
        item = grounding_pb2.GroundBatchRequest(tag="a" + "é" * 40)
        stub = grounding_pb2.GroundListRequest(requests=[item])
        (answer,) = send(chord, GROUND + "GroundList", stub.SerializeToString())
        result = grounding_pb2.GroundListResponse.FromString(answer).results[0]
        assert result.error.reason == "PARAMETER_INVALID" and result.tag == "a" + "é" * 31


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_the_server_tells_of_itself(chord, version):
    listed, file, nothing = send(chord, REFLECTION.format(version), b"\x3a\0", b"\x22\x12chord.v1.Grounding", b"\x1a\x01x",
                                 kind="stream_stream")
    for name in (b"chord.v1.Grounding", b"chord.v1.Images", b"grpc.health.v1.Health"):
        assert name in listed
    assert b"chord/v1/grounding.proto" in file and b"There is nothing of that name." in nothing


def test_two_readings_of_one_request_are_refused(chord):
    coding = CHUNKED.replace(b"chunked", b"chunked;q=1")
    assert_problem(raw(chord, request(POST, HOST + coding, b"0\r\n\r\n")), 400, "REQUEST_MALFORMED")
    for line in (b"GET /healthz x HTTP/1.1", b"GET /healthz HTTP/1.1\nHost: x"):
        assert_problem(raw(chord, request(line)), 400, "REQUEST_MALFORMED")
    body = json.dumps({"image": "data:;base64," + base64.b64encode(GOOD).decode(), "prompt": "x"}).encode()
    kind = {"Content-Type": "application/json"}
    assert chord.request("POST", "/api/ground", body, kind).status == 200
    assert_problem(chord.request("POST", "/api/ground", body + b"\0and more", kind), 400, "BODY_MALFORMED")
    assert_problem(chord.request("POST", "/api/ground", GOOD, kind), 400, "BODY_MALFORMED")
