"""The Python client over TLS, with and without client certificates: a real Chord behind a TLS endpoint."""

import contextlib
import socket
import ssl
import subprocess
import threading

import pytest

from chord_client import Client, ConnectionFailedError, RetryPolicy, Tls
from chord_server import demo

FARM, PROMPT, _ = demo()[0]


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and certificates by it of a server at 127.0.0.1 and of a client."""
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-subj", "/CN=authority", "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    for name in ("server", "client"):
        openssl("req", *key[:-2], "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr")
        extensions = folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", folder / f"{name}.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", folder / f"{name}.pem")
    return folder


class TlsEndpoint:
    """Ends TLS and passes the bytes on to an address, as a balancer in front of Chord does."""

    def __init__(self, context, address):
        self._context = context
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *unused):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as outer:
            with socket.create_connection(self._target) as inner:
                back = threading.Thread(target=self._copy, args=(inner, outer), daemon=True)
                back.start()
                self._copy(outer, inner)
                back.join()

    @staticmethod
    def _copy(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def context(certificates, *, ask_client):
    out = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    out.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    out.set_alpn_protocols(["h2", "http/1.1"])
    if ask_client:
        out.load_verify_locations(certificates / "ca.pem")
        out.verify_mode = ssl.CERT_REQUIRED
    return out


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
@pytest.mark.parametrize("ask_client", [False, True])
def test_TheServerAndTheClientProveWhoTheyAre(server, certificates, scheme, ask_client):
    address = server.http_address if scheme == "https" else server.grpc_address
    authority = str(certificates / "ca.pem")
    mine = Tls(authority, str(certificates / "client.pem"), str(certificates / "client.key"))
    with TlsEndpoint(context(certificates, ask_client=ask_client), address) as endpoint:
        url = f"{scheme}://127.0.0.1:{endpoint.port}"
        with Client(url, tls=mine if ask_client else Tls(authority)) as chord:
            assert chord.ground(FARM, PROMPT).found
        strangers = [Tls(authority)] if ask_client else [None]  # no certificate; an authority that is not known
        for tls in strangers:
            with Client(url, tls=tls, retry=RetryPolicy.none(), timeout=10) as chord, pytest.raises(ConnectionFailedError):
                chord.ground(FARM, PROMPT)
