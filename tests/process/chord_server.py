"""A real Chord for tests: `chord serve` with chord-nano on free ports, its three processes, and
small clients for HTTP and gRPC. Nothing here waits by sleeping a fixed time: it waits for a state.
CHORD_SERVE_FLAGS adds options to every `chord serve` ("--threads 1" on a machine that is busy)."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid

import grpc
from google.protobuf import any_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("CHORD_BIN_DIR", ROOT / "build" / "bin"))
MODEL = ROOT / "models" / "chord-nano"


def _stubs():
    """Python stubs of the public protocol, generated once per run."""
    out = pathlib.Path(tempfile.mkdtemp(prefix="chord-stubs-"))
    protos = ["chord/v1/grounding.proto", "chord/v1/images.proto", "chord/v1/admin.proto",
              "chord/internal/v1/frame.proto", "chord/internal/v1/encode.proto",
              "chord/internal/v1/embedding.proto", "chord/internal/v1/decode.proto",
              "chord/internal/v1/worker_status.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}",
                    f"--python_out={out}", f"--grpc_python_out={out}", *protos], check=True)
    sys.path.insert(0, str(out))


_stubs()
from chord.v1 import admin_pb2  # noqa: E402, F401
from chord.v1 import grounding_pb2, grounding_pb2_grpc  # noqa: E402
from chord.v1 import images_pb2, images_pb2_grpc  # noqa: E402


class Reason:
    """`reason` and `request_id` of a gRPC error, out of google.rpc.Status."""

    def __init__(self, error):
        self.reason, self.request_id = "", ""
        for key, value in error.trailing_metadata() or ():
            if key != "grpc-status-details-bin":
                continue
            # google.rpc.Status.details is field 3; ErrorInfo: reason 1, domain 2, metadata 3.
            text = value.decode("latin-1")
            found = re.search(r"ErrorInfo\x12.\n.([A-Z0-9_]+)\x12", text, re.S)
            if found:
                self.reason = found.group(1)
            found = re.search(r"req_[0-9a-f]{24}", text)
            if found:
                self.request_id = found.group(0)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def multipart(fields):
    """fields: [(name, value or (filename, bytes))] -> (content type, body)."""
    boundary = uuid.uuid4().hex
    body = b""
    for name, value in fields:
        if isinstance(value, tuple):
            filename, data = value
            head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: application/octet-stream'
        else:
            data = value if isinstance(value, bytes) else value.encode()
            head = f'Content-Disposition: form-data; name="{name}"'
        body += f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


class Chord:
    ROLES = {"gateway": "chord_gateway", "vision": "chord_vision_worker", "language": "chord_llm_worker"}

    def __init__(self, *flags, model=MODEL):
        self.dir = tempfile.TemporaryDirectory(prefix="chord-test-")
        self.log_path = os.path.join(self.dir.name, "log")
        self.log = open(self.log_path, "wb")
        env = dict(os.environ, XDG_RUNTIME_DIR=self.dir.name)
        self.process = subprocess.Popen(
            [str(BIN / "chord"), "serve", "--model", str(model), "--http", "127.0.0.1:0",
             "--grpc", "127.0.0.1:0", *os.environ.get("CHORD_SERVE_FLAGS", "").split(), *flags], stdout=subprocess.PIPE, stderr=self.log, env=env)
        text = ""
        while not re.search(r"gRPC\s+\S+\n", text) and (line := self.process.stdout.readline()):
            text += line.decode()
        found = re.search(r"https?://(\S+?)/api/ground", text)
        if not found:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"chord serve did not start: {text}\n{self.read_log()[-4000:]}")
        self.http_address = found.group(1)
        self.grpc_address = re.search(r"gRPC\s+(\S+)", text).group(1)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        with contextlib.suppress(OSError):
            self.dir.cleanup()

    def read_log(self):
        self.log.flush()
        with open(self.log_path, "rb") as file:
            return file.read().decode(errors="replace")

    # --- processes -------------------------------------------------------------------------
    def pid(self, role):
        """Of the running process of that role, or None while it is being restarted."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            with contextlib.suppress(OSError):
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == self.ROLES[role]:
                    return int(pid)
        return None

    def pids(self):
        return {role: self.pid(role) for role in self.ROLES}

    def listening_port(self, role):
        """The TCP port that the process of that role listens on: an address with port 0 tells it nowhere else."""
        pid = self.pid(role)
        sockets = set()
        for file in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(file))
        for line in pathlib.Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:  # LISTEN
                return int(columns[1].split(":")[1], 16)
        return None

    def memory(self, role, field="VmRSS"):
        """Bytes. VmHWM is the peak since reset_peak()."""
        text = pathlib.Path(f"/proc/{self.pid(role)}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", text).group(1)) * 1024

    def reset_peak(self):
        for pid in self.pids().values():
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")

    def wait_ready(self, seconds=30):
        self.wait_for(lambda: self.get("/readyz").status == 200, seconds)

    @staticmethod
    def wait_for(condition, seconds=30):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if condition():
                    return
            if time.monotonic() > end:
                raise TimeoutError("the state that was waited for did not come")
            time.sleep(0.01)

    def request(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection(self.http_address, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, image=None, prompt=None, extra=(), timeout=60, filename="image.bin"):
        fields = []
        if image is not None:
            fields.append(("image", (filename, image)))
        if prompt is not None:
            fields.append(("prompt", prompt))
        content_type, body = multipart(fields + list(extra))
        return self.request("POST", "/api/ground", body, {"Content-Type": content_type}, timeout)

    def metric(self, name):
        """Sum over the label sets of one metric of the gateway's own."""
        total, found = 0.0, False
        for line in self.get("/metrics").body.decode().splitlines():
            match = re.match(rf"{re.escape(name)}(\{{.*\}})? (\S+)$", line)
            if match and 'worker="' not in line:
                total, found = total + float(match.group(2)), True
        return total if found else None

    def stub(self):
        channel = grpc.insecure_channel(self.grpc_address, options=[("grpc.max_send_message_length", -1)])
        return grounding_pb2_grpc.GroundingStub(channel)

    def ground(self, image, prompt, timeout=60, **fields):
        request = grounding_pb2.GroundRequest(image=image, prompt=prompt, **fields)
        return self.stub().Ground(request, timeout=timeout)


def demo():
    """[(bytes, prompt, boxes)] of the bundled images."""
    scenes = json.loads((ROOT / "demo" / "scenes.json").read_text())
    return [((ROOT / "demo" / s["file"]).read_bytes(), s["prompt"], s["boxes"]) for s in scenes]


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area = lambda r: (r[2] - r[0]) * (r[3] - r[1])
    return w * h / (area(a) + area(b) - w * h)


LEAKS = re.compile(r"0x[0-9a-f]{4,}|/(home|root|tmp|usr|work|var)/|\.cc:|\.h:|torch|cv::|terminate|std::", re.I)


def assert_problem(answer, status, code):
    """The one form of every refusal over HTTP."""
    assert answer.status == status, (answer.status, answer.body[:500])
    assert answer.headers.get("Content-Type", "").startswith("application/problem+json"), answer.headers
    problem = answer.json
    assert problem["code"] == code, problem
    assert problem["status"] == status and problem["title"] and problem["type"]
    assert len(problem["detail"]) > 10 and re.fullmatch(r"req_[0-9a-f]{24}", problem["request_id"])
    assert not LEAKS.search(answer.body.decode()), problem
    return problem
