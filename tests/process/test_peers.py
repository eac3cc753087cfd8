"""The internal endpoints, called by a forger: what is wrong is refused before memory is
taken, ends at most its own request, and leaves nothing behind."""

import glob
import io
import json
import math
import threading
import time
import uuid

import grpc
import pytest
from PIL import Image
from chord_server import MODEL, Reason, demo

from chord.internal.v1 import (decode_pb2, decode_pb2_grpc, embedding_pb2, embedding_pb2_grpc, encode_pb2,
                               encode_pb2_grpc, frame_pb2, worker_status_pb2, worker_status_pb2_grpc)

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)
FLOAT32 = frame_pb2.DTYPE_FLOAT32


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def plan(width, height, factor=28, least=50176, most=250880):
    """The frame of an upright image, as the spec derives it for chord-nano."""
    h, w = (max(factor, round(side / factor) * factor) for side in (height, width))
    if h * w > most:
        beta = math.sqrt(height * width / most)
        h, w = (max(factor, math.floor(side / beta / factor) * factor) for side in (height, width))
    elif h * w < least:
        beta = math.sqrt(least / (height * width))
        h, w = (math.ceil(side * beta / factor) * factor for side in (height, width))
    return frame_pb2.FramePlan(stored_width=width, stored_height=height, orientation=1, resized_width=w,
                               resized_height=h, grid_h=h // 14, grid_w=w // 14, tokens=h * w // 784)


GOOD_SIZE = Image.open(io.BytesIO(GOOD)).size
PLAN = plan(224, 224)


class Peers:
    def __init__(self, chord):
        self.chord = chord
        self.channels = {}
        for role in ("vision", "language"):
            (path,) = glob.glob(f"{chord.dir.name}/chord-*/{role}.sock")
            self.channels[role] = grpc.insecure_channel(f"unix:{path}", options=[("grpc.max_send_message_length", -1)])
        self.vision = encode_pb2_grpc.VisionStub(self.channels["vision"])
        self.language = decode_pb2_grpc.LanguageStub(self.channels["language"])
        self.sink = embedding_pb2_grpc.EmbeddingSinkStub(self.channels["language"])
        self.fingerprint = self.state("language").model_fingerprint
        self.width = 0

    def state(self, role):
        stub = worker_status_pb2_grpc.WorkerStatusStub(self.channels[role])
        call = stub.Watch(worker_status_pb2.WatchRequest(interval_seconds=1), timeout=10)
        state = next(iter(call))
        call.cancel()
        return state

    def ticket(self):
        return frame_pb2.Ticket(id=uuid.uuid4().hex, request_id="req_" + uuid.uuid4().hex[:24],
                                model_fingerprint=self.fingerprint)

    def decode(self, ticket, timeout=20, frame=PLAN, **fields):
        turn = decode_pb2.Turn(role="user", parts=[decode_pb2.Part(image=0), decode_pb2.Part(text=PROMPT)])
        return self.language.Decode(decode_pb2.DecodeRequest(ticket=ticket, turns=[turn], images=[frame],
                                                             max_new_tokens=4, **fields), timeout=timeout)

    def header(self, ticket, **changes):
        fields = dict(ticket=ticket, grid_h=PLAN.grid_h, grid_w=PLAN.grid_w, rows=PLAN.tokens, width=self.width,
                      dtype=FLOAT32, total_bytes=PLAN.tokens * self.width * 4)
        fields.update(changes)
        return embedding_pb2.PushRequest(header=embedding_pb2.EmbeddingHeader(**fields))


def error_of(call):
    with pytest.raises(grpc.RpcError) as error:
        for _ in call:
            pass
    return Reason(error.value).reason or error.value.code().name


@pytest.fixture(scope="module")
def peers(chord):
    out = Peers(chord)
    config = json.loads((MODEL / "config.json").read_text())
    out.width = config.get("text_config", config)["hidden_size"]
    yield out
    chord.wait_for(lambda: out.state("language").tokens_in_flight == 0 and out.state("language").requests_in_flight == 0)
    chord.wait_for(lambda: out.state("vision").patches_in_flight == 0 and out.state("vision").requests_in_flight == 0)


def chunk(data, offset=0, crc=None):
    return embedding_pb2.PushRequest(chunk=embedding_pb2.EmbeddingChunk(
        offset=offset, data=data, crc32c=crc32c(data) if crc is None else crc))


def push(peers, *messages, timeout=20):
    return peers.sink.Push(iter(messages), timeout=timeout)


def test_a_push_that_no_request_waits_for(peers):
    begin = time.monotonic()
    assert error_of(push(peers, peers.header(peers.ticket()), timeout=3)) in ("TICKET_UNKNOWN", "DEADLINE_EXCEEDED")
    assert time.monotonic() - begin < 20
    for bad in ("", "x", "Z" * 32, "a" * 33, "a" * 100000):
        ticket = frame_pb2.Ticket(id=bad, model_fingerprint=peers.fingerprint)
        assert error_of(push(peers, peers.header(ticket))) == "TICKET_UNKNOWN"
    assert error_of(push(peers)) == "TICKET_UNKNOWN"
    assert error_of(push(peers, chunk(b"abcd"))) == "EMBEDDING_MISMATCH"


HEADERS = {
    "grid of nothing": dict(grid_h=0, grid_w=0), "negative grid": dict(grid_h=-2, grid_w=-2),
    "huge grid": dict(grid_h=2**31 - 2, grid_w=2**31 - 2), "grid turned": dict(grid_h=PLAN.grid_h * 2, grid_w=PLAN.grid_w // 2),
    "one row less": dict(rows=PLAN.tokens - 1), "one row more": dict(rows=PLAN.tokens + 1),
    "rows that overflow": dict(rows=2**62), "no rows": dict(rows=0), "negative rows": dict(rows=-PLAN.tokens),
    "wrong width": dict(width=1), "negative width": dict(width=-1), "huge width": dict(width=2**31 - 1),
    "no dtype": dict(dtype=0), "unknown dtype": dict(dtype=77), "bytes of another dtype": dict(dtype=frame_pb2.DTYPE_BFLOAT16),
    "one byte more": dict(total_bytes=None), "4 EiB": dict(total_bytes=2**62), "negative bytes": dict(total_bytes=-1),
}


@pytest.mark.parametrize("name", HEADERS)
def test_forged_headers_end_only_their_own_request(peers, name):
    changes = dict(HEADERS[name])
    if changes.get("total_bytes", 0) is None:
        changes["total_bytes"] = PLAN.tokens * peers.width * 4 + 1
    before = peers.chord.memory("language")
    ticket = peers.ticket()
    call = peers.decode(ticket)
    assert error_of(push(peers, peers.header(ticket, **changes))) == "EMBEDDING_MISMATCH"
    assert error_of(call) == "EMBEDDING_MISMATCH"
    assert peers.chord.memory("language") - before < 32 << 20


def test_another_models_ticket(peers):
    ticket = peers.ticket()
    ticket.model_fingerprint = "0" * 64
    assert error_of(peers.decode(ticket)) == "MODEL_MISMATCH"


def rows(peers, value=b"\0\0\0\0"):
    return value * (PLAN.tokens * peers.width)


def test_a_ticket_takes_one_push(peers):
    data = rows(peers)
    half = len(data) // 2 // 4 * 4
    ticket = peers.ticket()
    call = peers.decode(ticket)
    go = threading.Event()

    def messages():
        yield peers.header(ticket)
        yield chunk(data[:half])
        go.wait(20)
        yield chunk(data[half:], half)

    first = peers.sink.Push(messages(), timeout=20)
    assert next(first).HasField("accept")
    assert error_of(push(peers, peers.header(ticket))) == "TICKET_REUSED"
    go.set()
    assert next(first).received.bytes == len(data)
    assert [event for event in call][-1].HasField("done")
    assert error_of(push(peers, peers.header(ticket))) in ("TICKET_REUSED", "TICKET_UNKNOWN")


CHUNKS = {
    "out of order": lambda data: [chunk(data[:64], 64)],
    "an overlap": lambda data: [chunk(data[:64]), chunk(data[32:96], 32)],
    "a negative offset": lambda data: [chunk(data[:64], -64)],
    "nothing in it": lambda data: [chunk(b"")],
    "a wrong checksum": lambda data: [chunk(data[:64], 0, 1)],
    "bytes beyond the end": lambda data: [chunk(data[:-4]), chunk(data[-4:] + b"more", len(data) - 4)],
    "too few bytes": lambda data: [chunk(data[:64])],
    "over a MiB": lambda data: [chunk(bytes((1 << 20) + 4))],
    "a second header": None,
}


@pytest.mark.parametrize("name", CHUNKS)
def test_forged_chunks_end_only_their_own_request(peers, name):
    ticket = peers.ticket()
    call = peers.decode(ticket)
    header = peers.header(ticket)
    messages = [header] if CHUNKS[name] is None else CHUNKS[name](rows(peers))
    assert error_of(push(peers, header, *messages)) == "EMBEDDING_MISMATCH"
    assert error_of(call) == "EMBEDDING_MISMATCH"


@pytest.mark.parametrize("value", [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff"])
def test_rows_that_are_not_finite(peers, value):
    ticket = peers.ticket()
    call = peers.decode(ticket)
    data = rows(peers)
    data = data[:400] + value + data[404:]
    assert error_of(push(peers, peers.header(ticket), chunk(data))) == "EMBEDDING_NOT_FINITE"
    assert error_of(call) == "EMBEDDING_NOT_FINITE"


def encode(peers, *parts, timeout=20):
    return peers.vision.Encode(iter(parts), timeout=timeout)


def encode_header(peers, ticket=None, frame=None, image_bytes=len(GOOD), target="language-0"):
    frame = frame or plan(*GOOD_SIZE)
    return encode_pb2.EncodeRequest(header=encode_pb2.EncodeHeader(
        ticket=ticket or peers.ticket(), image_bytes=image_bytes, plan=frame, target=target))


def reason_of(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **options)
    return Reason(error.value).reason or error.value.code().name


def frame_with(**changes):
    frame = plan(*GOOD_SIZE)
    for key, value in changes.items():
        setattr(frame, key, value)
    return frame


def test_forged_encodes_are_refused_before_a_byte_of_the_image(peers):
    image = lambda data: encode_pb2.EncodeRequest(image_chunk=data)
    cases = [
        ([], "BODY_MALFORMED"),
        ([image(GOOD)], "BODY_MALFORMED"),
        ([encode_header(peers, frame_pb2.Ticket(id="nonsense", model_fingerprint=peers.fingerprint))], "TICKET_UNKNOWN"),
        ([encode_header(peers, frame_pb2.Ticket(id="0" * 32, model_fingerprint="other"))], "MODEL_MISMATCH"),
        ([encode_header(peers, image_bytes=0)], "IMAGE_EMPTY"),
        ([encode_header(peers, image_bytes=-1)], "IMAGE_EMPTY"),
        ([encode_header(peers, image_bytes=2**62)], "IMAGE_TOO_MANY_BYTES"),
        ([encode_header(peers, target="127.0.0.1:1")], "PEER_UNKNOWN"),
        ([encode_header(peers, target="")], "PEER_UNKNOWN"),
        ([encode_header(peers, frame=frame_pb2.FramePlan())], None),
    ]
    for changes in (dict(grid_h=2**31 - 2), dict(grid_w=0), dict(tokens=2**62), dict(tokens=-1), dict(resized_width=-28),
                    dict(stored_width=2**31 - 1), dict(orientation=0), dict(orientation=9), dict(orientation=6)):
        cases.append(([encode_header(peers, frame=frame_with(**changes))], None))
    for parts, want in cases:
        got = reason_of(encode, peers, *parts)
        assert got == want or (want is None and got in ("FRAME_MISMATCH", "IMAGE_ASPECT_RATIO", "IMAGE_TOO_LARGE",
                                                        "PARAMETER_INVALID", "IMAGE_ZERO_SIDE")), (parts, got)
    header = encode_header(peers)
    for parts in ([header, header], [header, image(b"")], [header, image(GOOD + b"x")], [header, image(GOOD[:-1])],
                  [header, image(bytes((1 << 20) + 1))], [header]):
        assert reason_of(encode, peers, *parts) == "BODY_MALFORMED", parts


def test_an_image_that_is_not_what_its_plan_says(peers):
    ticket = peers.ticket()
    call = peers.decode(ticket)
    parts = [encode_header(peers, ticket, frame=PLAN), encode_pb2.EncodeRequest(image_chunk=GOOD)]
    assert reason_of(encode, peers, *parts) == "FRAME_MISMATCH"
    assert error_of(call) != ""


def test_an_upload_that_stands_still_is_ended(peers):
    go = threading.Event()

    def parts():
        yield encode_header(peers)
        yield encode_pb2.EncodeRequest(image_chunk=GOOD[:10])
        go.wait(40)

    begin = time.monotonic()
    assert reason_of(peers.vision.Encode, parts(), timeout=35) in ("DEADLINE_EXCEEDED", "TICKET_UNKNOWN")
    go.set()
    assert time.monotonic() - begin < 20


def test_a_decode_whose_image_never_comes_is_ended(peers):
    begin = time.monotonic()
    assert error_of(peers.decode(peers.ticket(), timeout=3)) == "DEADLINE_EXCEEDED"
    assert time.monotonic() - begin < 20
