"""Validate everything in deploy/, offline: `python -m deploy.validate [--crds DIR]`.

Each file is checked against a schema (Ray's own for the autoscaler, ours in `schemas/` for the fields that the others use) and
against what a schema cannot say. With ``--crds`` KubeRay's manifests are checked against KubeRay's resource definitions too,
unknown fields refused. Rules in CEL, which only a Kubernetes server evaluates, are counted and not checked.
"""

import argparse
import copy
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
from ruamel.yaml import YAML

from cluster.metrics import MEASURES

DEPLOY = Path(__file__).resolve().parent
ROOT = DEPLOY.parent
SECRET = re.compile(
    r"(TOKEN|SECRET|PASSWORD|CREDENTIAL|(?:ACCESS|API|PRIVATE|ID)_KEY)\w*\s*=\s*['\"]?[\w/+-]{8}", re.IGNORECASE
)
_PIN = re.compile(r"^[\w./-]+(?::\d+/[\w./-]+)?:(?!latest\b)[\w.-]+(@sha256:[0-9a-f]{64})?$")


def parsed(text: str) -> Any:
    """Parse YAML as Kubernetes and Docker do: one document, anchors and merge keys resolved."""
    return YAML(typ="safe", pure=True).load(text)


def pinned_version(package: str) -> str:
    """The version of a package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def against_schema(manifest: Any, schema: dict[str, Any]) -> list[str]:
    """Each place where ``manifest`` is not what the schema asks for."""
    found = jsonschema.Draft7Validator(schema).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.absolute_path)) or '(top)'}: {_short(error.message)}" for error in found]


def of_kuberay(manifest: dict[str, Any]) -> list[str]:
    """Problems of a manifest of ours for Kubernetes."""
    found = against_schema(manifest, _ours("kuberay"))
    found += [
        f"resources: {name} is not there"
        for name in manifest.get("resources", ()) if not (DEPLOY / "kuberay" / str(name)).is_file()
    ]  # fmt: skip
    cluster = manifest.get("spec", {})
    cluster = cluster.get("rayClusterSpec", cluster)
    if "rayVersion" in cluster and cluster["rayVersion"] != pinned_version("ray"):
        found.append(f"rayVersion: {cluster['rayVersion']}, expected {pinned_version('ray')} as in constraints.txt")
    for path, container in _containers(manifest):
        resources = container.get("resources", {})
        if resources.get("requests") != resources.get("limits"):
            found.append(f"{path}.resources: requests and limits differ, expected the same: a pod is one node of Ray")
        writable = {mount["mountPath"] for mount in container.get("volumeMounts", ())}
        if "/tmp" not in writable:
            found.append(f"{path}.volumeMounts: nothing at /tmp, where Ray writes, under a root that is read-only")
    return found


def of_overlay(overlay: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Problems of ``base``, a cluster of ours, under the patches of an overlay (`caucus plan --format kuberay`), each of which has to find its place."""
    changed, found = copy.deepcopy(base), []
    for patch in overlay["patches"]:
        if patch["target"] != {"kind": base["kind"], "name": base["metadata"]["name"]}:
            found.append(f"patches: nothing is a {patch['target']}")
        for change in parsed(patch["patch"]):
            *above, last = change["path"].strip("/").split("/")
            try:
                inner = changed
                for key in above:
                    inner = inner[int(key) if isinstance(inner, list) else key]
                if change["op"] == "add" and last == "-":
                    inner.append(change["value"])
                elif change["op"] == "replace":
                    place = int(last) if isinstance(inner, list) else last
                    inner[place], _ = change["value"], inner[place]
                else:
                    found.append(f"patches: {change['op']} of {change['path']}, expected replace, or add of a last item")
            except (KeyError, IndexError, TypeError, ValueError):
                found.append(f"patches: {change['path']} is nowhere in {base['kind']} {base['metadata']['name']}")
    return found + of_kuberay(changed)


def of_autoscaler(manifest: dict[str, Any]) -> list[str]:
    """Problems of a config of `ray up`, Ray's own schema first."""
    spec = find_spec("ray")
    assert spec is not None, "validation needs Ray for its schema"
    schema = json.loads((Path(str(spec.origin)).parent / "autoscaler" / "ray-schema.json").read_text())
    found = against_schema(manifest, schema)
    if not manifest.get("provider", {}).get("use_internal_ips"):
        found.append("provider.use_internal_ips: not true, so nodes would have public addresses")
    if not _PIN.match(manifest.get("docker", {}).get("image", "")):
        found.append("docker.image: expected an image with a version")
    types, head = manifest.get("available_node_types", {}), manifest.get("head_node_type", "")
    if types.get(head, {}).get("resources", {}).get("CPU") != 0:
        found.append(
            f"available_node_types.{head}: expected resources {{CPU: 0}}, so that no shard is fitted beside the driver"
        )
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        commands = " ".join(manifest.get(key, ()))
        for needed in ("RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0", "PJRT_NPROC=1"):
            if needed not in commands:
                found.append(f"{key}: no {needed}")
        if not re.search(r"RAY_task_oom_retries=\d", commands):
            found.append(f"{key}: no finite RAY_task_oom_retries; Ray would repeat a shard that is too large for ever")
        if "--dashboard-host=0.0.0.0" in commands:
            found.append(f"{key}: the dashboard listens to everybody")
    return found


def of_compose(manifest: dict[str, Any]) -> list[str]:
    """Problems of the compose file."""
    found = against_schema(manifest, _ours("compose"))
    for name, service in manifest.get("services", {}).items():
        found += [
            f"services.{name}.ports: {port} is open to the network, expected 127.0.0.1:..."
            for port in service.get("ports", ()) if not str(port).startswith("127.0.0.1:")
        ]  # fmt: skip
    return found


def of_dockerfile(text: str, ignored: str) -> list[str]:
    """Problems of the Dockerfile; ``ignored`` is the text of .dockerignore."""
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    steps = [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]
    defaults = dict(re.findall(r"^ARG\s+(\w+)=\"?([^\"\s]*)", joined, re.MULTILINE))
    found = []
    bases = [argument.split()[0] for kind, argument in steps if kind == "FROM"]
    for base in bases:
        image = re.sub(r"\$\{(\w+)\}", lambda match: defaults.get(match[1], ""), base)
        if not _PIN.match(image):
            found.append(f"FROM {base}: {image or 'nothing'}, expected an image with a version")
    if len(bases) < 2:
        found.append("FROM: one stage; what builds would be in the image")
    last = joined[joined.rindex("FROM ") :] if bases else ""
    users = re.findall(r"^USER\s+(\S+)", last, re.MULTILINE)
    if not users or users[-1].partition(":")[0] in ("root", "0"):
        found.append(f"USER: {users[-1] if users else 'not set'}, expected one who is not root")
    if not re.search(r"^HEALTHCHECK\s.*CMD", last, re.MULTILINE):
        found.append("HEALTHCHECK: none")
    for install in re.findall(r"pip install[^\n&]*", joined):
        if "-c constraints.txt" not in install:
            found.append(f"{install.strip()}: not held to constraints.txt")
    if match := SECRET.search(joined):
        found.append(f"{match[1]}...: a secret would be in the image")
    if re.search(r"^ADD\s+https?:", joined, re.MULTILINE):
        found.append("ADD of a URL: nobody knows what it is tomorrow")
    lines = [line.strip() for line in ignored.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or lines[0] != "*":
        found.append(".dockerignore: does not begin with *, so data and runs could get into the image")
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    tops = {pattern.rstrip("*.") for pattern in patterns} | {"constraints.txt", "pyproject.toml"}
    return found + [f".dockerignore: leaves out {top}" for top in sorted(tops) if f"!{top}" not in lines]


def of_script(text: str, *, shell: str = "bash") -> list[str]:
    """Problems of a shell script: syntax, and for Slurm what it must set."""
    checked = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, check=False)
    found = [f"{shell} -n: {checked.stderr.strip()}"] if checked.returncode else []
    if "#SBATCH" not in text:
        return found
    needed = {
        "set -euo pipefail": "an error would go on as if nothing had happened",
        "RAY_AUTH_MODE=token": "others on the node could give Ray work",
        "umask 077": "what is written could be read by others",
        "trap finish EXIT": "Ray would outlive the job",
        "#SBATCH --time": "no limit",
    }
    found += [f"no {what}: {why}" for what, why in needed.items() if what not in text]
    if not re.search(r"RAY_task_oom_retries=\d", text):
        found.append("no finite RAY_task_oom_retries")
    return found + (["a secret in the script"] if SECRET.search(text) else [])


def of_queries(expressions: Sequence[str], legends: Sequence[str] = ()) -> list[str]:
    """Problems of PromQL: metrics and labels that no run has."""
    names = {measure.name for measure in MEASURES}
    labels = {label for measure in MEASURES for label in measure.labels} | {"run"}
    used = {name for expression in expressions for name in re.findall(r"\bcaucus_\w+", expression)}
    matched = {label for expression in expressions for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)}
    grouped = {
        label.strip()
        for expression in expressions
        for group in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", expression) for label in group.split(",")
    }  # fmt: skip
    shown = {label for legend in legends for label in re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", legend)}
    return [f"{name}: no such metric (cluster/metrics.py)" for name in sorted(used - names)] + [
        f"{label}: no such label" for label in sorted((matched | grouped | shown) - labels)
    ]


def of_dashboard(dashboard: dict[str, Any]) -> list[str]:
    """Problems of the Grafana dashboard."""
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [str(variable["query"]) for variable in dashboard["templating"]["list"]]
    found = of_queries([target["expr"] for target in targets] + variables, [t.get("legendFormat", "") for t in targets])
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in dashboard["panels"]]
    if len(set(identifiers)) != len(identifiers):
        found.append("panels: an id occurs twice")
    if any(_overlap(a, b) for i, a in enumerate(places) for b in places[:i]):
        found.append("panels: two lie on each other")
    return found


def of_alerts(rules: dict[str, Any]) -> list[str]:
    """Problems of Prometheus' rules."""
    each = [rule for group in rules["groups"] for rule in group["rules"]]
    texts = [str(text) for rule in each for text in rule["annotations"].values()]
    lacking = [f"{rule['alert']}: does not say what to do" for rule in each if not rule["annotations"].get("do")]
    return lacking + of_queries([rule["expr"] for rule in each], texts)


def of_crd(manifest: dict[str, Any], definition: dict[str, Any]) -> list[str]:
    """Problems of a manifest under a Kubernetes resource definition; fields that it does not know are problems."""
    group, version = manifest["apiVersion"].split("/")
    if definition["spec"]["group"] != group or definition["spec"]["names"]["kind"] != manifest["kind"]:
        return [f"kind: {manifest['apiVersion']} {manifest['kind']}, which this definition does not define"]
    schema = next(v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == version)
    return against_schema(manifest, _closed(schema))


def everything() -> Iterator[tuple[str, str, list[str]]]:
    """Yield each file of deploy/, what it was checked against, and its problems."""
    for file in sorted((DEPLOY / "kuberay").glob("*.yaml")):
        yield _checked(f"kuberay/{file.name}", "schemas/kuberay.json", of_kuberay)
    for name in ("aws", "gcp"):
        yield _checked(f"autoscaler/{name}.yaml", "Ray's ray-schema.json", of_autoscaler)
    yield _checked("compose/compose.yaml", "schemas/compose.json", of_compose)
    yield _checked("monitoring/dashboard.json", "cluster/metrics.py", of_dashboard)
    yield _checked("monitoring/alerts.yaml", "cluster/metrics.py", of_alerts)
    ignored = (ROOT / ".dockerignore").read_text()
    yield "Dockerfile", "rules", of_dockerfile((DEPLOY / "Dockerfile").read_text(), ignored)
    yield "slurm/caucus.sbatch", "bash -n, rules", of_script((DEPLOY / "slurm" / "caucus.sbatch").read_text())
    yield "healthcheck", "sh -n", of_script((DEPLOY / "healthcheck").read_text(), shell="sh")


def against_crds(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield KubeRay's manifests, the definition each was checked against, and their problems."""
    for name in ("rayjob", "raycluster"):
        file = folder / f"ray.io_{name}s.yaml"
        definition = parsed(file.read_text())
        num_rules = json.dumps(definition).count('"x-kubernetes-validations"')
        against = f"{file.name}, {num_rules} places with CEL rules not evaluated"
        yield (
            f"kuberay/{name}.yaml",
            against,
            of_crd(parsed((DEPLOY / "kuberay" / f"{name}.yaml").read_text()), definition),
        )


def main(arguments: list[str]) -> int:
    """Print a line for each file, and each problem; return 1 if there is any."""
    parser = argparse.ArgumentParser(prog="python -m deploy.validate", description=__doc__.partition("\n")[0])
    parser.add_argument("--crds", type=Path, help="folder with ray.io_rayjobs.yaml and ray.io_rayclusters.yaml")
    options = parser.parse_args(arguments)
    checked = [*everything(), *(against_crds(options.crds) if options.crds else ())]
    for name, against, problems in checked:
        print(f"{'bad ' if problems else 'good'}  deploy/{name} ({against})")
        for problem in problems:
            print(f"        {problem}")
    return int(any(problems for *_, problems in checked))


def _checked(name: str, against: str, check: Any) -> tuple[str, str, list[str]]:
    return name, against, check(parsed((DEPLOY / name).read_text()))


def _ours(name: str) -> dict[str, Any]:
    return dict(json.loads((DEPLOY / "schemas" / f"{name}.json").read_text()))


def _containers(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "containers":
                yield from ((f"{path}{key}.{container.get('name')}", container) for container in inner)
            else:
                yield from _containers(inner, f"{path}{key}.")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _containers(inner, f"{path}{place}.")


def _closed(schema: Any) -> Any:
    """A structural schema of Kubernetes as a JSON schema that refuses unknown fields, as `kubectl --validate=strict` does."""
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        inner.pop("anyOf", None)
        inner["type"] = ["integer", "string"]
    is_object = isinstance(schema.get("properties"), dict) and isinstance(schema.get("type"), str)
    if is_object and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        inner["additionalProperties"] = False
    return inner


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-140:]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
