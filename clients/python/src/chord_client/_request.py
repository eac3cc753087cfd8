"""A request as the transports take it, with the image resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from chord_client.errors import ChordError
from chord_client.image import Image, ImageSource
from chord_client.types import Grammar, GroundRequest, ImageHandle


@dataclass(frozen=True, slots=True)
class WireRequest:
    """Exactly one of image and image_id is there."""

    prompt: str  # empty with labels
    labels: tuple[str, ...] = ()
    image: Image | None = None
    image_id: str | None = None
    tag: str = ""
    max_new_tokens: int | None = None
    session_id: str | None = None
    grammar: Grammar = "auto"
    rejected: ChordError | None = None  # the image cannot be sent; of a request of a batch

    @property
    def repeatable(self) -> bool:
        """A turn of a session that is carried out twice would stand in it twice."""
        return self.session_id is None

    @property
    def image_bytes(self) -> int:
        return len(self.image.data) if self.image else 0


def resolve(
    image: ImageSource,
    prompt: str | None,
    *,
    labels: Sequence[str] = (),
    tag: str = "",
    max_new_tokens: int | None = None,
    session_id: str | None = None,
    grammar: Grammar = "auto",
) -> WireRequest:
    if grammar not in ("auto", "off"):
        raise ValueError('grammar is "auto" or "off".')
    if isinstance(labels, str):
        raise TypeError("labels is a list of strings.")
    if (prompt is None) == (not labels):
        raise ValueError("A request has either a prompt or labels.")
    request = WireRequest(
        prompt or "", labels=tuple(labels), tag=tag, max_new_tokens=max_new_tokens, session_id=session_id, grammar=grammar
    )
    if isinstance(image, ImageHandle):
        return dataclasses.replace(request, image_id=image.image_id)
    return dataclasses.replace(request, image=Image.of(image))


def resolve_item(item: GroundRequest) -> WireRequest:
    """An image that is refused here spoils its own request alone."""
    try:
        return resolve(
            item.image,
            item.prompt,
            labels=item.labels,
            tag=item.tag,
            max_new_tokens=item.max_new_tokens,
            session_id=item.session_id,
            grammar=item.grammar,
        )
    except ChordError as error:
        return WireRequest("", tag=item.tag, rejected=error)


# Of one wave of a batch: below the server's limit of 64 MiB for a body in base64.
WAVE_BYTES = 44 << 20


def fits_wave(wave: list[tuple[int, WireRequest]], item: WireRequest, batch_size: int) -> bool:
    """Whether `item` may join a wave. The first always may."""
    if not wave:
        return True
    held = sum(request.image_bytes for _, request in wave)
    return len(wave) < batch_size and held + item.image_bytes <= WAVE_BYTES


def waves(
    items: Iterable[GroundRequest], batch_size: int
) -> Iterator[list[tuple[int, WireRequest]]]:
    """Groups of requests that are sent together; reads `items` only as far as the current group."""
    wave: list[tuple[int, WireRequest]] = []
    for index, item in enumerate(items):
        request = resolve_item(item)
        if not fits_wave(wave, request, batch_size):
            yield wave
            wave = []
        wave.append((index, request))
    if wave:
        yield wave
