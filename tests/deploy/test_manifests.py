"""Everything in deploy/ is valid, and a broken twin of each is not."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.metrics import MEASURES
from deploy import validate

DEPLOY = validate.DEPLOY
CHECKS: dict[str, Callable[[Any], list[str]]] = {
    "kuberay/rayjob.yaml": validate.of_kuberay,
    "kuberay/raycluster.yaml": validate.of_kuberay,
    "kuberay/networkpolicy.yaml": validate.of_kuberay,
    "kuberay/serviceaccount.yaml": validate.of_kuberay,
    "kuberay/poddisruptionbudget.yaml": validate.of_kuberay,
    "kuberay/submitjob.yaml": validate.of_kuberay,
    "kuberay/kustomization.yaml": validate.of_kuberay,
    "autoscaler/aws.yaml": validate.of_autoscaler,
    "autoscaler/gcp.yaml": validate.of_autoscaler,
    "compose/compose.yaml": validate.of_compose,
    "monitoring/dashboard.json": validate.of_dashboard,
    "monitoring/alerts.yaml": validate.of_alerts,
}
HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec.containers.0"
REMOVED = object()


def changed(manifest: Any, path: str, value: Any) -> Any:
    """A copy with another value at ``path``; keys with dots in them are written with a slash."""
    manifest = copy.deepcopy(manifest)
    *above, last = [int(key) if key.isdigit() else key.replace("/", ".") for key in path.split(".")]
    inner = manifest
    for key in above:
        inner[key] = copy.deepcopy(inner[key])  # not the anchor that other places share
        inner = inner[key]
    if value is REMOVED:
        del inner[last]
    else:
        inner[last] = value
    return manifest


def read(name: str) -> Any:
    return validate.parsed((DEPLOY / name).read_text())


@pytest.mark.parametrize(("name", "against", "problems"), [*validate.everything()])
def test_it_is_valid(name: str, against: str, problems: list[str]):
    assert problems == [], against


def test_everything_is_checked():
    checked = {name for name, *_ in validate.everything()}
    plain = {"README.md", "__init__.py", "validate.py", "sbom.py", "constraints.txt"}
    plain |= {"monitoring/prometheus.yaml", "monitoring/alerts_test.yaml"}
    there = {
        file.relative_to(DEPLOY).as_posix()
        for file in DEPLOY.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in there - checked - plain if not name.startswith("schemas/")} <= {"compose/auth_token"}
    assert CHECKS.keys() <= checked


@pytest.mark.parametrize(
    ("name", "path", "value", "problem"),
    [
        ("kuberay/rayjob.yaml", "spec.backofLimit", 2, "'backofLimit' was unexpected"),
        ("kuberay/rayjob.yaml", "spec.backoffLimit", 100, "100 is greater"),
        ("kuberay/rayjob.yaml", "spec.activeDeadlineSeconds", REMOVED, "'activeDeadlineSeconds' is a required"),
        ("kuberay/rayjob.yaml", "spec.ttlSecondsAfterFinished", REMOVED, "'ttlSecondsAfterFinished' is a required"),
        ("kuberay/rayjob.yaml", "spec.shutdownAfterJobFinishes", False, "True was expected"),
        ("kuberay/rayjob.yaml", "spec.rayClusterSpec.authOptions.mode", "disabled", "'token' was expected"),
        ("kuberay/rayjob.yaml", "spec.rayClusterSpec.rayVersion", "2.9.0", "as in constraints.txt"),
        ("kuberay/rayjob.yaml", "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", "4", "'0' was expected"),
        ("kuberay/rayjob.yaml", f"{HEAD}.image", "registry.example.org/caucus:latest", "does not match"),
        ("kuberay/rayjob.yaml", f"{HEAD}.image", "registry.example.org/caucus", "does not match"),
        ("kuberay/rayjob.yaml", f"{HEAD}.resources.limits.memory", "32Gi", "requests and limits differ"),
        ("kuberay/rayjob.yaml", f"{HEAD}.securityContext.readOnlyRootFilesystem", False, "True was expected"),
        ("kuberay/rayjob.yaml", f"{HEAD}.volumeMounts", [], "nothing at /tmp"),
        ("kuberay/rayjob.yaml", f"{HEAD}.env.0.value", "1", "are valid under the given schema"),
        ("kuberay/rayjob.yaml", f"{HEAD}.env.1.value", "-1", "are valid under the given schema"),
        ("kuberay/rayjob.yaml", f"{HEAD}.env.8", {"name": "CAUCUS_ID_KEY", "value": "k"}, "'valueFrom' is a required"),
        ("kuberay/raycluster.yaml", "spec.headGroupSpec.template.spec.securityContext.runAsNonRoot", False, "True was"),
        ("kuberay/raycluster.yaml", "spec.autoscalerOptions.resources", REMOVED, "'resources' is a required"),
        ("kuberay/raycluster.yaml", "metadata.labels", REMOVED, "'labels' is a required"),
        ("kuberay/raycluster.yaml", "spec.workerGroupSpecs.0.template.spec.tolerations.0.effect", "Never", "is not one of"),
        ("kuberay/raycluster.yaml", "spec.workerGroupSpecs.0.template.spec.terminationGracePeriodSeconds", 0, "less than the minimum"),
        ("kuberay/serviceaccount.yaml", "metadata.annotations", {}, "should be non-empty"),
        ("kuberay/serviceaccount.yaml", "secrets", [], "'secrets' was unexpected"),
        ("kuberay/poddisruptionbudget.yaml", "spec.maxUnavailable", 1, "0 was expected"),
        ("kuberay/submitjob.yaml", "spec.podFailurePolicy", REMOVED, "'podFailurePolicy' is a required"),
        ("kuberay/submitjob.yaml", "spec.podFailurePolicy.rules.0.onExitCodes.values", [2, 4], "is not valid under any"),
        ("kuberay/submitjob.yaml", "spec.template.spec.restartPolicy", "OnFailure", "'Never' was expected"),
        ("kuberay/submitjob.yaml", "spec.template.spec.containers.0.env.2", {"name": "RAY_AUTH_TOKEN", "value": "t"}, "'valueFrom' is a required"),
        ("kuberay/kustomization.yaml", "resources.0", "roles.yaml", "roles.yaml is not there"),
        ("kuberay/kustomization.yaml", "images.0.newTag", "latest", "does not match"),
        ("kuberay/networkpolicy.yaml", "spec.policyTypes", ["Ingress"], "was expected"),
        ("kuberay/networkpolicy.yaml", "spec.ingress.0", {"from": []}, "should be non-empty"),
        ("kuberay/networkpolicy.yaml", "spec.ingress.0.from.0", {"ipBlock": {"cidr": "0.0.0.0/0"}}, "'ipBlock' was unexpected"),
        ("autoscaler/aws.yaml", "max_worker", 2, "'max_worker' was unexpected"),
        ("autoscaler/aws.yaml", "available_node_types.worker.resources.CPU", "16", "'16' is not of type 'integer'"),
        ("autoscaler/aws.yaml", "available_node_types.head.resources.CPU", 4, "no shard is fitted beside the driver"),
        ("autoscaler/aws.yaml", "provider.use_internal_ips", False, "public addresses"),
        ("autoscaler/aws.yaml", "docker.image", "caucus:latest", "expected an image with a version"),
        ("autoscaler/gcp.yaml", "idle_timeout_minutes", "5", "'5' is not of type 'number'"),
        ("autoscaler/gcp.yaml", "worker_start_ray_commands", ["ray start"], "no RAY_AUTH_MODE=token"),
        ("autoscaler/gcp.yaml", "head_start_ray_commands", ["ray start --head --dashboard-host=0.0.0.0"], "listens to everybody"),
        ("compose/compose.yaml", "services.head.user", "0:0", "does not match"),
        ("compose/compose.yaml", "services.head.privileged", True, "'privileged' was unexpected"),
        ("compose/compose.yaml", "services.head.image", "caucus:latest", "does not match"),
        ("compose/compose.yaml", "services.head.ports", ["8265:8265"], "open to the network"),
        ("compose/compose.yaml", "services.head.environment.RAY_AUTH_TOKEN", "abc", "False schema"),
        ("compose/compose.yaml", "services.worker", REMOVED, "does not have enough properties"),
        ("monitoring/dashboard.json", "panels.3.targets.0.expr", "caucus_voters{run='x'}", "caucus_voters: no such metric"),
        ("monitoring/dashboard.json", "panels.3.targets.0.expr", 'caucus_rows{shard="x"}', "shard: no such label"),
        ("monitoring/dashboard.json", "panels.3.gridPos.y", 0, "two lie on each other"),
        ("monitoring/alerts.yaml", "groups.0.rules.1.expr", "caucus_shards_failed_total > 0", "no such metric"),
        ("monitoring/alerts.yaml", "groups.0.rules.1.annotations.do", "", "does not say what to do"),
    ],
)  # fmt: skip
def test_a_broken_twin_is_refused(name: str, path: str, value: Any, problem: str):
    found = CHECKS[name](changed(read(name), path, value))
    assert any(problem in each for each in found), found


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("python:3.11.7-slim-bookworm\n", "python:latest\n", "expected an image with a version"),
        ("USER 1000:1000", "USER root", "expected one who is not root"),
        ("USER 1000:1000\n", "", "USER: not set"),
        ("HEALTHCHECK", "# HEALTHCHECK", "HEALTHCHECK: none"),
        ("-c constraints.txt ", "", "not held to constraints.txt"),
        ("ARG PACKAGES=", "ENV AWS_SECRET_ACCESS_KEY=abcdefgh12345\nARG PACKAGES=", "a secret would be in the image"),
        ("COPY . .", "ADD https://example.org/x.tar .", "ADD of a URL"),
        ("\nFROM ${PYTHON_IMAGE}\n", "\n", "one stage"),
    ],
)
def test_a_broken_dockerfile_is_refused(old: str, new: str, problem: str):
    text = (DEPLOY / "Dockerfile").read_text()
    assert old in text
    found = validate.of_dockerfile(text.replace(old, new), (validate.ROOT / ".dockerignore").read_text())
    assert any(problem in each for each in found), found


def test_an_image_without_a_package_or_with_data_is_refused():
    text, ignored = (DEPLOY / "Dockerfile").read_text(), (validate.ROOT / ".dockerignore").read_text()
    assert validate.of_dockerfile(text, ignored.replace("!sharding\n", "")) == [".dockerignore: leaves out sharding"]
    assert any(
        "could get into the image" in each for each in validate.of_dockerfile(text, ignored.replace("*\n!py", "!py", 1))
    )


def test_a_broken_script_is_refused():
    text = (DEPLOY / "slurm" / "caucus.sbatch").read_text()
    assert any("bash -n" in problem for problem in validate.of_script(text.replace("\nfi\n", "\n", 1)))
    for needed in (
        "set -euo pipefail",
        "RAY_AUTH_MODE=token",
        "trap finish EXIT",
        "RAY_task_oom_retries=3",
        "umask 077",
    ):
        assert len(validate.of_script(text.replace(needed, ""))) == 1
    assert validate.of_script(text + "\nexport AWS_SECRET_ACCESS_KEY=abcdefgh12345\n") == ["a secret in the script"]


def test_a_resource_definition_refuses_unknown_fields_and_types():
    definition = {
        "spec": {
            "group": "ray.io",
            "names": {"kind": "RayJob"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "apiVersion": {"type": "string"}, "kind": {"type": "string"},
                    "spec": {"type": "object", "properties": {
                        "backoffLimit": {"type": "integer"},
                        "cpu": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {}},
                    }},
                },
            }}}],
        }
    }  # fmt: skip
    good = {"apiVersion": "ray.io/v1", "kind": "RayJob", "spec": {"backoffLimit": 1, "cpu": "2", "free": {"x": 1}}}
    assert validate.of_crd(good, definition) == []
    assert "'backofLimit' was unexpected" in validate.of_crd(changed(good, "spec.backofLimit", 1), definition)[0]
    assert "not of type 'integer'" in validate.of_crd(changed(good, "spec.backoffLimit", "1"), definition)[0]
    assert "does not define" in validate.of_crd(changed(good, "kind", "RayService"), definition)[0]


def test_the_command_says_what_is_bad(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert validate.main([]) == 0
    assert "bad" not in capsys.readouterr().out
    monkeypatch.setattr(validate, "everything", lambda: iter([("x.yaml", "schema", ["spec: wrong"])]))
    assert validate.main([]) == 1
    assert capsys.readouterr().out == "bad   deploy/x.yaml (schema)\n        spec: wrong\n"


def test_every_measure_is_on_the_dashboard():
    text = (DEPLOY / "monitoring" / "dashboard.json").read_text()
    assert [measure.name for measure in MEASURES if measure.name not in text] == []
    assert json.loads(text)["uid"] == "caucus-runs"
