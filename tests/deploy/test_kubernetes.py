"""The Helm chart: rendered by Helm's own engine, checked against the schemas of Kubernetes, and its promises."""

import pathlib
import subprocess
import sys

import pytest
import yaml
from chord_server import BIN

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
try:
    import helm_python as helm
    import kubernetes_validate
    import render_manifests
except ImportError as error:
    MISSING = error.name
else:
    MISSING = None
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"{MISSING} is not installed: tools/setup.sh --ops")

OLDEST = "1.27"  # that the chart takes
CUSTOM = {"keda.sh/v1alpha1": ("ScaledObject",), "monitoring.coreos.com/v1": ("PodMonitor", "PrometheusRule")}
EVERYTHING = {
    "gateway": {"tlsSecret": "chord-tls", "apiKeysSecret": "chord-keys", "trustedProxies": ["10.0.0.0/8"],
                "extraArgs": ["--max_in_flight=128"], "autoscaling": {"enabled": True}},
    "vision": {"autoscaling": {"enabled": True}, "gpu": {"enabled": True}, "nodeSelector": {"gpu": "yes"}},
    "language": {"autoscaling": {"enabled": True}, "podAnnotations": {"a": "b"}},
    "model": {"hostPath": "/models"}, "podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True},
    "networkPolicy": {"gatewayFrom": [{"namespaceSelector": {}}]}, "imagePullSecrets": [{"name": "r"}],
}


def objects(values):
    return [o for o in yaml.safe_load_all(render_manifests.render(values)) if o]


def all_variants():
    if MISSING:
        return
    yield from ((name, render_manifests.values_of(variant)) for name, variant in render_manifests.VARIANTS.items())
    yield "everything", EVERYTHING
    yield "minimum", {"networkPolicy": {"enabled": False}, "topologySpread": {"enabled": False}, "serviceAccount": {"create": False},
                      **{role: {"podDisruptionBudget": {"enabled": False}} for role in ("gateway", "vision", "language")}}


def of(found, kind, component=None):
    return [o for o in found if o["kind"] == kind and
            component in (None, o["metadata"]["labels"]["app.kubernetes.io/component"])]


def pods(found):
    return {o["metadata"]["labels"]["app.kubernetes.io/component"]: o["spec"]["template"]["spec"] for o in of(found, "Deployment")}


@pytest.mark.parametrize("name,values", list(all_variants()))
def test_every_object_keeps_the_schemas_of_kubernetes(name, values):
    found = objects(values)
    assert len(of(found, "Deployment")) == 3 and len(of(found, "Service")) == 3
    for o in found:
        if o["kind"] in CUSTOM.get(o["apiVersion"], ()):
            continue
        for version in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(o, version, strict=True)
    names = [(o["kind"], o["metadata"]["name"]) for o in found]
    assert len(names) == len(set(names))


def test_the_plain_manifests_are_what_the_chart_gives():
    done = subprocess.run([sys.executable, ROOT / "tools/render_manifests.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_has_no_lint():
    findings = helm.lint(str(render_manifests.CHART))
    assert not findings["errors"] and all(m["error"] == "icon is recommended" for m in findings["messages"]), findings


@pytest.mark.parametrize("values", [
    {"gatway": {}}, {"gateway": {"replicas": -1}}, {"vision": {"device": "gpu"}}, {"language": {"extraArgs": ["max_queue 3"]}},
    {"model": {"path": "models"}}, {"autoscaling": {"kind": "vpa"}}, {"image": {"repository": ""}}])
def test_wrong_values_are_refused(values):
    with pytest.raises(helm.HelmError):
        objects(values)


@pytest.mark.parametrize("name,values", list(all_variants()))
def test_pods_have_no_rights_and_end_in_time(name, values):
    for component, pod in pods(objects(values)).items():
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"] and not pod["enableServiceLinks"]
        assert all(mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] != "tmp")
        drain = next(int(a.split("=")[1]) for a in container["args"] if a.startswith("--drain_seconds="))
        lame_duck = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pod["terminationGracePeriodSeconds"] > lame_duck + drain
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        assert container["resources"]["limits"]["memory"]


def test_liveness_does_not_depend_on_a_peer():
    for component, pod in pods(objects({})).items():
        probe = pod["containers"][0]["livenessProbe"]
        assert probe.get("httpGet", {}).get("path") == "/healthz" or probe["grpc"].keys() == {"port"}


def test_a_gpu_is_asked_for_by_limit_and_image():
    vision = pods(objects({"vision": {"gpu": {"enabled": True, "count": 2}}}))["vision"]["containers"][0]
    assert vision["resources"]["limits"]["nvidia.com/gpu"] == 2 and vision["image"] == "chord:0.1.0-cuda"
    language = pods(objects({"vision": {"gpu": {"enabled": True}}}))["language"]["containers"][0]
    assert "nvidia.com/gpu" not in language["resources"]["limits"] and language["image"] == "chord:0.1.0"


def test_names_of_workers_are_the_headless_services():
    found = objects({})
    headless = {s["metadata"]["name"]: s["spec"]["ports"][0]["port"] for s in of(found, "Service") if s["spec"].get("clusterIP") == "None"}
    assert headless == {"chord-vision": 50061, "chord-language": 50062}
    for pod in pods(found).values():
        for argument in pod["containers"][0]["args"]:
            if "_workers=" in argument:
                _, name, port = argument.split("=", 2)[2].split(":")
                assert headless[name] == int(port)


def test_policies_open_the_paths_that_requests_take_and_no_other():
    policies = {o["metadata"]["labels"]["app.kubernetes.io/component"]: o["spec"] for o in of(objects({}), "NetworkPolicy")}
    allowed = set()
    for target in ("vision", "language"):
        for rule in policies[target]["ingress"]:
            for peer in rule["from"]:
                if "podSelector" in peer:
                    allowed.add((peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"], target))
    assert allowed == {("gateway", "vision"), ("gateway", "language"), ("vision", "language")}
    outward = {(source, peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
               for source, policy in policies.items() for rule in policy["egress"] for peer in rule["to"] if "podSelector" in peer}
    assert outward == allowed and policies["language"]["egress"] == []


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_workers_scale_by_the_requests_that_wait(kind):
    found = objects({"autoscaling": {"kind": kind}, "vision": {"autoscaling": {"enabled": True}}})
    deployment = of(found, "Deployment", "vision")[0]
    assert "replicas" not in deployment["spec"]  # the autoscaler's
    scaler = of(found, "HorizontalPodAutoscaler" if kind == "hpa" else "ScaledObject", "vision")[0]["spec"]
    assert "chord_queue_depth" in str(scaler) and "encode" in str(scaler)
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


@pytest.mark.skipif(not (BIN / "chord_gateway").is_file(), reason="the programs are not built")
@pytest.mark.parametrize("name,values", list(all_variants()))
def test_the_programs_take_the_arguments(name, values):
    """A flag that a program does not know is exit code 2 with its name."""
    for component, pod in pods(objects(values)).items():
        (container,) = pod["containers"]
        program = BIN / pathlib.PurePath(container["command"][0]).name
        known = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
        for argument in container["args"]:
            flag = argument.split("=")[0]
            assert f"{flag}=" in known or f"{flag.removeprefix('--')}" in known, (component, argument)
