"""Answers as files of annotation tools: COCO, YOLO, Label Studio and CVAT.

    dataset = Dataset()
    dataset.add("room.jpg", "the white vase", answer)
    dataset.save("coco", "annotations.json")

`chord ground --format` writes the same files; docs/clients.md describes them.
"""

from chord_client.export.dataset import AnnotatedImage, Annotation, Dataset
from chord_client.export.formats import FORMATS, Format, render

__all__ = ["FORMATS", "AnnotatedImage", "Annotation", "Dataset", "Format", "render"]
