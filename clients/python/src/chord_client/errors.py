"""What can go wrong, the same over gRPC and HTTP.

Every error is a ChordError. `reason` is the server's stable code ("IMAGE_CORRUPT"), str(error) its text
with what to do about it, and `request_id` finds the request in the server's logs. The classes follow the
canonical gRPC codes; catch by class for what a program does about it, compare `reason` for details.
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """The canonical codes (google.rpc.Code)."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# Refusals that may end by themselves. A `retryable` in the error itself takes precedence.
_RETRYABLE_REASONS = frozenset(
    {
        "API_KEY_BLOCKED",
        "API_KEY_LIMIT",
        "CLIENT_LIMIT",
        "CONNECTION_LIMIT",
        "DEVICE_MEMORY",
        "IMAGE_STORE_FULL",
        "OVERLOADED",
        "REQUEST_TIMEOUT",
        "SESSION_BUSY",
        "SHUTTING_DOWN",
        "WORKER_LOST",
        "WORKER_UNAVAILABLE",
    }
)


class ChordError(Exception):
    """The base class.

    code: canonical code. reason: stable name, empty when the error is not the server's own.
    request_id: of the server, or None when no server answered. retry_after: seconds to wait as
    the server advises, or None. retryable: the same request may succeed later. delivered: the server may have
    begun with the request (only then it matters whether it may be sent twice).
    """

    code = Code.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        reason: str = "",
        request_id: str | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
        delivered: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = type(self).code if code is None else code
        self.reason = reason
        self.request_id = request_id
        self.retry_after = retry_after
        self.delivered = delivered
        self.retryable = self._is_retryable() if retryable is None else retryable

    def _is_retryable(self) -> bool:
        if self.reason:
            return self.reason in _RETRYABLE_REASONS or self.retry_after is not None
        return self.code is Code.UNAVAILABLE

    def __str__(self) -> str:
        details = [part for part in (self.reason, self.request_id) if part]
        return f"{self.message} [{', '.join(details)}]" if details else self.message


class InvalidRequestError(ChordError):
    """The request is wrong and stays wrong: change it."""

    code = Code.INVALID_ARGUMENT


class ImageError(InvalidRequestError):
    """The image is not accepted: format, size, damage (reasons IMAGE_...)."""


class PromptError(InvalidRequestError):
    """The prompt is not accepted: empty, too long, not UTF-8 (reasons PROMPT_...)."""


class NotFoundError(ChordError):
    """A name that the server does not know."""

    code = Code.NOT_FOUND


class ImageNotFoundError(NotFoundError):
    """The uploaded image has expired or was deleted: upload it again."""


class AuthenticationError(ChordError):
    """The credentials are missing, wrong, or do not allow this call."""

    code = Code.UNAUTHENTICATED


class SessionBusyError(ChordError):
    """An earlier request of the same session is still being answered."""

    code = Code.ABORTED


class OverloadedError(ChordError):
    """The server, or this client's share of it, is full; `retry_after` estimates for how long."""

    code = Code.RESOURCE_EXHAUSTED


class UnavailableError(ChordError):
    """The server cannot answer now."""

    code = Code.UNAVAILABLE


class ConnectionFailedError(UnavailableError):
    """No answer came: no server at the address, or the connection broke."""


class DeadlineExceededError(ChordError):
    """The time given for the request is over."""

    code = Code.DEADLINE_EXCEEDED


class RequestCancelledError(ChordError):
    """The request was cancelled."""

    code = Code.CANCELLED


class UnimplementedError(ChordError):
    """This server does not offer the call."""

    code = Code.UNIMPLEMENTED


class InternalError(ChordError):
    """A fault of the server; report it with `request_id`."""

    code = Code.INTERNAL


class ProtocolError(ChordError):
    """What answered is not Chord, or a version that this client does not understand."""

    code = Code.DATA_LOSS


_BY_REASON: dict[str, tuple[Code, type[ChordError]]] = {
    "IMAGE_ID_UNKNOWN": (Code.NOT_FOUND, ImageNotFoundError),
    "IMAGE_STORE_FULL": (Code.RESOURCE_EXHAUSTED, OverloadedError),
    "SESSION_BUSY": (Code.ABORTED, SessionBusyError),
    "DEVICE_MEMORY": (Code.RESOURCE_EXHAUSTED, OverloadedError),
    "MODEL_MISMATCH": (Code.FAILED_PRECONDITION, UnavailableError),
}
_BY_CODE: dict[Code, type[ChordError]] = {
    Code.CANCELLED: RequestCancelledError,
    Code.INVALID_ARGUMENT: InvalidRequestError,
    Code.FAILED_PRECONDITION: InvalidRequestError,
    Code.OUT_OF_RANGE: InvalidRequestError,
    Code.DEADLINE_EXCEEDED: DeadlineExceededError,
    Code.NOT_FOUND: NotFoundError,
    Code.PERMISSION_DENIED: AuthenticationError,
    Code.UNAUTHENTICATED: AuthenticationError,
    Code.RESOURCE_EXHAUSTED: OverloadedError,
    Code.ABORTED: SessionBusyError,
    Code.UNIMPLEMENTED: UnimplementedError,
    Code.INTERNAL: InternalError,
    Code.UNAVAILABLE: UnavailableError,
    Code.DATA_LOSS: InternalError,
}


def make_error(
    code: Code,
    message: str,
    *,
    reason: str = "",
    request_id: str | None = None,
    retry_after: float | None = None,
    retryable: bool | None = None,
    delivered: bool = True,
) -> ChordError:
    """The error of the class that fits code and reason."""
    kind: type[ChordError]
    if reason in _BY_REASON:
        code, kind = _BY_REASON[reason]
    else:
        kind = _BY_CODE.get(code, ChordError)
        if kind is InvalidRequestError and reason.startswith("IMAGE_"):
            kind = ImageError
        elif kind is InvalidRequestError and reason.startswith("PROMPT_"):
            kind = PromptError
    return kind(
        message,
        code=code,
        reason=reason,
        request_id=request_id,
        retry_after=retry_after,
        retryable=retryable,
        delivered=delivered,
    )
