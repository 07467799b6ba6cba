"""A run by a classic combiner: sampled once, merged by another name without sampling again, audited like the rest."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

METHOD = "fit: {method: classic, draws: 250, warmup: 250}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, line.Said]:
    """Shards too small for it: four states of about 250 people, with an effect of state that only one shard sees."""
    folder = tmp_path_factory.mktemp("classic")
    config = line.CONFIG.replace("fit: {draws: 100, min_ess: 100}", METHOD).replace("+ share ", "")
    return folder, line.caucus("run", line.make(folder, line.voters(1000), config))


def test_it_is_sampled_merged_audited_and_reported(run: tuple[Path, line.Said]):
    folder, said = run
    assert said.code in (0, 3), said.err
    audit = json.loads((folder / "run" / "audit.json").read_text())
    assert {gate["name"] for gate in audit["gates"]} == {"score", "sd_ratio", "noise", "r_hat", "rows"}
    assert [shard["shard_id"] for shard in audit["shards"]] == ["AK", "AL", "OH", "WY"]
    summary = pq.read_table(folder / "run" / "summary.parquet").to_pandas()
    assert {"Intercept", "female", "1|state[OH]", "sd(1|state)"} <= set(summary["parameter"])
    assert len(pq.read_table(folder / "run" / "estimates" / "state.parquet")) == 4
    assert (folder / "run" / "report.html").exists()


def test_another_combiner_of_the_same_kind_only_merges(run: tuple[Path, line.Said]):
    folder, _ = run
    sites = line.identities(folder / "run" / "sites")
    before = (folder / "run" / "posterior.nc").read_bytes()
    said = line.caucus("run", folder / "run.yaml", "--set", "fit.combiner=gaussian")
    assert said.redone == ["merge", "audit", "poststratify", "report"]
    assert line.identities(folder / "run" / "sites") == sites
    assert (folder / "run" / "posterior.nc").read_bytes() != before
    assert line.caucus("run", folder / "run.yaml", "--set", "fit.combiner=gaussian").redone == []


def test_a_combiner_that_cannot_do_it_says_so(run: tuple[Path, line.Said]):
    folder, _ = run
    said = line.caucus("run", folder / "run.yaml", "--set", "fit.combiner=swiss", "--set", "run.directory=other")
    assert said.code == 2
    assert "every level in two shards or more" in said.message
