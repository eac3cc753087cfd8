"""Files for one host: systemd units, users, folders, logrotate, supervisord. Each is given to the program that reads it,
with the paths of a test in place of /opt/chord, /etc/chord and /var/log/chord."""

import contextlib
import os
import pwd
import re
import signal
import subprocess

import pytest
import yaml
from chord_server import BIN, MODEL, Chord
from deployed import DEPLOY, free_port, serve_takes_settings, tool

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)


@pytest.fixture
def settings(tmp_path):
    """deploy/config/chord.yaml with free ports, and the arguments of `chord serve` that read it."""
    http, grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    content = yaml.safe_load((DEPLOY / "config/chord.yaml").read_text())
    content["gateway"].update(http_address=http, grpc_address=grpc)
    path = tmp_path / "chord.yaml"
    path.write_text(yaml.safe_dump(content))
    arguments = f"--config {path}" if serve_takes_settings() else f"--http {http} --grpc {grpc}"
    return http, path, arguments


# --- systemd -----------------------------------------------------------------------------------------

@pytest.mark.skipif(tool("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_units_are_understood_by_systemd(tmp_path):
    for unit in UNITS:
        text = unit.read_text().replace("/opt/chord/bin", str(BIN))
        (tmp_path / unit.name).write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", *(tmp_path / unit.name for unit in UNITS))
    assert done.returncode == 0 and str(tmp_path) not in done.stderr, done.stderr


@pytest.mark.skipif(tool("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", [unit.name for unit in UNITS])
def test_units_expose_little(unit):
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=25", DEPLOY / "systemd" / unit)
    assert done.returncode == 0, done.stdout


def test_units_do_not_restart_what_a_restart_cannot_help_and_wait_for_drains():
    settings = yaml.safe_load((DEPLOY / "config/fleet.yaml").read_text())
    for unit in UNITS:
        text = unit.read_text()
        assert "RestartPreventExitStatus=2\n" in text and "User=chord\n" in text
        role = {"chord-gateway": "gateway", "chord-vision-worker": "vision_worker", "chord-llm-worker": "llm_worker"}.get(unit.stem)
        stop = int(re.search(r"TimeoutStopSec=(\d+)", text).group(1))
        if role:
            assert stop > settings[role]["drain_seconds"] + settings[role].get("lame_duck_seconds", 0)


@pytest.mark.skipif(tool("systemd-sysusers") is None or tool("systemd-tmpfiles") is None or os.geteuid() != 0,
                    reason="systemd-sysusers and root are needed")
def test_user_and_folders_are_made(tmp_path):
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}", DEPLOY / "sysusers.d/chord.conf")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("chord:")]
    uid = int(line.split(":")[2])
    assert line.endswith("/nologin")
    done = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", DEPLOY / "tmpfiles.d/chord.conf")
    assert done.returncode == 0, done.stderr
    for name, mode, owner in (("var/log/chord", 0o750, uid), ("run/chord", 0o700, uid), ("etc/chord", 0o750, 0)):
        made = (tmp_path / name).stat()
        assert (made.st_mode & 0o777, made.st_uid) == (mode, owner), name


# --- logrotate ------------------------------------------------------------------------------------------

@pytest.mark.skipif(tool("logrotate") is None, reason="logrotate is not installed: tools/setup.sh --ops")
def test_logrotate_moves_files_and_makes_none(tmp_path):
    user = pwd.getpwuid(os.geteuid()).pw_name
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o700)
    (logs / "gateway.log").write_text('{"event":"ready"}\n')
    rules = tmp_path / "chord"
    text = (DEPLOY / "logrotate/chord").read_text()
    rules.write_text(text.replace("/var/log/chord", str(logs)).replace("su chord chord", f"su {user} {user}"))
    rules.chmod(0o600)
    checked = run(tool("logrotate"), "-d", rules)
    assert checked.returncode == 0 and "error" not in checked.stderr, checked.stderr
    done = run(tool("logrotate"), "--force", "--state", tmp_path / "state", rules)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in logs.iterdir()] == ["gateway.log.1"]
    (logs / "gateway.log").write_text('{"event":"stopped"}\n')  # as the process does when its file was moved
    assert run(tool("logrotate"), "--force", "--state", tmp_path / "state", rules).returncode == 0
    assert sorted(path.name for path in logs.iterdir()) == ["gateway.log.1", "gateway.log.2.gz"]


# --- supervisord -----------------------------------------------------------------------------------------

class Supervisord:
    def __init__(self, folder, conf, arguments, replace=()):
        text = (DEPLOY / "supervisord" / conf).read_text()
        for old, new in (("/opt/chord/bin", str(BIN)), ("--config /etc/chord/chord.yaml", arguments), ("user=chord\n", ""),
                         ("/var/log/chord", str(folder)), ("/run/chord", str(folder)), *replace):
            assert old in text, old
            text = text.replace(old, new)
        (folder / "chord.conf").write_text(text)
        main = folder / "supervisord.conf"
        main.write_text(f"[supervisord]\nnodaemon=true\nlogfile={folder}/supervisord.log\npidfile={folder}/pid\n"
                        f"[unix_http_server]\nfile={folder}/sock\n[supervisorctl]\nserverurl=unix://{folder}/sock\n"
                        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
                        f"[include]\nfiles={folder}/chord.conf\n")
        self.main, self.folder = main, folder
        with open(folder / "out", "wb") as out:
            self.process = subprocess.Popen([tool("supervisord"), "-c", str(main)], stdout=out, stderr=out)

    def status(self):
        return run(tool("supervisorctl"), "-c", self.main, "status", "chord").stdout.split()

    def pid(self):
        words = self.status()
        return int(words[3].rstrip(",")) if words[1:2] == ["RUNNING"] else None

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(90)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def ready(address):
    with contextlib.suppress(OSError):
        return Chord.request(type("At", (), {"http_address": address}), "GET", "/readyz").status == 200
    return False


@pytest.mark.skipif(tool("supervisord") is None, reason="supervisord is not installed: tools/setup.sh --ops")
def test_supervisord_runs_restarts_and_ends_chord(tmp_path, settings):
    http, _, arguments = settings
    supervisord = Supervisord(tmp_path, "chord.conf", arguments + " --threads 1")
    try:
        Chord.wait_for(lambda: ready(http), 60)
        Chord.wait_for(lambda: supervisord.pid() is not None, 30)
        first = supervisord.pid()
        os.kill(first, signal.SIGKILL)
        Chord.wait_for(lambda: supervisord.pid() not in (None, first), 30)
        Chord.wait_for(lambda: ready(http), 60)
        assert '"event":"ready"' in (tmp_path / "chord.jsonl").read_text()
        done = run(tool("supervisorctl"), "-c", supervisord.main, "stop", "chord")
        assert "stopped" in done.stdout
        assert "exit status 0" in (tmp_path / "supervisord.log").read_text()  # not killed
    finally:
        supervisord.stop()


@pytest.mark.skipif(tool("supervisord") is None, reason="supervisord is not installed: tools/setup.sh --ops")
def test_supervisord_gives_up_on_wrong_settings(tmp_path):
    supervisord = Supervisord(tmp_path, "chord.conf", "--no-such-setting 1", [("startretries=10", "startretries=1")])
    try:
        Chord.wait_for(lambda: supervisord.status()[1:2] == ["FATAL"], 30)
        assert (tmp_path / "supervisord.log").read_text().count("spawned: 'chord'") == 2
        assert "no-such-setting" in (tmp_path / "chord.jsonl").read_text()
    finally:
        supervisord.stop()


# --- settings -----------------------------------------------------------------------------------------------

@pytest.mark.skipif(not serve_takes_settings(), reason="this build has no settings file")
@pytest.mark.parametrize("path", sorted((DEPLOY / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_settings_are_what_chord_takes(path, tmp_path):
    content = {**yaml.safe_load(path.read_text()), "model_dir": str(MODEL)}
    copy = tmp_path / path.name
    copy.write_text(yaml.safe_dump(content))
    done = run(BIN / "chord", "config", "check", copy)
    assert done.returncode == 0, done.stdout + done.stderr
