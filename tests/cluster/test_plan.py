"""Projected memory: a worker's grows with its shard, the driver's with what it holds; neither with all draws of a nation. Projected work."""

import json
from pathlib import Path

import numpy as np
import pytest

from cluster import config, executors, plan

CONFIG = """\
name: precincts
data: {source: voters/*.parquet, outcome: voted, terms_of_use: synthetic}
model: {formula: voted ~ 1 + (1 | state/county/precinct), family: bernoulli}
shards: {by: state}
run: {executor: ray, workers: 2, directory: run}
"""


def planned(folder: Path, num_precincts: int, largest: int, *settings: str) -> plan.Plan:
    """The plan of a nation of 5 states, 50 counties and some precincts, in shards of which the largest has so many cells."""
    county, state = np.arange(num_precincts) % 50, np.arange(50) % 5
    codes = sorted((int(state[c]), int(c), p) for p, c in enumerate(county))
    factors = {"state": 5, "county": 50, "precinct": num_precincts}
    dictionary = {
        "factors": {name: {"levels": [f"{i:06d}" for i in range(n)], "reference": "000000"} for name, n in factors.items()},
        "numerics": {},
        "groups": {
            "state": [[i] for i in range(5)],
            "state:county": sorted([int(s), c] for c, s in enumerate(state)),
            "state:county:precinct": codes,
        },
        "parents": {
            "county": {"state": state.tolist()},
            "precinct": {"state": state[county].tolist(), "county": county.tolist()},
        },
        "outcome": {"kind": "binomial", "num_known": 10, "mean": 0.5, "sd": 0.5},
    }  # fmt: skip
    run = folder / "run"
    (run / "shards").mkdir(parents=True)
    (folder / "voters").mkdir()
    (run / "dictionary.json").write_text(json.dumps(dictionary))
    cells = 40 * num_precincts
    sizes = [largest, cells - largest] if largest < cells else [cells]
    one = {"shard_id": "s", "path": "shards/s.parquet", "sha256": "0", "num_rows": 1, "num_bytes": 1}
    manifest = {"schema_version": 2, "shards": [one | {"num_cells": n, "num_trials": n} for n in sizes], "totals": {"rows_read": cells}}
    (run / "shards/manifest.json").write_text(json.dumps(manifest))
    (folder / "run.yaml").write_text(CONFIG)
    return plan.make(config.load(folder / "run.yaml", settings).config, str(run))


def test_a_worker_grows_with_its_shard_and_the_driver_not_with_the_draws(tmp_path):
    small = planned(tmp_path / "a", 4_000, 80_000)
    one_shard = planned(tmp_path / "b", 4_000, 160_000)
    large = planned(tmp_path / "c", 16_000, 320_000)
    assert one_shard.worker_bytes > small.worker_bytes + 20_000_000
    growth = large.worker_bytes - one_shard.worker_bytes  # four times the nation, twice the shard
    assert growth < 3.2 * (one_shard.worker_bytes - small.worker_bytes)
    draws_of_all = 1000 * 16_000 * 8
    many = planned(tmp_path / "d", 16_000, 320_000, "fit.draws=25000")
    assert many.driver_bytes < large.driver_bytes + 3 * draws_of_all
    assert many.worker_bytes > large.worker_bytes + 10 * draws_of_all


@pytest.mark.parametrize("setting", ["fit={method: exact, draws: 2500}", "fit={draws: 2500}"])
def test_what_holds_all_draws_is_projected_to(tmp_path, setting):
    found = planned(tmp_path, 16_000, 320_000, setting)
    all_draws = 4 * 2500 * 16_000 * 8
    assert (found.driver_bytes > 3 * all_draws) == ("exact" in setting)


def test_a_dictionary_of_another_formula_is_no_obstacle(tmp_path):
    assert planned(tmp_path, 100, 4_000, "model.formula=voted ~ 1 + (1 | race)").driver_bytes > 0


def work(folder: Path, *settings: str, num_cells: int = 100_000, num_trials: int = 10**6, is_fitted: bool = False) -> float:
    (folder / "run.yaml").write_text(CONFIG)
    shards = [{"num_cells": n, "num_trials": num_trials} for n in (num_cells // 4, num_cells - num_cells // 4)]
    return plan.work_seconds(config.load(folder / "run.yaml", settings).config, shards, is_fitted=is_fitted)


def test_work_goes_by_cells_rounds_and_draws(tmp_path):
    usual = work(tmp_path)
    assert work(tmp_path, num_cells=300_000) == pytest.approx(3 * usual)
    assert work(tmp_path, "fit.rounds=1") < usual
    assert work(tmp_path, "fit.rounds=50") == usual  # rounds end by themselves
    after = work(tmp_path, is_fitted=True)
    assert 0 < after < usual
    assert work(tmp_path, "audit.draws=2000", is_fitted=True) > after
    assert work(tmp_path, "fit.draws=500", is_fitted=True) > after
    assert work(tmp_path, "fit.method=nuts", is_fitted=True) == after


def test_cells_without_an_outcome_are_only_summed(tmp_path):
    one_in_ten = work(tmp_path, "fit.method=nuts", num_trials=5_000)  # of two shards, 10,000 of 100,000 cells at most
    nobody = work(tmp_path, "fit.method=nuts", num_trials=0)
    assert nobody == pytest.approx(work(tmp_path, is_fitted=True) - work(tmp_path, is_fitted=True, num_trials=0), rel=1e-9)  # 1,000 draws each
    assert one_in_ten - nobody == pytest.approx((work(tmp_path, "fit.method=nuts") - nobody) / 10)


def test_sampling_is_more_work_than_variational_fits(tmp_path):
    assert work(tmp_path, "fit.method=nuts") > 20 * work(tmp_path)
    assert work(tmp_path, "fit={method: nuts, shard_draws: 1000}") > 2 * work(tmp_path, "fit.method=nuts")
    assert work(tmp_path, "fit={method: classic, warmup: 1500}") == pytest.approx(2 * work(tmp_path, "fit.method=classic"), rel=0.1)


def test_a_plan_has_the_workers_that_auto_will_have(tmp_path):
    little = planned(tmp_path / "a", 4_000, 80_000, "run.executor=auto")  # 160,000 cells
    much = planned(tmp_path / "b", 16_000, 320_000, "run.executor=auto")  # 640,000
    sampled = planned(tmp_path / "c", 4_000, 80_000, "run.executor=auto", "fit.method=nuts")
    assert (little.workers, much.workers, sampled.workers) == (1, 2, 2)
    assert little.driver_bytes > planned(tmp_path / "d", 4_000, 80_000).driver_bytes  # it fits the shards, too
    assert little.seconds is not None
    assert much.seconds == pytest.approx(4 * little.seconds / 2 + executors.RAY_SECONDS)
