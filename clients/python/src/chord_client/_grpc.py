"""The gRPC transport: mapping both ways, then the blocking and the asyncio client around it."""

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, cast

import grpc

from chord_client._config import Endpoint
from chord_client._proto import (
    admin_pb2,
    error_details_pb2,
    grounding_pb2,
    health_pb2,
    images_pb2,
    status_pb2,
)
from chord_client._request import WireRequest
from chord_client.errors import ChordError, Code, ConnectionFailedError, ProtocolError, make_error
from chord_client.image import Image
from chord_client.types import (
    Answer,
    Box,
    CacheTier,
    Completed,
    Frame,
    GroundedObject,
    GroundEvent,
    Health,
    ImageHandle,
    LabelMatch,
    Model,
    ObjectFound,
    Point,
    Size,
    TextDelta,
    Tile,
    Timing,
    Usage,
)

Outcome = Answer | ChordError

_DOMAIN = "chord.dev"
_CHUNK_BYTES = 1 << 20  # of an upload; the server takes no more at a time
_MAX_ANSWER_BYTES = 64 << 20
_SERVICES = {
    service.full_name: service
    for file in (grounding_pb2, images_pb2, admin_pb2, health_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}
_CACHE: dict[int, CacheTier] = {
    grounding_pb2.CACHE_EMBEDDINGS: "embeddings",
    grounding_pb2.CACHE_KV: "kv",
}


# Requests.


def _request(request: WireRequest) -> grounding_pb2.GroundRequest:
    out = grounding_pb2.GroundRequest(prompt=request.prompt, labels=request.labels)
    if request.image is not None:
        out.image = request.image.data
    if request.image_id is not None:
        out.image_id = request.image_id
    if request.max_new_tokens is not None:
        out.max_new_tokens = request.max_new_tokens
    if request.session_id is not None:
        out.session_id = request.session_id
    if request.grammar == "off":
        out.grammar = grounding_pb2.GRAMMAR_OFF
    return out


def _batch(requests: Sequence[WireRequest]) -> Iterator[grounding_pb2.GroundBatchRequest]:
    for index, request in enumerate(requests):
        yield grounding_pb2.GroundBatchRequest(tag=str(index), request=_request(request))


def _upload(image: Image, pin: bool) -> Iterator[images_pb2.UploadRequest]:
    start = images_pb2.UploadStart(total_bytes=len(image.data), pin=pin)
    yield images_pb2.UploadRequest(start=start)
    view = memoryview(image.data)
    for at in range(0, len(view), _CHUNK_BYTES):
        yield images_pb2.UploadRequest(chunk=bytes(view[at : at + _CHUNK_BYTES]))


# Answers.


def _box(box: grounding_pb2.Box) -> Box:
    return Box(box.x1, box.y1, box.x2, box.y2)


def _answer(response: grounding_pb2.GroundResponse) -> Answer:
    frame, usage, timing = response.frame, response.usage, response.timing
    cut = response.finish_reason == grounding_pb2.FINISH_REASON_LENGTH
    return Answer(
        text=response.text,
        objects=tuple(
            GroundedObject(item.label, _box(item.box), item.confidence, item.needs_review)
            for item in response.objects
        ),
        image_size=Size(response.image_size.width, response.image_size.height),
        confidence=response.confidence if response.HasField("confidence") else None,
        calibrated=response.calibrated,
        advice=response.advice or None,
        frame=Frame(
            resized_size=Size(frame.resized_width, frame.resized_height),
            scale=(frame.scale_x, frame.scale_y),
            orientation=frame.orientation,
            tiles=tuple(
                Tile(_box(tile.box), Size(tile.resized_width, tile.resized_height))
                for tile in frame.tiles
            ),
        ),
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            decode_steps=usage.decode_steps,
            image_tokens=usage.image_tokens,
            cache=_CACHE.get(usage.cache, "none"),
        ),
        timing=Timing(**{name: getattr(timing, name) for name in Timing.__slots__}),
        finish_reason="length" if cut else "stop",
        request_id=response.request_id,
        model=response.model,
        image_id=response.image_id or None,
        points=tuple(Point(item.label, item.x, item.y, item.confidence) for item in response.points),
        labels=tuple(_label_match(match) for match in response.labels),
    )


def _label_match(match: grounding_pb2.LabelMatch) -> LabelMatch:
    confidence = match.confidence if match.HasField("confidence") else None
    return LabelMatch(match.label, tuple(match.objects), confidence)


def _event(event: grounding_pb2.GroundEvent) -> GroundEvent | None:
    """None for an event that this version does not know."""
    kind = event.WhichOneof("event")
    if kind == "text_delta":
        return TextDelta(event.text_delta)
    if kind == "object":
        return ObjectFound(event.object.label, _box(event.object.box))
    if kind == "response":
        return Completed(_answer(event.response))
    return None


def _result(result: grounding_pb2.GroundBatchResponse) -> tuple[int, Outcome]:
    if not result.tag.isdecimal():
        raise ProtocolError("The server returned a result with a tag that was not sent.")
    if result.WhichOneof("result") == "response":
        return int(result.tag), _answer(result.response)
    error = result.error
    return int(result.tag), make_error(
        _code(error.code),
        error.message,
        reason=error.reason,
        request_id=error.request_id or None,
        retry_after=error.retry_after_seconds or None,
    )


def _handle(image: images_pb2.Image) -> ImageHandle:
    size = Size(image.image_size.width, image.image_size.height)
    expires_at = datetime.datetime.fromtimestamp(image.expires_at.seconds, datetime.timezone.utc)
    return ImageHandle(image.image_id, size, expires_at)


def _models(response: admin_pb2.ListModelsResponse) -> list[Model]:
    def state(value: int) -> str:
        name = admin_pb2.ModelState.State.Name(value)
        return name.removeprefix("STATE_").lower()

    return [
        Model(item.model.name, item.model.version, state(item.state), item.fingerprint)
        for item in response.models
    ]


def _code(number: int) -> Code:
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


def _translate(error: grpc.RpcError) -> ChordError:
    call = cast("grpc.Call", error)
    code = _code(call.code().value[0])
    message = call.details() or code.name
    metadata = {key: value for key, value in call.trailing_metadata() or ()}
    details = metadata.get("grpc-status-details-bin")
    reason, request_id, retryable, retry_after = "", None, None, None
    if isinstance(details, bytes):
        status = status_pb2.Status()
        status.ParseFromString(details)
        for detail in status.details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info) and info.domain == _DOMAIN:
                reason = info.reason
                request_id = info.metadata.get("request_id")
                stated = info.metadata.get("retryable")
                retryable = None if stated is None else stated == "true"
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    if code is Code.UNAVAILABLE and not reason:
        return ConnectionFailedError(
            f"No answer came from the server ({message}). Start one with `chord serve`, or check the address."
        )
    return make_error(
        code,
        message,
        reason=reason,
        request_id=request_id,
        retry_after=retry_after,
        retryable=retryable,
    )


def _channel_arguments(endpoint: Endpoint) -> list[tuple[str, Any]]:
    return [
        ("grpc.primary_user_agent", endpoint.user_agent),
        ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
        ("grpc.max_send_message_length", -1),  # the server names its limit
    ]


def _credentials(endpoint: Endpoint) -> grpc.ChannelCredentials:
    authority, key, certificate = endpoint.tls.read() if endpoint.tls else (None, None, None)
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _callable(channel: Any, name: str) -> Callable[..., Any]:
    """Of a call of chord.v1, by its full name: "chord.v1.Grounding/Ground"."""
    from google.protobuf import message_factory

    service, _, method = name.partition("/")
    descriptor = _SERVICES[service].methods_by_name[method]
    sides = (
        "stream" if on else "unary"
        for on in (descriptor.client_streaming, descriptor.server_streaming)
    )
    answer = message_factory.GetMessageClass(descriptor.output_type)
    return cast(
        Callable[..., Any],
        getattr(channel, "_".join(sides))(
            f"/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        ),
    )


_GROUND = "chord.v1.Grounding/Ground"
_GROUND_STREAM = "chord.v1.Grounding/GroundStream"
_GROUND_BATCH = "chord.v1.Grounding/GroundBatch"
_UPLOAD = "chord.v1.Images/Upload"
_TOUCH = "chord.v1.Images/Touch"
_DELETE = "chord.v1.Images/Delete"
_LIST_MODELS = "chord.v1.Admin/ListModels"
_CHECK = "grpc.health.v1.Health/Check"


def _serving(response: health_pb2.HealthCheckResponse) -> bool:
    return response.status == health_pb2.HealthCheckResponse.SERVING


def _health(live: bool, ready: bool) -> Health:
    return Health(live, ready, "" if ready else "The workers cannot answer a request now.")


class GrpcTransport:
    """Thread-safe."""

    def __init__(self, endpoint: Endpoint) -> None:
        arguments = _channel_arguments(endpoint)
        self._channel = (
            grpc.secure_channel(endpoint.target, _credentials(endpoint), options=arguments)
            if endpoint.secure
            else grpc.insecure_channel(endpoint.target, options=arguments)
        )
        self._metadata = tuple(endpoint.metadata.items())

    def close(self) -> None:
        self._channel.close()

    def _call(self, name: str, request: Any, timeout: float) -> Any:
        try:
            return _callable(self._channel, name)(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _translate(error) from error

    def _stream(self, name: str, request: Any, timeout: float) -> Iterator[Any]:
        call = _callable(self._channel, name)(request, timeout=timeout, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise _translate(error) from error
        finally:
            call.cancel()

    def ground(self, request: WireRequest, timeout: float) -> Answer:
        return _answer(self._call(_GROUND, _request(request), timeout))

    def ground_stream(self, request: WireRequest, timeout: float) -> Iterator[GroundEvent]:
        for message in self._stream(_GROUND_STREAM, _request(request), timeout):
            event = _event(message)
            if event is not None:
                yield event
            if isinstance(event, Completed):
                return
        raise ProtocolError("The server's stream ended without an answer.")

    def ground_batch(
        self, requests: Sequence[WireRequest], timeout: float
    ) -> Iterator[tuple[int, Outcome]]:
        for message in self._stream(_GROUND_BATCH, _batch(requests), timeout * len(requests)):
            yield _result(message)

    def upload(self, image: Image, pin: bool, timeout: float) -> ImageHandle:
        return _handle(self._call(_UPLOAD, _upload(image, pin), timeout))

    def touch(self, image_id: str, timeout: float) -> ImageHandle:
        return _handle(self._call(_TOUCH, images_pb2.ImageRef(image_id=image_id), timeout))

    def delete(self, image_id: str, timeout: float) -> None:
        self._call(_DELETE, images_pb2.ImageRef(image_id=image_id), timeout)

    def models(self, timeout: float) -> list[Model]:
        return _models(self._call(_LIST_MODELS, admin_pb2.ListModelsRequest(), timeout))

    def health(self, timeout: float) -> Health:
        live = self._call(_CHECK, health_pb2.HealthCheckRequest(), timeout)
        ready = self._call(
            _CHECK, health_pb2.HealthCheckRequest(service="chord.v1.Grounding"), timeout
        )
        return _health(_serving(live), _serving(ready))


class AsyncGrpcTransport:
    """Of one event loop: the channel is made with the first call."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._open: grpc.aio.Channel | None = None
        self._metadata = tuple(endpoint.metadata.items())

    @property
    def _channel(self) -> grpc.aio.Channel:
        if self._open is None:
            arguments = _channel_arguments(self._endpoint)
            self._open = (
                grpc.aio.secure_channel(
                    self._endpoint.target, _credentials(self._endpoint), options=arguments
                )
                if self._endpoint.secure
                else grpc.aio.insecure_channel(self._endpoint.target, options=arguments)
            )
        return self._open

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()
            self._open = None

    async def _call(self, name: str, request: Any, timeout: float) -> Any:
        try:
            call = _callable(self._channel, name)
            return await call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _translate(error) from error

    async def _stream(self, name: str, request: Any, timeout: float) -> AsyncGenerator[Any, None]:
        call = _callable(self._channel, name)(request, timeout=timeout, metadata=self._metadata)
        try:
            async for message in call:
                yield message
        except grpc.RpcError as error:
            raise _translate(error) from error
        finally:
            call.cancel()

    async def ground(self, request: WireRequest, timeout: float) -> Answer:
        return _answer(await self._call(_GROUND, _request(request), timeout))

    async def ground_stream(
        self, request: WireRequest, timeout: float
    ) -> AsyncGenerator[GroundEvent, None]:
        async with aclosing(self._stream(_GROUND_STREAM, _request(request), timeout)) as messages:
            async for message in messages:
                event = _event(message)
                if event is not None:
                    yield event
                if isinstance(event, Completed):
                    return
        raise ProtocolError("The server's stream ended without an answer.")

    async def ground_batch(
        self, requests: Sequence[WireRequest], timeout: float
    ) -> AsyncGenerator[tuple[int, Outcome], None]:
        stream = self._stream(_GROUND_BATCH, _batch(requests), timeout * len(requests))
        async with aclosing(stream) as messages:
            async for message in messages:
                yield _result(message)

    async def upload(self, image: Image, pin: bool, timeout: float) -> ImageHandle:
        return _handle(await self._call(_UPLOAD, _upload(image, pin), timeout))

    async def touch(self, image_id: str, timeout: float) -> ImageHandle:
        return _handle(await self._call(_TOUCH, images_pb2.ImageRef(image_id=image_id), timeout))

    async def delete(self, image_id: str, timeout: float) -> None:
        await self._call(_DELETE, images_pb2.ImageRef(image_id=image_id), timeout)

    async def models(self, timeout: float) -> list[Model]:
        return _models(await self._call(_LIST_MODELS, admin_pb2.ListModelsRequest(), timeout))

    async def health(self, timeout: float) -> Health:
        live = await self._call(_CHECK, health_pb2.HealthCheckRequest(), timeout)
        ready = await self._call(
            _CHECK, health_pb2.HealthCheckRequest(service="chord.v1.Grounding"), timeout
        )
        return _health(_serving(live), _serving(ready))
