"""What goes into a request and what comes back. All are immutable values.

Every box is in pixels of the upright original (after EXIF orientation), origin top left, with
0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union

from chord_client.errors import ChordError, ProtocolError

if TYPE_CHECKING:
    import supervision as sv
    from PIL.Image import Image as PilImage

    from chord_client.image import ImageSource

Grammar = Literal["auto", "off"]
CacheTier = Literal["none", "embeddings", "kv"]
FinishReason = Literal["stop", "length"]


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int


class Box(NamedTuple):
    """Corners in pixels of the upright original."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def width(self) -> int:
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        return self.y2 - self.y1

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def center(self) -> tuple[float, float]:
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    def iou(self, other: Box) -> float:
        """Intersection over union, 0 to 1."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        if width <= 0 or height <= 0:
            return 0.0
        shared = width * height
        return shared / (self.area + other.area - shared)


@dataclass(frozen=True, slots=True)
class GroundedObject:
    """One object that was found. `label` is the model's word for it and may be empty."""

    label: str
    box: Box
    confidence: float
    needs_review: bool


@dataclass(frozen=True, slots=True)
class Point:
    """One point that was found, a pixel of the upright original. Its confidence is raw."""

    label: str
    x: int
    y: int
    confidence: float


@dataclass(frozen=True, slots=True)
class LabelMatch:
    """Which objects belong to one label of the request: indices into Answer.objects.

    confidence: with objects, that they are right; without, that there are none. None: not known.
    """

    label: str
    objects: tuple[int, ...]
    confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the server's JSON has it."""
        out: dict[str, Any] = {"label": self.label, "objects": list(self.objects)}
        if self.confidence is not None:
            out["confidence"] = self.confidence
        return out


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the image that the model saw by itself."""

    box: Box
    resized_size: Size


@dataclass(frozen=True, slots=True)
class Frame:
    """All that maps model pixels to original pixels: x_original = x_model * scale[0]."""

    resized_size: Size
    scale: tuple[float, float]
    orientation: int  # EXIF, 1 to 8; already applied to every box
    tiles: tuple[Tile, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, and which cache served the image's share of the work."""

    prompt_tokens: int
    completion_tokens: int
    decode_steps: int
    image_tokens: int
    cache: CacheTier


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds by stage; stages overlap."""

    queue_ms: float
    vision_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request. When it is `absent`, `confidence` is that of the absence."""

    text: str
    objects: tuple[GroundedObject, ...]
    image_size: Size
    # None when the answer was cut before its first box: that says nothing about absence.
    confidence: float | None
    calibrated: bool
    advice: str | None  # what to change in the request; present under a low confidence and when cut
    frame: Frame
    usage: Usage
    timing: Timing
    finish_reason: FinishReason
    request_id: str
    model: str
    image_id: str | None  # for more requests about this image; None when the server did not keep it
    points: tuple[Point, ...] = ()  # of a prompt that asks for points, "point to ..."
    labels: tuple[LabelMatch, ...] = ()  # of a request with labels, in their order

    @property
    def boxes(self) -> tuple[Box, ...]:
        return tuple(item.box for item in self.objects)

    @property
    def found(self) -> bool:
        return bool(self.objects or self.points)

    @property
    def absent(self) -> bool:
        """The model answered that it is not there, with that confidence.

        Nothing found is more than that: the answer may have been cut before its first box, or have
        no list of boxes at all.
        """
        return not self.found and not self.truncated and bool(self.confidence)

    @property
    def truncated(self) -> bool:
        """The answer was cut at max_new_tokens: there may be more than what was found."""
        return self.finish_reason == "length"

    @property
    def by_label(self) -> dict[str, tuple[GroundedObject, ...]]:
        """Label of the request -> its objects. An object that fits none is in `objects` alone."""
        return {
            match.label: tuple(self.objects[index] for index in match.objects)
            for match in self.labels
        }

    @property
    def image(self) -> ImageHandle | None:
        """The image as the server kept it: pass it instead of the image in the next request."""
        return ImageHandle(self.image_id, self.image_size) if self.image_id else None

    def draw(self, image: ImageSource) -> PilImage:
        """A copy of the upright image with the boxes; see chord_client.drawing.draw. Needs Pillow."""
        from chord_client.drawing import draw

        return draw(image, self)

    def to_supervision(self, classes: Sequence[str] | None = None) -> sv.Detections:
        """See chord_client.supervision.to_supervision. Needs supervision."""
        from chord_client.supervision import to_supervision

        return to_supervision(self, classes)

    @classmethod
    def from_dict(cls, data: Any) -> Answer:
        """The JSON object of POST /api/ground. ProtocolError when it is none; new fields are allowed."""
        try:
            return _answer(data)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ProtocolError(f"The server's answer is not understood: {error!r}") from error

    def to_dict(self) -> dict[str, Any]:
        """The inverse of from_dict: the JSON object of POST /api/ground."""
        out: dict[str, Any] = {
            "text": self.text,
            "boxes": [list(box) for box in self.boxes],
            "objects": [
                {
                    "label": item.label,
                    "box": list(item.box),
                    "confidence": item.confidence,
                    "needs_review": item.needs_review,
                }
                for item in self.objects
            ],
            "points": [
                {"label": item.label, "point": [item.x, item.y], "confidence": item.confidence}
                for item in self.points
            ],
            "image_size": list(self.image_size),
            "calibrated": self.calibrated,
        }
        if self.confidence is not None:
            out["confidence"] = self.confidence
        if self.labels:
            out["labels"] = [match.to_dict() for match in self.labels]
        if self.advice is not None:
            out["advice"] = self.advice
        out["frame"] = {
            "resized_size": list(self.frame.resized_size),
            "scale": list(self.frame.scale),
            "orientation": self.frame.orientation,
            "tiles": [
                {"box": list(tile.box), "resized_size": list(tile.resized_size)}
                for tile in self.frame.tiles
            ],
        }
        out["usage"] = {name: getattr(self.usage, name) for name in Usage.__slots__}
        out["timing"] = {name: getattr(self.timing, name) for name in Timing.__slots__}
        out["finish_reason"] = self.finish_reason
        out["request_id"] = self.request_id
        out["model"] = self.model
        if self.image_id is not None:
            out["image_id"] = self.image_id
        return out


@dataclass(frozen=True, slots=True)
class ImageHandle:
    """An image that the server keeps. Pass it wherever an image is taken."""

    image_id: str
    image_size: Size | None = None
    expires_at: datetime.datetime | None = None  # UTC; each use extends it


@dataclass(frozen=True, slots=True)
class GroundRequest:
    """One request of a batch: either `prompt` or `labels`, as for Client.ground.

    `tag` comes back with its result (at most 64 bytes of UTF-8).
    """

    image: ImageSource
    prompt: str | None = None
    tag: str = ""
    labels: Sequence[str] = ()
    max_new_tokens: int | None = None
    session_id: str | None = None
    grammar: Grammar = "auto"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one request of a batch: either `answer` or `error`."""

    index: int  # of the request, from 0
    tag: str
    answer: Answer | None = None
    error: ChordError | None = None

    def unwrap(self) -> Answer:
        """The answer; raises the error."""
        if self.answer is None:
            raise self.error or ProtocolError("A result has neither an answer nor an error.")
        return self.answer


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text as the model writes it, with boxes in pixels of the resized image."""

    text: str


@dataclass(frozen=True, slots=True)
class ObjectFound:
    """A box that is complete, in original pixels. Its confidence comes with the answer."""

    label: str
    box: Box


@dataclass(frozen=True, slots=True)
class Completed:
    """The last event: the whole answer."""

    answer: Answer


GroundEvent = Union[TextDelta, ObjectFound, Completed]


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the server. `version`, `state` and `fingerprint` are empty where it does not say."""

    name: str
    version: str = ""
    state: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """live: the process answers. ready: a request could be answered now; otherwise `detail` explains."""

    live: bool
    ready: bool
    detail: str = ""


def box_from(data: Any) -> Box:
    """A box of four JSON integers."""
    x1, y1, x2, y2 = data
    if not all(type(side) is int for side in data) or not (x1 < x2 and y1 < y2):
        raise ValueError(f"not a box: {data}")
    return Box(x1, y1, x2, y2)


def _size(data: Sequence[int]) -> Size:
    width, height = data
    return Size(int(width), int(height))


def _label_match(data: Mapping[str, Any], objects: int) -> LabelMatch:
    indices = tuple(int(index) for index in data["objects"])
    if not all(0 <= index < objects for index in indices):
        raise ValueError(f"not indices of objects: {indices}")
    return LabelMatch(str(data["label"]), indices, _confidence(data))


def _confidence(data: Mapping[str, Any]) -> float | None:
    value = data.get("confidence")
    return None if value is None else float(value)


def _answer(data: Mapping[str, Any]) -> Answer:
    frame, usage, timing = data["frame"], data["usage"], data["timing"]
    return Answer(
        text=str(data["text"]),
        objects=tuple(
            GroundedObject(
                label=str(item["label"]),
                box=box_from(item["box"]),
                confidence=float(item["confidence"]),
                needs_review=bool(item["needs_review"]),
            )
            for item in data["objects"]
        ),
        image_size=_size(data["image_size"]),
        confidence=_confidence(data),
        calibrated=bool(data["calibrated"]),
        advice=data.get("advice"),
        frame=Frame(
            resized_size=_size(frame["resized_size"]),
            scale=(float(frame["scale"][0]), float(frame["scale"][1])),
            orientation=int(frame["orientation"]),
            tiles=tuple(
                Tile(box_from(tile["box"]), _size(tile["resized_size"])) for tile in frame["tiles"]
            ),
        ),
        usage=Usage(
            prompt_tokens=int(usage["prompt_tokens"]),
            completion_tokens=int(usage["completion_tokens"]),
            decode_steps=int(usage["decode_steps"]),
            image_tokens=int(usage["image_tokens"]),
            cache=usage["cache"],
        ),
        timing=Timing(**{name: float(timing[name]) for name in Timing.__slots__}),
        finish_reason=data["finish_reason"],
        request_id=str(data["request_id"]),
        model=str(data["model"]),
        image_id=data.get("image_id"),
        points=tuple(
            Point(str(item["label"]), int(item["point"][0]), int(item["point"][1]), float(item["confidence"]))
            for item in data.get("points", ())
        ),
        labels=tuple(_label_match(item, len(data["objects"])) for item in data.get("labels", ())),
    )
