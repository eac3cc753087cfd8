"""The HTTP transport: mapping both ways, then the blocking and the asyncio client around it."""

from __future__ import annotations

import datetime
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import httpx

from chord_client._config import Endpoint
from chord_client._request import WireRequest
from chord_client._sse import SseParser
from chord_client.errors import (
    ChordError,
    Code,
    ConnectionFailedError,
    DeadlineExceededError,
    ProtocolError,
    make_error,
)
from chord_client.image import Image
from chord_client.types import (
    Answer,
    Completed,
    GroundEvent,
    Health,
    ImageHandle,
    Model,
    ObjectFound,
    Size,
    TextDelta,
    box_from,
)

Outcome = Answer | ChordError

_MAX_ANSWER_BYTES = 64 << 20
_CODE_OF_STATUS = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ABORTED,
    413: Code.INVALID_ARGUMENT,
    415: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


# Requests.


def _fields(request: WireRequest) -> dict[str, Any]:
    """What both a form and a JSON object have, without the image."""
    out: dict[str, Any] = {}
    if request.labels:
        out["labels"] = list(request.labels)
    else:
        out["prompt"] = request.prompt
    if request.image_id is not None:
        out["image_id"] = request.image_id
    if request.max_new_tokens is not None:
        out["max_new_tokens"] = request.max_new_tokens
    if request.session_id is not None:
        out["session_id"] = request.session_id
    if request.grammar != "auto":
        out["grammar"] = request.grammar
    return out


def _form(request: WireRequest, *, stream: bool) -> dict[str, Any]:
    """multipart/form-data, also without a file: every field is a part, a list one for each value."""
    parts: list[tuple[str, Any]] = []
    for name, value in _fields(request).items():
        values = value if isinstance(value, list) else [value]
        parts += [(name, (None, str(one))) for one in values]
    if stream:
        parts.append(("stream", (None, "true")))
    if request.image is not None:
        parts.append(("image", ("image", request.image.data, request.image.mime_type)))
    return {"files": parts}


def _batch_body(requests: Sequence[WireRequest]) -> bytes:
    items = []
    for request in requests:
        item = _fields(request)
        if request.image is not None:
            item["image"] = request.image.to_data_url()
        items.append(item)
    return json.dumps({"requests": items, "stream": True}, ensure_ascii=False).encode()


def _batch_content(requests: Sequence[WireRequest], timeout: float) -> dict[str, Any]:
    """`timeout` is of each request; the server answers them a few at a time."""
    timing = _timing(timeout * len(requests), server=timeout)
    timing["headers"]["content-type"] = "application/json"
    return {"content": _batch_body(requests), **timing}


def _upload_form(image: Image, pin: bool) -> dict[str, Any]:
    return {
        "files": {
            "pin": (None, "true" if pin else "false"),
            "image": ("image", image.data, image.mime_type),
        }
    }


def _image_path(image_id: str) -> str:
    return "api/images/" + quote(image_id, safe="")


# Answers.


def _error_of_problem(
    problem: Mapping[str, Any], status: int, headers: Mapping[str, str]
) -> ChordError:
    """application/problem+json, or what a proxy in front of Chord sends instead."""
    advised = problem.get("retry_after_seconds", headers.get("retry-after"))
    try:
        retry_after = float(advised) if advised is not None else None
    except ValueError:  # the header may also be a date
        retry_after = None
    retryable = problem.get("retryable")
    return make_error(
        _CODE_OF_STATUS.get(status, Code.INVALID_ARGUMENT if status < 500 else Code.UNKNOWN),
        str(problem.get("detail") or f"The server answered with HTTP status {status}."),
        reason=str(problem.get("code", "")),
        request_id=problem.get("request_id") or headers.get("x-request-id"),
        retry_after=retry_after,
        retryable=retryable if isinstance(retryable, bool) else None,
    )


def _problem_of(body: Any) -> dict[str, Any]:
    """The problem in a JSON body: problem+json itself, or OpenAI's envelope as /v1 has it."""
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    if isinstance(error, dict):
        return {"detail": error.get("message"), "code": error.get("code") or ""}
    return body


def _error_of(response: httpx.Response) -> ChordError:
    """Of a response whose body has been read."""
    try:
        body = response.json()
    except ValueError:
        body = None
    return _error_of_problem(_problem_of(body), response.status_code, response.headers)


def _object_of(text: bytes | str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ProtocolError(
            "The server's answer is not JSON; is this the address of Chord?"
        ) from error
    if not isinstance(data, dict):
        raise ProtocolError(
            "The server's answer is not a JSON object; is this the address of Chord?"
        )
    return data


def _checked(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        raise _error_of(response)
    return _object_of(response.content)


def _handle(data: Mapping[str, Any]) -> ImageHandle:
    try:
        width, height = data["image_size"]
        return ImageHandle(
            str(data["image_id"]),
            Size(int(width), int(height)),
            datetime.datetime.fromisoformat(data["expires_at"].replace("Z", "+00:00")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"The server's answer is not understood: {error!r}") from error


def _model(item: Mapping[str, Any]) -> Model:
    more = item.get("chord", {})
    return Model(
        name=str(item["id"]),
        state=str(more.get("state", "")),
        fingerprint=str(more.get("fingerprint", "")),
    )


def _models(data: Mapping[str, Any]) -> list[Model]:
    try:
        return [_model(item) for item in data["data"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"The server's answer is not understood: {error!r}") from error


def _event(name: str, text: str) -> GroundEvent | None:
    """None for an event that this version does not know."""
    data = _object_of(text)
    if name == "response":
        return Completed(Answer.from_dict(data))
    if name == "error":
        raise _error_of_problem(data, int(data.get("status", 500)), {})
    try:
        if name == "delta":
            return TextDelta(str(data["text"]))
        if name == "object":
            return ObjectFound(str(data["label"]), box_from(data["box"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"The server's event is not understood: {error!r}") from error
    return None


def _result(name: str, text: str) -> tuple[int, Outcome] | None:
    data = _object_of(text)
    if name == "error":
        raise _error_of_problem(data, int(data.get("status", 500)), {})
    if name != "result":
        return None
    if "response" in data:
        return int(data["index"]), Answer.from_dict(data["response"])
    problem = data["error"]
    return int(data["index"]), _error_of_problem(problem, int(problem.get("status", 500)), {})


def _translate(error: httpx.HTTPError) -> ChordError:
    """Of a request without a response."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return ConnectionFailedError(
            "No server answers at this address. Start one with `chord serve`, or check the URL.",
            delivered=False,
        )
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceededError("No answer came within the timeout. Raise it, or send less.")
    return ConnectionFailedError(
        "The connection to the server broke before the answer was complete."
    )


def _ended_early() -> ChordError:
    return ConnectionFailedError("The server's stream ended before the answer was complete.")


def _options(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "base_url": endpoint.base_url,
        "headers": {**endpoint.metadata, "user-agent": endpoint.user_agent},
        "limits": httpx.Limits(max_connections=endpoint.max_connections),
        **({"verify": endpoint.tls.context()} if endpoint.tls else {}),
    }


def _timing(timeout: float, *, server: float | None = None) -> dict[str, Any]:
    """The client's own limit, and the one that the server is told."""
    return {
        "timeout": httpx.Timeout(timeout),
        "headers": {
            "x-request-timeout": f"{max(0.001, server if server is not None else timeout):.3f}"
        },
    }


class HttpTransport:
    """Thread-safe."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._http = httpx.Client(**_options(endpoint))

    def close(self) -> None:
        self._http.close()

    def _send(self, method: str, path: str, timeout: float, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **_timing(timeout), **content)
        except httpx.HTTPError as error:
            raise _translate(error) from error

    def ground(self, request: WireRequest, timeout: float) -> Answer:
        response = self._send("POST", "api/ground", timeout, **_form(request, stream=False))
        return Answer.from_dict(_checked(response))

    def ground_stream(self, request: WireRequest, timeout: float) -> Iterator[GroundEvent]:
        content = {**_form(request, stream=True), **_timing(timeout)}
        for name, text in self._events("api/ground", content):
            event = _event(name, text)
            if event is not None:
                yield event
            if isinstance(event, Completed):
                return
        raise _ended_early()

    def ground_batch(
        self, requests: Sequence[WireRequest], timeout: float
    ) -> Iterator[tuple[int, Outcome]]:
        content = _batch_content(requests, timeout)
        for name, text in self._events("api/ground/batch", content):
            if name == "end":
                return
            result = _result(name, text)
            if result is not None:
                yield result
        raise _ended_early()

    def _events(self, path: str, content: dict[str, Any]) -> Iterator[tuple[str, str]]:
        parser = SseParser(_MAX_ANSWER_BYTES)
        try:
            with self._http.stream("POST", path, **content) as response:
                if not response.is_success:
                    response.read()
                    raise _error_of(response)
                for part in response.iter_bytes():
                    yield from parser.feed(part)
        except httpx.HTTPError as error:
            raise _translate(error) from error

    def upload(self, image: Image, pin: bool, timeout: float) -> ImageHandle:
        return _handle(
            _checked(self._send("POST", "api/images", timeout, **_upload_form(image, pin)))
        )

    def touch(self, image_id: str, timeout: float) -> ImageHandle:
        return _handle(_checked(self._send("GET", _image_path(image_id), timeout)))

    def delete(self, image_id: str, timeout: float) -> None:
        response = self._send("DELETE", _image_path(image_id), timeout)
        if not response.is_success:
            raise _error_of(response)

    def models(self, timeout: float) -> list[Model]:
        return _models(_checked(self._send("GET", "v1/models", timeout)))

    def health(self, timeout: float) -> Health:
        live = self._send("GET", "healthz", timeout)
        if not live.is_success:
            return Health(False, False, _error_of(live).message)
        ready = self._send("GET", "readyz", timeout)
        return Health(True, ready.is_success, "" if ready.is_success else _error_of(ready).message)


class AsyncHttpTransport:
    """Of one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._http = httpx.AsyncClient(**_options(endpoint))

    async def close(self) -> None:
        await self._http.aclose()

    async def _send(self, method: str, path: str, timeout: float, **content: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **_timing(timeout), **content)
        except httpx.HTTPError as error:
            raise _translate(error) from error

    async def ground(self, request: WireRequest, timeout: float) -> Answer:
        response = await self._send("POST", "api/ground", timeout, **_form(request, stream=False))
        return Answer.from_dict(_checked(response))

    async def ground_stream(
        self, request: WireRequest, timeout: float
    ) -> AsyncGenerator[GroundEvent, None]:
        content = {**_form(request, stream=True), **_timing(timeout)}
        async with aclosing(self._events("api/ground", content)) as events:
            async for name, text in events:
                event = _event(name, text)
                if event is not None:
                    yield event
                if isinstance(event, Completed):
                    return
        raise _ended_early()

    async def ground_batch(
        self, requests: Sequence[WireRequest], timeout: float
    ) -> AsyncGenerator[tuple[int, Outcome], None]:
        content = _batch_content(requests, timeout)
        async with aclosing(self._events("api/ground/batch", content)) as events:
            async for name, text in events:
                if name == "end":
                    return
                result = _result(name, text)
                if result is not None:
                    yield result
        raise _ended_early()

    async def _events(
        self, path: str, content: dict[str, Any]
    ) -> AsyncGenerator[tuple[str, str], None]:
        parser = SseParser(_MAX_ANSWER_BYTES)
        try:
            async with self._http.stream("POST", path, **content) as response:
                if not response.is_success:
                    await response.aread()
                    raise _error_of(response)
                async for part in response.aiter_bytes():
                    for event in parser.feed(part):
                        yield event
        except httpx.HTTPError as error:
            raise _translate(error) from error

    async def upload(self, image: Image, pin: bool, timeout: float) -> ImageHandle:
        response = await self._send("POST", "api/images", timeout, **_upload_form(image, pin))
        return _handle(_checked(response))

    async def touch(self, image_id: str, timeout: float) -> ImageHandle:
        return _handle(_checked(await self._send("GET", _image_path(image_id), timeout)))

    async def delete(self, image_id: str, timeout: float) -> None:
        response = await self._send("DELETE", _image_path(image_id), timeout)
        if not response.is_success:
            raise _error_of(response)

    async def models(self, timeout: float) -> list[Model]:
        return _models(_checked(await self._send("GET", "v1/models", timeout)))

    async def health(self, timeout: float) -> Health:
        live = await self._send("GET", "healthz", timeout)
        if not live.is_success:
            return Health(False, False, _error_of(live).message)
        ready = await self._send("GET", "readyz", timeout)
        return Health(True, ready.is_success, "" if ready.is_success else _error_of(ready).message)
