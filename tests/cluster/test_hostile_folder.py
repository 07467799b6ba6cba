"""Nothing beside a config is executed on workers, whatever it is called."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import ray_clusters
from benchmarks.ray_clusters import Node
from cluster import PACKAGES

pytestmark = pytest.mark.ray

NAMES = (*PACKAGES, "caucus", "numpy", "ray", "jax", "scipy", "pyarrow", "duckdb", "pandas", "json", "sitecustomize", "usercustomize")
HOSTILE = "import pathlib\npathlib.Path({marker!r}).touch()\n"
DRIVER = """\
import sys
from cluster.ray_executor import RayExecutor
from sharding.storage import sha256_bytes

executor = RayExecutor(address=sys.argv[1], workers=1)
print([outcome.value == sha256_bytes(outcome.task) for outcome in executor.map_unordered(sha256_bytes, [b"a", b"b"])])
executor.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a module or a package of every name that workers import."""
    for i, name in enumerate(NAMES):
        file = tmp_path / "here" / (f"{name}/__init__.py" if i % 2 else f"{name}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HOSTILE.format(marker=str(tmp_path / f"executed-{name}")))
    return tmp_path / "here"


@pytest.fixture(scope="module")
def two_machines() -> Iterator[Node]:
    with ray_clusters.head(1, {"PYTHONPATH": ""}, jobs=False) as head, ray_clusters.worker(head, env={"PYTHONPATH": ""}):
        yield head


def executed(folder: Path) -> list[str]:
    return sorted(file.name.removeprefix("executed-") for file in folder.parent.glob("executed-*"))


def drive(address: str, folder: Path, *flags: str) -> str:
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray_clusters.TOKEN}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, *flags, "-c", DRIVER, address]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr


@pytest.mark.parametrize("way", ["local", "address", "client"])
def test_workers_import_nothing_from_the_folder_of_the_driver(way: str, folder: Path, two_machines: Node):
    address = way if way == "local" else getattr(two_machines, way)
    assert drive(address, folder, "-P") == "[True, True]"  # -P: as a command that is installed, without its folder on the path
    assert executed(folder) == []


def test_the_folder_would_be_noticed(folder: Path):
    """As `python -c` and `python -m` do, which put the folder on the path of this process."""
    drive("local", folder)
    assert executed(folder)
