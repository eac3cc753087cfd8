#!/usr/bin/env python3
"""Checks what docs/architecture.md promises of the source tree. Prints one line per breach, exits 1 on any.

* A folder of common/ includes itself and folders named before it in common/CMakeLists.txt.
* A service includes common/ and itself, never another service. Nothing includes tests/ or tools/.
* Heavy libraries stay behind one wall each (WALLS).
* A header begins with #pragma once.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')

# An include that matches the pattern may stand only under these folders.
WALLS = [
    (r"(ATen|torch|c10|caffe2)/", ["common/engine/"]),
    (r"(cuda|cublas|cudnn)[a-zA-Z_]*\.h", ["common/engine/"]),
    (r"opencv2/", ["services/cli/plot/"]),
    (r"(jpeglib|png|webp/.*)\.h|webp/", ["common/image/"]),
    (r"boost/", ["common/http/", "services/gateway/http/"]),
    (r"yaml-cpp/", ["common/config/"]),
    (r"prometheus/", ["common/obs/", "common/http/"]),
    (r"(grpc|grpcpp)/|chord/.*\.pb\.h", ["common/api/", "common/config/", "common/rpc/", "common/process/", "services/"]),
]


def sources():
    found = (p for top in ("common", "services") for p in (ROOT / top).rglob("*"))
    return sorted(str(p.relative_to(ROOT)) for p in found if p.suffix in (".h", ".cc", ".cu", ".cuh"))


def common_order():
    text = (ROOT / "common/CMakeLists.txt").read_text(encoding="utf-8")
    return re.findall(r"^\s*add_subdirectory\((\w+)\)", text, re.MULTILINE)


def breach(name, include, order):
    """Why `name` may not include `include`, or None."""
    here, there = name.split("/"), include.split("/")
    if there[0] in ("tests", "tools"):
        return "nothing includes tests/ or tools/"
    if here[0] == "common":
        if there[0] == "services":
            return "common/ knows no service"
        if there[0] == "common" and order.index(there[1]) > order.index(here[1]):
            return f"common/{there[1]} comes after common/{here[1]} in common/CMakeLists.txt"
    if here[0] == there[0] == "services" and here[1] != there[1]:
        return "a service includes no other service"
    for pattern, homes in WALLS:
        if re.match(pattern, include) and not any(name.startswith(home) for home in homes):
            return "allowed only in " + ", ".join(homes)
    return None


def main():
    order = common_order()
    breaches = []
    files = sources()
    for name in files:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        if name.endswith((".h", ".cuh")) and "#pragma once" not in lines:
            breaches.append(f"{name}: no #pragma once")
        for number, line in enumerate(lines, 1):
            found = INCLUDE.match(line)
            why = found and breach(name, found.group(1), order)
            if why:
                breaches.append(f"{name}:{number}: {found.group(1)}: {why}")
    print("\n".join(breaches) if breaches else f"include order: {len(files)} files")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
