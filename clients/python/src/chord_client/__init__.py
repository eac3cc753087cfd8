"""Client of Chord, the visual grounding service.

    from chord_client import Client

    with Client("http://127.0.0.1:8080") as chord:
        answer = chord.ground("room.jpg", "the white vase")
        for item in answer.objects:
            print(item.label, item.box, item.confidence)

AsyncClient has the same calls for asyncio. Over gRPC: Client("grpc://127.0.0.1:50051").
"""

from chord_client._config import Tls
from chord_client._version import __version__
from chord_client.aio import AsyncClient, AsyncSession
from chord_client.client import Client, Session
from chord_client.errors import (
    AuthenticationError,
    ChordError,
    Code,
    ConnectionFailedError,
    DeadlineExceededError,
    ImageError,
    ImageNotFoundError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PromptError,
    ProtocolError,
    RequestCancelledError,
    SessionBusyError,
    UnavailableError,
    UnimplementedError,
)
from chord_client.image import Image, ImageSource
from chord_client.retry import RetryPolicy
from chord_client.types import (
    Answer,
    BatchResult,
    Box,
    Completed,
    Frame,
    GroundedObject,
    GroundEvent,
    GroundRequest,
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

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncSession",
    "AuthenticationError",
    "BatchResult",
    "Box",
    "ChordError",
    "Client",
    "Code",
    "Completed",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "Frame",
    "GroundEvent",
    "GroundRequest",
    "GroundedObject",
    "Health",
    "Image",
    "ImageError",
    "ImageHandle",
    "ImageNotFoundError",
    "ImageSource",
    "InternalError",
    "InvalidRequestError",
    "LabelMatch",
    "Model",
    "NotFoundError",
    "ObjectFound",
    "OverloadedError",
    "Point",
    "PromptError",
    "ProtocolError",
    "RequestCancelledError",
    "RetryPolicy",
    "Session",
    "SessionBusyError",
    "Size",
    "TextDelta",
    "Tile",
    "Timing",
    "Tls",
    "UnavailableError",
    "UnimplementedError",
    "Usage",
    "__version__",
]
