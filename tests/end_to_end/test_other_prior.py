"""Another prior on a finished run: merge, audit, poststratify and report again, and no shard fitted again."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))
import line

PRIOR = ("--set", "model.priors.sd=half_normal(0.2)")
FRESH = ("--set", "run.directory=fresh", "--set", "run.seed=2")
PRECISE = ("--set", "fit.draws=1000", "--set", "fit.rounds=20")


@pytest.fixture(scope="module")
def runs(nation: Path) -> tuple[Path, line.Said, line.Said]:
    """Return the folder of three runs (first, another prior, fresh), and what the second and a third call said."""
    folder = nation / "other-prior"
    folder.mkdir()
    (folder / "run.yaml").write_text(line.NATION)
    assert line.caucus("run", folder / "run.yaml", *PRECISE).code == 0
    shutil.copytree(folder / "run", folder / "before", copy_function=shutil.copy2)
    (folder / "inodes.txt").write_text(repr([line.identities(folder / "run" / d) for d in ("shards", "sites")]))
    second = line.caucus("run", folder / "run.yaml", *PRECISE, *PRIOR)
    third = line.caucus("run", folder / "run.yaml", *PRECISE, *PRIOR)
    assert line.caucus("run", folder / "run.yaml", *PRECISE, *PRIOR, *FRESH).code == 0
    return folder, second, third


def test_only_the_merge_and_what_follows_is_redone(runs: tuple[Path, line.Said, line.Said]):
    folder, second, third = runs
    assert second.code == 0, second
    assert second.redone == ["merge", "audit", "poststratify", "report"]
    assert "merge: starts (model.priors.sd: (not set) -> half_normal(0.2))" in second.err
    untouched = [line.identities(folder / "run" / d) for d in ("shards", "sites")]
    assert repr(untouched) == (folder / "inodes.txt").read_text()
    assert third.redone == []
    assert "nothing was redone" in third.out


def test_it_equals_a_fresh_run_within_monte_carlo_error(runs: tuple[Path, line.Said, line.Said]):
    """False alarm 1e-6 over all parameters; the seeds differ, so the two have independent Monte Carlo errors."""
    folder, _, _ = runs
    before, after, fresh = (pq.read_table(folder / d / "summary.parquet") for d in ("before", "run", "fresh"))
    assert after["parameter"] == fresh["parameter"]
    column = {
        d: {c: t[c].to_numpy() for c in ("mean", "sd", "mcse_mean")}
        for d, t in zip("baf", (before, after, fresh), strict=True)
    }
    limit = stats.norm.isf(1e-6 / (2 * after.num_rows))
    mcse = np.hypot(column["a"]["mcse_mean"], column["f"]["mcse_mean"])
    assert np.all(limit * mcse <= 0.25 * column["f"]["sd"]), "inconclusive: draw more"
    assert np.all(np.abs(column["a"]["mean"] - column["f"]["mean"]) <= limit * mcse)
    moved = np.abs(column["b"]["mean"] - column["f"]["mean"]) / np.hypot(
        column["b"]["mcse_mean"], column["f"]["mcse_mean"]
    )
    assert moved.max() > 2 * limit, "the prior must matter, or this test shows nothing"
