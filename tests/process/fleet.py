"""Several workers of a role, started by hand through their settings, without a supervisor."""

import contextlib
import json
import os
import signal
import subprocess

from chord_server import BIN, MODEL, Chord


def logged_addresses(log, wait_for):
    """(HTTP, gRPC) that a gateway listens on, by what it wrote to the file `log`."""
    def listening():
        for line in log.read_text(errors="replace").splitlines():
            if '"event":"listening"' in line and '"role":"gateway"' in line:
                entry = json.loads(line)
                return entry["http"], entry["grpc"]
        return None

    wait_for(lambda: log.exists() and listening() is not None)
    return listening()


class Fleet(Chord):
    """A gateway, `vision` and `language` workers: vision-0, language-1, … Ready when all are."""

    def __init__(self, folder, vision=1, language=1, gateway_flags=(), model=MODEL):
        self.folder = folder
        self.processes = {}
        addresses = {name: f"unix:{folder}/{name}.sock" for name in
                     [*(f"vision-{i}" for i in range(vision)), *(f"language-{i}" for i in range(language))]}
        languages = [f"--language_workers={n}={a}" for n, a in addresses.items() if n.startswith("language")]
        visions = [f"--vision_workers={n}={a}" for n, a in addresses.items() if n.startswith("vision")]
        self.commands = {}
        for name, address in addresses.items():
            program, more = ("chord_vision_worker", languages) if name.startswith("vision") else ("chord_llm_worker", [])
            self.commands[name] = [program, f"--address={address}", "--device=cpu", "--threads=1", *more]
        gateway = [*languages, *visions, *gateway_flags]
        self.commands["gateway"] = ["chord_gateway", "--http_address=127.0.0.1:0", "--grpc_address=127.0.0.1:0", *gateway]
        for command in self.commands.values():
            command.append(f"--model_dir={model}")
        for name in self.commands:
            self.start(name)
        self.http_address, self.grpc_address = logged_addresses(folder / "gateway.log", self.wait_for)
        self.wait_for(lambda: self.metric("chord_workers") == vision + language, 120)

    def start(self, name):
        program, *flags = self.commands[name]
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen([str(BIN / program), *flags], stdout=log, stderr=log)

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def pid(self, role):
        return self.processes[role].pid

    def stop(self):
        for process in self.processes.values():
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def read_log(self):
        return "".join((self.folder / f"{name}.log").read_text() for name in self.commands
                       if os.path.exists(self.folder / f"{name}.log"))
