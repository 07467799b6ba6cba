"""A run directory on S3 works like a local one: the same bytes, resumed after a kill, on Ray too."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

from sharding import storage

NUMBERS = ("posterior.nc", "summary.parquet", "dictionary.json", "shards", "sites", "estimates")


def hashes(directory: str) -> dict[str, str]:
    """Every file that holds numbers; those left out hold seconds and dates as well."""
    names = [name for owned in NUMBERS for name in storage.names_below(directory, owned)]
    kept = [name for name in names if not name.endswith(".json") or name == "dictionary.json"]
    return {name: storage.sha256_file(storage.join(directory, name)) for name in kept}


@pytest.fixture
def url(bucket: str, tmp_path: Path) -> str:
    return f"{bucket}/runs/{tmp_path.name}"


def test_the_bytes_of_a_local_run_and_nothing_redone(url: str, tmp_path: Path):
    config = line.make(tmp_path)
    there = ("--set", f"run.directory={url}")
    assert line.caucus("run", config).code == 0
    said = line.caucus("run", config, *there)
    assert (said.code, said.out) == (0, f"verdict: pass\nreport: {url}/report.html\n"), said
    assert hashes(url) == hashes(str(tmp_path / "run"))
    assert storage.children(url) == {f.name for f in (tmp_path / "run").iterdir()} - {".lock"}
    assert "everything is done already" in line.caucus("run", config, *there).out
    assert line.caucus("run", url).redone == [], "a run directory is a config of its own"
    assert "report        done" in line.caucus("status", url).out
    again = line.caucus("run", config, *there, "--set", "model.priors={sd: half_normal(2)}")
    assert again.redone == ["merge", "audit", "poststratify", "report"], again


def test_a_damaged_site_is_made_again(url: str, tmp_path: Path):
    config, there = line.make(tmp_path), ("--set", f"run.directory={url}")
    assert line.caucus("run", config, *there).code == 0
    before = hashes(url)
    site = next(name for name in before if name.startswith("sites/OH"))
    storage.publish_bytes(storage.join(url, site), b"damaged")
    said = line.caucus("run", config, *there)
    assert f"fit: starts ({site} is not the file that was written)" in said.err
    assert hashes(url) == before


@pytest.mark.ray
def test_a_driver_killed_on_ray_goes_on_where_it_was(url: str, project: Path, undisturbed: Path):
    """Its lease ends half a minute after it; workers read the draws from the store, and write sites to it."""
    settings = ("--set", f"run.directory={url}", "--set", "run.executor=ray", "--set", "run.workers=2")
    process = line.started("run", project, *settings)
    deadline = time.monotonic() + 120
    while sum("round-02" in name for name in storage.names_below(url, "sites")) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert line.ended(process).code == -signal.SIGKILL
    assert "manifest.json" in storage.children(url)
    said = line.ended(line.started("run", project, *settings))
    assert said.code == 0, said
    assert "another driver holds the run directory, or died" in said.err
    assert "ingest: done already" in said.err
    assert hashes(url) == hashes(str(undisturbed))
    assert json.loads(storage.read_bytes(f"{url}/manifest.json"))["stages"]["report"]
    assert ".lock" not in storage.children(url)
