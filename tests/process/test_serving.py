"""The serving core from outside: many prompts at once answer as each alone, images are kept,
the grammar saves steps and nothing else, a cut answer is whole, nothing is left behind."""

import concurrent.futures
import random
import re
import threading
import time
import urllib.request

import grpc
import pytest
from chord_server import Chord, Reason, demo, grounding_pb2, multipart

SCENES = demo()
PROMPTS = [prompt for _, prompt, _ in SCENES] + ["find the dog", "all stars", "找到图中的猫头鹰"]


class Serving(Chord):
    def __init__(self):
        super().__init__("--dtype", "fp32", "--language-flag", "metrics_address=127.0.0.1:0", "--gateway-flag",
                         "client_requests=64")
        self.metrics_port = self.listening_port("language")

    def language_metric(self, name):
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        found = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.M)
        assert found, f"no {name} in the metrics"
        return float(found[0])

    def kv_used(self):
        return self.language_metric('chord_kv_bytes{state="used"}')

    def upload(self, image, **fields):
        content_type, body = multipart([("image", ("p", image)), *fields.items()])
        answer = self.request("POST", "/api/images", body, {"Content-Type": content_type})
        assert answer.status == 200, answer.body
        return answer.json

    def ask(self, prompt, image=None, **fields):
        answer = self.post(image, prompt, extra=[(k, str(v)) for k, v in fields.items()])
        assert answer.status == 200, answer.body
        return answer.json


@pytest.fixture(scope="module")
def chord():
    with Serving() as server:
        yield server


def content(answer):
    return answer["text"], answer["boxes"], answer["usage"]["completion_tokens"]


def test_many_at_once_answer_as_each_alone(chord):
    """Batching, chunked prefill, kept images and the grammar change no answer (fp32)."""
    rng = random.Random(4)
    alone = {}
    for i, (image, _, _) in enumerate(SCENES):
        for prompt in PROMPTS:
            alone[i, prompt] = content(chord.ask(prompt, image, grammar="off"))
    ids = [chord.upload(image)["image_id"] for image, _, _ in SCENES]
    jobs = []
    for _ in range(200):
        i, prompt = rng.randrange(len(SCENES)), rng.choice(PROMPTS)
        jobs.append((i, prompt, rng.random() < 0.5, rng.choice(["auto", "off"])))

    def run(job):
        i, prompt, kept, grammar = job
        if kept:
            return content(chord.ask(prompt, image_id=ids[i], grammar=grammar))
        return content(chord.ask(prompt, SCENES[i][0], grammar=grammar))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for job, answer in zip(jobs, pool.map(run, jobs)):
            assert answer == alone[job[0], job[1]], job
    assert chord.kv_used() >= 0


def test_a_second_request_finds_the_image(chord):
    image, prompt, _ = SCENES[0]
    first = chord.ask(prompt, image)
    assert first["usage"]["cache"] == "none" and first["image_id"]
    second = chord.ask("find the dog", image_id=first["image_id"])
    assert second["usage"]["cache"] == "kv"
    again = chord.ask(prompt, image_id=first["image_id"])
    assert again["boxes"] == first["boxes"] and again["usage"]["cache"] == "kv"


def test_a_deleted_image_is_forgotten(chord):
    uploaded = chord.upload(SCENES[1][0])
    chord.ask(SCENES[1][1], image_id=uploaded["image_id"])
    assert chord.request("DELETE", f"/api/images/{uploaded['image_id']}").status in (200, 204)
    answer = chord.post(None, SCENES[1][1], extra=[("image_id", uploaded["image_id"])])
    assert answer.status == 404 and answer.json["code"] == "IMAGE_ID_UNKNOWN"


def test_the_grammar_halves_the_steps_and_changes_no_answer(chord):
    with_grammar = without = 0
    for image, prompt, boxes in SCENES:
        off = chord.ask(prompt, image, grammar="off")
        auto = chord.ask(prompt, image, grammar="auto")
        assert content(auto) == content(off)
        if boxes:
            with_grammar += auto["usage"]["decode_steps"]
            without += off["usage"]["decode_steps"]
    assert 2 * with_grammar <= without, (with_grammar, without)


def test_a_conversation_goes_on(chord):
    image, prompt, boxes = next(s for s in SCENES if len(s[2]) == 1)
    first = chord.ask(prompt, image, session_id="talk-1")
    second = chord.ask(prompt, image_id=first["image_id"], session_id="talk-1")
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
    assert second["usage"]["cache"] == "kv"


def test_an_answer_that_is_cut_ends_after_its_last_whole_box(chord):
    image, prompt, boxes = max(SCENES, key=lambda s: len(s[2]))
    whole = chord.ask(prompt, image)
    one_box = whole["usage"]["completion_tokens"] // len(whole["boxes"]) + 6
    cut = chord.ask(prompt, image, max_new_tokens=one_box)
    assert cut["finish_reason"] == "length"
    assert 1 <= len(cut["boxes"]) < len(whole["boxes"])
    assert cut["boxes"] == whole["boxes"][:len(cut["boxes"])]


def test_cancelled_requests_leave_all_pages_free(chord):
    image = SCENES[0][0]
    stub = chord.stub()
    request = grounding_pb2.GroundRequest(image=image, prompt="find the tractor")
    rng = random.Random(1)

    def cancel_one(_):
        call = stub.Ground.future(request, timeout=20)
        time.sleep(rng.random() * 0.05)
        call.cancel()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(cancel_one, range(1000)))
    chord.wait_for(lambda: (chord.metric("chord_inflight_requests") or 0) == 0)
    # The worker's gauges are renewed several times a second, and a cancel travels.
    chord.wait_for(lambda: chord.kv_used() == 0)
    chord.wait_for(lambda: chord.language_metric("chord_tickets") == 0)
    chord.wait_for(lambda: chord.language_metric("chord_inflight_tokens") == 0)


def test_a_flood_is_refused_at_once_and_those_inside_are_served(chord):
    image, prompt, _ = SCENES[0]
    stub = chord.stub()
    request = grounding_pb2.GroundRequest(image=image, prompt=prompt)
    outcomes, lock = [], threading.Lock()

    def ask(_):
        began = time.monotonic()
        try:
            stub.Ground(request, timeout=30)
            outcome = "ok"
        except grpc.RpcError as error:
            outcome = error.code(), Reason(error).reason
        with lock:
            outcomes.append((outcome, time.monotonic() - began))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served = [o for o, _ in outcomes if o == "ok"]
    refused = {o for o, _ in outcomes if o != "ok"}
    assert served and refused
    assert all(code == grpc.StatusCode.RESOURCE_EXHAUSTED for code, _ in refused), refused
