"""Who may call: API keys, TLS on both endpoints, and the client behind a proxy."""

import datetime
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import time

import grpc
import pytest
from chord_server import BIN, Chord, Reason, assert_problem, demo, grounding_pb2, grounding_pb2_grpc, images_pb2, images_pb2_grpc, multipart

GOOD, PROMPT, _ = next(d for d in demo() if len(d[2]) == 1)


# --- API keys ---------------------------------------------------------------------------------------

def new_key(name, *flags):
    done = subprocess.run([BIN / "chord", "keys", "new", name, *flags], capture_output=True, text=True, check=True)
    key = done.stdout.strip()
    assert re.fullmatch(r"chord_[A-Za-z0-9_-]{43}", key) and hashlib.sha256(key.encode()).hexdigest() in done.stderr
    assert key not in done.stderr
    return key, done.stderr.removeprefix("keys:\n")


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    fast, fast_entry = new_key("team-a")
    slow, slow_entry = new_key("team-slow", "--requests-per-second", "0.01")
    file = folder / "keys.yaml"
    file.write_text("keys:\n" + fast_entry + slow_entry)
    with Chord("--set", f"gateway.api_keys_file={file}", "--set", "gateway.trusted_proxies=127.0.0.1") as chord:
        chord.keys, chord.keys_file = {"team-a": fast, "team-slow": slow}, file
        yield chord


def ask(chord, headers):
    content_type, body = multipart([("image", ("x.png", GOOD)), ("prompt", PROMPT)])
    return chord.request("POST", "/api/ground", body, {"Content-Type": content_type, **headers})


def test_a_request_needs_a_key_and_the_log_has_its_name(keyed):
    answer = ask(keyed, {"Authorization": f"Bearer {keyed.keys['team-a']}"})
    assert answer.status == 200
    assert ask(keyed, {"X-Api-Key": keyed.keys["team-a"]}).status == 200
    keyed.wait_for(lambda: answer.json["request_id"] in keyed.read_log())
    line = next(l for l in map(json.loads, filter(lambda l: l.startswith("{"), keyed.read_log().splitlines()))
                if l.get("request_id") == answer.json["request_id"] and l["role"] == "gateway")
    assert line["api_key"] == "team-a"
    refused = ask(keyed, {})
    assert_problem(refused, 401, "API_KEY_MISSING")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert_problem(ask(keyed, {"Authorization": "Bearer nothing", "X-Forwarded-For": "198.51.100.77"}), 401, "API_KEY_UNKNOWN")
    for key in keyed.keys.values():
        assert key not in keyed.read_log()


def test_what_is_watched_needs_no_key(keyed):
    for path in ("/healthz", "/readyz", "/metrics", "/", "/version"):
        assert keyed.get(path).status == 200, path
    for path in ("/api/images/x", "/v1/models"):
        assert keyed.get(path).status == 401, path


def test_the_same_over_grpc(keyed):
    stub, request = keyed.stub(), grounding_pb2.GroundRequest(image=GOOD, prompt=PROMPT)
    images = images_pb2_grpc.ImagesStub(grpc.insecure_channel(keyed.grpc_address))
    good = [("authorization", f"Bearer {keyed.keys['team-a']}")]
    assert stub.Ground(request, metadata=good).boxes
    item = grounding_pb2.GroundBatchRequest(tag="x", request=request)
    assert next(stub.GroundBatch(iter([item]), metadata=good)).HasField("response")
    for call in (lambda: stub.Ground(request), lambda: list(stub.GroundStream(request)), lambda: list(stub.GroundBatch(iter([item]))),
                 lambda: stub.GroundList(grounding_pb2.GroundListRequest(requests=[item])),
                 lambda: images.Touch(images_pb2.ImageRef(image_id="x")), lambda: images.Delete(images_pb2.ImageRef(image_id="x")),
                 lambda: images.Upload(iter([images_pb2.UploadRequest(start=images_pb2.UploadStart(total_bytes=9))]))):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED and Reason(error.value).reason == "API_KEY_MISSING"
    health = grpc.insecure_channel(keyed.grpc_address).unary_unary("/grpc.health.v1.Health/Check", request_serializer=bytes,
                                                                   response_deserializer=bytes)
    assert health(b"\x0a\x12chord.v1.Grounding") == b"\x08\x01"


def test_a_key_has_its_own_pace(keyed):
    headers = {"Authorization": f"Bearer {keyed.keys['team-slow']}"}
    assert ask(keyed, headers).status == 200
    refused = ask(keyed, headers)
    assert_problem(refused, 429, "API_KEY_LIMIT")
    assert int(refused.headers["Retry-After"]) >= 1
    assert ask(keyed, {"Authorization": f"Bearer {keyed.keys['team-a']}"}).status == 200


def test_wrong_keys_are_limited_for_the_client_that_sends_them(keyed):
    wrong = lambda: ask(keyed, {"Authorization": "Bearer wrong", "X-Forwarded-For": "198.51.100.1"})  # noqa: E731
    codes = [wrong().json["code"] for _ in range(14)]
    assert codes[0] == "API_KEY_UNKNOWN" and codes[-1] == "API_KEY_BLOCKED", codes
    assert ask(keyed, {"Authorization": f"Bearer {keyed.keys['team-a']}", "X-Forwarded-For": "198.51.100.1"}).status == 429
    assert ask(keyed, {"Authorization": f"Bearer {keyed.keys['team-a']}", "X-Forwarded-For": "198.51.100.2"}).status == 200
    assert keyed.metric("chord_auth_total") > 14


def test_a_new_file_of_keys_counts_without_a_restart(keyed):
    key, entry = new_key("new")
    assert ask(keyed, {"X-Api-Key": key, "X-Forwarded-For": "198.51.100.9"}).status == 401
    keyed.keys_file.write_text(keyed.keys_file.read_text() + entry)
    Chord.wait_for(lambda: ask(keyed, {"X-Api-Key": key, "X-Forwarded-For": f"198.51.101.{time.monotonic_ns() % 250}"}).status == 200, 20)
    keyed.keys_file.write_text("broken: [")
    keyed.wait_for(lambda: "api_keys_refused" in keyed.read_log())
    assert ask(keyed, {"X-Api-Key": key}).status == 200


# --- TLS ----------------------------------------------------------------------------------------------

class Authority:
    """Makes certificates with the openssl command."""

    def __init__(self, folder, name="Chord test authority"):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                 f"/CN={name}", "-keyout", "ca.key", "-out", "ca.pem")

    def run(self, *args):
        subprocess.run(["openssl", *map(str, args)], cwd=self.folder, check=True, capture_output=True)

    def issue(self, name, san="DNS:localhost,IP:127.0.0.1", days="2"):
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout",
                 f"{name}.key", "-out", f"{name}.csr", "-addext", f"subjectAltName={san}")
        (self.folder / "ext").write_text(f"subjectAltName={san}\n")
        self.run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", days, "-out", f"{name}.pem",
                 "-extfile", "ext", "-set_serial", str(time.monotonic_ns()))
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


class TlsChord(Chord):
    """Its clients trust the authority."""
    context = None

    def request(self, method, path, body=None, headers=None, timeout=60):
        address = self.http_address
        connection = http.client.HTTPSConnection(address, timeout=timeout, context=self.context)
        from chord_server import Answer
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def secure(authority):
    cert, key = authority.issue("server")
    TlsChord.context = ssl.create_default_context(cafile=str(authority.folder / "ca.pem"))
    with TlsChord("--set", f"gateway.tls_cert_file={cert}", "--set", f"gateway.tls_key_file={key}") as chord:
        yield chord


def peer_serial(address, context):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        return tls.getpeercert()["serialNumber"]


def test_both_endpoints_answer_over_tls(secure, authority):
    assert secure.get("/readyz").status == 200
    answer = secure.post(GOOD, PROMPT)
    assert answer.status == 200 and answer.json["boxes"]
    roots = (authority.folder / "ca.pem").read_bytes()
    with grpc.secure_channel(secure.grpc_address, grpc.ssl_channel_credentials(roots)) as channel:
        stub = grounding_pb2_grpc.GroundingStub(channel)
        assert stub.Ground(grounding_pb2.GroundRequest(image=GOOD, prompt=PROMPT), timeout=60).boxes


def test_a_stream_comes_piece_by_piece_and_keep_alive_works(secure):
    content_type, body = multipart([("image", ("x.png", GOOD)), ("prompt", PROMPT), ("stream", "true")])
    connection = http.client.HTTPSConnection(secure.http_address, timeout=60, context=TlsChord.context)
    for _ in range(3):
        connection.request("POST", "/api/ground", body, {"Content-Type": content_type})
        response = connection.getresponse()
        assert response.status == 200 and b"event:" in response.read()
    connection.close()


def test_plain_text_old_tls_and_strangers_are_refused_and_counted(secure):
    host, port = secure.http_address.rsplit(":", 1)
    before = secure.metric("chord_tls_handshake_failures_total")
    with socket.create_connection((host, int(port)), 10) as plain:
        plain.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(4096)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError), socket.create_connection((host, int(port)), 10) as plain:
        old.wrap_socket(plain)
    with pytest.raises(ssl.SSLCertVerificationError):
        peer_serial(secure.http_address, ssl.create_default_context())
    secure.wait_for(lambda: secure.metric("chord_tls_handshake_failures_total") >= before + 3)
    assert secure.post(GOOD, PROMPT).status == 200


def test_a_client_that_closes_is_noticed_and_one_that_half_closes_is_answered(secure):
    content_type, body = multipart([("image", ("x.png", GOOD)), ("prompt", PROMPT)])
    head = f"POST /api/ground HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    host, port = secure.http_address.rsplit(":", 1)
    cancelled = secure.metric("chord_cancelled_total") or 0
    for _ in range(5):
        with socket.create_connection((host, int(port)), 10) as plain:
            tls = TlsChord.context.wrap_socket(plain, server_hostname=host)
            tls.sendall(head + body)
            secure.wait_for(lambda: (secure.metric("chord_inflight_requests") or 0) >= 1)
            tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            tls.close()
    secure.wait_for(lambda: (secure.metric("chord_inflight_requests") or 0) == 0)
    assert (secure.metric("chord_cancelled_total") or 0) > cancelled


def test_new_certificates_count_without_a_restart_and_broken_ones_do_not(secure, authority):
    first = peer_serial(secure.http_address, TlsChord.context)
    gateway = secure.pid("gateway")
    authority.issue("server")
    secure.wait_for(lambda: peer_serial(secure.http_address, TlsChord.context) != first)
    second = peer_serial(secure.http_address, TlsChord.context)
    (authority.folder / "server.pem").write_text("-----BEGIN CERTIFICATE-----\nbroken\n")
    secure.wait_for(lambda: "certificates_refused" in secure.read_log())
    assert peer_serial(secure.http_address, TlsChord.context) == second
    assert secure.pid("gateway") == gateway
    authority.issue("server")


def test_clients_must_show_a_certificate_when_an_authority_is_set(authority, tmp_path):
    cert, key = authority.issue("server")
    mine, my_key = authority.issue("client", "DNS:client")
    foreign, foreign_key = Authority(tmp_path / "other", "another").issue("client", "DNS:client")
    ca = authority.folder / "ca.pem"

    def context(*pair):
        out = ssl.create_default_context(cafile=str(ca))
        if pair:
            out.load_cert_chain(*pair)
        return out

    TlsChord.context, before = context(mine, my_key), TlsChord.context
    try:
        with TlsChord("--set", f"gateway.tls_cert_file={cert}", "--set", f"gateway.tls_key_file={key}", "--set",
                      f"gateway.tls_client_ca_file={ca}") as chord:
            assert chord.get("/readyz").status == 200
            call = grounding_pb2.GroundRequest(image=GOOD, prompt=PROMPT)

            def ground(pair):
                roots = ca.read_bytes()
                credentials = grpc.ssl_channel_credentials(roots, *(p.read_bytes() for p in reversed(pair))) if pair else \
                    grpc.ssl_channel_credentials(roots)
                with grpc.secure_channel(chord.grpc_address, credentials) as channel:
                    return grounding_pb2_grpc.GroundingStub(channel).Ground(call, timeout=20)

            assert ground((mine, my_key)).boxes
            for pair in ((), (foreign, foreign_key)):
                TlsChord.context = context(*pair)
                with pytest.raises(OSError):
                    chord.get("/readyz")
                with pytest.raises(grpc.RpcError) as error:
                    ground(pair)
                assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            TlsChord.context = context(mine, my_key)
            assert chord.get("/readyz").status == 200
    finally:
        TlsChord.context = before


def test_own_files_that_are_wrong_end_the_start_with_a_sentence(authority, tmp_path):
    cert, key = authority.issue("server")
    _, other_key = authority.issue("other")
    text = tmp_path / "text"
    text.write_text("no certificate")
    for flags, message in (((tmp_path / "none", key), "cannot be read"), ((text, key), "holds no PEM certificate"),
                           ((cert, text), "holds no PEM private key"), ((cert, other_key), "is not the key of the certificate")):
        done = subprocess.run([BIN / "chord", "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--set",
                               f"gateway.tls_cert_file={flags[0]}", "--set", f"gateway.tls_key_file={flags[1]}"],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    done = subprocess.run([BIN / "chord", "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--set",
                           f"gateway.tls_cert_file={cert}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "tls_cert_file must be given together with tls_key_file" in done.stderr
