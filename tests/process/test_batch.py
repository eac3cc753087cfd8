"""Many prompts at once: HTTP batches, GroundList, GroundBatch, limits, and the folder command."""

import base64
import concurrent.futures
import json
import os
import queue
import signal
import subprocess

import grpc
import pytest
from chord_server import BIN, ROOT, Chord, Reason, assert_problem, demo, grounding_pb2, multipart

SCENES = demo()
GOOD, PROMPT, BOXES = next(d for d in SCENES if len(d[2]) == 1)
Item, Ask = grounding_pb2.GroundBatchRequest, grounding_pb2.GroundRequest


def boxes(response):
    return [[b.x1, b.y1, b.x2, b.y2] for b in response.boxes]


@pytest.fixture(scope="module")
def alone(chord):
    """What each scene is answered by itself."""
    return [chord.post(image, prompt).json["boxes"] for image, prompt, _ in SCENES]


def data_url(image):
    return "data:image/png;base64," + base64.b64encode(image).decode()


def post_json(chord, value):
    return chord.request("POST", "/api/ground/batch", json.dumps(value), {"Content-Type": "application/json"})


def post_form(chord, fields):
    content_type, body = multipart(fields)
    return chord.request("POST", "/api/ground/batch", body, {"Content-Type": content_type})


def test_a_json_batch_answers_each_in_order(chord, alone):
    requests = [{"tag": str(i), "image": data_url(image), "prompt": prompt}
                for i, (image, prompt, _) in enumerate(SCENES)]
    requests.insert(1, {"tag": "bad", "image": data_url(b"nonsense"), "prompt": "x"})
    requests.insert(3, {"tag": "expired", "image_id": "img_" + "0" * 32, "prompt": "x"})
    answer = post_json(chord, {"requests": requests})
    assert answer.status == 200, answer.body
    results = answer.json["results"]
    assert [r["tag"] for r in results] == [r["tag"] for r in requests]
    assert [r["index"] for r in results] == list(range(len(requests)))
    assert results[1]["error"]["code"] == "IMAGE_FORMAT_UNKNOWN" and results[1]["error"]["status"] == 415
    assert results[3]["error"]["code"] == "IMAGE_ID_UNKNOWN"
    for result in results:
        if result["tag"].isdigit():
            assert result["response"]["boxes"] == alone[int(result["tag"])]
    ids = [r.get("response", r.get("error"))["request_id"] for r in results]
    assert len(set(ids)) == len(ids)


def test_a_multipart_batch_of_files_with_one_prompt(chord):
    answer = post_form(chord, [("image", (f"{i}.png", image)) for i, (image, _, _) in enumerate(SCENES)] +
                       [("prompt", "the star")])
    assert answer.status == 200, answer.body
    results = answer.json["results"]
    assert [r["tag"] for r in results] == [f"{i}.png" for i in range(len(SCENES))]
    for result, (image, _, _) in zip(results, SCENES):
        assert result["response"]["boxes"] == chord.post(image, "the star").json["boxes"]


def test_a_multipart_batch_of_prompts_about_one_image(chord):
    prompts = [PROMPT, "the star", "all stars", "the circle"]
    answer = post_form(chord, [("image", ("x.png", GOOD))] + [("prompt", p) for p in prompts])
    assert answer.status == 200, answer.body
    responses = [r["response"] for r in answer.json["results"]]
    assert len({r["image_id"] for r in responses}) == 1, "it is kept once"
    assert [r["boxes"] for r in responses] == [chord.post(GOOD, p).json["boxes"] for p in prompts]


def test_batches_that_are_refused(chord):
    assert_problem(post_json(chord, {"requests": []}), 400, "BATCH_EMPTY")
    assert_problem(post_json(chord, {"requests": [{"prompt": "x"}] * 65}), 400, "BATCH_TOO_LONG")
    assert_problem(post_json(chord, {"questions": []}), 400, "BODY_MALFORMED")
    assert_problem(post_json(chord, [1]), 400, "BODY_MALFORMED")
    assert_problem(post_form(chord, [("image", ("a", GOOD)), ("image", ("b", GOOD)), ("image", ("c", GOOD)),
                                     ("prompt", "x"), ("prompt", "y")]), 400, "BODY_MALFORMED")
    assert_problem(chord.request("POST", "/api/ground/batch", b"x", {"Content-Type": "text/plain"}), 415,
                   "CONTENT_TYPE_UNSUPPORTED")


def test_ground_list(chord, alone):
    requests = [Item(tag=str(i), request=Ask(image=image, prompt=prompt))
                for i, (image, prompt, _) in enumerate(SCENES)]
    requests.append(Item(tag="bad", request=Ask(image=b"nonsense", prompt="x")))
    requests.append(Item(tag="t" * 65, request=Ask(image=GOOD, prompt="x")))
    results = chord.stub().GroundList(grounding_pb2.GroundListRequest(requests=requests), timeout=60).results
    assert [r.tag for r in results] == [r.tag[:64] for r in requests]
    assert [boxes(r.response) for r in results[:len(SCENES)]] == alone
    assert results[-2].error.reason == "IMAGE_FORMAT_UNKNOWN"
    assert results[-2].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert results[-2].error.request_id.startswith("req_")
    assert results[-1].error.reason == "PARAMETER_INVALID"
    for bad, reason in (([], "BATCH_EMPTY"), (requests * 20, "BATCH_TOO_LONG")):
        with pytest.raises(grpc.RpcError) as error:
            chord.stub().GroundList(grounding_pb2.GroundListRequest(requests=bad), timeout=60)
        assert Reason(error.value).reason == reason


def test_ground_batch_answers_as_they_finish(chord, alone):
    """Lock step: the answer of one prompt comes before the next is sent."""
    to_send = queue.Queue()
    call = chord.stub().GroundBatch(iter(to_send.get, None), timeout=60)
    for i, (image, prompt, _) in enumerate(SCENES):
        to_send.put(Item(tag=str(i), request=Ask(image=image, prompt=prompt)))
        result = next(call)
        assert result.tag == str(i) and boxes(result.response) == alone[i]
    to_send.put(None)
    assert list(call) == []


def test_ground_batch_of_many_more_than_are_in_flight(chord, alone):
    count = 60
    sent = (Item(tag=str(i), request=Ask(image=SCENES[i % len(SCENES)][0], prompt=SCENES[i % len(SCENES)][1]))
            for i in range(count))
    results = {r.tag: r for r in chord.stub().GroundBatch(sent, timeout=120)}
    assert len(results) == count
    for tag, result in results.items():
        assert result.WhichOneof("result") == "response", result.error
        assert boxes(result.response) == alone[int(tag) % len(SCENES)]


def test_a_cancelled_batch_frees_everything(chord):
    language = chord.pid("language")
    os.kill(language, signal.SIGSTOP)
    try:
        call = chord.stub().GroundBatch(
            (Item(tag=str(i), request=Ask(image=GOOD, prompt=PROMPT)) for i in range(40)), timeout=60)
        chord.wait_for(lambda: (chord.metric("chord_inflight_requests") or 0) > 4)
        call.cancel()
        chord.wait_for(lambda: chord.metric("chord_inflight_requests") == 0, 10)
    finally:
        os.kill(language, signal.SIGCONT)
    assert chord.post(GOOD, PROMPT).status == 200


def test_a_message_that_cannot_be_read_ends_a_batch(chord):
    channel = grpc.insecure_channel(chord.grpc_address)
    call = channel.stream_stream("/chord.v1.Grounding/GroundBatch")(iter([b"\xff\xff\xff"]), timeout=10)
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert Reason(error.value).reason == "BODY_MALFORMED"


def test_clients_and_overload_are_refused_at_once():
    """Far more than there is room for: every refusal comes while the accepted ones still work."""
    with Chord("--gateway-flag", "max_in_flight=4", "--gateway-flag", "client_requests=3") as chord:
        assert chord.post(GOOD, PROMPT).status == 200  # all are connected
        language = chord.pid("language")
        os.kill(language, signal.SIGSTOP)

        def ask():
            return chord.post(GOOD, PROMPT)

        try:
            with concurrent.futures.ThreadPoolExecutor(48) as pool:
                jobs = [pool.submit(ask) for _ in range(3)]
                chord.wait_for(lambda: (chord.metric("chord_inflight_requests") or 0) == 3)
                extra = [pool.submit(ask) for _ in range(40)]
                for job in extra:
                    answer = job.result(60)  # the accepted ones cannot end meanwhile
                    assert_problem(answer, 429, "CLIENT_LIMIT")
                    assert int(answer.headers["Retry-After"]) >= 1
                with pytest.raises(grpc.RpcError) as error:
                    chord.ground(GOOD, PROMPT)
                assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert Reason(error.value).reason == "CLIENT_LIMIT"
                assert b"RetryInfo" in dict(error.value.trailing_metadata())["grpc-status-details-bin"]
                os.kill(language, signal.SIGCONT)
                answers = [job.result(60) for job in jobs]
                assert [a.status for a in answers] == [200] * 3, [a.body for a in answers]
        finally:
            os.kill(language, signal.SIGCONT)
        assert chord.metric("chord_rejected_total") >= 41
        assert chord.post(GOOD, PROMPT).status == 200


def test_a_folder_goes_over_one_stream(chord, tmp_path):
    before = chord.metric("chord_requests_total") or 0
    done = subprocess.run([str(BIN / "chord"), "ground", str(ROOT / "demo"), "the star", "--server",
                           chord.grpc_address, "--json", "--parallel", "4"], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [line["file"] for line in lines] == sorted(line["file"] for line in lines)
    text = chord.get("/metrics").body.decode()
    assert 'chord_requests_total{code="OK",method="ground_batch"}' in text
    assert chord.metric("chord_requests_total") - before >= len(lines)
    assert f"{len(lines)} of {len(lines)} images answered" in done.stderr.decode()


def test_a_folder_tells_which_images_failed(chord, tmp_path):
    (tmp_path / "a.png").write_bytes(GOOD)
    (tmp_path / "b.png").write_bytes(GOOD[: len(GOOD) // 3])
    done = subprocess.run([str(BIN / "chord"), "ground", str(tmp_path), PROMPT, "--server", chord.grpc_address,
                           "--json"], capture_output=True, timeout=120)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert lines[0]["boxes"] and lines[1]["error"]["code"] == "IMAGE_CORRUPT"
    done = subprocess.run([str(BIN / "chord"), "ground", str(tmp_path), PROMPT, "--server", "127.0.0.1:1",
                           "--json"], capture_output=True, timeout=120)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 2
