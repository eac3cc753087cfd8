"""The topology of deploy/compose/compose.fleet.yaml as processes on hosts of their own: two gateways behind nginx, two
vision and two language workers, Prometheus. Clients ask through nginx all the time while workers and gateways are
killed, drained and added. Every request has an answer, or a status that tells the client to try again."""

import base64
import collections
import contextlib
import http.client
import json
import shutil
import signal
import subprocess
import threading
import time

import grpc
import pytest
import yaml
from chord_server import BIN, MODEL, ROOT, Answer, Chord, demo, iou, multipart
from network import make_network
from proxy import NGINX, USERS, Nginx

from chord.v1 import grounding_pb2, grounding_pb2_grpc

PROMETHEUS = shutil.which("prometheus")
MISSING = [name for name, path in (("nginx", NGINX), ("prometheus", PROMETHEUS), ("openssl", shutil.which("openssl"))) if path is None]
pytestmark = pytest.mark.skipif(MISSING != [], reason=f"not installed: {', '.join(MISSING)} (tools/setup.sh --ops)")

IMAGE, PROMPT, BOXES = next(d for d in demo() if len(d[2]) == 1)
HOSTS = {"client": 5, "nginx": 10, "prometheus": 20, "gateway-1": 11, "gateway-2": 12, "vision-1": 31, "vision-2": 32,
         "vision-3": 33, "language-1": 41, "language-2": 42, "language-3": 43}
PORTS = {"vision": 50061, "language": 50062}
# What a client may hear in place of an answer: come back later.
RETRYABLE = {429, 503}
RETRYABLE_GRPC = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Topology:
    def __init__(self, folder, network):
        self.folder, self.network = folder, network
        self.processes = {}
        self.members = {"vision": ["vision-1", "vision-2"], "language": ["language-1", "language-2"]}
        for role in self.members:
            self.publish(role)
        gateways = [(f"{self.address(f'gateway-{i}')}:8080", f"{self.address(f'gateway-{i}')}:50051") for i in (1, 2)]
        nginx = self.address("nginx")
        self.nginx = Nginx(folder / "nginx", gateways, f"{nginx}:8443", f"{nginx}:8081", network.command("nginx"),
                           [("rate=50r/s", "rate=1000r/s")])

    def address(self, host):
        return self.network.addresses[host]

    def publish(self, role):
        """Tells everyone the workers of a role, as a headless Service does."""
        if self.network.has_names:
            self.network.set_name(role, self.members[role])

    def peers(self, role):
        if self.network.has_names:
            return [f"--{role}_workers={role}=dns:{role}:{PORTS[role]}"]
        return [f"--{role}_workers={role}-{i}={self.address(f'{role}-{i}')}:{PORTS[role]}" for i in (1, 2, 3)]

    def command(self, host):
        own = self.address(host)
        role = host.split("-")[0]
        if role == "gateway":
            return ["chord_gateway", f"--http_address={own}:8080", f"--grpc_address={own}:50051", "--drain_seconds=10",
                    "--client_requests=64", "--dns_seconds=1", *self.peers("vision"), *self.peers("language")]
        program, more = {"vision": ("chord_vision_worker", self.peers("language")), "language": ("chord_llm_worker", [])}[role]
        return [program, f"--address={own}:{PORTS[role]}", f"--metrics_address={own}:9100", "--device=cpu", "--threads=1",
                "--drain_seconds=10", *more]

    def start(self, host):
        program, *flags = self.command(host)
        with open(self.folder / f"{host}.log", "ab") as log:
            self.processes[host] = subprocess.Popen([*self.network.command(host), str(BIN / program), f"--model_dir={MODEL}", *flags],
                                                    stdout=log, stderr=log)

    def start_prometheus(self):
        folder = self.folder / "prometheus"
        (folder / "targets").mkdir(parents=True)
        shipped = ROOT / "deploy" / "prometheus"
        shutil.copy(shipped / "rules.yaml", folder)
        settings = yaml.safe_load((shipped / "prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        targets = [f"{self.address(host)}:{8080 if host.startswith('gateway') else 9100}" for host in self.processes]
        (folder / "targets" / "chord.yaml").write_text(yaml.safe_dump([{"targets": targets}]))
        with open(folder / "log", "wb") as log:
            self.processes["prometheus"] = subprocess.Popen(
                [*self.network.command("prometheus"), PROMETHEUS, f"--config.file={folder}/prometheus.yml",
                 f"--storage.tsdb.path={folder}/data", f"--web.listen-address={self.address('prometheus')}:9090"],
                stdout=log, stderr=log)
        return targets

    def kill(self, host):
        self.processes[host].kill()
        self.processes[host].wait()

    def drain(self, host):
        """As kubelet does: out of the name, then SIGTERM. The process ends by itself, in good order."""
        role = host.split("-")[0]
        if role in self.members:
            self.members[role].remove(host)
            self.publish(role)
        self.processes[host].send_signal(signal.SIGTERM)
        assert self.processes[host].wait(30) == 0, self.log(host)

    def add(self, host):
        role = host.split("-")[0]
        self.start(host)
        if role in self.members and host not in self.members[role]:
            self.members[role].append(host)
            self.publish(role)

    def get(self, host, port, path):
        connection = http.client.HTTPConnection(self.address(host), port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def metric(self, host, name):
        port = 8080 if host.startswith("gateway") else 9100
        lines = self.get(host, port, "/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split(" ")[0].split("{")[0] == name)

    def wait_workers(self, vision, language, seconds=30):
        """Until both gateways count that many."""
        for gateway in ("gateway-1", "gateway-2"):
            Chord.wait_for(lambda: self.metric(gateway, "chord_workers") == vision + language, seconds)

    def query(self, expression):
        answer = self.get("prometheus", 9090, "/api/v1/query?query=" + "".join(f"%{byte:02x}" for byte in expression.encode()))
        return answer.json["data"]["result"]

    def log(self, host):
        return (self.folder / f"{host}.log").read_text()[-3000:]

    def stop(self):
        self.nginx.stop()
        for process in self.processes.values():
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Load:
    """Clients that ask through nginx until they are stopped, each as a user of its own (so that nginx spreads them over
    the gateways): whole answers, event streams, gRPC."""

    def __init__(self, nginx):
        self.nginx, self.stopping = nginx, threading.Event()
        self.outcomes, self.lock = [], threading.Lock()
        clients = [self.http, self.http, self.events, self.grpc]
        self.threads = [threading.Thread(target=self.run, args=(clients[i % 4], user)) for i, user in enumerate(USERS)]
        for thread in self.threads:
            thread.start()

    def run(self, client, user):
        authorization = "Basic " + base64.b64encode(f"{user}:{USERS[user]}".encode()).decode()
        while not self.stopping.is_set():
            try:
                outcome = client(authorization)
            except (OSError, http.client.HTTPException) as error:  # no answer at all
                outcome = f"lost: {type(error).__name__} {error}"
            with self.lock:
                self.outcomes.append((client.__name__, outcome))
            if outcome != "answered":
                self.stopping.wait(0.1)

    def post(self, connection, authorization, *extra):
        content_type, body = multipart([("image", ("i.png", IMAGE)), ("prompt", PROMPT), *extra])
        connection.request("POST", "/api/ground", body, {"Content-Type": content_type, "Authorization": authorization})
        return connection.getresponse()

    @staticmethod
    def refusal(status, body):
        problem = json.loads(body)
        return f"retry: {problem['code']}" if status in RETRYABLE and problem["status"] == status else f"bad: {status} {body}"

    def http(self, authorization):
        with contextlib.closing(self.nginx.connect(30)) as connection:
            response = self.post(connection, authorization)
            body = response.read()
        if response.status != 200:
            return self.refusal(response.status, body)
        return "answered" if iou(json.loads(body)["boxes"][0], BOXES[0]) > 0.7 else f"bad: {body}"

    def events(self, authorization):
        with contextlib.closing(self.nginx.connect(30)) as connection:
            response = self.post(connection, authorization, ("stream", "true"))
            body = b""
            try:
                body = response.read()
            except http.client.IncompleteRead:
                return "retry: stream cut"  # the chunked encoding says that the end is missing
        if response.status != 200:
            return self.refusal(response.status, body)
        name, data = body.strip().decode().split("\n\n")[-1].split("\n")
        if name == "event: response":
            return "answered"
        problem = json.loads(data.removeprefix("data: "))
        return f"retry: {problem['code']}" if name == "event: error" and problem["status"] in RETRYABLE else f"bad: {body}"

    def grpc(self, authorization):
        certificate = (self.nginx.folder / "tls" / "tls.crt").read_bytes()
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(self.nginx.https, grpc.ssl_channel_credentials(certificate), options) as channel:
            try:
                grounding_pb2_grpc.GroundingStub(channel).Ground(
                    grounding_pb2.GroundRequest(image=IMAGE, prompt=PROMPT), timeout=30,
                    metadata=[("authorization", authorization)])
                return "answered"
            except grpc.RpcError as error:
                return f"{'retry' if error.code() in RETRYABLE_GRPC else 'bad'}: {error.code().name} {error.details()[:60]}"

    def answered(self):
        with self.lock:
            return sum(outcome == "answered" for _, outcome in self.outcomes)

    def wait_answers(self, count=8):
        """Until each kind of client was served a few times more."""
        goal = self.answered() + count
        Chord.wait_for(lambda: self.answered() >= goal, 60)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a request has neither an answer nor a status"
        return collections.Counter(self.outcomes)


@pytest.fixture
def topology(tmp_path):
    network = make_network(HOSTS)
    try:
        with network.enter("client"):
            out = Topology(tmp_path, network)
            try:
                yield out
            finally:
                out.stop()
    finally:
        network.close()


def test_no_request_is_lost_while_workers_and_gateways_come_and_go(topology):
    for host in ("language-1", "language-2", "vision-1", "vision-2", "gateway-1", "gateway-2"):
        topology.start(host)
    topology.nginx.start()
    topology.start_prometheus()
    topology.wait_workers(2, 2, 60)
    load = Load(topology.nginx)
    try:
        load.wait_answers(16)
        # Workers die. The gateways ask the other one.
        for worker in ("vision-1", "language-2"):
            topology.kill(worker)
            load.wait_answers()
            topology.start(worker)
            topology.wait_workers(2, 2)
        # Workers are added, then the old ones drained: a rolling update.
        for new, old in (("vision-3", "vision-2"), ("language-3", "language-1")):
            topology.add(new)
            topology.wait_workers(2 + new.startswith("vision"), 2 + new.startswith("language"))
            topology.drain(old)
            topology.wait_workers(2, 2)
            load.wait_answers()
        # A gateway dies, the other one is drained.
        topology.kill("gateway-1")
        load.wait_answers()
        topology.start("gateway-1")
        topology.wait_workers(2, 2)
        topology.drain("gateway-2")
        load.wait_answers()
        topology.start("gateway-2")
        topology.wait_workers(2, 2)
        load.wait_answers()
    finally:
        outcomes = load.stop()
    summary = "\n".join(f"{count:5} {kind:7} {outcome}" for (kind, outcome), count in sorted(outcomes.items()))
    print(f"\n{type(topology.network).__name__}\n{summary}")
    bad = [outcome for outcome in outcomes if outcome[1].startswith(("bad", "lost"))]
    assert not bad, f"{summary}\n{topology.nginx.log()[-2000:]}"
    answered = sum(count for (_, outcome), count in outcomes.items() if outcome == "answered")
    assert answered >= 0.9 * sum(outcomes.values()), summary
    assert {kind for kind, outcome in outcomes if outcome == "answered"} == {"http", "events", "grpc"}
    # All that run have served, the ones that were added included.
    for worker, metric in (("vision-1", "chord_image_patches_count"), ("vision-3", "chord_image_patches_count"),
                           ("language-2", "chord_answer_tokens_count"), ("language-3", "chord_answer_tokens_count")):
        assert topology.metric(worker, metric) > 0, worker
    # Prometheus saw it all: targets up and down, both roles' series, the recording rules.
    up = {sample["metric"]["instance"]: sample["value"][1] for sample in topology.query('up{job="chord"}')}
    assert up[f"{topology.address('gateway-1')}:8080"] == "1" and up[f"{topology.address('vision-2')}:9100"] == "0", up
    assert float(topology.query("sum(chord:requests:rate5m)")[0]["value"][1]) > 0
    assert topology.query("chord:stage_seconds:p95_5m{stage='vision'}") and topology.query("chord:kv_used:ratio")
    assert float(topology.query("min_over_time(sum(up{job='chord'})[1m:1s])")[0]["value"][1]) <= 5
