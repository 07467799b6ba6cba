"""Workers compute with the code of their driver, or not at all."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import ray_clusters
from benchmarks.ray_clusters import ROOT, Node
from cluster import PACKAGES, code_version
from cluster.ray_executor import _run
from cluster.run_directory import describe_changes

DRIVER = """\
import sys
import executor_tasks as work
from cluster.errors import CodeDiffersError
from cluster.ray_executor import RayExecutor

executor = RayExecutor(address=sys.argv[1], workers=1, ship_code="ship" in sys.argv)
try:
    print(sorted(outcome.value for outcome in executor.map_unordered(work.square, range(4))))
except CodeDiffersError as error:
    print(f"CodeDiffersError: {error}")
executor.close()
"""


def double(task: int) -> int:
    return 2 * task


def test_a_worker_with_other_code_runs_nothing():
    ran: list[int] = []
    other = code_version.here()._replace(sha256="0" * 64)
    answer = _run(ran.append, [1, 2], other)
    assert isinstance(answer, code_version.OtherCode)
    assert answer.code == code_version.here()
    assert ran == []
    assert [one.value for one, _ in _run(double, [1, 2], code_version.here())] == [2, 4]


def test_the_digest_is_of_every_python_file(tmp_path: Path):
    found = {copied(tmp_path / "same")}
    for i, file in enumerate(("fitting/terms.py", "fitting/likelihoods/gaussian.py", "sharding/sql.py", "cluster/tasks.py")):
        folder = tmp_path / str(i)
        copied(folder)
        with open(folder / file, "a") as changed:
            changed.write("# another comment\n")
        found.add(digest_in(folder))
    assert len(found) == 5
    assert code_version.here().sha256 in found


def copied(folder: Path) -> str:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return digest_in(folder)


def digest_in(folder: Path) -> str:
    code = "from cluster import code_version; print(code_version.here().sha256)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_what_another_version_made_is_made_again():
    assert describe_changes({"results": 1}, {"results": 2}) == "it was made by a version of Caucus whose numbers may differ"


OTHERS = {"last week's": ("fitting/terms.py", "INTERCEPT =", "LAST_WEEK = INTERCEPT ="), "an old": ("cluster/ray_executor.py", ", code: Code)", ")")}


@pytest.fixture(scope="module", params=OTHERS)
def stale_machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A machine on which another release is installed: one line of one file differs, or workers are not yet told of the code."""
    folder, start = tmp_path_factory.mktemp("stale"), tmp_path_factory.mktemp("start")
    copied(folder)
    (start / "sitecustomize.py").write_text(f"import sys; sys.path.append({str(folder)!r})")  # behind what Ray was sent
    name, before, after = OTHERS[request.param]
    text = (folder / name).read_text()
    assert before in text
    (folder / name).write_text(text.replace(before, after))
    with (
        pytest.MonkeyPatch.context() as patch,
        ray_clusters.head(1, {"PYTHONPATH": f"{start}:{Path(__file__).parent}"}, jobs=False) as node,
    ):
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", ray_clusters.TOKEN)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield node


@pytest.mark.ray
def test_a_cluster_with_another_release_is_refused_and_can_be_sent_this_one(stale_machine: Node, tmp_path: Path):
    refused = squares(stale_machine.address, tmp_path, ship_code=False)
    assert refused.startswith("CodeDiffersError: a worker on ")
    assert f"expected that of this driver, {code_version.here()}" in refused
    assert "run.ship_code: true" in refused
    assert squares(stale_machine.address, tmp_path, ship_code=True) == "[0, 1, 4, 9]"


def squares(address: str, folder: Path, *, ship_code: bool) -> str:
    """By a driver in a process of its own, which learns the cluster's token from its environment when it starts.

    It starts in an empty folder: Ray's workers also look for modules where the driver started.
    """
    command = [sys.executable, "-c", DRIVER, address, *(["ship"] if ship_code else [])]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, cwd=folder, check=True)
    return done.stdout.strip()
