"""The exports: the golden file that the C++ writers are tested with too, and what other readers make of it."""

import json
import pathlib
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import supervision as sv
from PIL import Image as PilImage

from chord_client import Answer
from chord_client.export import FORMATS, Dataset, render
from chord_client.supervision import to_vlm_text

GOLDEN = json.loads((pathlib.Path(__file__).parent / "export_golden.json").read_text(encoding="utf-8"))


def dataset():
    out = Dataset()
    for item in GOLDEN["items"]:
        out.add(item["file_name"], item["prompt"], Answer.from_dict(item["answer"]), category=item.get("category", ""))
    return out


@pytest.mark.parametrize("format", FORMATS)
def test_WritesTheGoldenFile(format):
    files = render(format, dataset())
    if format == "yolo":
        assert files == GOLDEN["yolo"]
    elif format == "cvat":
        assert files == {"": GOLDEN["cvat"]}
    else:
        assert json.loads(files[""]) == GOLDEN[format]


def test_CvatIsXmlWithTheNamesAsTheyWere():
    root = ElementTree.fromstring(GOLDEN["cvat"])
    assert [image.get("name") for image in root.iter("image")] == ["farm.png", "果/fruit.webp", "empty.jpg", "a<b>&\"c'.png", "table.png"]
    assert [name.text for name in root.iter("name")] == ["tractor", "红苹果", "wheel", 'the "x" & y <z>', "cup", "plate", "cat"]


def two_images(tmp_path):
    """A data set whose images exist, for readers that open them."""
    out = Dataset()
    for item in GOLDEN["items"][:2]:
        answer = Answer.from_dict(item["answer"])
        name = pathlib.PurePosixPath(item["file_name"]).name
        (tmp_path / "images").mkdir(exist_ok=True)
        PilImage.new("RGB", answer.image_size).save(tmp_path / "images" / name)
        out.add(name, item["prompt"], answer)
    return out


def test_SupervisionReadsTheCocoFile(tmp_path):
    two_images(tmp_path).save("coco", tmp_path / "coco.json")
    read = sv.DetectionDataset.from_coco(str(tmp_path / "images"), str(tmp_path / "coco.json"))
    assert read.classes == ["tractor", "红苹果"]
    by_name = {pathlib.Path(path).name: detections for path, _, detections in read}
    assert by_name["farm.png"].xyxy.tolist() == [[265, 227, 426, 356]]
    assert by_name["fruit.webp"].xyxy.tolist() == [[37, 61, 143, 175], [203, 233, 324, 359]]


def test_SupervisionReadsTheYoloFolder(tmp_path):
    two_images(tmp_path).save("yolo", tmp_path)
    # The reader knows JPEG and PNG by their names.
    (tmp_path / "images" / "fruit.webp").rename(tmp_path / "images" / "fruit.png")
    read = sv.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml"))
    assert read.classes == ["tractor", "红苹果"]
    by_name = {pathlib.Path(path).name: detections for path, _, detections in read}
    assert np.allclose(by_name["farm.png"].xyxy, [[265, 227, 426, 356]], atol=0.01)
    assert np.allclose(by_name["fruit.png"].xyxy, [[37, 61, 143, 175], [203, 233, 324, 359]], atol=0.01)
    assert by_name["fruit.png"].class_id.tolist() == [1, 1]


def test_AnswersBecomeDetections():
    answer = Answer.from_dict(GOLDEN["items"][1]["answer"])
    detections = answer.to_supervision(["tractor", "红苹果"])
    assert detections.xyxy.tolist() == [[37, 61, 143, 175], [203, 233, 324, 359]]
    assert detections.class_id.tolist() == [1, 1] and detections.data["needs_review"].tolist() == [False, True]
    assert answer.to_supervision(["tractor"]).class_id.tolist() == [-1, -1]
    empty = Answer.from_dict(GOLDEN["items"][3]["answer"]).to_supervision()
    assert len(empty) == 0 and len(empty[empty.data["needs_review"]]) == 0
    read = sv.Detections.from_vlm(sv.VLM.QWEN_2_5_VL, to_vlm_text(answer), input_wh=answer.image_size,
                                  resolution_wh=answer.image_size)
    assert np.allclose(read.xyxy, detections.xyxy) and read.data["class_name"].tolist() == ["红苹果"] * 2


def test_NamesThatAFormatCannotHoldAreRefused():
    answer = Answer.from_dict(GOLDEN["items"][0]["answer"])
    twins = Dataset()
    twins.add("a.png", "p", answer)
    twins.add("a.jpg", "p", answer)
    with pytest.raises(ValueError):
        render("yolo", twins)
    for name in ("../a.png", "/a.png", "x/../../a.png"):
        outside = Dataset()
        outside.add(name, "p", answer)
        with pytest.raises(ValueError):
            render("yolo", outside)
    with pytest.raises(ValueError):
        twins.add("a.png", "p", Answer.from_dict(GOLDEN["items"][3]["answer"]))
    with pytest.raises(ValueError):
        render("voc", twins)
