"""A spline and a factor that stands for two columns, from files to estimates on a frame of its own."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

from reporting import posterior

CONFIG = """\
name: terms
data: {source: "voters/*", outcome: voted, terms_of_use: synthetic}
model:
  formula: voted ~ 1 + income + (1 | state) + (1 | area)
  family: bernoulli
  splines: {income: {df: 7, sd: half_normal(2)}}
  multi_membership: {area: {columns: [area_1, area_2], weights: [share_1, share_2]}}
shards: {by: state, min_cells: 1}
fit: {draws: 250}
audit: {draws: 200}
poststratify: {by: [all, state]}
publish: {min_count: 1}
run: {directory: run, seed: 1, executor: serial}
"""
AREAS = ("north", "south", "east", "west")
LATER = ["merge", "audit", "poststratify", "report"]


def people(num_rows: int = 900) -> dict[str, Any]:
    """States differ in income, so that no shard has the whole range; the outcome is a hump in income."""
    rng = np.random.default_rng(8)
    state, first, second = rng.integers(0, 4, num_rows), *rng.integers(0, 4, (2, num_rows))
    income = np.round(10 * state + rng.uniform(0, 25, num_rows), 1)
    share = rng.choice([0.5, 0.75], num_rows)
    area = np.array([-0.8, 0.8, 0.0, 0.3])
    logit = 2.5 - ((income - 28) / 12) ** 2 + share * area[first] + (1 - share) * area[second]
    return {
        "state": np.array(line.STATES)[state].tolist(), "income": income.tolist(), "share_1": share.tolist(),
        "share_2": (1 - share).tolist(), "area_1": np.array(AREAS)[first].tolist(),
        "area_2": np.array(AREAS)[second].tolist(),
        "voted": (rng.random(num_rows) < 1 / (1 + np.exp(-logit))).astype(int).tolist(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terms")
    said = line.caucus("run", line.make(folder, people(), CONFIG))
    assert said.code == 0, said.err
    return folder


def means(folder: Path) -> dict[str, float]:
    table = pq.read_table(folder / "run" / "summary.parquet").to_pydict()
    return dict(zip(table["parameter"], table["mean"], strict=True))


def test_the_curve_and_the_areas_are_in_the_posterior_and_the_report(finished: Path):
    found = means(finished)
    assert {f"s(income)[{j}]" for j in range(1, 8)} <= set(found)
    assert found["s(income)[4]"] > max(found["s(income)[1]"], found["s(income)[7]"]) + 1.0
    assert {f"1|area[{area}]" for area in AREAS} | {"sd(s(income))", "sd(1|area)", "income"} <= set(found)
    assert found["1|area[south]"] > found["1|area[north]"] + 0.5
    draws = posterior.read_posterior(finished / "run" / "posterior.nc")
    assert draws.posterior["s(income)"].dims[-1] == "basis(income)"
    assert "s(income)" in (finished / "run" / "report.html").read_text()
    estimates = pq.read_table(finished / "run" / "estimates" / "state.parquet").to_pandas()
    assert np.corrcoef(estimates["raw_mean"], estimates["mean"])[0, 1] > 0.95


def test_another_prior_of_the_spline_is_a_merge_and_another_basis_is_a_fit(finished: Path):
    config = finished / "run.yaml"
    tight = line.caucus("run", config, "--set", "model.splines.income.sd=half_normal(0.001)")
    assert (tight.code, tight.redone) == (0, LATER), tight.err
    bent = means(finished)
    assert abs(bent["s(income)[4]"] - bent["s(income)[1]"]) < 0.5
    other = line.caucus("run", config, "--set", "model.splines.income.df=6", "--set", "fit.draws=50")
    assert (other.code, other.redone) == (0, ["fit", *LATER]), other.err
    assert "s(income)[7]" not in means(finished)


def test_a_frame_beyond_the_incomes_of_the_data_has_estimates(finished: Path):
    frame = {
        "state": ["AL", "AL", "OH"], "income": [28.0, 500.0, 55.0], "area_1": ["north", "south", "east"],
        "area_2": ["west", "west", "east"], "share_1": [0.5, 0.5, 0.5], "share_2": [0.5, 0.5, 0.5], "people": [5, 5, 5],
    }  # fmt: skip
    more = ("--set", "poststratify.frame=frame.parquet", "--set", "poststratify.count=people", "--set", "fit.draws=50")
    pq.write_table(pa.table(frame), finished / "frame.parquet")
    said = line.caucus("run", finished / "run.yaml", *more)
    assert said.code == 0, said.err
    estimates = pq.read_table(finished / "run" / "estimates" / "state.parquet").to_pandas()
    assert estimates["mean"].between(0, 1).all()
    assert len(estimates) == 2
    frame["area_2"][0] = "nowhere"
    pq.write_table(pa.table(frame), finished / "frame.parquet")
    refused = line.caucus("run", finished / "run.yaml", *more)
    assert refused.code == 2
    assert "'area_2' is not a level of the data" in refused.message
