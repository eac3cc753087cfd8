"""The writers. Pure; mirrored by services/cli/export/formats.cc, with one golden file for both."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from typing import Any, Literal, get_args
from xml.sax.saxutils import escape

from chord_client.export.dataset import AnnotatedImage, Annotation, Dataset

Format = Literal["coco", "yolo", "labelstudio", "cvat"]
FORMATS: tuple[Format, ...] = get_args(Format)


def render(format: Format, dataset: Dataset) -> dict[str, str]:
    """Relative path -> content. A format of a single file has the path ""."""
    if format not in _RENDERERS:
        raise ValueError(f"There is no format {format!r}; there are {', '.join(FORMATS)}.")
    return _RENDERERS[format](dataset)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def coco(dataset: Dataset) -> dict[str, Any]:
    """Object detection results as a COCO data set; ids count from 1, `score` is the confidence."""
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(dataset.images, 1):
        for item in image.annotations:
            box = item.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": item.category + 1,
                    "bbox": [box.x1, box.y1, box.width, box.height],
                    "area": box.area,
                    "iscrowd": 0,
                    "score": item.confidence,
                    "needs_review": item.needs_review,
                }
            )
    return {
        "info": {"description": "Boxes by Chord"},
        "images": [
            {
                "id": image_id,
                "file_name": image.file_name,
                "width": image.size.width,
                "height": image.size.height,
            }
            for image_id, image in enumerate(dataset.images, 1)
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for number, name in enumerate(dataset.categories, 1)
        ],
    }


def yolo(dataset: Dataset) -> dict[str, str]:
    """labels/NAME.txt with "class x_center y_center width height" as shares of the image, and data.yaml.

    An image without boxes has an empty file, which trains as a negative. ValueError when two files
    differ by their extension only: YOLO finds labels by the name without it.
    """
    out: dict[str, str] = {}
    for image in dataset.images:
        name = f"labels/{_stem(image.file_name)}.txt"
        if name in out:
            raise ValueError(f"YOLO cannot tell {image.file_name} from another file of that name.")
        out[name] = "".join(_yolo_line(image, item) for item in image.annotations)
    names = "".join(
        f"  {number}: {json.dumps(name, ensure_ascii=False)}\n"
        for number, name in enumerate(dataset.categories)
    )
    out["data.yaml"] = "path: .\ntrain: images\nval: images\nnames:" + (
        "\n" + names if names else " {}\n"
    )
    return out


def _yolo_line(image: AnnotatedImage, item: Annotation) -> str:
    width, height, box = image.size.width, image.size.height, item.box
    shares = (
        (box.x1 + box.x2) / 2 / width,
        (box.y1 + box.y2) / 2 / height,
        box.width / width,
        box.height / height,
    )
    return f"{item.category} {' '.join(f'{share:.6f}' for share in shares)}\n"


def label_studio(
    dataset: Dataset, *, from_name: str = "label", to_name: str = "image", data_key: str = "image"
) -> list[dict[str, Any]]:
    """Tasks with pre-annotations. The names are those of the labelling configuration."""
    return [
        {
            "data": {data_key: image.file_name},
            "predictions": [
                {
                    "model_version": image.model,
                    "score": image.score,
                    "result": [
                        _label_studio_region(image, number, item, dataset, from_name, to_name)
                        for number, item in enumerate(image.annotations, 1)
                    ],
                }
            ],
        }
        for image in dataset.images
    ]


def _label_studio_region(
    image: AnnotatedImage,
    number: int,
    item: Annotation,
    dataset: Dataset,
    from_name: str,
    to_name: str,
) -> dict[str, Any]:
    width, height, box = image.size.width, image.size.height, item.box
    return {
        "id": f"chord-{number}",
        "type": "rectanglelabels",
        "from_name": from_name,
        "to_name": to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "rotation": 0,
            "x": 100 * box.x1 / width,
            "y": 100 * box.y1 / height,
            "width": 100 * box.width / width,
            "height": 100 * box.height / height,
            "rectanglelabels": [dataset.categories[item.category]],
        },
        "score": item.confidence,
    }


def cvat(dataset: Dataset) -> str:
    """CVAT for images 1.1."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines += ["  <meta>", "    <task>", "      <labels>"]
    for name in dataset.categories:
        lines.append(f"        <label><name>{_xml(name)}</name><attributes></attributes></label>")
    lines += ["      </labels>", "    </task>", "  </meta>"]
    for number, image in enumerate(dataset.images):
        lines.append(
            f'  <image id="{number}" name="{_xml(image.file_name)}"'
            f' width="{image.size.width}" height="{image.size.height}">'
        )
        for item in image.annotations:
            box = item.box
            lines.append(
                f'    <box label="{_xml(dataset.categories[item.category])}" source="auto" occluded="0"'
                f' xtl="{box.x1}.00" ytl="{box.y1}.00" xbr="{box.x2}.00" ybr="{box.y2}.00" z_order="0"></box>'
            )
        lines.append("  </image>")
    lines.append("</annotations>")
    return "\n".join(lines) + "\n"


def _xml(text: str) -> str:
    """For content and attributes; control characters have no form in XML 1.0 and are left out."""
    return escape(re.sub("[\x00-\x1f\x7f]", " ", text), {'"': "&quot;"})


def _stem(file_name: str) -> str:
    """The path without the last extension. ValueError when it would leave the folder of labels."""
    stem = posixpath.splitext(file_name)[0]
    if stem.startswith("/") or ".." in stem.split("/"):
        raise ValueError(f"{file_name} is not a relative path inside the data set.")
    return stem


_RENDERERS: dict[str, Callable[[Dataset], dict[str, str]]] = {
    "coco": lambda dataset: {"": _json(coco(dataset))},
    "yolo": yolo,
    "labelstudio": lambda dataset: {"": _json(label_studio(dataset))},
    "cvat": lambda dataset: {"": cvat(dataset)},
}
