"""Answers for Roboflow's `supervision`. Needs it (pip install 'chord-client[supervision]')."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chord_client.types import Answer

if TYPE_CHECKING:
    import supervision as sv


def to_supervision(answer: Answer, classes: Sequence[str] | None = None) -> sv.Detections:
    """The boxes as sv.Detections, with `class_name` and `needs_review` in its data.

    classes: names of the class ids; without them, the labels of the answer in order of appearance.
    A label outside `classes` has the class id -1.
    """
    import numpy as np
    import supervision as sv

    labels = [item.label for item in answer.objects]
    names = list(dict.fromkeys(labels)) if classes is None else list(classes)
    if not labels:
        empty = sv.Detections.empty()
        empty.data = {
            "class_name": np.array([], dtype=str),
            "needs_review": np.array([], dtype=bool),
        }
        return empty
    return sv.Detections(
        xyxy=np.array(answer.boxes, dtype=np.float32),
        confidence=np.array([item.confidence for item in answer.objects], dtype=np.float32),
        class_id=np.array([names.index(label) if label in names else -1 for label in labels]),
        data={
            "class_name": np.array(labels),
            "needs_review": np.array([item.needs_review for item in answer.objects]),
        },
    )


def to_vlm_text(answer: Answer) -> str:
    """The answer as Qwen2.5-VL itself writes it, in original pixels, for

    sv.Detections.from_vlm(sv.VLM.QWEN_2_5_VL, to_vlm_text(answer),
                           input_wh=answer.image_size, resolution_wh=answer.image_size)
    """
    items = [{"bbox_2d": list(item.box), "label": item.label} for item in answer.objects]
    return f"```json\n{json.dumps(items, ensure_ascii=False)}\n```"
