#!/usr/bin/env python3
"""Renders the Helm chart into the plain manifests of deploy/kubernetes, with Helm's own engine.

    tools/render_manifests.py            writes deploy/kubernetes/*.yaml
    tools/render_manifests.py --check    exit code 1 when a file there is not what the chart gives

Needs tools/setup.sh --ops. `helm template chord deploy/helm/chord -n chord -f VALUES` gives the same.
"""
import pathlib
import sys

import helm_python as helm
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/helm/chord"
RULES = ROOT / "deploy/prometheus/rules.yaml"  # Helm reads no file outside the chart: a copy is in it
OUT = ROOT / "deploy/kubernetes"
# File name -> values. Each is a whole installation.
VARIANTS = {
    "cpu.yaml": {},
    "gpu.yaml": "gpu-values.yaml",
    "hybrid.yaml": "hybrid-values.yaml",
    "keda.yaml": "keda-values.yaml",
}


def values_of(variant):
    return yaml.safe_load((CHART / "examples" / variant).read_text()) if variant else {}


def render(values, name="chord", namespace="chord"):
    """The manifests of a release, in the order Helm would apply them by file."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace=namespace)
    return "".join(f"---\n# {path}\n{text.strip()}\n" for path, text in sorted(files.items())
                   if text.strip() and not path.endswith("NOTES.txt"))


def contents(name):
    header = (f"# Rendered from deploy/helm/chord{' with examples/' + VARIANTS[name] if VARIANTS[name] else ''} by "
              f"`make manifests`; change the chart, not this file.\n# kubectl create namespace chord; "
              f"kubectl apply -n chord -f {name}\n")
    return header + render(values_of(VARIANTS[name]))


def main():
    check = "--check" in sys.argv[1:]
    stale = []
    OUT.mkdir(exist_ok=True)
    copy = CHART / "files/rules.yaml"
    if not check:
        copy.write_text(RULES.read_text())
    elif copy.read_text() != RULES.read_text():
        stale.append(str(copy.relative_to(ROOT)))
    for name in VARIANTS:
        text, path = contents(name), OUT / name
        if check:
            if not path.is_file() or path.read_text() != text:
                stale.append(name)
        else:
            path.write_text(text)
            print(f"{path.relative_to(ROOT)}: {text.count(chr(10) + 'kind: ')} objects")
    if stale:
        print(f"Not what the chart and the rules give: {', '.join(stale)}. Run make manifests.")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
