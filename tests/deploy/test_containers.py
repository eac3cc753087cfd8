"""Compose files and what goes into the image. The image itself is built by `make image`; docs/operations.md has how that
was checked without a container engine."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from chord_server import BIN, ROOT
from deployed import DEPLOY, help_of, tool
from proxy import NGINX, SHIPPED, make_certificate

COMPOSE = DEPLOY / "compose"
FILES = {"one host": ["compose.yaml"], "one host, GPU": ["compose.yaml", "compose.gpu.yaml"],
         "fleet": ["compose.fleet.yaml"], "hybrid": ["compose.fleet.yaml", "compose.hybrid.yaml"]}


def compose_command():
    if tool("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return [tool("docker-compose")] if tool("docker-compose") else None


@pytest.fixture(scope="module", params=FILES, ids=FILES.keys())
def project(request):
    if compose_command() is None:
        pytest.skip("docker-compose is not installed: tools/setup.sh --ops")
    files = [option for name in FILES[request.param] for option in ("-f", str(COMPOSE / name))]
    done = subprocess.run([*compose_command(), *files, "--profile", "proxy", "--profile", "monitoring", "config"],
                          capture_output=True, text=True, env={**os.environ, "MODEL_DIR": ""})
    assert done.returncode == 0, done.stderr
    return request.param, yaml.safe_load(done.stdout)


def chord_services(project):
    return {name: s for name, s in project["services"].items() if s["image"].startswith("chord:")}


def test_containers_have_no_rights(project):
    for name, service in chord_services(project[1]).items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and "privileged" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all("ro" in volume if isinstance(volume, str) else volume["read_only"] for volume in service["volumes"]), name
        assert service["stop_grace_period"] in ("90s", "1m30s")


def test_commands_are_what_the_programs_take(project):
    for name, service in chord_services(project[1]).items():
        command = service["command"]
        program = service.get("entrypoint", ["/opt/chord/bin/chord"])[0].rsplit("/", 1)[1]
        text = help_of(program, *(["serve"] if program == "chord" else []))
        for part in command:
            flag = re.match(r"--([a-z_-]+)", part)
            if flag:
                assert flag.group(1) in text, (name, part)


def test_gpus_are_asked_for_where_the_name_says_so(project):
    name, content = project
    with_gpu = {n for n, s in content["services"].items() if "devices" in str(s.get("deploy"))}
    assert with_gpu == {"one host, GPU": {"chord"}, "hybrid": {"vision"}}.get(name, set())
    for service in with_gpu:
        assert content["services"][service]["image"].endswith("-cuda")


def test_mounted_files_are_there(project):
    for name, service in project[1]["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0] if isinstance(volume, str) else volume["source"]
            if source.startswith("/") and "/secrets/" not in source:
                assert os.path.exists(source), (name, source)


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed: tools/setup.sh --ops")
@pytest.mark.parametrize("name", ["upstreams.one.conf", "upstreams.fleet.conf"])
def test_nginx_takes_the_upstreams(name, tmp_path):
    make_certificate(tmp_path / "tls")
    (tmp_path / "htpasswd").write_text("")
    (tmp_path / "upstreams.conf").write_text((COMPOSE / name).read_text())
    (tmp_path / "nginx.conf").write_text((SHIPPED / "nginx.conf").read_text().replace("/var/log/nginx/", f"{tmp_path}/"))
    done = subprocess.run([NGINX, "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-g", f"pid {tmp_path}/pid;"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "[warn]" not in done.stderr.replace('"user" directive', ""), done.stderr


def test_upstreams_are_the_addresses_of_the_gateways():
    for name, upstreams in (("compose.yaml", "upstreams.one.conf"), ("compose.fleet.yaml", "upstreams.fleet.conf")):
        services = yaml.safe_load((COMPOSE / name).read_text())["services"]
        fixed = {s["networks"]["chord"]["ipv4_address"] for s in services.values() if isinstance(s["networks"], dict)}
        assert set(re.findall(r"server ([0-9.]+):8080", (COMPOSE / upstreams).read_text())) == fixed
        assert set(re.findall(r"server ([0-9.]+):50051", (COMPOSE / upstreams).read_text())) == fixed


def test_the_context_of_the_image_has_what_the_build_reads():
    """Folders that CMake adds, and scripts of the Dockerfile, are not ignored."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    wanted = [f for f in re.findall(r"add_subdirectory\((\w+)\)", (ROOT / "CMakeLists.txt").read_text()) if f not in ("tests", "bench")]
    wanted += ["cmake", "models/chord-nano", "web", "tools/setup.sh", "tools/steps.sh", "deploy/docker", "README.md", "LICENSE"]
    assert not [name for name in wanted if not any(name == k or name.startswith(k + "/") for k in kept)]


def test_the_bill_of_materials_names_packages_and_files(tmp_path):
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/chord").write_bytes(b"program")
    (tree / "libtorch_cpu.so").write_bytes(b"library")
    site = tmp_path / "site"
    (site / "torch-2.11.0.dist-info").mkdir(parents=True)
    (site / "torch-2.11.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0\nLicense: BSD-3-Clause\n\ntext\n")
    (site / "torch-2.11.0.dist-info/RECORD").write_text("torch/lib/libtorch_cpu.so,sha256=x,1\n")
    (tmp_path / "status").write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.36-9\n\n"
        "Package: old\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n")
    done = subprocess.run([sys.executable, DEPLOY / "docker/sbom.py", "--dpkg-status", tmp_path / "status", "--tree", tree,
                           "--site-packages", site, "--name", "chord-cpu"],
                          capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["spdxVersion"] == "SPDX-2.3" and document["creationInfo"]["created"] == "1970-01-01T00:00:00Z"
    assert [p["name"] for p in document["packages"]] == ["chord", "libc6", "torch"]
    assert document["packages"][1]["externalRefs"][0]["referenceLocator"].startswith("pkg:deb/debian/libc6@2.36-9?arch=amd64")
    assert document["packages"][2]["licenseDeclared"] == "BSD-3-Clause"
    assert {f["fileName"] for f in document["files"]} == {"./bin/chord", "./libtorch_cpu.so"}
    ids = {"SPDXRef-DOCUMENT"} | {x["SPDXID"] for x in document["packages"] + document["files"]}
    for relation in document["relationships"]:
        assert {relation["spdxElementId"], relation["relatedSpdxElement"]} <= ids


@pytest.mark.skipif(not (BIN / "chord").is_file(), reason="the programs are not built")
def test_the_packages_of_the_image_are_few():
    """What the programs load, from the system: no Python, no compiler, no Boost."""
    loaded = set()
    for program in BIN.iterdir():
        done = subprocess.run(["ldd", program], capture_output=True, text=True)
        loaded |= set(re.findall(r"=> (/(?:usr/)?lib/x86_64-linux-gnu/\S+)", done.stdout))
    assert loaded and not [library for library in loaded if re.search(r"python|boost|clang|gtk|qt", library, re.I)]
