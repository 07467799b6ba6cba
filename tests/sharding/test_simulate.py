"""The simulated nation: its people are where they should be, its truth is true, its survey misleads."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import stats
from scipy.special import expit

from sharding import simulate as simulate_module
from sharding import simulation_people, simulation_population
from sharding.simulate import COLUMNS, SimulationError, simulate, simulate_cells

NUM_ROWS, SEED, NUM_ANSWERS = 60_000, 5, 6_000
FALSE_ALARM = 1e-6  # of each test, all its comparisons together


def z_limit(num_comparisons: int) -> float:
    return float(stats.norm.isf(FALSE_ALARM / (2 * num_comparisons)))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nation")
    simulate(path, num_rows=NUM_ROWS, seed=SEED, num_answers=NUM_ANSWERS, rows_per_file=25_000)
    return path


@pytest.fixture(scope="module")
def voters(directory: Path) -> pd.DataFrame:
    return (
        pq.read_table(directory / "voters").to_pandas().astype({"state": str, "county": str, "race": str, "age": str})
    )


@pytest.fixture(scope="module")
def truth(directory: Path) -> dict[str, pd.DataFrame]:
    names = ("coefficients", "scales", "standardisation", "expected")
    return {name: pd.read_parquet(directory / "truth" / f"{name}.parquet") for name in names}


def chances(voters: pd.DataFrame, truth: dict[str, pd.DataFrame], outcome: str) -> pd.Series:
    """The chance of a 1 for every row, from the files of the truth alone."""
    table = truth["coefficients"].query("outcome == @outcome").set_index(["term", "level"])["value"]
    constants = truth["standardisation"].set_index("column")
    eta = table["Intercept", ""] + table["female", ""] * voters["female"]
    for name in ("dem_share", "pct_college"):
        eta += table[name, ""] * (voters[name] - constants.loc[name, "center"]) / constants.loc[name, "scale"]
    for term in table.index.get_level_values("term").unique():
        if term.startswith("1|"):
            columns = term[2:].split(":")
            level = voters[columns[0]].str.cat([voters[c] for c in columns[1:]], sep=":")
            eta += level.map(table[term])
    return expit(eta)


def test_every_person_once(voters: pd.DataFrame) -> None:
    assert tuple(voters.columns) == COLUMNS
    assert len(voters) == NUM_ROWS
    assert voters["voter_id"].is_unique
    assert (voters["voter_id"].str[:5] == voters["county"]).all()
    assert voters["county"].nunique() == 3144
    assert ((voters["sex"] == "F") == (voters["female"] == 1)).all()
    assert voters.drop(columns="support").notna().all().all()
    assert voters.groupby("county")[["dem_share", "pct_college"]].nunique().to_numpy().max() == 1


def test_counties_get_their_share() -> None:
    adults = simulation_population.load_counties().adults
    sizes = simulation_population.apportion(2_000_000, adults)
    assert sizes.sum() == 2_000_000
    assert sizes.min() == 1
    quota = (2_000_000 - len(adults)) * adults / adults.sum()
    assert np.all(np.abs(sizes - 1 - quota) <= 1)
    assert simulation_population.apportion(100, adults).sum() == 100


def test_demography_of_a_county_is_its_own() -> None:
    counties = simulation_population.load_counties()
    shares = [simulation_population.category_probabilities(counties, seed, 1) for seed in range(4)]
    tables = np.stack(shares).reshape(4, len(counties.fips), 5, 8, 2, 4)
    np.testing.assert_allclose(tables.sum(axis=(2, 3, 4, 5)), 1.0)
    race = tables.sum(axis=(3, 4, 5))
    sd = np.sqrt(counties.race_share * (1 - counties.race_share) / 401 / 4)  # Dirichlet with concentration 400, 4 draws
    assert np.abs(((race.mean(axis=0) - counties.race_share) / sd).mean()) < z_limit(1) / np.sqrt(len(sd))
    age = tables.sum(axis=(2, 4, 5))
    np.testing.assert_allclose(age @ [0, 0, 0, 0, 0, 0.5, 1, 1], np.tile(counties.over_65, (4, 1)), atol=1e-6)
    of_25 = tables[:, :, :, 1:].sum(axis=(2, 3, 4))
    graduates = of_25[..., 2:].sum(axis=-1) / of_25.sum(axis=-1)
    np.testing.assert_allclose(graduates, np.tile(counties.graduates, (4, 1)), atol=1e-6)
    young_white, old_white = tables[:, :, 0, 0].sum(), tables[:, :, 0, 7].sum()
    assert old_white / tables[:, :, :, 7].sum() > young_white / tables[:, :, :, 0].sum() + 0.05  # ages differ by race


def test_file_has_the_demography_it_was_drawn_from(voters: pd.DataFrame) -> None:
    counties = simulation_population.load_counties()
    shares = simulation_population.category_probabilities(counties, SEED, simulation_people._RACE)
    sizes = simulation_population.apportion(NUM_ROWS, counties.adults)
    by_race = shares.reshape(len(sizes), 5, -1).sum(axis=2)
    mean, variance = sizes @ by_race, sizes @ (by_race * (1 - by_race))
    found = voters["race"].value_counts()[list(simulation_population.RACES)].to_numpy()
    assert np.all(np.abs(found - mean) < z_limit(5) * np.sqrt(variance))


@pytest.mark.parametrize("outcome", ["voted", "support"])
def test_expected_shares_follow_from_the_coefficients(
    voters: pd.DataFrame, truth: dict[str, pd.DataFrame], outcome: str
) -> None:
    person = voters.assign(p=chances(voters, truth, outcome), all="all", known=voters[outcome].notna())
    person["state:county"] = person["state"] + ":" + person["county"]
    for margin in ("all", "state", "state:county"):
        expected = truth["expected"].query("outcome == @outcome and margin == @margin").set_index("level")
        groups = person.groupby(margin)
        assert set(expected.index) == set(groups.groups)
        np.testing.assert_allclose(expected["expected_mean"], groups["p"].mean()[expected.index], rtol=1e-12)
        assert (expected["num_rows"] == groups.size()[expected.index]).all()
        assert (expected["num_answers"] == groups["known"].sum()[expected.index]).all()
        raw = groups[outcome].mean()[expected.index].astype(float)
        np.testing.assert_allclose(expected["raw_mean"].astype(float), raw, rtol=1e-12)


def test_truth_has_every_level_and_its_scale(truth: dict[str, pd.DataFrame]) -> None:
    table = truth["coefficients"]
    effects = table[table["term"].str.startswith("1|")]
    sizes = effects.groupby(["outcome", "term"])["value"].agg(["size", lambda u: (u**2).sum()])
    sizes.columns = ["num_levels", "sum_of_squares"]
    scales = truth["scales"].assign(term=truth["scales"]["term"].str.removeprefix("sd(").str.removesuffix(")"))
    both = sizes.join(scales.set_index(["outcome", "term"]))
    assert list(both.loc["voted", "num_levels"]) == [8, 5, 40, 51, 3144, 255]
    tail = stats.chi2.cdf(both["sum_of_squares"] / both["value"] ** 2, both["num_levels"])
    assert np.all(np.minimum(tail, 1 - tail) > FALSE_ALARM / (2 * len(both)))


def residual_z(voters: pd.DataFrame, p: pd.Series, outcome: str, by: str) -> np.ndarray:
    groups = pd.DataFrame({"r": voters[outcome].astype(float) - p, "v": p * (1 - p)}).groupby(voters[by], observed=True)
    return (groups["r"].sum() / np.sqrt(groups["v"].sum())).to_numpy()


def test_people_do_what_the_truth_says(voters: pd.DataFrame, truth: dict[str, pd.DataFrame]) -> None:
    p = chances(voters, truth, "voted")
    for by in ("state", "race", "age", "sex", "education"):  # education is not in the model and must not matter
        z = residual_z(voters, p, "voted", by)
        assert np.abs(z).max() < z_limit(5 * len(z)), by
    wrong = p.where(voters["state"] != "TX", p - 0.1)
    assert np.abs(residual_z(voters, wrong, "voted", "state")).max() > z_limit(51), "the test above has no power"
    assert np.abs(residual_z(voters, p, "voted", "g2022")).max() > 20  # habits are real


def test_answers_are_missing_at_random(voters: pd.DataFrame, truth: dict[str, pd.DataFrame]) -> None:
    known = voters[voters["support"].notna()]
    assert len(known) == NUM_ANSWERS
    p = chances(known, truth, "support")
    for by in ("race", "age", "sex", "education", "voted"):
        z = residual_z(known, p, "support", by)
        assert np.abs(z).max() < z_limit(5 * len(z)), by
    assert known["party"].eq("DEM").mean() > voters["party"].eq("DEM").mean()


def test_survey_misleads(truth: dict[str, pd.DataFrame]) -> None:
    expected = truth["expected"].query("outcome == 'support'").astype({"raw_mean": float})
    nation = expected.query("margin == 'all'").iloc[0]
    assert abs(nation["raw_mean"] - nation["expected_mean"]) > 0.05
    states = expected.query("margin == 'state' and num_answers >= 50")
    se = np.sqrt(states["raw_mean"] * (1 - states["raw_mean"]) / states["num_answers"])
    covered = np.abs(states["raw_mean"] - states["expected_mean"]) < 1.645 * se
    assert len(states) > 25
    assert covered.mean() < 0.6, "90% intervals around raw means should miss far more often"


def test_same_arguments_same_bytes(directory: Path, tmp_path: Path) -> None:
    simulate(tmp_path, num_rows=NUM_ROWS, seed=SEED, num_answers=NUM_ANSWERS, rows_per_file=25_000)
    files = sorted(path.relative_to(directory) for path in directory.rglob("*.*"))
    assert len(files) == 3 + 5
    for name in files:
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes(), name


def test_parts_are_bounded_and_content_does_not_depend_on_them(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate_module, "ROWS_PER_GROUP", 4_000)
    columns = ["voter_id", "age", "county", "support", "g2018"]
    summary = simulate(
        tmp_path, num_rows=NUM_ROWS, seed=SEED, num_answers=NUM_ANSWERS, rows_per_file=10_000, only_columns=columns
    )
    parts = [pq.ParquetFile(path) for path in sorted((tmp_path / "voters").iterdir())]
    assert summary.num_files == len(parts) == 8
    for part in parts:
        assert part.metadata.num_rows <= 10_000
        groups = [part.metadata.row_group(i).num_rows for i in range(part.num_row_groups)]
        assert max(groups) <= 4_000
    one = pq.read_table(directory / "voters", columns=columns).to_pandas()
    pd.testing.assert_frame_equal(pq.read_table(tmp_path / "voters").to_pandas().astype(str), one.astype(str))


@pytest.mark.parametrize("num_rows", [1, 100])
def test_tiny_nations(tmp_path: Path, num_rows: int) -> None:
    summary = simulate(tmp_path, num_rows=num_rows, seed=1)
    assert summary.num_answers == num_rows  # everybody, where there are fewer people than answers asked for
    assert pq.read_table(tmp_path / "voters").num_rows == num_rows
    assert (
        pd.read_parquet(tmp_path / "truth" / "expected.parquet").query("margin == 'all'")["num_rows"].eq(num_rows).all()
    )


@pytest.mark.parametrize("outcome", ["voted", "support"])
def test_cells_are_the_file_grouped(voters: pd.DataFrame, outcome: str) -> None:
    cells = pd.DataFrame(simulate_cells(NUM_ROWS, SEED, outcome=outcome, num_answers=NUM_ANSWERS))
    keys = ["state", "county", "race", "age", "female", "dem_share", "pct_college"]
    found = voters.groupby(keys)[outcome].agg(num_rows="size", num_trials="count", num_successes="sum")
    pd.testing.assert_frame_equal(
        cells.set_index(keys).sort_index().astype(int), found.sort_index().astype(int), check_index_type=False
    )


def test_finished_nation_is_left_alone_and_another_is_refused(tmp_path: Path) -> None:
    first = simulate(tmp_path, num_rows=100, seed=1)
    again = simulate(tmp_path, num_rows=100, seed=1)
    assert not first.reused
    assert again.reused
    assert again.turnout == first.turnout
    with pytest.raises(SimulationError, match=r"seed 1 \(asked: 2\)"):
        simulate(tmp_path, num_rows=100, seed=2)


def test_interrupted_nation_starts_again(tmp_path: Path) -> None:
    (tmp_path / ".partial" / "voters").mkdir(parents=True)
    (tmp_path / ".partial" / "voters" / "part-00000.parquet").write_bytes(b"half")
    simulate(tmp_path, num_rows=100, seed=1)
    assert not (tmp_path / ".partial").exists()
    assert pq.read_table(tmp_path / "voters").num_rows == 100
    assert json.loads((tmp_path / "truth" / "simulation.json").read_text())["request"]["seed"] == 1


def test_foreign_voters_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "voters").mkdir()
    with pytest.raises(SimulationError, match="not part of a finished simulated nation"):
        simulate(tmp_path, num_rows=100, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": 0}, "num_rows is 0, expected 1 to"),
        ({"num_rows": 10**9}, "num_rows is 1,000,000,000, expected"),
        ({"num_answers": -1}, "num_answers"),
        ({"rows_per_file": 0}, "rows_per_file"),
        ({"only_columns": ["agee"]}, "agee"),
        ({"only_columns": []}, "nothing"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(SimulationError, match=message) as caught:
        simulate(tmp_path, **{"num_rows": 100, "seed": 1, **arguments})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301
    assert not any(tmp_path.iterdir())
