"""The blocking client."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from chord_client._config import Tls, parse_endpoint
from chord_client._grpc import GrpcTransport
from chord_client._http import HttpTransport
from chord_client._request import WireRequest, resolve, waves
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

DEFAULT_URL = "http://127.0.0.1:8080"


class Client:
    """A client of one Chord. Thread-safe; use one for many requests, and close it.

    url: http://HOST:PORT or https:// for HTTP, grpc://HOST:PORT, grpcs:// or unix:PATH for gRPC.
    The calls and the errors are the same over both.

    timeout: seconds that a request may take in all, retries and waits included; each call can have
    its own. Of a batch it is the time of each request.
    retry: see RetryPolicy. metadata: sent with every request (HTTP headers, gRPC metadata).
    api_key: sent as "Authorization: Bearer".

    Every method raises ChordError (see chord_client.errors) when the request fails, OSError when an
    image file cannot be read, and ValueError or TypeError for arguments that no server would take.
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
        self._transport: GrpcTransport | HttpTransport = (
            GrpcTransport(endpoint) if endpoint.kind == "grpc" else HttpTransport(endpoint)
        )
        self._timeout = check_timeout(timeout)
        self._policy = retry or RetryPolicy()
        self._budget = RetryBudget(self._policy)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections. The client cannot be used afterwards."""
        self._transport.close()

    # Grounding.

    def ground(
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
        """Where in the image is what the prompt describes? See ImageSource for what an image may be.

        labels: instead of a prompt, classes to look for (1 to 64); see Answer.by_label.
        """
        request = resolve(
            image,
            prompt,
            labels=labels,
            max_new_tokens=max_new_tokens,
            session_id=session_id,
            grammar=grammar,
        )
        return self._repeat(
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
    ) -> Iterator[GroundEvent]:
        """Events as they come: TextDelta and ObjectFound, last Completed with the whole answer.

        Retried only before the first event. Closing the iterator cancels the request.
        """
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
        requests: Iterable[GroundRequest],
        *,
        batch_size: int = 16,
        timeout: float | None = None,
    ) -> Iterator[BatchResult]:
        """Many requests, each with its own result, in the order in which they are answered.

        `requests` is read as results are taken, `batch_size` (at most 64) at a time, so a generator
        over a large folder needs the memory of one group. What is refused and retryable is sent
        again. An image that several requests are about is best uploaded first.
        """
        if not 1 <= batch_size <= 64:
            raise ValueError("batch_size is 1 to 64.")
        return self._batch(requests, batch_size, self._seconds(timeout))

    # Images that the server keeps.

    def upload(
        self, image: ImageSource, *, pin: bool = False, timeout: float | None = None
    ) -> ImageHandle:
        """Sends the image once for many requests. It expires some time after its last use.

        pin: keep it until it is deleted or expires, also when the server needs room.
        """
        if isinstance(image, ImageHandle):
            raise TypeError("The image is already on the server.")
        data = Image.of(image)
        return self._repeat(lambda seconds: self._transport.upload(data, pin, seconds), timeout)

    def touch(self, image: ImageHandle, *, timeout: float | None = None) -> ImageHandle:
        """Extends the time that the server keeps the image; returns the new expiry."""
        return self._repeat(lambda seconds: self._transport.touch(image.image_id, seconds), timeout)

    def delete(self, image: ImageHandle, *, timeout: float | None = None) -> None:
        """Removes the image from the server."""
        self._repeat(lambda seconds: self._transport.delete(image.image_id, seconds), timeout)

    def session(
        self,
        image: ImageSource,
        *,
        session_id: str | None = None,
        timeout: float | None = None,
    ) -> Session:
        """A conversation about one image; the image is uploaded unless it is a handle."""
        handle = image if isinstance(image, ImageHandle) else self.upload(image, timeout=timeout)
        return Session(self, handle, session_id or secrets.token_urlsafe(18))

    # The server.

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that the server offers."""
        return self._repeat(self._transport.models, timeout)

    def health(self, *, timeout: float | None = None) -> Health:
        """Whether the server lives and could answer now. A server that cannot be reached is neither."""
        try:
            return self._transport.health(self._seconds(timeout))
        except ConnectionFailedError as error:
            return Health(False, False, error.message)

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Returns when a request could be answered; DeadlineExceededError names what was missing."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            health = self.health(timeout=max(0.05, min(left, 5.0)))
            if health.ready:
                return
            if left <= 0:
                raise DeadlineExceededError(f"The server is not ready. {health.detail}")
            time.sleep(min(0.1, left))

    # Retries.

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else check_timeout(timeout)

    def _repeat(
        self, attempt: Callable[[float], T], timeout: float | None, repeatable: bool = True
    ) -> T:
        end = time.monotonic() + self._seconds(timeout)
        attempts = Attempts(self._policy, self._budget, repeatable=repeatable)
        while True:
            try:
                result = attempt(max(0.001, end - time.monotonic()))
            except ChordError as error:
                wait = attempts.delay(error, end - time.monotonic())
                if wait is None:
                    raise
                time.sleep(wait)
            else:
                self._budget.succeeded()
                return result

    def _stream(self, request: WireRequest, timeout: float | None) -> Iterator[GroundEvent]:
        end = time.monotonic() + self._seconds(timeout)
        attempts = Attempts(self._policy, self._budget, repeatable=request.repeatable)
        while True:
            begun = False
            try:
                left = max(0.001, end - time.monotonic())
                for event in self._transport.ground_stream(request, left):
                    begun = True
                    yield event
            except ChordError as error:
                wait = None if begun else attempts.delay(error, end - time.monotonic())
                if wait is None:
                    raise
                time.sleep(wait)
            else:
                self._budget.succeeded()
                return

    def _batch(
        self, requests: Iterable[GroundRequest], batch_size: int, timeout: float
    ) -> Iterator[BatchResult]:
        for group in waves(requests, batch_size):
            wave = Wave(group, self._policy, self._budget, timeout)
            yield from wave.rejected
            while wave.pending:
                sent = wave.begin(time.monotonic())
                try:
                    for at, outcome in self._transport.ground_batch(sent, timeout):
                        result = wave.take(at, outcome, time.monotonic())
                        if result is not None:
                            yield result
                except ChordError as error:
                    wave.broken = error
                yield from wave.end(time.monotonic())
                time.sleep(wave.wait)


class Session:
    """A conversation about one image: each prompt is answered with the earlier turns in mind.

    One request at a time: a second one meanwhile fails with SessionBusyError after its retries.
    """

    def __init__(self, client: Client, image: ImageHandle, session_id: str) -> None:
        self._client = client
        self.image = image
        self.session_id = session_id

    def ground(
        self,
        prompt: str,
        *,
        max_new_tokens: int | None = None,
        grammar: Grammar = "auto",
        timeout: float | None = None,
    ) -> Answer:
        """The next turn."""
        return self._client.ground(
            self.image,
            prompt,
            max_new_tokens=max_new_tokens,
            session_id=self.session_id,
            grammar=grammar,
            timeout=timeout,
        )


def check_timeout(seconds: float) -> float:
    if not 0 < seconds <= 1e6:
        raise ValueError("A timeout is a number of seconds over 0.")
    return seconds


class Wave:
    """One group of a batch: which of its requests are sent next, and what their results mean.

    Decisions only; shared by the blocking and the asyncio client.
    """

    def __init__(
        self,
        group: list[tuple[int, WireRequest]],
        policy: RetryPolicy,
        budget: RetryBudget,
        timeout: float,
    ) -> None:
        self.pending = [item for item in group if item[1].rejected is None]
        self.rejected = [
            BatchResult(index, request.tag, error=request.rejected)
            for index, request in group
            if request.rejected is not None
        ]
        self.wait = 0.0  # seconds before `pending` is sent
        self.broken: ChordError | None = None  # why the call ended before all results came
        self._policy = policy
        self._budget = budget
        self._timeout = timeout
        self._ends: dict[int, float] = {}
        self._attempts: dict[int, Attempts] = {}
        self._sent: list[tuple[int, WireRequest]] = []
        self._open: set[int] = set()

    def begin(self, now: float) -> list[WireRequest]:
        """What is sent; take() counts from 0 within it."""
        self._sent, self.pending = self.pending, []
        self._open = set(range(len(self._sent)))
        self.wait, self.broken = 0.0, None
        for index, request in self._sent:
            # The server takes a few of a group at a time, so the last may wait for all others.
            self._ends.setdefault(index, now + self._timeout * len(self._sent))
            self._attempts.setdefault(
                index, Attempts(self._policy, self._budget, repeatable=request.repeatable)
            )
        return [request for _, request in self._sent]

    def take(self, at: int, outcome: Answer | ChordError, now: float) -> BatchResult | None:
        """A result that is final; None when the request is sent again, or was answered before."""
        if at not in self._open:
            return None
        self._open.discard(at)
        index, request = self._sent[at]
        if isinstance(outcome, Answer):
            self._budget.succeeded()
            return BatchResult(index, request.tag, answer=outcome)
        wait = self._attempts[index].delay(outcome, self._ends[index] - now)
        if wait is None:
            return BatchResult(index, request.tag, error=outcome)
        self.wait = max(self.wait, wait)
        self.pending.append((index, request))
        return None

    def end(self, now: float) -> list[BatchResult]:
        """After the call: what has no result is sent again, or fails with the call's error."""
        error = self.broken or ConnectionFailedError(
            "The server's stream ended before all results came."
        )
        results = (self.take(at, error, now) for at in sorted(self._open))
        return [result for result in results if result is not None]
