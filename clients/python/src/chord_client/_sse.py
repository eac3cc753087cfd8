"""Server-sent events (the text/event-stream format of the HTML standard), as Chord sends them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from chord_client.errors import ProtocolError


class SseParser:
    """Bytes in, events out, wherever the bytes are cut."""

    def __init__(self, max_event_bytes: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._max = max_event_bytes
        self._line: list[str] = []  # parts of a line that is not complete
        self._held = 0
        self._name = ""
        self._data: list[str] = []

    def feed(self, part: bytes) -> Iterator[tuple[str, str]]:
        """The events (name, data) that are complete with `part`."""
        self._held += len(part)
        if self._held > self._max:
            raise ProtocolError("An event of the server is larger than this client takes.")
        first, *others = self._decoder.decode(part).split("\n")
        self._line.append(first)
        for other in others:
            line = "".join(self._line).removesuffix("\r")
            self._line = [other]
            event = self._take(line)
            if event is not None:
                self._held = len(other)
                yield event

    def _take(self, line: str) -> tuple[str, str] | None:
        if not line:
            event = (self._name or "message", "\n".join(self._data)) if self._data else None
            self._name, self._data = "", []
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None
