"""Rules and dashboard against a live system: a real Prometheus scrapes `chord serve`, and after some load every query
of the dashboard returns data, and every rule names series that exist."""

import json
import math
import re
import subprocess
import urllib.parse

import pytest
import yaml
from chord_server import ROOT, Chord, demo, multipart
from deployed import DEPLOY, free_port, tool

PROMETHEUS, PROMTOOL = tool("prometheus"), tool("promtool")
pytestmark = pytest.mark.skipif(PROMETHEUS is None or PROMTOOL is None,
                                reason="prometheus is not installed: tools/setup.sh --ops")
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/chord.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"] if "alert" in rule]
IMAGE, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)


def queries():
    """[(panel title, PromQL)] of everything the dashboard asks."""
    out = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return out + [("annotation " + a["name"], a["expr"]) for a in DASHBOARD["annotations"]["list"]]


def promql(text):
    """What Grafana asks Prometheus, with its variables filled in."""
    for name, value in (("$__rate_interval", "15s"), ("$job", "chord"), ("$instance", ".*")):
        text = text.replace(name, value)
    return text


class Prometheus:
    def __init__(self, folder, targets):
        (folder / "targets").mkdir(parents=True)
        (folder / "rules.yaml").write_text((DEPLOY / "prometheus/rules.yaml").read_text())
        settings = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        (folder / "targets/chord.yaml").write_text(yaml.safe_dump([{"targets": targets}]))
        self.http_address = f"127.0.0.1:{free_port()}"
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen(
            [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address={self.http_address}"], stdout=self.log, stderr=self.log)

    request = Chord.request

    def query(self, expression):
        answer = self.request("GET", "/api/v1/query?query=" + urllib.parse.quote(expression))
        if answer.status == 503:  # it starts
            return []
        assert answer.status == 200, (expression, answer.body)
        return answer.json["data"]["result"]

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture(scope="module")
def prometheus(chord, tmp_path_factory):
    server = Prometheus(tmp_path_factory.mktemp("prometheus") / "p", [chord.http_address])
    try:
        Chord.wait_for(lambda: server.query('up{job="chord"} == 1'), 60)
        yield server
    finally:
        server.stop()


def work(chord):
    """A little of everything that the dashboard shows."""
    image_id = chord.post(IMAGE, PROMPT).json["image_id"]
    assert chord.post(None, PROMPT, [("image_id", image_id), ("session_id", "s1")]).status == 200
    assert chord.post(IMAGE, PROMPT, [("stream", "true")]).status == 200
    assert chord.post(b"no image", PROMPT).status == 415
    content_type, body = multipart([("image", ("i.png", IMAGE)), ("prompt", PROMPT)])
    assert chord.request("POST", "/api/ground/batch", body, {"Content-Type": content_type}).status == 200


def has_data(result):
    return any(math.isfinite(float(sample["value"][1])) for sample in result)


def test_every_query_of_the_dashboard_returns_data(chord, prometheus):
    missing = {(title, expression): expression for title, expression in queries()}

    def answered():
        work(chord)
        for key in list(missing):
            expression = missing[key].replace(" > 0", " >= 0") if key[0].startswith("annotation") else missing[key]
            if has_data(prometheus.query(promql(expression))):
                del missing[key]
        return not missing

    try:
        Chord.wait_for(answered, 60)
    except TimeoutError:
        pytest.fail(f"no data for {list(missing)}")
    for variable in DASHBOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
        assert all(label in sample["metric"] for sample in prometheus.query(promql(metric))), variable


def test_every_rule_names_series_that_exist(chord, prometheus):
    exported = {sample["metric"]["__name__"] for sample in prometheus.query('{__name__=~".+"}')}
    families = exported | {line.split()[2] for line in chord.get("/metrics").body.decode().splitlines() if line.startswith("# TYPE")}
    recorded = {rule["record"] for group in RULES for rule in group["rules"] if "record" in rule}
    for group in RULES:
        for rule in group["rules"]:
            for name in re.findall(r"\b(?:chord|process)_[a-z_]+|\bchord:[a-z0-9_:]+", rule["expr"]):
                base = re.sub(r"_(bucket|sum|count)$", "", name)
                assert name in recorded if ":" in name else {name, base} & families, (rule.get("alert", rule.get("record")), name)


def test_the_rules_load_and_record(chord, prometheus):
    def recorded():
        work(chord)
        return has_data(prometheus.query("chord:request_seconds:p95_5m")) and has_data(prometheus.query("chord:kv_used:ratio"))

    Chord.wait_for(recorded, 30)
    groups = prometheus.request("GET", "/api/v1/rules").json["data"]["groups"]
    assert {group["name"] for group in groups} == {group["name"] for group in RULES}
    assert all(rule["health"] == "ok" for group in groups for rule in group["rules"]), groups
    firing = [alert["labels"]["alertname"] for alert in prometheus.request("GET", "/api/v1/alerts").json["data"]["alerts"]
              if alert["state"] == "firing"]
    assert firing == []


def test_the_exposition_has_no_lint(chord):
    page = chord.get("/metrics").body
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True)
    assert checked.returncode == 0, checked.stderr.decode()


def test_the_unit_tests_of_the_rules_pass():
    done = subprocess.run([PROMTOOL, "test", "rules", ROOT / "tests/deploy/rules_test.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_page_in_the_runbook():
    tests = (ROOT / "tests/deploy/rules_test.yaml").read_text()
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.M)
    for alert in ALERTS:
        page = alert["annotations"]["runbook_url"].removeprefix("docs/runbook.md#")
        assert page in [heading.lower() for heading in headings], alert["alert"]
        assert re.search(rf"alertname: {alert['alert']}\n(.*\n){{1,2}} *exp_alerts:\n", tests), f"{alert['alert']} never fires in a test"
        assert alert["labels"]["severity"] in ("critical", "warning", "info")


def test_shipped_scrape_configurations_load(tmp_path):
    (tmp_path / "rules.yaml").write_text((DEPLOY / "prometheus/rules.yaml").read_text())
    for source in (DEPLOY / "prometheus/prometheus.yml", DEPLOY / "compose/prometheus.fleet.yml"):
        (tmp_path / "prometheus.yml").write_text(source.read_text())
        done = subprocess.run([PROMTOOL, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
