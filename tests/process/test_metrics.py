"""/metrics of a whole system: what the documentation promises is there, and says what happened."""

import re

from chord_server import ROOT, demo

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)


def page(chord):
    return chord.get("/metrics").body.decode()


def test_the_documentation_lists_exactly_what_there_is(chord):
    chord.post(GOOD, PROMPT)
    live = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page(chord), re.M))
    rows = re.findall(r"^\| `(\S+)` \| (\w+) \|\s*(.*?)\s*\| (.*?) \| .+ \|$", (ROOT / "docs" / "metrics.md").read_text(), re.M)
    assert {name: kind for name, kind, _, _ in rows} == live
    labels = {}
    for name, text in re.findall(r"^([a-z_]+)(?:\{(.*?)\})? \S+$", page(chord), re.M):
        base = re.sub(r"_(bucket|sum|count)$", "", name) if live.get(name) is None else name
        labels.setdefault(base, set()).update(re.findall(r'(\w+)="', text))
    for name, _, documented, _ in rows:
        assert labels[name] - {"worker", "le"} == set(re.findall(r"`(\w+)`", documented)), name


def test_each_family_stands_once_and_says_its_unit(chord):
    text = page(chord)
    names = re.findall(r"^# TYPE (\S+) ", text, re.M)
    assert len(names) == len(set(names))
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|us|milliseconds|mb|kb|percent)$", name), name
    assert re.findall(r"^# HELP (\S+) ", text, re.M) == names


def test_plain_serve_fills_the_stages_of_all_processes(chord):
    chord.post(GOOD, PROMPT)
    chord.wait_for(lambda: 'chord_stage_seconds_count{worker="language-0",stage="decode"} 0' not in page(chord))
    text = page(chord)
    for worker, stages in (("", ("queue", "probe", "parse")),
                           ("vision-0", ("decode_pixels", "preprocess", "queue", "vision", "push")),
                           ("language-0", ("tokenize", "queue", "receive", "prefill", "decode"))):
        label = f'worker="{worker}",' if worker else ""
        found = dict(re.findall(rf'^chord_stage_seconds_count\{{{label}stage="(\w+)"\}} (\d+)$', text, re.M))
        assert set(found) == set(stages) and all(int(n) > 0 for n in found.values()), (worker, found)
    assert re.search(r'chord_model_info\{worker="language-0",device="cpu",dtype="\w+",fingerprint="\w+",model="chord-nano"\} 1', text)


def test_a_probe_is_no_error(chord):
    errors = lambda: re.search(r'chord_http_responses_total\{class="5xx"\} (\d+)', page(chord))[1]  # noqa: E731
    before = errors()
    import os, signal  # noqa: E401
    worker = chord.pid("vision")
    os.kill(worker, signal.SIGKILL)
    chord.wait_for(lambda: chord.get("/readyz").status == 503)
    assert chord.get("/readyz").json["detail"].startswith("No vision worker is ready.")
    chord.wait_ready()
    assert errors() == before
    assert re.search(r'chord_process_restarts_total\{worker="supervisor",cause="exit",process="vision_worker"\} 1', page(chord))


def test_an_answer_reports_the_load_when_it_is_asked_to(chord):
    report = chord.request("GET", "/api/images/img_0", headers={"endpoint-load-metrics-format": "TEXT"}).headers["endpoint-load-metrics"]
    assert re.fullmatch(r"TEXT application_utilization=\S+, named_metrics.running=\d+, named_metrics.waiting=\d+, named_metrics.kv_usage=\S+", report)
    report = chord.request("GET", "/v1/models", headers={"endpoint-load-metrics-format": "json"}).headers["endpoint-load-metrics"]
    import json
    assert report.startswith("JSON ") and json.loads(report[5:])["named_metrics"].keys() == {"running", "waiting", "kv_usage"}
    assert "endpoint-load-metrics" not in chord.get("/v1/models").headers
