"""`chord serve` as the supervisor of one host: what it notices, what it does, and what it says."""

import contextlib
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
from PIL import Image
from chord_server import BIN, MODEL, Chord, demo, multipart

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)
QUICK = ("--set", "serve.probe_seconds=0.1", "--set", "serve.hang_seconds=2")


def events(chord, name):
    return [line for line in map(json.loads, filter(lambda l: l.startswith("{"), chord.read_log().splitlines()))
            if line["event"] == name and line["role"] == "supervisor"]


def restarts(chord, process, cause):
    text = chord.get("/metrics").body.decode()
    found = re.search(rf'chord_process_restarts_total\{{worker="supervisor",cause="{cause}",process="{process}"\}} (\d+)', text)
    return int(found[1]) if found else None


@pytest.mark.parametrize("role, process", [("vision", "vision_worker"), ("language", "llm_worker"), ("gateway", "gateway")])
def test_a_frozen_process_is_noticed_and_started_again(role, process):
    with Chord(*QUICK) as chord:
        frozen = chord.pid(role)
        os.kill(frozen, signal.SIGSTOP)
        chord.wait_for(lambda: chord.pid(role) not in (None, frozen))
        chord.wait_ready(60)
        assert chord.post(GOOD, PROMPT).status == 200
        assert [line["process"] for line in events(chord, "child_hung")] == [process]
        assert [line["cause"] for line in events(chord, "child_exited")] == ["hang"]
        assert restarts(chord, process, "hang") == 1 and restarts(chord, process, "exit") == 0


def installation(folder, **scripts):
    """`chord` with other programs beside it."""
    folder.mkdir()
    shutil.copy(BIN / "chord", folder / "chord")
    for name in ("chord_gateway", "chord_vision_worker", "chord_llm_worker"):
        script = folder / name
        script.write_text("#!/bin/sh\n" + scripts.get(name, "exec sleep 1000\n"))
        script.chmod(0o755)
    return folder / "chord"


@pytest.mark.parametrize("ending, code", [("exit 1", 4), ("kill -9 $$", 4), ("exit 2", 2), ("exit 127", 1)])
def test_what_cannot_start_ends_the_supervisor_with_a_code_of_its_own(tmp_path, ending, code):
    starts = tmp_path / "starts"
    chord = installation(tmp_path / "bin", chord_vision_worker=f"echo >> {starts}; {ending}\n")
    done = subprocess.run([chord, "serve", "--model", MODEL, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
                           "--set", "serve.max_failed_starts=3"], capture_output=True, text=True, timeout=60,
                          env=dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path)))
    assert done.returncode == code, done
    assert len(starts.read_text()) == (4 if code == 4 else 1)
    last = [json.loads(line) for line in done.stderr.splitlines()]
    why = next(line for line in last if line["event"] in ("crash_loop", "child_cannot_start"))
    assert why["level"] == "error" and why["process"] == "vision_worker" and "vision worker" in why["why"]
    assert not list(tmp_path.glob("chord-*")), "the folder of the sockets is left behind"


def test_a_process_that_grows_over_its_hard_limit_is_killed(tmp_path):
    for _ in range(3):
        done = subprocess.run([BIN / "chord", "serve", "--model", MODEL, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
                               "--set", "serve.llm_worker_memory.hard_bytes=2MiB", "--set", "serve.max_failed_starts=1"],
                              capture_output=True, text=True, timeout=60,
                              env=dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path)))
        if "address is in use" not in done.stderr:
            break  # else another program took the port between its choice and its use
    assert done.returncode == 4, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    over = [line for line in lines if line["event"] == "child_over_memory"]
    assert over and over[0]["process"] == "llm_worker" and over[0]["signal"] == "SIGKILL"
    assert over[0]["own_memory_bytes"] > 2 << 20


def noise(seed):
    out = io.BytesIO()
    Image.frombytes("RGB", (600, 600), random.Random(seed).randbytes(600 * 600 * 3)).save(out, "png")
    return out.getvalue()


def test_a_process_over_its_soft_limit_is_drained_and_no_request_is_cut():
    with Chord() as chord:
        chord.post(GOOD, PROMPT)
        status = pathlib.Path(f"/proc/{chord.pid('gateway')}/status").read_text()
        idle = sum(int(re.search(rf"{field}:\s+(\d+)", status)[1]) << 10 for field in ("RssAnon", "RssShmem"))
    with Chord(*QUICK, "--set", f"serve.gateway_memory.soft_bytes={idle + (24 << 20)}") as chord:
        gateway = chord.pid("gateway")
        for seed in range(60):
            with contextlib.suppress(OSError):
                content_type, body = multipart([("image", ("noise.png", noise(seed)))])
                chord.request("POST", "/api/images", body, {"Content-Type": content_type})
            if events(chord, "child_over_memory"):
                break
        chord.wait_for(lambda: chord.pid("gateway") not in (None, gateway))
        chord.wait_ready(60)
        assert chord.post(GOOD, PROMPT).status == 200
        over = events(chord, "child_over_memory")
        assert over[0]["process"] == "gateway" and over[0]["signal"] == "SIGTERM"
        assert events(chord, "child_exited")[0]["status"] == "exit code 0"
        assert restarts(chord, "gateway", "memory") == 1


def test_after_sigterm_the_gateway_is_not_ready_but_answers_for_the_time_that_was_set():
    with Chord("--set", "gateway.lame_duck_seconds=3") as chord:
        chord.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        chord.wait_for(lambda: chord.get("/readyz").status == 503)
        assert chord.get("/readyz").json["code"] == "SHUTTING_DOWN" and chord.get("/healthz").status == 200
        while time.monotonic() - begin < 2:
            assert chord.post(GOOD, PROMPT).status == 200
        assert chord.process.wait(30) == 0
        assert time.monotonic() - begin >= 3


def test_the_service_manager_is_told(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")

        def until(text):
            seen = []
            while not seen or text not in seen[-1]:
                seen.append(manager.recv(4096).decode())
            return seen

        with Chord(*QUICK) as chord:
            seen = until("READY=1")
            assert "WATCHDOG=1" in seen, "the system takes longer to start than the watchdog waits"
            until("WATCHDOG=1")
            chord.wait_for(lambda: chord.pid("vision") is not None)
            os.kill(chord.pid("vision"), signal.SIGKILL)
            until("not ready: vision worker")
            until("STATUS=serving")
            chord.stop()
            until("STOPPING=1")


def test_logs_go_to_files_that_are_replaced_when_they_are_full(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    with Chord("--set", f"log.dir={folder}", "--set", "log.max_bytes=4096", "--set", "log.keep=2") as chord:
        def replaced_twice():
            chord.get("/nothing")
            return (folder / "gateway.log.2").exists()

        chord.wait_for(replaced_twice)
        # A file that another program moves away is begun anew.
        os.rename(folder / "gateway.log", folder / "moved")

        def begun():
            chord.get("/nothing")
            return (folder / "gateway.log").exists()

        chord.wait_for(begun)
        assert not [line for line in chord.read_log().splitlines() if line.startswith("{")]
    names = {path.name for path in folder.iterdir()}
    assert {"gateway.log", "gateway.log.1", "gateway.log.2", "vision_worker.log", "llm_worker.log", "supervisor.log"} <= names
    assert "gateway.log.3" not in names
    for path in folder.iterdir():
        assert path.stat().st_size <= 4096
        role = path.name.split(".")[0]
        for line in path.read_text().splitlines():
            assert json.loads(line)["role"] == ("gateway" if role == "moved" else role)


def test_a_log_folder_that_cannot_be_written_is_a_wrong_setting(tmp_path):
    done = subprocess.run([BIN / "chord", "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--set", f"log.dir={tmp_path}/none"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and f"Cannot write the log file {tmp_path}/none/supervisor.log: No such file" in done.stderr
