"""What an export is made of. Mirrors services/cli/export/dataset.h."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chord_client.types import Answer, Box, Size

if TYPE_CHECKING:
    from chord_client.export.formats import Format


@dataclass(frozen=True, slots=True)
class Annotation:
    """One box; `category` indexes Dataset.categories."""

    category: int
    box: Box
    confidence: float
    needs_review: bool


@dataclass(slots=True)
class AnnotatedImage:
    """One image with the boxes of all prompts about it.

    score: the lowest confidence of the answers; an answer that has none counts as 0.
    """

    file_name: str
    size: Size
    model: str
    score: float
    annotations: list[Annotation] = field(default_factory=list)


class Dataset:
    """Images and boxes in the order in which they were added."""

    def __init__(self) -> None:
        self.images: list[AnnotatedImage] = []
        self.categories: list[str] = []
        self._image_at: dict[str, int] = {}
        self._category_at: dict[str, int] = {}

    def add(self, file_name: str, prompt: str, answer: Answer, *, category: str = "") -> None:
        """Adds the boxes of one answer. Several prompts about one file make one image.

        category: of all its boxes. Without one, a box has the label of the request that it matches
        (Answer.labels), else the label that the model gave to it, else the prompt. An object of two
        labels is a box of each. ValueError when the file was added with another size.
        """
        score = answer.confidence or 0.0
        at = self._image_at.setdefault(file_name, len(self.images))
        if at == len(self.images):
            self.images.append(
                AnnotatedImage(file_name, answer.image_size, answer.model, score)
            )
        image = self.images[at]
        if image.size != answer.image_size:
            raise ValueError(f"{file_name} was added before with another size.")
        image.score = min(image.score, score)
        requested: dict[int, str] = {}
        for match in answer.labels:
            for index in match.objects:
                requested.setdefault(index, match.label)
        for index, item in enumerate(answer.objects):
            name = category or requested.get(index) or item.label or prompt
            image.annotations.append(
                Annotation(self._category(name), item.box, item.confidence, item.needs_review)
            )

    def save(self, format: Format, out: str | os.PathLike[str]) -> None:
        """Writes a file; for "yolo" a folder, which is made. ValueError when a name does not fit the format."""
        from chord_client.export.formats import render

        target = pathlib.Path(out)
        for name, content in render(format, self).items():
            path = target / name if name else target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8", newline="")

    def _category(self, name: str) -> int:
        at = self._category_at.setdefault(name, len(self.categories))
        if at == len(self.categories):
            self.categories.append(name)
        return at
