"""Sizes of a cluster on Kubernetes from the plan of a run: valid where they go, and enough for what is planned."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster import cli, config, kuberay, plan  # noqa: F401  # cli has the commands
from cluster.commands import app
from deploy import validate
from sharding import simulate

CONFIG = """\
name: sized
data: {source: voters/*.parquet, outcome: voted, terms_of_use: synthetic}
model: {formula: voted ~ 1 + (1 | state), family: bernoulli}
shards: {by: state}
run: {directory: run}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sized")
    simulate.simulate(str(folder), num_rows=1_000, seed=1, num_answers=100)
    (folder / "run.yaml").write_text(CONFIG)
    return folder / "run.yaml"


def printed(run: Path, *settings: str) -> dict[str, Any]:
    """What the command prints, parsed."""
    words = [word for setting in settings for word in ("--set", setting)]
    said = CliRunner().invoke(app, ["plan", str(run), "--format", "kuberay", *words])
    assert said.exit_code == 0, said.output
    return dict(validate.parsed(said.stdout))


def base() -> dict[str, Any]:
    return dict(validate.parsed((validate.DEPLOY / "kuberay" / "raycluster.yaml").read_text()))


def gib(text: str) -> int:
    return int(re.fullmatch(r"(\d+)Gi", text)[1])  # type: ignore[index]


@pytest.mark.parametrize("settings", [(), ("run.workers=40",), ("run.workers=3", "run.task_gpus=0.5"), ("fit.method=nuts",)])
def test_the_cluster_with_these_sizes_is_valid(run: Path, settings: tuple[str, ...]):
    assert validate.of_overlay(printed(run, *settings), base()) == []


def test_a_patch_that_finds_no_place_or_has_no_sense_is_refused(run: Path):
    found = printed(run)
    patch = found["patches"][0]
    for old, new, problem in (
        ("/spec/workerGroupSpecs/0/maxReplicas", "/spec/workerGroupSpecs/1/maxReplicas", "is nowhere in RayCluster"),
        ("cpu: '4'", "cpus: '4'", "'cpus' was unexpected"),
        ("Gi", "GB", "does not match"),
        ("op: replace", "op: remove", "expected replace"),
    ):
        assert old in patch["patch"]
        broken = {"patches": [patch | {"patch": patch["patch"].replace(old, new, 1)}]}
        assert any(problem in each for each in validate.of_overlay(broken, base())), old
    elsewhere = {"patches": [patch | {"target": {"kind": "RayJob", "name": "caucus"}}]}
    assert "nothing is a" in validate.of_overlay(elsewhere, base())[0]


def test_pods_have_the_cores_and_the_memory_of_the_plan(run: Path):
    loaded = config.load(run, ["run.workers=40"]).config
    projected = plan.make(loaded, loaded.run.directory, kuberay.HEAD_CORES)
    size = kuberay.sizes(loaded, projected)
    assert (size["pods"], size["worker"]["cpu"]) == (3, "14")
    needed = 15 * projected.worker_bytes + kuberay.OBJECT_STORE_BYTES  # fourteen tasks, one of them again with twice the memory
    assert needed < gib(size["worker"]["memory"]) * 2**30 < needed + 3 * 2**30
    assert projected.driver_bytes < 0.7 * gib(size["head"]["memory"]) * 2**30  # Ray takes the rest for its object store
    on_more = plan.make(loaded, loaded.run.directory, 64)
    assert on_more.driver_bytes > projected.driver_bytes  # the head's cores count, not this machine's
    assert gib(size["worker"]["ephemeral-storage"]) > kuberay.SCRATCH_GIB
    assert "nvidia.com/gpu" not in size["worker"]


def test_no_core_is_asked_for_that_no_shard_would_use_and_tasks_have_their_part_of_a_gpu(run: Path):
    loaded = config.load(run, ["run.workers=40", "run.task_gpus=0.3"]).config
    projected = plan.make(loaded, loaded.run.directory)
    size = kuberay.sizes(loaded, replace(projected, num_shards=5))
    assert (size["pods"], size["worker"]["cpu"], size["worker"]["nvidia.com/gpu"]) == (1, "5", "2")
    assert "key: nvidia.com/gpu" in kuberay.overlay(loaded, projected)  # whoever asks for GPUs tolerates their taint
