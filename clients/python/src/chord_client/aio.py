"""The asyncio client: the calls of Client, awaited."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TypeVar

from chord_client._config import Tls, parse_endpoint
from chord_client._grpc import AsyncGrpcTransport
from chord_client._http import AsyncHttpTransport
from chord_client._request import WireRequest, fits_wave, resolve, resolve_item
from chord_client.client import DEFAULT_URL, Wave, check_timeout
from chord_client.errors import ChordError, ConnectionFailedError, DeadlineExceededError
from chord_client.image import Image, ImageSource
from chord_client.retry import Attempts, RetryBudget, RetryPolicy
from chord_client.types import (
    Answer,
    BatchResult,
    Grammar,
    GroundEvent,
    GroundRequest,
    Health,
    ImageHandle,
    Model,
)

T = TypeVar("T")


class AsyncClient:
    """A client of one Chord for one event loop; see Client for the parameters and the errors.

    Many tasks may use it at once. Cancelling a task cancels its request on the server.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = 60.0,
        retry: RetryPolicy | None = None,
        metadata: Mapping[str, str] | None = None,
        api_key: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        endpoint = parse_endpoint(url, metadata=metadata, api_key=api_key, tls=tls)
        self._transport: AsyncGrpcTransport | AsyncHttpTransport = (
            AsyncGrpcTransport(endpoint)
            if endpoint.kind == "grpc"
            else AsyncHttpTransport(endpoint)
        )
        self._timeout = check_timeout(timeout)
        self._policy = retry or RetryPolicy()
        self._budget = RetryBudget(self._policy)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connections. The client cannot be used afterwards."""
        await self._transport.close()

    # Grounding.

    async def ground(
        self,
        image: ImageSource,
        prompt: str | None = None,
        *,
        labels: Sequence[str] = (),
        max_new_tokens: int | None = None,
        session_id: str | None = None,
        grammar: Grammar = "auto",
        timeout: float | None = None,
    ) -> Answer:
        """See Client.ground."""
        request = resolve(
            image,
            prompt,
            labels=labels,
            max_new_tokens=max_new_tokens,
            session_id=session_id,
            grammar=grammar,
        )
        return await self._repeat(
            lambda seconds: self._transport.ground(request, seconds), timeout, request.repeatable
        )

    def ground_stream(
        self,
        image: ImageSource,
        prompt: str | None = None,
        *,
        labels: Sequence[str] = (),
        max_new_tokens: int | None = None,
        session_id: str | None = None,
        grammar: Grammar = "auto",
        timeout: float | None = None,
    ) -> AsyncGenerator[GroundEvent, None]:
        """See Client.ground_stream. Close it (contextlib.aclosing) to cancel the request early."""
        request = resolve(
            image,
            prompt,
            labels=labels,
            max_new_tokens=max_new_tokens,
            session_id=session_id,
            grammar=grammar,
        )
        return self._stream(request, timeout)

    def ground_batch(
        self,
        requests: Iterable[GroundRequest] | AsyncIterator[GroundRequest],
        *,
        batch_size: int = 16,
        timeout: float | None = None,
    ) -> AsyncGenerator[BatchResult, None]:
        """See Client.ground_batch; `requests` may also be an asynchronous iterator."""
        if not 1 <= batch_size <= 64:
            raise ValueError("batch_size is 1 to 64.")
        return self._batch(requests, batch_size, self._seconds(timeout))

    # Images that the server keeps.

    async def upload(
        self, image: ImageSource, *, pin: bool = False, timeout: float | None = None
    ) -> ImageHandle:
        """See Client.upload."""
        if isinstance(image, ImageHandle):
            raise TypeError("The image is already on the server.")
        data = Image.of(image)
        return await self._repeat(
            lambda seconds: self._transport.upload(data, pin, seconds), timeout
        )

    async def touch(self, image: ImageHandle, *, timeout: float | None = None) -> ImageHandle:
        """See Client.touch."""
        return await self._repeat(
            lambda seconds: self._transport.touch(image.image_id, seconds), timeout
        )

    async def delete(self, image: ImageHandle, *, timeout: float | None = None) -> None:
        """See Client.delete."""
        await self._repeat(lambda seconds: self._transport.delete(image.image_id, seconds), timeout)

    async def session(
        self,
        image: ImageSource,
        *,
        session_id: str | None = None,
        timeout: float | None = None,
    ) -> AsyncSession:
        """See Client.session."""
        handle = (
            image if isinstance(image, ImageHandle) else await self.upload(image, timeout=timeout)
        )
        return AsyncSession(self, handle, session_id or secrets.token_urlsafe(18))

    # The server.

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """See Client.models."""
        return await self._repeat(self._transport.models, timeout)

    async def health(self, *, timeout: float | None = None) -> Health:
        """See Client.health."""
        try:
            return await self._transport.health(self._seconds(timeout))
        except ConnectionFailedError as error:
            return Health(False, False, error.message)

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """See Client.wait_until_ready."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            health = await self.health(timeout=max(0.05, min(left, 5.0)))
            if health.ready:
                return
            if left <= 0:
                raise DeadlineExceededError(f"The server is not ready. {health.detail}")
            await asyncio.sleep(min(0.1, left))

    # Retries.

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else check_timeout(timeout)

    async def _repeat(
        self,
        attempt: Callable[[float], Awaitable[T]],
        timeout: float | None,
        repeatable: bool = True,
    ) -> T:
        end = time.monotonic() + self._seconds(timeout)
        attempts = Attempts(self._policy, self._budget, repeatable=repeatable)
        while True:
            try:
                result = await attempt(max(0.001, end - time.monotonic()))
            except ChordError as error:
                wait = attempts.delay(error, end - time.monotonic())
                if wait is None:
                    raise
                await asyncio.sleep(wait)
            else:
                self._budget.succeeded()
                return result

    async def _stream(
        self, request: WireRequest, timeout: float | None
    ) -> AsyncGenerator[GroundEvent, None]:
        end = time.monotonic() + self._seconds(timeout)
        attempts = Attempts(self._policy, self._budget, repeatable=request.repeatable)
        while True:
            begun = False
            try:
                left = max(0.001, end - time.monotonic())
                async with aclosing(self._transport.ground_stream(request, left)) as events:
                    async for event in events:
                        begun = True
                        yield event
            except ChordError as error:
                wait = None if begun else attempts.delay(error, end - time.monotonic())
                if wait is None:
                    raise
                await asyncio.sleep(wait)
            else:
                self._budget.succeeded()
                return

    async def _batch(
        self,
        requests: Iterable[GroundRequest] | AsyncIterator[GroundRequest],
        batch_size: int,
        timeout: float,
    ) -> AsyncGenerator[BatchResult, None]:
        async with aclosing(_waves(requests, batch_size)) as groups:
            async for group in groups:
                wave = Wave(group, self._policy, self._budget, timeout)
                for rejected in wave.rejected:
                    yield rejected
                while wave.pending:
                    sent = wave.begin(time.monotonic())
                    try:
                        async with aclosing(
                            self._transport.ground_batch(sent, timeout)
                        ) as outcomes:
                            async for at, outcome in outcomes:
                                result = wave.take(at, outcome, time.monotonic())
                                if result is not None:
                                    yield result
                    except ChordError as error:
                        wave.broken = error
                    for result in wave.end(time.monotonic()):
                        yield result
                    await asyncio.sleep(wave.wait)


async def _waves(
    items: Iterable[GroundRequest] | AsyncIterator[GroundRequest], batch_size: int
) -> AsyncGenerator[list[tuple[int, WireRequest]], None]:
    """waves() of _request.py, also over an asynchronous iterator."""
    wave: list[tuple[int, WireRequest]] = []
    index = 0
    async for item in _each(items):
        request = resolve_item(item)
        if not fits_wave(wave, request, batch_size):
            yield wave
            wave = []
        wave.append((index, request))
        index += 1
    if wave:
        yield wave


async def _each(items: Iterable[T] | AsyncIterator[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterator):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class AsyncSession:
    """See Session."""

    def __init__(self, client: AsyncClient, image: ImageHandle, session_id: str) -> None:
        self._client = client
        self.image = image
        self.session_id = session_id

    async def ground(
        self,
        prompt: str,
        *,
        max_new_tokens: int | None = None,
        grammar: Grammar = "auto",
        timeout: float | None = None,
    ) -> Answer:
        """The next turn."""
        return await self._client.ground(
            self.image,
            prompt,
            max_new_tokens=max_new_tokens,
            session_id=self.session_id,
            grammar=grammar,
            timeout=timeout,
        )
