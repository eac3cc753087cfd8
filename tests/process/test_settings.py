"""One settings file for all processes: what is read, what is refused, and what is in force."""

import json
import os
import re
import signal
import subprocess

import pytest
from chord_server import BIN, MODEL, ROOT, Chord, demo

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)


def run(*args, **variables):
    return subprocess.run([str(BIN / "chord"), *map(str, args)], capture_output=True, timeout=120, text=True,
                          env={**os.environ, **variables})


def written(folder, text):
    path = folder / "chord.yaml"
    path.write_text(text)
    return path


def test_print_says_where_each_value_comes_from_and_reads_back(tmp_path):
    file = written(tmp_path, "log:\n  level: warning\ngateway:\n  max_batch: 3\n  max_in_flight: 4\n")
    done = run("config", "print", "--config", file, "--set", "gateway.max_in_flight=5", CHORD_GATEWAY_MAX_BATCH="7",
               CHORD_GATEWAY_SERVICE_HOST="10.0.0.1")
    assert done.returncode == 0
    line = {m[1]: (m[2].strip(), m[3]) for m in re.finditer(r"^ *(\w+):(.*?)# (.+)$", done.stdout, re.M)}
    assert line["level"] == ('"warning"', f"{file}:2")
    assert line["max_batch"] == ("7", "$CHORD_GATEWAY_MAX_BATCH")
    assert line["max_in_flight"] == ("5", "--gateway.max_in_flight")
    assert line["max_http_connections"] == ("", "default: 512")
    assert "CHORD_GATEWAY_SERVICE_HOST is not a setting" in done.stderr
    again = run("config", "print", "--config", written(tmp_path, done.stdout))
    values = lambda text: re.findall(r"^ *(\w+):(.*?)# ", text, re.M)  # noqa: E731
    assert values(again.stdout) == values(done.stdout)


def test_check_finds_what_the_processes_would_refuse(tmp_path):
    good = run("config", "check", written(tmp_path, "gateway: {max_batch: 3}\nllm_worker: {kv_dtype: int8}\n"))
    assert good.returncode == 0 and "is good" in good.stdout, good
    for text, message in (("gateway:\n  max_btach: 3\n", ':2: there is no setting "gateway.max_btach". Is "max_batch" meant?'),
                          ("gateway: {max_batch: 100000}\n", "gateway: The setting max_batch must be between 1 and 1024"),
                          ("vision_worker: {max_queue: -1}\n", "vision worker: max_queue must be from 1 to 4096"),
                          ("llm_worker: {kv_dtype: int9}\n", "language worker: "),
                          ("log: {level: loud}\n", "log.level must be debug, info, warning or error"),
                          ("model_dir: /nonexistent\n", "there is no folder /nonexistent"),
                          ("gateway: [\n", "not valid YAML")):
        done = run("config", "check", written(tmp_path, text))
        assert done.returncode == 2 and message in done.stderr, (text, done)


def test_the_reference_is_the_one_in_the_documentation():
    done = run("config", "reference")
    assert done.stdout == (ROOT / "docs" / "settings.md").read_text(), "chord config reference > docs/settings.md"


def test_serve_takes_the_file_the_environment_and_its_flags(tmp_path, monkeypatch):
    file = written(tmp_path, f"model_dir: {MODEL}\ngateway:\n  max_batch: 3\n  model_name: from-the-file\n"
                   "  vision_workers: [elsewhere=10.0.0.1:1]\nvision_worker: {threads: 1}\nllm_worker: {threads: 1}\n")
    monkeypatch.setenv("CHORD_CONFIG", str(file))
    monkeypatch.setenv("CHORD_GATEWAY_MAX_PROMPT_BYTES", "64")
    with Chord("--set", "gateway.default_new_tokens=400") as chord:
        assert chord.get("/version").json["model"] == "from-the-file"
        assert chord.post(GOOD, PROMPT).status == 200
        assert chord.post(GOOD, "x" * 65).json["code"] == "PROMPT_TOO_LONG"
        # A process that is started again has the settings of the first start, whatever the file holds now.
        file.write_text("not: settings\n")
        gateway = chord.pid("gateway")
        os.kill(gateway, signal.SIGKILL)
        chord.wait_for(lambda: chord.pid("gateway") not in (None, gateway))
        chord.wait_ready()
        assert chord.post(GOOD, "x" * 65).json["code"] == "PROMPT_TOO_LONG"


def test_wrong_settings_end_each_program_with_code_2_and_one_sentence(tmp_path):
    file = written(tmp_path, "gateway:\n  max_batch: x\n")
    for program in ("chord_gateway", "chord_vision_worker", "chord_llm_worker"):
        done = subprocess.run([BIN / program, "--config", file], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and done.stderr == f"{file}:2: gateway.max_batch must be an integer.\n", done
    done = run("serve", "--config", file)
    assert done.returncode == 2 and f"{file}:2: gateway.max_batch" in done.stderr


@pytest.mark.parametrize("level, shown", [("warning", False), ("info", True)])
def test_the_log_has_the_lines_of_its_level(level, shown):
    with Chord("--set", f"log.level={level}") as chord:
        answer = chord.post(GOOD, PROMPT).json
        chord.post(b"", PROMPT)
        log = chord.read_log
        if shown:
            chord.wait_for(lambda: answer["request_id"] in log())
        levels = {json.loads(line)["level"] for line in log().splitlines() if line.startswith("{")}
        assert ("info" in levels) == shown and (answer["request_id"] in log()) == shown
