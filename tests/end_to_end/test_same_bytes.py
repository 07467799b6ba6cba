"""The same bytes wherever and however often a run was interrupted: serial, Ray with one and two workers, SIGKILL."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

RAY = ("--set", "run.executor=ray")
LAST_ROUND = "*.round-02.arrow"


def hashes(run: Path) -> dict[str, str]:
    """Every file that holds numbers; those left out hold seconds and dates as well."""
    names = ["posterior.nc", "summary.parquet", "dictionary.json"]
    files = [run / name for name in names] + [f for d in ("sites", "shards", "estimates") for f in (run / d).iterdir()]
    return {str(f.relative_to(run)): line.sha256(f) for f in files if f.suffix != ".json" or f.name in names}


def wait_for(process: subprocess.Popen[str], happened: Callable[[], object], *, within: float = 300.0) -> None:
    """Poll until it has happened; the process must still be at work."""
    deadline = time.monotonic() + within
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def killed(process: subprocess.Popen[str]) -> None:
    """SIGKILL the driver; what computes for it dies with it (agents of Ray, which do not, take up to a minute)."""
    children = [c for c in psutil.Process(process.pid).children(recursive=True) if not c.name().endswith("Agent")]
    process.send_signal(signal.SIGKILL)
    assert line.ended(process).code == -signal.SIGKILL
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == [], "processes that outlive their driver"


def resumed(config: Path, *settings: str) -> line.Said:
    """Run again, to the end."""
    said = line.ended(line.started("run", config, *settings))
    assert said.code == 0, said
    assert line.half_written(config.parent / "run") == []
    return said


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_bytes_of_serial(workers: int, project: Path, undisturbed: Path):
    resumed(project, *RAY, "--set", f"run.workers={workers}")
    assert hashes(project.parent / "run") == hashes(undisturbed)


@pytest.mark.ray
def test_a_killed_worker_costs_nothing_but_its_task(project: Path, undisturbed: Path):
    run = project.parent / "run"
    process = line.started("run", project, *RAY, "--set", "run.workers=2", "--debug")
    wait_for(process, lambda: list((run / "sites").glob("*.round-01.arrow")))
    at_work: list[psutil.Process] = []

    def found() -> bool:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if child.cmdline()[:1] == ["ray::_run"]:
                    at_work.append(child)
            except psutil.NoSuchProcess:
                continue
        return bool(at_work)

    wait_for(process, found)
    at_work[0].kill()
    assert not (run / "sites" / "rounds.json").exists(), "the fit was over before the worker was killed"
    said = line.ended(process)
    assert said.code == 0, said
    assert "worker died, task runs again" in said.err
    assert hashes(run) == hashes(undisturbed)
    assert line.half_written(run) == []


@pytest.mark.parametrize("settings", [(), pytest.param((*RAY, "--set", "run.workers=2"), marks=pytest.mark.ray)])
def test_a_killed_driver_goes_on_where_it_was(settings: tuple[str, ...], project: Path, undisturbed: Path):
    run = project.parent / "run"
    process = line.started("run", project, *settings)
    wait_for(process, lambda: len(list((run / "sites").glob(LAST_ROUND))) >= 5)
    killed(process)
    assert not (run / "sites" / "rounds.json").exists(), "the fit was over before the driver was killed"
    shards, sites = line.identities(run / "shards"), line.identities(run / "sites")
    kept = {name for name in sites if "round-02" in name and not name.startswith(".")}
    assert 5 <= len(kept) < 51
    (run / "sites" / ".OH.round-02.arrow.partial").write_bytes(b"half a site")
    said = resumed(project, *settings)
    assert "ingest: done already" in said.err
    assert line.identities(run / "shards") == shards
    after = line.identities(run / "sites")
    assert {name for name in kept if after[name] == sites[name]} == kept
    assert hashes(run) == hashes(undisturbed)


def test_a_driver_killed_in_every_stage(project: Path, undisturbed: Path):
    run = project.parent / "run"
    for stage in ("ingest", "fit", "merge", "audit", "poststratify", "report"):
        process = line.started("run", project)
        assert process.stderr is not None
        told = ""
        while f"{stage}: starts" not in told:
            told = process.stderr.readline()
            assert told, "the command ended before its stage"
        killed(process)
    said = resumed(project)
    assert "poststratify: done already" in said.err
    assert said.redone == ["report"]
    assert hashes(run) == hashes(undisturbed)


NUTS = (
    "model.formula=voted ~ 1 + (1 | state)", "shards={by: random, num_shards: 2}",
    "fit={method: nuts, rounds: 2, shard_draws: 50, shard_warmup: 50, shard_chains: 2}",
)  # fmt: skip
SAMPLED = [part for setting in NUTS for part in ("--set", setting)]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run directory of a finished run by NUTS, in one process."""
    config = line.make(tmp_path_factory.mktemp("sampled"))
    assert line.caucus("run", config, *SAMPLED).code in (0, 3)
    return config.parent / "run"


@pytest.mark.ray
def test_sampled_sites_have_the_same_bytes_too(sampled: Path, tmp_path: Path):
    """NUTS in every shard, on Ray whose driver is killed in a sampling round, and run again."""
    config, sites = line.make(tmp_path), tmp_path / "run" / "sites"
    ray = (*SAMPLED, *RAY, "--set", "run.workers=2")
    process = line.started("run", config, *ray)
    wait_for(process, lambda: list(sites.glob("*.round-02.arrow")))
    killed(process)
    assert not (sites / "rounds.json").exists(), "the fit was over before the driver was killed"
    again = line.ended(line.started("run", config, *ray))
    assert again.code in (0, 3), again
    assert hashes(sampled) == hashes(tmp_path / "run")


def test_shards_that_are_sampled_side_by_side_give_the_same_posterior_and_can_be_resumed(sampled: Path, tmp_path: Path):
    config, run = line.make(tmp_path), tmp_path / "run"
    settings = (*SAMPLED, "--set", "run.shards_per_task=3")
    assert line.caucus("run", config, *settings).code in (0, 3)
    whole = hashes(run)
    shared = [name for name, digest in hashes(sampled).items() if name.startswith("sites") and whole.get(name) == digest]
    assert len(shared) == 4, "two rounds before NUTS are the same, its own has other names"
    alone, beside = (pq.read_table(r / "summary.parquet").to_pandas().set_index("parameter") for r in (sampled, run))
    # sites of 100 draws with control variates, and 400 of the posterior by other numbers of the same seed
    assert ((alone["mean"] - beside["mean"]).abs() / alone["sd"]).max() < 0.1
    assert (alone["sd"] / beside["sd"] - 1).abs().max() < 0.1
    (run / "sites" / "rounds.json").unlink()
    next(iter((run / "sites").glob("*.round-02*.arrow"))).unlink()
    assert line.caucus("run", config, *settings).code in (0, 3)
    assert hashes(run) == whole
