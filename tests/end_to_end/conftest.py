"""One small simulated nation for every test here, and its undisturbed run: in one process, without Ray."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line


@pytest.fixture(scope="session")
def nation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a simulated nation of 6,000 voters in 51 shards."""
    folder = tmp_path_factory.mktemp("nation")
    assert line.caucus("simulate", folder, "--rows", "6000", "--answers", "1000").code == 0
    return folder


@pytest.fixture
def project(nation: Path, tmp_path: Path) -> Path:
    """Return the config of a run of the nation that has not begun."""
    folder = nation / tmp_path.name
    folder.mkdir()
    (folder / "run.yaml").write_text(line.NATION)
    return folder / "run.yaml"


@pytest.fixture(scope="session")
def undisturbed(nation: Path) -> Path:
    """Return the run directory of a finished run, by the serial executor in a process of its own."""
    folder = nation / "undisturbed"
    folder.mkdir()
    (folder / "run.yaml").write_text(line.NATION)
    said = line.ended(line.started("run", folder / "run.yaml"))
    assert said.code == 0, said
    return folder / "run"
