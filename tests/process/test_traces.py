"""Traces: one request is one trace through all processes, and costs nothing when no one wants it."""

import http.server
import json
import threading

import grpc
import pytest
from chord_server import Chord, demo, grounding_pb2

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Keeps the spans that it is sent over OTLP/HTTP, by service."""

    def __init__(self):
        self.spans, self.lock = [], threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler):
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                assert handler.path == "/v1/traces" and handler.headers["Content-Type"] == "application/json"
                with self.lock:
                    for resource in body["resourceSpans"]:
                        service = resource["resource"]["attributes"][0]["value"]["stringValue"]
                        self.spans += [dict(span, service=service) for scope in resource["scopeSpans"] for span in scope["spans"]]
                handler.send_response(200)
                handler.send_header("Content-Length", "2")
                handler.end_headers()
                handler.wfile.write(b"{}")

            def log_message(*unused):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def of(self, trace):
        with self.lock:
            return [span for span in self.spans if span["traceId"] == trace]


@pytest.fixture(scope="module")
def traced():
    collector = Collector()
    with Chord("--set", f"tracing.endpoint={collector.address}") as chord:
        chord.collector = collector
        yield chord
    collector.server.shutdown()


def complete(collector, trace):
    """Each process sends its spans when its own call ends, so they come one after the other."""
    names = {span["name"] for span in collector.of(trace)}
    return {"ground", "encode", "push_embeddings", "prefill"} <= names


def check_tree(spans, root_parent):
    """Every span hangs, through others, on the gateway's, which hangs on the caller's."""
    by_id = {span["spanId"]: span for span in spans}
    assert len(by_id) == len(spans)
    roots = [span for span in spans if span.get("parentSpanId", "") == root_parent]
    assert [span["service"] for span in roots] == ["chord-gateway"]
    for span in spans:
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        assert span is roots[0] or span["parentSpanId"] in by_id, span
    stages = {(span["service"], span["name"]) for span in spans}
    assert {("chord-gateway", "ground"), ("chord-vision_worker", "encode"), ("chord-vision_worker", "vision"),
            ("chord-llm_worker", "decode"), ("chord-llm_worker", "prefill"), ("chord-llm_worker", "push_embeddings")} <= stages
    push = next(span for span in spans if span["name"] == "push_embeddings")
    assert by_id[push["parentSpanId"]]["name"] == "encode"


def test_one_request_is_one_trace_through_three_processes(traced):
    answer = traced.request("POST", "/api/ground", *body(f"00-{TRACE}-{PARENT}-01"))
    assert answer.status == 200
    traced.wait_for(lambda: complete(traced.collector, TRACE))
    spans = traced.collector.of(TRACE)
    check_tree(spans, PARENT)
    root = next(span for span in spans if span["name"] == "ground")
    assert {"key": "chord.request_id", "value": {"stringValue": answer.json["request_id"]}} in root["attributes"]
    traced.wait_for(lambda: sum(TRACE in line for line in traced.read_log().splitlines()) >= 4)


def body(traceparent=None):
    from chord_server import multipart
    content_type, data = multipart([("image", ("x.png", GOOD)), ("prompt", PROMPT)])
    return data, {"Content-Type": content_type, **({"traceparent": traceparent} if traceparent else {})}


def test_the_same_over_grpc(traced):
    trace = TRACE[::-1]
    request = grounding_pb2.GroundRequest(image=GOOD + b"", prompt=PROMPT + " over there")
    traced.stub().Ground(request, metadata=[("traceparent", f"00-{trace}-{PARENT}-01")])
    traced.wait_for(lambda: {span["service"] for span in traced.collector.of(trace)} >= {"chord-gateway", "chord-llm_worker"})
    with pytest.raises(grpc.RpcError):
        traced.stub().Ground(grounding_pb2.GroundRequest(image=b"no image", prompt="x"),
                             metadata=[("traceparent", f"00-{trace[1:]}1-{PARENT}-01")])
    traced.wait_for(lambda: traced.collector.of(trace[1:] + "1"))
    (span,) = traced.collector.of(trace[1:] + "1")
    assert span["status"] == {"code": 2, "message": "INVALID_ARGUMENT"}
    assert {"key": "error.type", "value": {"stringValue": "IMAGE_FORMAT_UNKNOWN"}} in span["attributes"]


def test_a_request_without_a_trace_begins_one_and_an_unsampled_one_leaves_none(traced):
    unsampled = "1" * 32
    assert traced.request("POST", "/api/ground", *body(f"00-{unsampled}-{PARENT}-00")).status == 200
    assert traced.request("POST", "/api/ground", *body("nonsense")).status == 200
    known = {TRACE, TRACE[::-1], TRACE[::-1][1:] + "1"}
    traced.wait_for(lambda: {s["traceId"] for s in list(traced.collector.spans)} - known)
    (begun,) = {s["traceId"] for s in list(traced.collector.spans)} - known
    traced.wait_for(lambda: {"chord-gateway", "chord-llm_worker"} <= {s["service"] for s in traced.collector.of(begun)})
    assert not traced.collector.of(unsampled)


def test_without_an_endpoint_the_trace_id_is_passed_on_to_the_log_alone(chord):
    assert chord.request("POST", "/api/ground", *body(f"00-{TRACE}-{PARENT}-01")).status == 200
    chord.wait_for(lambda: sum(f'"trace_id":"{TRACE}"' in line for line in chord.read_log().splitlines()) >= 4)
    chord.post(GOOD, PROMPT)
    assert chord.read_log().count('"trace_id"') == chord.read_log().count(f'"trace_id":"{TRACE}"')


def test_a_collector_that_does_not_answer_costs_no_answer():
    with Chord("--set", "tracing.endpoint=http://127.0.0.1:1") as chord:
        for _ in range(3):
            assert chord.post(GOOD, PROMPT).status == 200
        chord.wait_for(lambda: "spans_not_exported" in chord.read_log())
