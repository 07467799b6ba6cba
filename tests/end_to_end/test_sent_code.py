"""A driver outside of the cluster, and machines without this package: ``ray://``, ``host:port`` and ``run.ship_code``."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

from benchmarks import faults, ray_clusters
from benchmarks.ray_clusters import Node
from cluster.errors import TokenRefusedError

pytestmark = pytest.mark.ray

DATA = (
    "sharding/data/us_counties.parquet", "sharding/data/voter_file_columns.csv", "sharding/layouts/shipped/nc.yaml",
    "reporting/templates/report.html", "cluster/templates/nation-turnout.yaml",
)  # fmt: skip
READ = """\
import json, sys
from cluster.ray_executor import RayExecutor

def sha256(name):
    import hashlib
    from importlib import resources
    package, _, file = name.partition("/")
    where = resources.files(package)
    return hashlib.sha256(where.joinpath(file).read_bytes()).hexdigest() if file else str(where)

executor = RayExecutor(address=sys.argv[1], workers=1, ship_code=True)
print(json.dumps({o.task: o.value or str(o.error) for o in executor.map_unordered(lambda name: sha256(name), sys.argv[2:])}))
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A head that lets in who has its token, and has everything that this package needs, but not the package."""
    with (
        pytest.MonkeyPatch.context() as patch,
        ray_clusters.head(2, ray_clusters.without_package(tmp_path_factory.mktemp("hidden")), jobs=False) as node,
    ):
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", ray_clusters.TOKEN)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield node


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run by the serial executor, finished."""
    folder = tmp_path_factory.mktemp("serial")
    assert line.caucus("run", line.make(folder)).code == 0
    return folder


@pytest.mark.parametrize("way", ["address", "client"])
def test_machines_without_the_package_are_told_of_then_sent_it(way: str, head: Node, serial: Path):
    directory = serial / way
    there = ("--set", f"run.executor={getattr(head, way)}", "--set", f"run.directory={directory}")
    said = line.ended(line.started("run", serial / "run.yaml", *there))
    assert said.code == 2, said
    assert "have no module 'cluster'. Set `run.ship_code: true`" in said.message
    assert "Traceback" not in said.err
    said = line.ended(line.started("run", serial / "run.yaml", *there, "--set", "run.ship_code=true"))
    assert said.code == 0, said
    assert "ingest: done already" in said.err
    assert faults.numbers(str(directory)) == faults.numbers(str(serial / "run"))


def test_files_inside_the_packages_are_sent_too(head: Node):
    command = [sys.executable, "-c", READ, head.address, "sharding", *DATA]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert "runtime_resources" in found.pop("sharding"), "what was read is what was sent"
    assert found == {name: line.sha256(ray_clusters.ROOT / name) for name in DATA}


@pytest.mark.parametrize(("token", "is_refused"), [(ray_clusters.TOKEN, "False"), ("x" * 40, "True")])
def test_a_token_that_is_not_the_clusters_is_known(token: str, is_refused: str, head: Node, monkeypatch: pytest.MonkeyPatch):
    """Ray says after 20 to 30 s that it could not connect; this is asked before."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    code = "import sys; from cluster.ray_connection import _refuses; print(*map(_refuses, sys.argv[1:]))"
    command = [sys.executable, "-c", code, head.address, head.client]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == [is_refused] * 2
    assert TokenRefusedError(head.client).exit_code == 2
