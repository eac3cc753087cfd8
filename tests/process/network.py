"""Hosts of a test: network namespaces on one bridge where that is permitted, else addresses of 127.0.0.0/8.

In namespaces every host has an address of its own, 192.0.2.N (RFC 5737), and names are looked up in a file that a test
changes while processes run, as the DNS of compose and Kubernetes does. Nothing of it is in the host's own namespace."""

import contextlib
import ctypes
import os
import pathlib
import shutil
import subprocess

CLONE_NEWNET = 0x40000000
HOSTS_BYTES = 2048


def _ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True)


class Loopback:
    """All hosts in this namespace, told apart by address. Names cannot be looked up."""

    has_names = False

    def __init__(self, hosts):
        self.addresses = {host: f"127.0.0.{number}" for host, number in hosts.items()}

    def command(self, host):
        return []

    def enter(self, host):
        return contextlib.nullcontext()

    def close(self):
        pass


class Namespaces:
    has_names = True

    def __init__(self, hosts):
        self.prefix = f"chord{os.getpid()}"
        self.addresses = {host: f"192.0.2.{number}" for host, number in hosts.items()}
        self.names = {}
        self.made = []
        try:
            self._add("switch")
            switch = self._space("switch")
            _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", switch, "link", "set", "bridge", "up")
            for number, (host, address) in enumerate(self.addresses.items()):
                self._add(host)
                space = self._space(host)
                _ip("-n", switch, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
                _ip("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
                _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
                _ip("-n", space, "link", "set", "eth0", "up")
                _ip("-n", space, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def _space(self, host):
        return f"{self.prefix}-{host}"

    def _add(self, host):
        _ip("netns", "add", self._space(host))
        self.made.append(host)
        folder = pathlib.Path("/etc/netns") / self._space(host)
        folder.mkdir(parents=True)
        (folder / "hosts").write_bytes(b" " * HOSTS_BYTES)

    def command(self, host):
        """In front of a command that shall run on the host."""
        return ["ip", "netns", "exec", self._space(host)]

    def set_name(self, name, hosts):
        """What the name means to every host from now on: no lookup sees half of a change."""
        self.names[name] = [self.addresses[host] for host in hosts]
        lines = ["127.0.0.1 localhost", *(f"{address} {n}" for n, addresses in self.names.items() for address in addresses)]
        data = ("\n".join(lines) + "\n").encode().ljust(HOSTS_BYTES, b"\n")
        for host in self.made:
            with open(pathlib.Path("/etc/netns") / self._space(host) / "hosts", "r+b") as file:
                os.pwrite(file.fileno(), data, 0)  # in place: running processes have this very file

    @contextlib.contextmanager
    def enter(self, host):
        """This thread, and those it starts, open their sockets on the host."""
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(path):
            with open(path) as file:
                if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")

        with open("/proc/thread-self/ns/net") as own:
            enter(f"/run/netns/{self._space(host)}")
            try:
                yield
            finally:
                if libc.setns(own.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")

    def close(self):
        for host in reversed(self.made):
            subprocess.run(["ip", "netns", "del", self._space(host)], capture_output=True)
            shutil.rmtree(pathlib.Path("/etc/netns") / self._space(host), ignore_errors=True)
        self.made = []


def make_network(hosts):
    """hosts: {name: number, 1 to 254}. CHORD_TEST_NETWORK=loopback does without namespaces."""
    if os.geteuid() == 0 and shutil.which("ip") and os.environ.get("CHORD_TEST_NETWORK") != "loopback":
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            return Namespaces(hosts)
    return Loopback(hosts)
