"""Classes: every label has its objects or its absence, over one encoding of the image, through every endpoint."""

import json
import subprocess

import pytest
from chord_server import BIN, ROOT, Chord, grounding_pb2, iou, multipart
from test_openai import data_url
from test_stream import events

FARM = (ROOT / "demo" / "farm.png").read_bytes()
WANTED = {"cow": [438, 130, 536, 214], "guitar": None, "tractor": [266, 226, 425, 356], "house": [44, 108, 179, 235]}


def ask(chord, labels, image=FARM, extra=(), path="/api/ground"):
    content_type, body = multipart([("image", ("farm.png", image)), *(("labels", label) for label in labels), *extra])
    return chord.request("POST", path, body, {"Content-Type": content_type})


def assert_each_label(answer, wanted):
    assert [match["label"] for match in answer["labels"]] == list(wanted)
    for match in answer["labels"]:
        box = wanted[match["label"]]
        assert 0 < match["confidence"] <= 1, match
        assert len(match["objects"]) == (box is not None), match
        if box:
            assert iou(answer["objects"][match["objects"][0]]["box"], box) > 0.8
    assert [i for match in answer["labels"] for i in match["objects"]] == list(range(len(answer["objects"])))
    assert answer["confidence"] == min(match["confidence"] for match in answer["labels"])


@pytest.mark.parametrize("order", [1, -1])
def test_every_label_is_answered(chord, order):
    wanted = dict(list(WANTED.items())[::order])
    answer = ask(chord, wanted).json
    assert_each_label(answer, wanted)
    assert answer["usage"]["cache"] == "none" and len(answer["text"].splitlines()) == len(wanted)
    # Each label has what it has alone.
    for match in answer["labels"]:
        alone = ask(chord, [match["label"]]).json
        assert alone["labels"][0]["confidence"] == pytest.approx(match["confidence"], abs=1e-6)
        assert alone["boxes"] == [answer["boxes"][i] for i in match["objects"]]


def test_the_image_is_encoded_once(chord):
    """A second encoding would be in the vision worker's log."""
    before = chord.read_log().count('"method":"encode"')
    answer = ask(chord, WANTED).json
    chord.wait_for(lambda: chord.read_log().count('"method":"encode"') > before)
    assert chord.read_log().count('"method":"encode"') == before + 1
    again = chord.request("POST", "/api/ground", json.dumps({"image_id": answer["image_id"], "labels": list(WANTED)}),
                          {"Content-Type": "application/json"}).json
    assert again["usage"]["cache"] == "kv" and again["boxes"] == answer["boxes"]
    assert chord.read_log().count('"method":"encode"') == before + 1


def test_a_store_without_room_changes_nothing():
    with Chord("--gateway-flag", "image_store_bytes=1") as chord:
        before = chord.read_log().count('"method":"encode"')
        answer = ask(chord, WANTED).json
        assert_each_label(answer, WANTED)
        assert "image_id" not in answer
        chord.wait_for(lambda: chord.read_log().count('"method":"encode"') > before)
        assert chord.read_log().count('"method":"encode"') == before + 1


def test_streams_follow_the_order_of_the_labels(chord):
    got = events(ask(chord, WANTED, extra=[("stream", "true")]).body)
    kind, response = got[-1]
    assert kind == "response"
    assert_each_label(response, WANTED)
    assert [data["box"] for kind, data in got if kind == "object"] == response["boxes"]
    words = "".join(data["text"] for kind, data in got if kind == "delta")
    assert len(words.splitlines()) == len(WANTED) and words.splitlines()[1] == "[]"


def test_grpc_and_openai_answer_the_same(chord):
    whole = ask(chord, WANTED).json
    answer = chord.stub().Ground(grounding_pb2.GroundRequest(image=FARM, labels=list(WANTED)), timeout=60)
    assert [list(match.objects) for match in answer.labels] == [match["objects"] for match in whole["labels"]]
    assert all(match.HasField("confidence") for match in answer.labels)
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(FARM)}}]}
    completion = chord.request("POST", "/v1/chat/completions", json.dumps(
        {"model": "chord-nano", "messages": [message], "labels": list(WANTED)}), {"Content-Type": "application/json"})
    assert completion.status == 200, completion.body
    assert completion.json["chord"]["labels"] == whole["labels"]
    assert len(completion.json["choices"][0]["message"]["content"].splitlines()) == len(WANTED)


def test_labels_that_are_cut_are_not_absent(chord):
    answer = ask(chord, ["cow", "guitar"], extra=[("max_new_tokens", "3")]).json
    assert answer["finish_reason"] == "length" and "confidence" not in answer
    cow, guitar = answer["labels"]
    assert "confidence" not in cow, "its answer was cut before its first box"
    assert "max_new_tokens" in answer["advice"]


def test_as_many_as_there_may_be(chord):
    labels = [f"thing {i}" for i in range(64)]
    answer = ask(chord, labels, extra=[("max_new_tokens", "40")])
    assert answer.status == 200 and [match["label"] for match in answer.json["labels"]] == labels


def test_each_label_is_a_turn_of_the_conversation(chord):
    answer = ask(chord, ["cow", "tractor"], extra=[("session_id", "labels")]).json
    more = chord.request("POST", "/api/ground", json.dumps(
        {"image_id": answer["image_id"], "session_id": "labels", "prompt": "the house"}), {"Content-Type": "application/json"})
    assert more.status == 200
    alone = chord.post(FARM, "the house").json
    assert more.json["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"] + 2 * 25  # two answers with a box


def test_the_command_line(chord, tmp_path):
    run = lambda *args: subprocess.run([BIN / "chord", "ground", *map(str, args), "--server", chord.grpc_address],
                                       capture_output=True, timeout=120)
    done = run(ROOT / "demo" / "farm.png", "--labels", "cow, guitar，tractor")
    assert done.returncode == 0 and b"guitar: not there (confidence 0." in done.stdout, done
    assert len([line for line in done.stdout.splitlines() if line[:1].isdigit()]) == 2
    out = tmp_path / "set.json"
    done = run(ROOT / "demo" / "farm.png", "--labels", "cow,tractor", "--format", "coco", "--out", out)
    assert done.returncode == 0, done
    assert {c["name"] for c in json.loads(out.read_text())["categories"]} == {"cow", "tractor"}
    for wrong in (["--labels", " , "], ["x", "--labels", "cow"], []):
        assert run(ROOT / "demo" / "farm.png", *wrong).returncode == 2
