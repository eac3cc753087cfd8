"""What an operator meets: ends of processes, logs, metrics, and a command line on a bad day."""

import json
import os
import pathlib
import signal
import subprocess
import threading
import types

import fleet
import grpc
import pytest
from PIL import Image
from chord_server import BIN, MODEL, Chord, Reason, demo, grounding_pb2, images_pb2, images_pb2_grpc

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)


def run(*args, timeout=120, **kwargs):
    return subprocess.run([str(BIN / "chord"), *map(str, args)], capture_output=True, timeout=timeout, **kwargs)


def item(tag, image=GOOD):
    return grounding_pb2.GroundBatchRequest(tag=tag, request=grounding_pb2.GroundRequest(image=image, prompt=PROMPT))


def images(folder, count):
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (64, 64), (i % 256, i // 256, 90)).save(folder / f"{i:04d}.png")
    return folder


# --- ends -------------------------------------------------------------------------------------------

def test_a_stream_on_which_nothing_is_asked_does_not_hold_up_the_end():
    """Nor does a balancer that watches our health."""
    with Chord("--gateway-flag", "drain_seconds=120") as chord:
        end_with_an_idle_stream(chord)


def end_with_an_idle_stream(chord):
    channel = grpc.insecure_channel(chord.grpc_address)
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", request_serializer=bytes, response_deserializer=bytes)
    health = watch(b"\x0a\x12chord.v1.Grounding")
    assert next(health) == b"\x08\x01"
    held = threading.Event()

    def prompts():
        yield item("first")
        held.wait(60)

    results = chord.stub().GroundBatch(prompts())
    assert next(results).tag == "first"
    gateway = chord.pid("gateway")
    os.kill(gateway, signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as error:
        next(results)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE and Reason(error.value).reason == "SHUTTING_DOWN"
    chord.wait_for(lambda: chord.pid("gateway") not in (None, gateway), 60)  # long before the drain is over
    held.set()
    with pytest.raises(grpc.RpcError):
        list(health)
    chord.wait_ready()


def test_what_is_asked_on_a_stream_is_answered_before_the_end(chord):
    """Tried again when all had been answered before the end began."""
    while not end_with_a_stream_under_way(chord, 16):  # as many as run at once
        pass


def end_with_a_stream_under_way(chord, count):
    """False: there was nothing under way any more."""
    held = threading.Event()

    def prompts():
        for i in range(count):
            yield item(str(i))
        held.wait(60)

    def in_flight():  # with the stream itself
        return chord.metric("chord_inflight_requests") or 0

    def ended():
        return chord.metric("chord_requests_total") or 0

    before = ended()
    results = chord.stub().GroundBatch(prompts())
    # All have been read. What ends between the two looks is not counted twice.
    chord.wait_for(lambda: ended() - before + in_flight() > count)
    if in_flight() < 2:
        held.set()
        return False
    gateway = chord.pid("gateway")
    os.kill(gateway, signal.SIGTERM)
    answered = []
    with pytest.raises(grpc.RpcError) as error:
        for result in results:
            answered.append(result)
    held.set()
    assert {r.tag for r in answered} == {str(i) for i in range(count)}
    assert all(r.HasField("response") for r in answered), [r.error for r in answered]
    assert Reason(error.value).reason == "SHUTTING_DOWN"
    chord.wait_for(lambda: chord.pid("gateway") not in (None, gateway))
    chord.wait_ready()
    return True


def test_serves_as_the_first_process_of_a_container(tmp_path):
    """Process 1 is the supervisor there, which a gateway must not take for a missing parent."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip("no namespaces here")
    served = subprocess.Popen([*command, str(BIN / "chord"), "serve", "--model", str(MODEL), "--http", "127.0.0.1:0",
                               "--grpc", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              env=dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path)))
    watchdog = threading.Timer(60, served.kill)
    watchdog.start()
    try:
        assert b"Chord is ready" in served.stdout.readline()
    finally:
        watchdog.cancel()
        served.kill()
        served.stdout.close()
        served.wait()


def test_an_address_that_is_taken_is_reported_before_anything_starts(chord):
    for flag, address in (("--http", chord.http_address), ("--grpc", chord.grpc_address)):
        free = "--grpc" if flag == "--http" else "--http"
        done = run("serve", flag, address, free, "127.0.0.1:0", "--model", MODEL)
        assert done.returncode == 2 and f"{address} is in use".encode() in done.stderr, done
        assert b"ready" not in done.stdout
    long = f"/tmp/{'x' * 100}"
    os.makedirs(long, exist_ok=True)
    done = run("serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--model", MODEL,
               env=dict(os.environ, XDG_RUNTIME_DIR=long))
    os.rmdir(long)
    assert done.returncode == 2 and b"XDG_RUNTIME_DIR is too long" in done.stderr


def test_serves_on_when_no_one_reads_its_announcement(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with open(tmp_path / "log", "wb") as log:
        served = subprocess.Popen([str(BIN / "chord"), "serve", "--model", str(MODEL), "--http", "127.0.0.1:0", "--grpc",
                                   "127.0.0.1:0"], stdout=writer, stderr=log, env=dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path)))
    os.close(writer)
    try:
        http_address, _ = fleet.logged_addresses(tmp_path / "log", Chord.wait_for)
        unread = types.SimpleNamespace(process=served, ROLES=Chord.ROLES, http_address=http_address)
        # The announcement comes within a tick of the supervisor, and a killed gateway is replaced some ticks later.
        for _ in range(2):
            Chord.wait_for(lambda: Chord.request(unread, "GET", "/readyz").status == 200)
            victim = Chord.pid(unread, "gateway")
            os.kill(victim, signal.SIGKILL)
            Chord.wait_for(lambda: Chord.pid(unread, "gateway") not in (None, victim))
        assert served.poll() is None
    finally:
        served.send_signal(signal.SIGTERM)
        assert served.wait(60) == 0


# --- logs and metrics -------------------------------------------------------------------------------

def lines(chord):
    def once(pairs):
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), pairs
        return dict(pairs)

    text = [line for line in chord.read_log().splitlines() if not line.startswith("chord serve:")]
    return [json.loads(line, object_pairs_hook=once) for line in text]


def test_one_id_ties_the_lines_of_a_request_together(chord):
    answer = chord.post(GOOD, PROMPT).json
    request_id = answer["request_id"]
    chord.wait_for(lambda: chord.read_log().count(request_id) >= 4)
    mine = [line for line in lines(chord) if line.get("request_id") == request_id]
    assert {(line["role"], line["method"]) for line in mine} == {
        ("gateway", "ground"), ("vision_worker", "encode"), ("llm_worker", "decode"), ("llm_worker", "push_embeddings")}
    own = next(line for line in mine if line["role"] == "gateway")
    assert own["code"] == "OK" and own["language"] == "language-0" and own["vision"] == "vision-0"


def test_the_id_of_every_refusal_is_in_the_log(chord):
    ids = {}
    ids["ROUTE_UNKNOWN"] = chord.get("/nothing").json["request_id"]
    ids["METHOD_NOT_ALLOWED"] = chord.request("PUT", "/api/ground").json["request_id"]
    ids["IMAGE_ID_UNKNOWN"] = chord.get("/api/images/img_0").json["request_id"]
    ids["IMAGE_FORMAT_UNKNOWN"] = chord.post(b"nothing", PROMPT).json["request_id"]
    headers = chord.request("POST", "/v1/chat/completions", "{}").headers
    ids["CONTENT_TYPE_UNSUPPORTED"] = next(value for name, value in headers.items() if name.lower() == "x-request-id")
    stub = images_pb2_grpc.ImagesStub(grpc.insecure_channel(chord.grpc_address))
    with pytest.raises(grpc.RpcError) as error:
        stub.Touch(images_pb2.ImageRef(image_id="x"))
    touched = Reason(error.value).request_id
    assert touched and ("x-request-id", touched) in error.value.initial_metadata()
    for reason, request_id in [*ids.items(), ("IMAGE_ID_UNKNOWN", touched)]:
        chord.wait_for(lambda: request_id in chord.read_log())
        assert [line["reason"] for line in lines(chord) if line.get("request_id") == request_id] == [reason]


def test_text_that_is_not_utf8_leaves_no_foreign_lines_in_the_log(chord):
    channel = grpc.insecure_channel(chord.grpc_address)
    ground = channel.unary_unary("/chord.v1.Grounding/Ground", request_serializer=bytes, response_deserializer=bytes)
    with pytest.raises(grpc.RpcError) as error:
        ground(b"\x1a\x02\xff\xfe")
    assert Reason(error.value).reason == "PROMPT_NOT_UTF8"
    assert lines(chord)


def samples(chord):
    out = {}
    for line in chord.get("/metrics").body.decode().splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            out[name] = float(value)
    return out


def test_counters_count_what_was_done(chord):
    before = samples(chord)
    first = chord.post(GOOD, PROMPT).json
    assert chord.post(None, PROMPT, [("image_id", first["image_id"])]).status == 200
    chord.post(b"nothing", PROMPT)
    chord.get("/nothing")
    chord.request("POST", "/v1/chat/completions", "{}")
    after = samples(chord)
    moved = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    for name, count in {
            'chord_requests_total{code="OK",method="ground"}': 2,
            'chord_requests_total{code="INVALID_ARGUMENT",method="ground"}': 1,
            'chord_requests_total{code="INVALID_ARGUMENT",method="chat_completions"}': 1,
            'chord_rejected_total{reason="IMAGE_FORMAT_UNKNOWN"}': 1,
            'chord_rejected_total{reason="ROUTE_UNKNOWN"}': 1,
            'chord_rejected_total{reason="CONTENT_TYPE_UNSUPPORTED"}': 1,
            'chord_image_cache_requests_total{cache="none"}': 1,
            'chord_image_cache_requests_total{cache="kv"}': 1,
            'chord_image_store_total{event="asked"}': 1,
            'chord_image_store_total{event="hit"}': 1,
            'chord_image_bytes_total': len(GOOD)}.items():
        assert moved.get(name) == count, (name, moved)
    assert moved['chord_log_lines_total{level="info"}'] >= 5
    assert {name: value for name, value in after.items() if name.startswith("chord_workers")} == {
        'chord_workers{role="vision_worker"}': 1, 'chord_workers{role="llm_worker"}': 1}


def test_a_long_tag_comes_back_readable(chord):
    tag = "农" * 30
    prompts = [item(tag), item("short")]
    for results in (list(chord.stub().GroundBatch(iter(prompts))),
                    chord.stub().GroundList(grounding_pb2.GroundListRequest(requests=prompts)).results):
        by_tag = {result.tag: result for result in results}
        assert set(by_tag) == {"农" * 21, "short"}
        assert by_tag["农" * 21].error.reason == "PARAMETER_INVALID" and by_tag["short"].HasField("response")


# --- the command line -------------------------------------------------------------------------------

def test_a_folder_goes_on_when_the_gateway_is_restarted(chord, tmp_path):
    folder = images(tmp_path / "many", 60)
    asking = subprocess.Popen([str(BIN / "chord"), "ground", str(folder), "the star", "--server", chord.grpc_address,
                               "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              bufsize=0)  # communicate() does not see what readline() has buffered
    first = [asking.stdout.readline() for _ in range(5)]
    os.kill(chord.pid("gateway"), signal.SIGKILL)
    out, err = asking.communicate(timeout=120)
    answers = [json.loads(line) for line in first + out.splitlines()]
    assert [a["file"] for a in answers] == sorted(p.name for p in folder.iterdir())
    assert asking.returncode == 0 and b"60 of 60 images answered, 0 failed" in err, (err, answers[-1])
    chord.wait_ready()


def test_eval_goes_on_when_the_gateway_is_restarted(chord, tmp_path):
    folder = images(tmp_path / "many", 40)
    rows = [{"file": p.name, "prompt": "the star", "boxes": []} for p in sorted(folder.iterdir())]
    (folder / "scenes.json").write_text(json.dumps(rows))
    before = chord.metric("chord_image_cache_requests_total")
    asking = subprocess.Popen([str(BIN / "chord"), "eval", str(folder), "--server", chord.grpc_address, "--json"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    chord.wait_for(lambda: chord.metric("chord_image_cache_requests_total") > before + 4)
    os.kill(chord.pid("gateway"), signal.SIGKILL)
    out, err = asking.communicate(timeout=120)
    assert asking.returncode == 0 and json.loads(out)["count"] == 40, err
    chord.wait_ready()


def test_without_a_server_one_sentence_says_so(tmp_path):
    folder = images(tmp_path / "few", 5)
    done = run("ground", folder, "x", "--server", "127.0.0.1:1")
    assert done.returncode == 1 and done.stdout == b"" and done.stderr.count(b"chord serve") == 1
    rows = [{"file": "0000.png", "prompt": "x", "boxes": []}] * 5000
    (folder / "scenes.json").write_text(json.dumps(rows))
    done = run("eval", folder, "--server", "127.0.0.1:1", timeout=60)
    assert done.returncode == 1 and b"were not sent" in done.stderr
    for server in ("", "here", "host:", "host:x", "http://host:1"):
        done = run("ground", folder, "x", "--server", server)
        assert done.returncode == 2 and b"HOST:PORT" in done.stderr, server


def test_what_cannot_be_written_is_reported_before_anything_is_sent(tmp_path):
    folder = images(tmp_path / "few", 1)
    image = folder / "0000.png"
    (folder / "scenes.json").write_text(json.dumps([{"file": "0000.png", "prompt": "x", "boxes": []}] * 20))
    dead = ["--server", "127.0.0.1:1"]
    for args in (["ground", image, "x", "--annotate", "/proc/none.png"],
                 ["ground", image, "x", "--annotate", tmp_path / "none" / "x.png"],
                 ["ground", image, "x", "--annotate", tmp_path],
                 ["ground", folder, "x", "--annotate", "/proc/none"],
                 ["eval", folder, "--plot", "/proc/none.png"],
                 ["calibrate", folder, "--out", "/proc/none.json"],
                 ["bench", folder, "--prompt", "x", "--rate", "1", "--plot", "/proc/none.png"]):
        done = run(*args, *dead)
        assert done.returncode == 2 and b"Cannot" in done.stderr, (args, done)
    done = run("ground", image, "x", "--annotate", folder / ".." / "few" / "0000.png", *dead)
    assert done.returncode == 2 and b"overwrite the image" in done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["0000.png", "scenes.json"]


def test_a_full_disk_is_no_success(chord):
    image = pathlib.Path(__file__).resolve().parents[2] / "demo" / "farm.png"
    for args in (["--help"], ["version"], ["doctor"],
                 ["ground", image, "the tractor", "--server", chord.grpc_address],
                 ["ground", image.parent, "the tractor", "--server", chord.grpc_address, "--json"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([str(BIN / "chord"), *map(str, args)], stdout=full, stderr=subprocess.PIPE, timeout=120)
        assert done.returncode == 1 and b"cannot write standard output" in done.stderr, (args, done)


def test_files_of_a_folder_that_cannot_be_asked_about(chord, tmp_path):
    folder = images(tmp_path / "odd", 1)
    for name in ("with blank.png", "农场.png", "two\nlines.png"):
        (folder / name).write_bytes(GOOD)
    (folder / "zero.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    (folder / "cut.png").write_bytes(GOOD[:2000])
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe.png")
    done = run("ground", folder, PROMPT, "--server", chord.grpc_address, "--json")
    answers = {a["file"]: a for a in map(json.loads, done.stdout.decode().splitlines())}
    # What cannot be read is reported as failed: a dangling link, an empty file, a file that is cut.
    assert set(answers) == {"0000.png", "with blank.png", "农场.png", "two\nlines.png", "cut.png", "loop", "zero.png"}
    assert answers["cut.png"]["error"]["code"] == "IMAGE_CORRUPT"
    assert done.returncode == 1
    assert b"4 of 7 images answered, 3 failed; 1 other file skipped (not JPEG, PNG or WebP)" in done.stderr
    done = run("ground", tmp_path / "none", PROMPT, "--server", chord.grpc_address)
    assert done.returncode == 1 and b"No such file" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_image_that_may_not_be_read_is_a_failure(chord, tmp_path):
    folder = images(tmp_path / "mixed", 2)
    (folder / "0000.png").chmod(0)
    done = run("ground", folder, PROMPT, "--server", chord.grpc_address)
    assert done.returncode == 1 and b"0000.png cannot be read: Permission denied" in done.stdout
    folder.chmod(0)
    try:
        done = run("ground", folder, PROMPT, "--server", chord.grpc_address)
        assert done.returncode == 2 and b"Permission denied" in done.stderr
    finally:
        folder.chmod(0o700)


def test_a_prompt_that_is_not_utf8(chord):
    done = run("ground", pathlib.Path(__file__), b"\xff\xfe".decode("utf-8", "surrogateescape"), "--server", chord.grpc_address)
    assert done.returncode == 2 and b"UTF-8" in done.stderr and b"libprotobuf" not in done.stderr


def test_flags_of_the_processes_have_both_spellings():
    done = run("serve", "--gateway-flag=no_such=1", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    assert done.returncode == 2 and b"--gateway.no_such is not a setting" in done.stderr
    done = run("serve", "--gateway-flag")
    assert done.returncode == 2 and b"--gateway-flag needs a value" in done.stderr


def test_a_lost_worker_costs_no_answer_while_another_is_idle(tmp_path):
    """More requests than the share of the traffic that retries may be."""
    with fleet.Fleet(tmp_path, language=2) as chord:
        threads, answers = [], []
        for _ in range(24):
            threads.append(threading.Thread(target=lambda: answers.append(chord.post(GOOD, PROMPT).status)))
            threads[-1].start()
        chord.wait_for(lambda: chord.metric("chord_inflight_requests") >= 20)
        chord.kill("language-0")
        for thread in threads:
            thread.join()
        assert answers == [200] * 24, answers
