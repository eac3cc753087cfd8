"""The curl examples, as they stand."""

import json
import re
import subprocess

from chord_server import ROOT


def test_EveryExampleDoesWhatItsTitleSays(server):
    done = subprocess.run([ROOT / "examples" / "curl.sh", server.http_address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = [part.partition("\n") for part in re.split(r"^# ", done.stdout, flags=re.MULTILINE)[1:]]
    outputs = {title: text.strip() for title, _, text in parts}
    one, events, upload, turns, batch, deleted, refusal, health = outputs.values()
    assert json.loads(one)["objects"][0]["label"] == "tractor"
    assert [events.count(f"event: {name}\n") > 0 for name in ("delta", "object", "response", "error")] == [True, True, True, False]
    assert upload in ("none", "embeddings", "kv")
    first, second = map(int, turns.split())
    assert second > first
    results = {result["tag"]: result["response"] for result in json.loads(batch)["results"]}
    assert results["first"]["boxes"] and not results["second"]["boxes"]
    assert deleted == "204"
    assert json.loads(refusal)["code"] == "IMAGE_ID_UNKNOWN"
    assert '"ok"' in health and '"ready"' in health
