"""Precincts of a simulated nation: nested, as many as asked for, in the truth; and nothing changes without them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import stats
from scipy.special import expit

from sharding.simulate import COLUMNS, SimulationError, simulate, simulate_cells
from sharding.simulation_population import load_counties
from sharding.simulation_precincts import limits

NUM_ROWS, NUM_PRECINCTS, SEED, NUM_ANSWERS = 90_000, 4_000, 5, 9_000
FALSE_ALARM = 1e-6


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("precincts")
    simulate(
        path, num_rows=NUM_ROWS, seed=SEED, num_answers=NUM_ANSWERS, num_precincts=NUM_PRECINCTS, rows_per_file=40_000
    )
    return path


@pytest.fixture(scope="module")
def voters(directory: Path) -> pd.DataFrame:
    texts = dict.fromkeys(("state", "county", "precinct", "race", "age"), str)
    return pq.read_table(directory / "voters").to_pandas().astype(texts)


def test_precincts_are_nested_and_counted(voters: pd.DataFrame) -> None:
    assert list(voters.columns) == ["voter_id", "state", "county", "precinct", *COLUMNS[3:]]
    assert voters["precinct"].str.fullmatch(r"\d{5}-\d{4}").all()
    assert (voters["precinct"].str[:5] == voters["county"]).all()
    assert len(voters) == NUM_ROWS
    assert voters["voter_id"].is_unique
    per_county = voters.groupby("county")["precinct"].nunique()
    quota = 1 + (NUM_PRECINCTS - 3144) * pd.Series(
        load_counties().adults / load_counties().adults.sum(), load_counties().fips
    )
    assert voters["precinct"].nunique() <= NUM_PRECINCTS
    big = quota[quota > 5].index  # a county with few people can have fewer of them than precincts
    assert np.all(np.abs(per_county[big] - quota[big]) <= 1)


def test_a_file_without_precincts_does_not_know_of_them(tmp_path: Path) -> None:
    plain = simulate(tmp_path / "plain", num_rows=5_000, seed=SEED)
    assert "num_precincts" not in json.loads((tmp_path / "plain/truth/simulation.json").read_text())["request"]
    assert pq.read_table(tmp_path / "plain/voters").column_names == list(COLUMNS)
    assert simulate(tmp_path / "plain", num_rows=5_000, seed=SEED).reused
    with pytest.raises(SimulationError, match="num_precincts None"):
        simulate(plain.directory, num_rows=5_000, seed=SEED, num_precincts=4_000)


@pytest.mark.parametrize("asked", [1, 3_143, limits(load_counties())[1] + 1])
def test_numbers_that_cannot_be_laid_out_are_refused(tmp_path: Path, asked: int) -> None:
    with pytest.raises(SimulationError, match="expected 0, or 3,144 to"):
        simulate(tmp_path / "n", num_rows=5_000, seed=1, num_precincts=asked)


@pytest.mark.parametrize("outcome", ["voted", "support"])
def test_expected_shares_follow_from_the_coefficients(directory: Path, voters: pd.DataFrame, outcome: str) -> None:
    truth = pd.read_parquet(directory / "truth/coefficients.parquet").query("outcome == @outcome")
    table = truth.set_index(["term", "level"])["value"]
    constants = pd.read_parquet(directory / "truth/standardisation.parquet").set_index("column")
    eta = table["Intercept", ""] + table["female", ""] * voters["female"]
    for name in ("dem_share", "pct_college"):
        eta += table[name, ""] * (voters[name] - constants.loc[name, "center"]) / constants.loc[name, "scale"]
    for term in [t for t in table.index.get_level_values("term").unique() if t.startswith("1|")]:
        columns = term[2:].split(":")
        eta += voters[columns[0]].str.cat([voters[c] for c in columns[1:]], sep=":").map(table[term])
    person = voters.assign(p=expit(eta), all="all", known=voters[outcome].notna())
    person["state:county"] = person["state"] + ":" + person["county"]
    person["state:county:precinct"] = person["state:county"] + ":" + person["precinct"]
    expected = pd.read_parquet(directory / "truth/expected.parquet").query("outcome == @outcome")
    for margin in ("all", "state", "state:county", "state:county:precinct"):
        wanted = expected[expected["margin"] == margin].set_index("level")
        groups = person.groupby(margin)
        assert set(wanted.index) == set(groups.groups)
        np.testing.assert_allclose(wanted["expected_mean"], groups["p"].mean()[wanted.index], rtol=1e-12)
        assert (wanted["num_rows"] == groups.size()[wanted.index]).all()
        assert (wanted["num_answers"] == groups["known"].sum()[wanted.index]).all()
        raw = groups[outcome].mean()[wanted.index].astype(float)
        np.testing.assert_allclose(wanted["raw_mean"].astype(float), raw, rtol=1e-12)
    known = person[person["known"]]
    variance = known["p"] * (1 - known["p"])
    z = (known[outcome].astype(float) - known["p"]).groupby(known["precinct"]).sum()
    z /= np.sqrt(variance.groupby(known["precinct"]).sum())
    assert abs((z**2).sum() - len(z)) < stats.norm.isf(FALSE_ALARM) * np.sqrt(
        6 * len(z)
    )  # kurtosis of rare events allowed for


def test_effects_have_their_scale(directory: Path) -> None:
    scales = pd.read_parquet(directory / "truth/scales.parquet").set_index(["outcome", "term"])["value"]
    effects = pd.read_parquet(directory / "truth/coefficients.parquet").query("term == '1|state:county:precinct'")
    for outcome, own in effects.groupby("outcome"):
        assert len(own) == NUM_PRECINCTS
        sd = scales[outcome, "sd(1|state:county:precinct)"]
        tail = stats.chi2.cdf((own["value"] ** 2).sum() / sd**2, NUM_PRECINCTS)
        assert min(tail, 1 - tail) > FALSE_ALARM


def test_cells_are_the_file_grouped(voters: pd.DataFrame) -> None:
    cells = pd.DataFrame(
        simulate_cells(NUM_ROWS, SEED, num_answers=NUM_ANSWERS, num_precincts=NUM_PRECINCTS, outcome="support")
    )
    keys = ["state", "county", "precinct", "race", "age", "female"]
    grouped = voters.assign(known=voters["support"].notna()).groupby(keys)
    found = cells.set_index(keys).sort_index()
    expected = pd.DataFrame({"num_rows": grouped.size(), "num_trials": grouped["known"].sum(),
                             "num_successes": grouped["support"].sum()}).sort_index()  # fmt: skip
    assert (found[expected.columns] == expected.astype(int)).all().all()
    assert len(found) == len(expected)
