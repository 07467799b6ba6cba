"""Sizes of a Ray cluster on Kubernetes from the plan of a run: an overlay of ``deploy/kuberay`` for ``kubectl apply -k``.

Everything else of the cluster (accounts, spot pools, security, probes of Ray) is in ``deploy/kuberay/raycluster.yaml``; the overlay replaces
only what depends on the run. How each size is reckoned: docs/sizing.md.
"""

from __future__ import annotations

import io
import math
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from cluster.config import RunConfig
from cluster.plan import Plan

WORKER_CORES = 16
"""Of a pod at most: more cores are more pods, so that a spot machine that is taken away takes little with it."""
HEAD_CORES = 4
OBJECT_STORE_BYTES = 2_000_000_000
"""Of a worker, as `raycluster.yaml` sets it; of a head Ray takes three tenths of its memory itself."""
SCRATCH_GIB = 20
_RAY_BYTES = 2**30  # of the processes of Ray, on any machine
_HEAD_SHARE = 0.7  # of the memory of a head, beside the object store
_SPILLED = 3  # what ingest may spill, in bytes of the source
_LOGS_GIB = 4  # of logs and the writable layer of a container, beside the scratch volume


def sizes(config: RunConfig, plan: Plan) -> dict[str, Any]:
    """Numbers of pods, and resources of each, as Kubernetes writes them.

    Cores of workers are ``run.workers``, of a plan that knows the shards no more than those. A pod of a worker holds a task on each of its cores, and one
    of them with twice the memory, as a task that ran out of it is tried again.
    """
    wanted = config.run.workers if plan.num_shards is None else max(1, min(config.run.workers, plan.num_shards))
    num_pods = math.ceil(wanted / WORKER_CORES)
    cores = math.ceil(wanted / num_pods)
    worker = (cores + 1) * plan.worker_bytes + OBJECT_STORE_BYTES + _RAY_BYTES
    head = (plan.driver_bytes + _RAY_BYTES) / _HEAD_SHARE
    spilled = math.ceil(_SPILLED * plan.source_bytes / 2**30)
    return {
        "pods": num_pods,
        "worker": _resources(cores, worker, SCRATCH_GIB, math.ceil(cores * config.run.task_gpus)),
        "head": _resources(HEAD_CORES, head, SCRATCH_GIB + spilled, 0),
        "head_scratch": f"{SCRATCH_GIB + spilled}Gi",
    }


def overlay(config: RunConfig, plan: Plan) -> str:
    """The text of a ``kustomization.yaml`` that gives the cluster of ``deploy/kuberay`` the sizes of a run."""
    size = sizes(config, plan)
    worker, head = "/spec/workerGroupSpecs/0", "/spec/headGroupSpec"
    container = "template/spec/containers/0/resources"
    changes: list[dict[str, Any]] = [
        _replaced(f"{worker}/maxReplicas", size["pods"]),
        *(_replaced(f"{worker}/{container}/{kind}", size["worker"]) for kind in ("requests", "limits")),
        *(_replaced(f"{head}/{container}/{kind}", size["head"]) for kind in ("requests", "limits")),
        _replaced(f"{head}/template/spec/volumes/0/emptyDir/sizeLimit", size["head_scratch"]),
    ]
    if "nvidia.com/gpu" in size["worker"]:
        tainted = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        changes.append({"op": "add", "path": f"{worker}/template/spec/tolerations/-", "value": tainted})
    target = {"kind": "RayCluster", "name": "caucus"}
    manifest = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["../deploy/kuberay"],
        "patches": [{"target": target, "patch": LiteralScalarString(_yaml(changes))}],
    }  # fmt: skip
    return _header(config, plan) + _yaml(manifest)


def _header(config: RunConfig, plan: Plan) -> str:
    known = "before ingest, when shards are only known to be no larger than `shards.target_cells`" if plan.is_estimate else "after ingest"
    return (
        f"# kustomization.yaml: the cluster of deploy/kuberay for {config.name}, by `caucus plan --format kuberay`, {known}.\n"
        "# Correct the path of deploy/kuberay, and add your image and account (docs/deploy.md).\n"
    )


def _resources(cores: int, num_bytes: float, scratch_gib: int, gpus: int) -> dict[str, str]:
    found = {"cpu": str(cores), "memory": f"{math.ceil(num_bytes / 2**30)}Gi", "ephemeral-storage": f"{scratch_gib + _LOGS_GIB}Gi"}
    return found | ({"nvidia.com/gpu": str(gpus)} if gpus else {})


def _replaced(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def _yaml(value: Any) -> str:
    yaml = YAML()
    yaml.representer.ignore_aliases = lambda data: True
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()
