"""nginx with the configuration of deploy/nginx, on ports of a test: certificate, users and upstreams are made here,
everything else is the shipped file."""

import http.client
import os
import pathlib
import shutil
import ssl
import subprocess

from chord_server import ROOT, Chord

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
SHIPPED = ROOT / "deploy" / "nginx"
USERS = {f"user{i}": f"secret{i}" for i in range(8)}
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def make_certificate(folder, name="localhost"):
    folder.mkdir(exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                    "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},DNS:localhost",
                    "-keyout", folder / "tls.key", "-out", folder / "tls.crt"], check=True, capture_output=True)


def upstreams(gateways):
    """deploy/nginx/upstreams.conf with other gateways: [(http address, grpc address)]."""
    lines = []
    for line in (SHIPPED / "upstreams.conf").read_text().splitlines():
        if line.strip().startswith("server 127.0.0.1:"):
            column = 0 if ":8080 " in line else 1
            tail = line.split(" ", line.index("server") + 2)[-1]
            lines += [f"    server {gateway[column]} {tail}" for gateway in gateways]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


class Nginx:
    """`address`: host:port of TLS. `prefix`: a command that runs nginx elsewhere (a network namespace)."""

    def __init__(self, folder, gateways, https, plain, prefix=(), replace=()):
        self.folder, self.https, self.plain = pathlib.Path(folder), https, plain
        self.folder.mkdir(exist_ok=True)
        make_certificate(self.folder / "tls")
        entries = []
        for user, password in USERS.items():
            digest = subprocess.run(["openssl", "passwd", "-6", password], check=True, capture_output=True, text=True).stdout
            entries.append(f"{user}:{digest.strip()}\n")
        (self.folder / "htpasswd").write_text("".join(entries))
        (self.folder / "upstreams.conf").write_text(upstreams(gateways))
        text = (SHIPPED / "nginx.conf").read_text()
        own = "".join(f"    {name}_temp_path {self.folder}/{name};\n" for name in TEMPORARY)
        for old, new in (("listen 443 ssl", f"listen {https} ssl"), ("listen 80;", f"listen {plain};"),
                         ("http {\n", "http {\n" + own), ("/var/log/nginx/", f"{self.folder}/"),
                         ("worker_processes auto;", "worker_processes 1;"), *replace):
            assert old in text, old
            text = text.replace(old, new)
        if os.geteuid() == 0:
            text = "user root;\n" + text  # the folder of a test is its owner's alone
        (self.folder / "nginx.conf").write_text(text)
        self.command = [*prefix, NGINX, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-g",
                        f"daemon off; pid {self.folder}/nginx.pid;"]
        self.process = None

    def check(self):
        return subprocess.run([*self.command, "-t"], capture_output=True, text=True)

    def start(self):
        self.errors = open(self.folder / "stderr", "wb")
        self.process = subprocess.Popen(self.command, stdout=self.errors, stderr=self.errors)
        Chord.wait_for(lambda: (self.folder / "nginx.pid").is_file() and (self.folder / "nginx.pid").read_text().strip(), 20)
        return self

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.errors.close()

    def log(self):
        return "".join((self.folder / name).read_text() for name in ("stderr", "error.log") if (self.folder / name).is_file())

    def tls(self):
        """Trusts the proxy's certificate, at whatever address it listens."""
        context = ssl.create_default_context(cafile=self.folder / "tls" / "tls.crt")
        context.check_hostname = False
        return context

    def connect(self, timeout=60):
        host, port = self.https.rsplit(":", 1)
        return http.client.HTTPSConnection(host, int(port), timeout=timeout, context=self.tls())
