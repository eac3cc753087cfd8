"""chord eval and chord calibrate against a running Chord, with the demonstration images as data."""

import json
import shutil
import subprocess

import pytest
from chord_server import BIN, MODEL, ROOT, Chord, demo

DEMO = ROOT / "demo"


def run(*args):
    return subprocess.run([str(BIN / "chord"), *map(str, args)], capture_output=True, text=True, timeout=300)


def evaluate(chord, data, *flags):
    done = run("eval", data, "--server", chord.grpc_address, "--json", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def coco(scenes):
    """The demonstration scenes as a COCO file with prompts."""
    files = sorted({s["file"] for s in scenes})
    out = {"images": [{"id": i, "file_name": f} for i, f in enumerate(files)],
           "categories": [{"id": 1, "name": "thing"}], "annotations": [], "questions": []}
    for scene in scenes:
        image, ids = files.index(scene["file"]), []
        for x1, y1, x2, y2 in scene["boxes"]:
            ids.append(len(out["annotations"]))
            out["annotations"].append({"id": ids[-1], "image_id": image, "category_id": 1,
                                       "bbox": [x1, y1, x2 - x1, y2 - y1]})
        out["questions"].append({"image_id": image, "prompt": scene["prompt"], "annotation_ids": ids})
    return out


def refs(scenes):
    one = [s for s in scenes if len(s["boxes"]) == 1]
    return [{"file_name": s["file"], "bbox": [x1, y1, x2 - x1, y2 - y1], "split": "val",
             "sentences": [{"raw": s["prompt"], "sent": s["prompt"]}]}
            for s in one for x1, y1, x2, y2 in s["boxes"]]


def scenes():
    return json.loads((DEMO / "scenes.json").read_text())


def test_the_demonstration_images_are_answered_exactly(chord, tmp_path):
    plot = tmp_path / "curve.png"
    got = evaluate(chord, DEMO, "--plot", plot)
    assert got["count"] == len(demo()) and got["failed"] == 0
    assert got["acc50"] == got["several_exact"] == got["absent_accuracy"] == 1
    assert got["mean_iou"] > 0.9 and 0 <= got["ece"] <= 1 and got["model"] == "chord-nano"
    assert sum(b["count"] for b in got["curve"]) >= got["count"]
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")


def test_coco_refcoco_and_http_give_the_same_figures(chord, tmp_path):
    want = evaluate(chord, DEMO)
    (tmp_path / "annotations.json").write_text(json.dumps(coco(scenes())))
    same = evaluate(chord, tmp_path, "--images", DEMO)
    names = ("count", "acc50", "mean_iou", "several_exact", "absent_accuracy", "ece")
    assert [same[n] for n in names] == pytest.approx([want[n] for n in names])
    done = run("eval", DEMO, "--http", chord.http_address, "--json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(done.stdout)[n] for n in names] == pytest.approx([want[n] for n in names])
    (tmp_path / "refs.json").write_text(json.dumps(refs(scenes())))
    one = evaluate(chord, tmp_path / "refs.json", "--images", DEMO)
    assert one["acc50"] == 1 and one["several_exact"] is None and one["groups"]["val"]["count"] == one["count"]


def test_a_prompt_that_fails_is_reported_and_counted(chord, tmp_path):
    rows = [dict(scenes()[0]), {"file": "none.png", "prompt": "the cup", "boxes": []}]
    (tmp_path / "scenes.json").write_text(json.dumps(rows))
    done = run("eval", tmp_path, "--images", DEMO, "--server", chord.grpc_address, "--json")
    assert done.returncode == 1 and "none.png" in done.stderr
    assert json.loads(done.stdout)["failed"] == 1 and json.loads(done.stdout)["count"] == 1


def test_wrong_command_lines_exit_with_two(tmp_path):
    (tmp_path / "scenes.json").write_text('[{"file": "../x.png", "prompt": "a", "boxes": []}]')
    for args in (["eval"], ["eval", tmp_path / "none"], ["eval", tmp_path], ["eval", DEMO, "--parallel", "0"],
                 ["eval", DEMO, "--http", "a:1", "--server", "b:1"], ["calibrate"],
                 ["calibrate", DEMO, "--model", tmp_path]):
        done = run(*args)
        assert done.returncode == 2 and done.stderr.startswith("chord "), (args, done)


def test_a_map_is_fitted_served_and_refused_for_another_model(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    (model / "confidence.json").unlink(missing_ok=True)
    # Each prompt about each image: enough claims, many of them absences.
    rows = scenes()
    everything = [{"file": s["file"], "prompt": t["prompt"], "boxes": t["boxes"] if s["file"] == t["file"] else []}
                  for s in rows for t in rows]
    (tmp_path / "scenes.json").write_text(json.dumps(everything))
    with Chord(model=model) as chord:
        assert evaluate(chord, DEMO)["calibrated"] is False
        done = run("calibrate", tmp_path, "--images", DEMO, "--server", chord.grpc_address, "--model", model,
                   "--parallel", "1", "--json")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert summary["questions"] == len(everything)
        assert summary["boxes"] + summary["absences"] >= len(everything)
        fitted = (model / "confidence.json").read_bytes()
        # The same answers give the same bytes. (Requests that are answered together may differ in the last
        # digits of their probabilities.)
        again = run("calibrate", tmp_path, "--images", DEMO, "--server", chord.grpc_address, "--model", model,
                    "--parallel", "1", "--out", tmp_path / "again.json")
        assert again.returncode == 0 and (tmp_path / "again.json").read_bytes() == fitted
    with Chord(model=model) as chord:
        assert evaluate(chord, DEMO)["calibrated"] is True
        image, prompt, _ = demo()[0]
        assert chord.post(image, prompt).json["calibrated"] is True
        assert chord.ground(image, prompt).calibrated is True
    foreign = json.loads(fitted)
    foreign["model_fingerprint"] = "0" * 64
    (model / "confidence.json").write_text(json.dumps(foreign))
    with Chord(model=model) as chord:
        image, prompt, _ = demo()[0]
        assert chord.post(image, prompt).json["calibrated"] is False
        assert "fitted for another model" in chord.read_log()
