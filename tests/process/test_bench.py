"""`chord bench` from outside: what it prints, and that it tells the truth about a server that refuses."""

import http.server
import json
import signal
import subprocess
import threading
import time

import pytest
from PIL import Image
from chord_server import BIN, ROOT, Chord

DEMO = ROOT / "demo"


def bench(*args, code=0):
    done = subprocess.run([BIN / "chord", "bench", *map(str, args)], capture_output=True, timeout=300)
    assert done.returncode == code, (done.stdout[-2000:], done.stderr)
    return done


def measured(*args):
    return json.loads(bench(*args, "--json").stdout)


def endpoint(chord, http):
    return ["--http", "--server", chord.http_address] if http else ["--server", chord.grpc_address]


def assert_sound(run):
    count = run["count"]
    assert count["offered"] == sum(count[k] for k in ("answered", "failed", "dropped_by_bench", "unfinished"))
    assert count["failed"] == sum(run["errors"].values())
    assert count["dropped_by_bench"] == run["dropped_by_bench"]
    assert run["goodput_rps"] <= run["completed_rps"]
    assert run["offered_rps"] == pytest.approx(count["offered"] / run["duration_seconds"])
    for name in ("ttft_seconds", "total_seconds", "failure_seconds", "lag_seconds"):
        q = run[name]
        if q["count"]:
            assert 0 <= q["p50"] <= q["p90"] <= q["p99"] <= q["max"], (name, q)
        else:
            assert q["p50"] is None and q["p99"] is None


@pytest.mark.parametrize("http", [False, True])
def test_an_open_loop_over_both_endpoints(chord, http):
    run = measured(DEMO, *endpoint(chord, http), "--rate", 2, "--duration", 4, "--warmup", 0.5, "--slo", 30)
    assert_sound(run)
    assert run["loop"] == "open" and run["errors"] == {} and run["ttft_source"] == "timing"
    assert run["count"]["answered"] == run["count"]["offered"] > 0
    assert run["count"]["good"] > 0 and sum(run["cache"].values()) == run["count"]["answered"]
    assert 0 < run["ttft_seconds"]["p50"] <= run["total_seconds"]["p50"]
    assert run["stages_seconds"]["vision"]["p50"] > 0 and run["completion_tokens"] > 0


def test_the_seed_decides_how_many_arrive(chord):
    args = [DEMO, *endpoint(chord, False), "--rate", 5, "--duration", 1.5, "--warmup", 0]
    first, same, other = (measured(*args, "--seed", s)["count"]["offered"] for s in (3, 3, 11))
    assert first == same and first != other


def test_a_closed_loop_keeps_that_many_outstanding(chord):
    run = measured(DEMO, *endpoint(chord, False), "--concurrency", 2, "--duration", 3, "--warmup", 0)
    assert_sound(run)
    assert run["loop"] == "closed" and run["concurrency"] == 2 and run["completed_rps"] > 0
    # Little's law: what is outstanding on average is rate times latency; the ends of the window blur it.
    assert run["offered_rps"] * run["total_seconds"]["mean"] < 2 * 2


def test_a_stream_is_timed_by_the_client(chord):
    run = measured(DEMO, *endpoint(chord, False), "--rate", 2, "--duration", 2, "--warmup", 0, "--stream")
    assert_sound(run)
    assert run["ttft_source"] == "stream" and run["ttft_seconds"]["count"] == run["count"]["answered"] > 0
    assert run["ttft_seconds"]["p50"] <= run["total_seconds"]["p50"]


class Paused(http.server.BaseHTTPRequestHandler):
    """The gateway's stream, with a pause between its first word and the rest."""
    pause = 0

    def log_message(self, *unused):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        self.wfile.write(b'event: delta\ndata: {"text":"["}\n\n')
        self.wfile.flush()
        time.sleep(self.pause)  # the thing that is measured
        answer = {"boxes": [], "usage": {}, "timing": {}}
        self.wfile.write(b"event: response\ndata: " + json.dumps(answer).encode() + b"\n\n")


def test_the_first_token_is_timed_when_it_comes_and_not_at_the_end():
    """A client that is kept from running during a pause sees both at once; then the pause is longer."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Paused) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for Paused.pause in (0.2, 1, 5):
            run = measured(DEMO / "farm.png", "--prompt", "x", "--http", "--server", "127.0.0.1:%d" % server.server_port,
                           "--concurrency", 1, "--duration", 3 * Paused.pause, "--warmup", 0, "--stream")
            assert run["count"]["answered"] > 0, run
            if run["ttft_seconds"]["max"] < run["total_seconds"]["p50"]:
                break
        else:
            pytest.fail(f"time to first token is the total: {run['ttft_seconds']} {run['total_seconds']}")
        server.shutdown()


def test_a_sweep_is_a_table_and_an_image(chord, tmp_path):
    plot = tmp_path / "plot.png"
    done = bench(DEMO, *endpoint(chord, False), "--rate", "1,2", "--duration", 1.5, "--warmup", 0, "--plot", plot)
    text = done.stdout.decode()
    assert "offered/s" in text and len([line for line in text.splitlines() if line.strip()[:1].isdigit()]) == 2
    image = Image.open(plot)
    assert image.format == "PNG" and len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_one_image_with_a_prompt(chord):
    run = measured(DEMO / "farm.png", "--prompt", "the tractor", *endpoint(chord, True), "--rate", 2, "--duration", 1.5, "--warmup", 0)
    assert run["pictures"] == run["questions"] == 1 and run["count"]["offered"] > 0


def test_arrivals_never_wait_and_what_is_not_sent_is_told(chord):
    run = measured(DEMO, *endpoint(chord, False), "--rate", 50, "--duration", 1, "--warmup", 0, "--max-outstanding", 1)
    assert_sound(run)
    assert run["dropped_by_bench"] > 0 and run["errors"] == {}
    assert 25 < run["count"]["offered"] < 85, "the offered load does not depend on the server"


def test_a_deadline_is_an_error_by_its_reason(chord):
    run = measured(DEMO, *endpoint(chord, False), "--rate", 5, "--duration", 1, "--warmup", 0, "--timeout", 0.002)
    assert_sound(run)
    # OVERLOADED: a server may say at once that it cannot make it.
    assert set(run["errors"]) <= {"DEADLINE_EXCEEDED", "OVERLOADED"} and run["completed_rps"] == 0
    assert run["count"]["failed"] == run["count"]["offered"] > 0


@pytest.mark.parametrize("http", [False, True])
def test_ctrl_c_prints_what_was_measured_so_far(chord, http):
    answered = chord.metric("chord_requests_total") or 0
    process = subprocess.Popen([BIN / "chord", "bench", DEMO, *endpoint(chord, http), "--rate", "3", "--warmup", "0",
                                "--duration", "600", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    chord.wait_for(lambda: chord.metric("chord_requests_total") > answered, 60)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    run = json.loads(out)
    assert_sound(run)
    assert run["interrupted"] is True and run["duration_seconds"] < 500 and run["count"]["offered"] > 0


def test_it_says_what_is_wrong(chord, tmp_path):
    (tmp_path / "q.json").write_text("[]")
    for args in ([], [DEMO], [DEMO, "--rate", 1, "--concurrency", 1], [DEMO, "--rate", "x"], [DEMO, "--rate", 0],
                 [DEMO, "--concurrency", 0], [tmp_path, "--rate", 1], [tmp_path / "absent", "--rate", 1],
                 [DEMO, "--rate", 1, "--reuse", 2], [DEMO, "--rate", 1, "--grammar", "on"]):
        error = bench(*args, code=2).stderr
        assert error.startswith(b"chord bench: ") and error.count(b"\n") == 1, error
    for http in ([], ["--http"]):
        assert b"chord serve" in bench(DEMO, "--rate", 1, "--server", "127.0.0.1:1", *http, code=1).stderr
    assert b"--rate" in bench("--help").stdout


@pytest.mark.parametrize("http", [False, True])
def test_refusals_are_counted_by_their_reason_and_timed(http):
    with Chord("--gateway-flag", "max_in_flight=1") as server:
        run = measured(DEMO, *endpoint(server, http), "--rate", 20, "--duration", 2, "--warmup", 0, "--slo", 60)
    assert_sound(run)
    refused = run["errors"]
    assert refused.get("OVERLOADED", 0) + refused.get("CLIENT_LIMIT", 0) > 0, refused
    assert run["failure_seconds"]["count"] == run["count"]["failed"]
    assert run["count"]["answered"] > 0
