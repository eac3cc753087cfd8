"""Where a server is and how it is reached."""

from __future__ import annotations

import pathlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from chord_client._version import __version__


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. Without ca_file the system's authorities are trusted; certificate and key
    are for servers that verify their clients."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """CA, key and certificate, as grpc.ssl_channel_credentials takes them."""

        def content(path: str | None) -> bytes | None:
            return pathlib.Path(path).read_bytes() if path else None

        return content(self.ca_file), content(self.key_file), content(self.cert_file)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """kind: "http" or "grpc". base_url: of HTTP; target: of gRPC. secure: with TLS."""

    kind: str
    base_url: str = ""
    target: str = ""
    secure: bool = False
    tls: Tls | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)  # lower-case names
    user_agent: str = f"chord-client/{__version__}"
    max_connections: int = 64


def parse_endpoint(
    url: str,
    *,
    metadata: Mapping[str, str] | None = None,
    api_key: str | None = None,
    tls: Tls | None = None,
) -> Endpoint:
    """http://HOST:PORT[/PREFIX], https://..., grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH (gRPC)."""
    headers = {name.lower(): value for name, value in (metadata or {}).items()}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    if url.startswith("unix:") and len(url) > len("unix:"):
        return Endpoint("grpc", target=url, metadata=headers)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
        raise ValueError(
            f"{url!r} is not an address of Chord. Use http://HOST:PORT, https://HOST, grpc://HOST:PORT, grpcs://HOST:PORT or unix:PATH."
        )
    if parts.query or parts.fragment:
        raise ValueError("The address of Chord has no query and no fragment.")
    secure = parts.scheme in ("https", "grpcs")
    if tls is not None and not secure:
        raise ValueError("TLS settings need an address with https:// or grpcs://.")
    if parts.scheme in ("http", "https"):
        return Endpoint(
            "http", base_url=url.rstrip("/") + "/", secure=secure, tls=tls, metadata=headers
        )
    if parts.path not in ("", "/"):
        raise ValueError("A gRPC address has no path.")
    if parts.port is None:
        raise ValueError("A gRPC address needs a port, for example grpc://127.0.0.1:50051.")
    return Endpoint("grpc", target=parts.netloc, secure=secure, tls=tls, metadata=headers)
