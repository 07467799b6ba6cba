"""``caucus check`` and ``caucus compare`` on finished runs: what they write, what they leave alone, what they refuse."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

NO_RACE = ("--set", "model.formula=voted ~ 1 + female + share + (1 | state)", "--set", "name=no-race")
FILES = {
    "calibration.parquet", "checks.json", "loo.parquet", "loso.parquet", "ppc.parquet", "prior_predictive.parquet",
}  # fmt: skip


def voters() -> dict:
    """The small file with more people, and outcomes that depend plainly on race."""
    columns, rng = line.voters(1200), np.random.default_rng(2)
    logit = 0.4 * np.array(columns["female"]) + np.array([line.RACES.index(r) - 1.0 for r in columns["race"]])
    logit += np.array([0.5 * line.STATES.index(s) - 0.75 for s in columns["state"]])
    return columns | {"voted": (rng.random(1200) < 1 / (1 + np.exp(-logit))).astype(int).tolist()}


def run_and_check(folder: Path, *settings: str, columns: dict | None = None) -> tuple[Path, line.Said]:
    """Run the small file to the end and check it; return the run directory and what the check said."""
    config = line.make(folder, columns or voters())
    assert line.caucus("run", config, *settings).code == 0
    return folder / "run", line.caucus("check", config, *settings)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, line.Said]:
    """A run that knows race, with its check."""
    return run_and_check(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def without_race(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose formula lacks race, in cells that have it: it is a margin."""
    return run_and_check(tmp_path_factory.mktemp("without"), *NO_RACE)[0]


def summary(run: Path) -> dict:
    return json.loads((run / "checks" / "checks.json").read_text())


def table(run: Path, name: str) -> dict[str, np.ndarray]:
    found = pq.read_table(run / "checks" / f"{name}.parquet")
    return {c: found[c].to_numpy(zero_copy_only=False) for c in found.column_names}


def test_the_check_writes_its_files_and_says_what_they_hold(full: tuple[Path, line.Said]):
    run, said = full
    assert said.code == 0, said
    assert {f.name for f in (run / "checks").iterdir()} == FILES
    assert {f.stat().st_mode & 0o777 for f in (run / "checks").iterdir()} == {0o600}
    told, cells = summary(run), table(run, "loo")
    assert told["loo"]["cell"]["elpd"] == pytest.approx(cells["elpd"].sum())
    trials, successes = cells["num_trials"], cells["num_successes"]
    assert trials.sum() == told["loo"]["person"]["num_units"] == 1200
    people = np.nansum(successes * cells["elpd_success"]) + np.nansum((trials - successes) * cells["elpd_failure"])
    assert told["loo"]["person"]["elpd"] == pytest.approx(people)
    assert f"{people:,.1f}" in said.out
    assert set(cells["state"]) == set(line.STATES)
    assert np.isnan(cells["elpd_success"][successes == 0]).all()
    for file, sha256 in told["files"].items():
        assert line.sha256(run / "checks" / file) == sha256


def test_groups_are_those_of_the_estimates(full: tuple[Path, line.Said]):
    run, _ = full
    found = table(run, "ppc")
    for margin in ("state", "race"):
        estimates = pq.read_table(run / "estimates" / f"{margin}.parquet")
        kept = found["margin"] == margin
        assert found["level"][kept].tolist() == estimates[margin].to_pylist()
        np.testing.assert_allclose(found["observed"][kept], estimates["raw_mean"].to_numpy())
        np.testing.assert_allclose(found["mean"][kept], estimates["mean"].to_numpy(), atol=0.02)
    prior = table(run, "prior_predictive")
    assert (prior["kind"] == "group").sum() == len(found["level"])
    assert {"Intercept", "1|state", "1|race"} <= set(prior["level"][prior["kind"] == "term"])
    assert {"sd(1|state)", "sd(1|race)"} == set(prior["level"][prior["kind"] == "parameter"])
    deciles = table(run, "calibration")
    assert deciles["num_trials"][deciles["margin"] == "race"].sum() == 1200


def test_shards_are_left_out_one_by_one(full: tuple[Path, line.Said]):
    found = table(full[0], "loso")
    assert set(found["shard_id"]) == set(line.STATES)
    assert found["elpd_loso"].sum() < found["elpd_loo"].sum(), "states are predicted worse without their own people"
    assert np.all(np.abs(found["elpd_loso_person"] / found["num_trials"] + np.log(2)) < 0.2)
    assert np.all(np.abs(found["move"]) < 5)
    assert np.all((found["q05"] < found["q95"]) & (found["efficiency"] > 0.1))


def test_the_run_itself_stays_as_it_was(full: tuple[Path, line.Said], tmp_path: Path):
    run, _ = full
    before = {str(f.relative_to(run)): line.sha256(f) for f in run.rglob("*") if f.is_file() and f.name != ".lock"}
    said = line.caucus("check", run.parent / "run.yaml")
    after = {str(f.relative_to(run)): line.sha256(f) for f in run.rglob("*") if f.is_file() and f.name != ".lock"}
    assert said.code == 0
    assert after == before, "the same bytes again, checks included"
    again = line.caucus("run", run.parent / "run.yaml")
    assert again.redone == []
    assert "to do" not in line.caucus("status", run.parent / "run.yaml").out
    assert (run / "checks" / "checks.json").exists(), "a run leaves the checks alone"


def test_margins_of_ones_own(full: tuple[Path, line.Said], tmp_path: Path):
    run, said = run_and_check(tmp_path)
    said = line.caucus("check", run.parent / "run.yaml", "--by", "state:race")
    assert said.code == 0
    assert set(table(run, "ppc")["margin"]) == {"all", "state:race"}
    assert "AL:Black" in table(run, "ppc")["level"]
    refused = line.caucus("check", run.parent / "run.yaml", "--by", "county")
    assert refused.code == 2
    assert "'county'" in refused.message
    assert "race" in refused.message


@pytest.mark.parametrize("is_first", [True, False])
def test_compare_picks_the_model_that_made_the_data(is_first: bool, full: tuple[Path, line.Said], without_race: Path):
    runs = (full[0], without_race) if is_first else (without_race, full[0].parent / "run.yaml")
    said = line.caucus("compare", *runs)
    assert said.code == 0, said
    assert "small predicts better (over 1,200 people)" in said.out
    difference = next(row for row in said.out.splitlines() if row.startswith("difference")).split()
    elpd, se = float(difference[1]), float(difference[2])
    assert (elpd if is_first else -elpd) > 2 * se > 0
    assert said.out.count("predicts better") == 2, "the cells are the same, so they are compared as well"


def test_people_are_paired_where_the_cells_nest(full: tuple[Path, line.Said], tmp_path: Path):
    """Race neither in the formula nor a margin: the same people in coarser cells. The answer hardly depends on it."""
    coarse, _ = run_and_check(tmp_path, *NO_RACE, "--set", "poststratify.by=[state]")
    assert "race" not in table(coarse, "loo")
    said = line.caucus("compare", full[0], coarse)
    assert said.code == 0, said
    assert "small predicts better (over 1,200 people)" in said.out
    assert "only people are compared" in said.out
    told = summary(full[0])["loo"]["person"]["elpd"] - summary(coarse)["loo"]["person"]["elpd"]
    assert f"{told:,.1f}" in said.out


def test_other_people_are_refused(full: tuple[Path, line.Said], tmp_path: Path):
    columns = voters()
    columns["voted"][3] = 1 - columns["voted"][3]
    other, _ = run_and_check(tmp_path, columns=columns)
    said = line.caucus("compare", full[0], other)
    assert said.code == 2
    assert "other people than" in said.message
    assert "1 of" in said.message


def test_cells_that_do_not_nest_are_refused_with_what_to_do(without_race: Path, tmp_path: Path):
    settings = ("--set", "model.formula=voted ~ 1 + (1 | race)", "--set", "poststratify.by=[race]")
    other, _ = run_and_check(tmp_path / "race", *settings, "--set", "shards.by=race")
    plain, _ = run_and_check(tmp_path / "state", *NO_RACE, "--set", "poststratify.by=[state]")
    said = line.caucus("compare", other, plain)
    assert said.code == 2
    assert "'race'" in said.message
    assert "'state'" in said.message
    assert "poststratify.by" in said.message


def test_a_run_that_is_not_there_or_not_current_is_refused(tmp_path: Path):
    config = line.make(tmp_path)
    said = line.caucus("check", config)
    assert (said.code, "there is no run" in said.message) == (2, True)
    assert not (tmp_path / "run").exists()
    assert line.caucus("run", config).code == 0
    said = line.caucus("check", config, "--set", "model.priors.sd=half_normal(0.3)")
    assert said.code == 2
    assert "half_normal(0.3)" in said.message
    said = line.caucus("compare", tmp_path / "run", tmp_path / "run")
    assert (said.code, "has no checks/checks.json" in said.message) == (2, True)
    assert line.caucus("check", config).code == 0
    assert "neither predicts clearly better" in line.caucus("compare", tmp_path / "run", config).out
    assert line.caucus("run", config, "--set", "model.priors.sd=half_normal(0.3)").code == 0
    said = line.caucus("compare", tmp_path / "run", tmp_path / "run")
    assert (said.code, "older posterior" in said.message) == (2, True)
    assert line.caucus("check", config, "--set", "model.priors.sd=half_normal(0.3)").code == 0
    (tmp_path / "run" / "checks" / "loo.parquet").write_bytes(b"damaged")
    said = line.caucus("compare", tmp_path / "run", tmp_path / "run")
    assert (said.code, "is not the file that was written" in said.message) == (2, True)


def test_numbers_have_cells_and_no_people(tmp_path: Path):
    columns = line.voters(400)
    columns["voted"] = (np.array(columns["voted"]) + np.random.default_rng(0).normal(0, 0.5, 400)).tolist()
    run, said = run_and_check(tmp_path, "--set", "model.family=gaussian", columns=columns)
    assert said.code == 0, said
    told = summary(run)
    assert told["loo"]["person"] is None
    assert told["loo"]["corrected"] == "exact"
    assert "elpd_success" not in table(run, "loo")
    assert not (run / "checks" / "calibration.parquet").exists()
    assert line.caucus("compare", run, run).out.count("neither predicts clearly better (over ") == 1


@pytest.mark.ray
def test_ray_gives_the_bytes_of_serial(full: tuple[Path, line.Said]):
    run, _ = full
    before = {f.name: line.sha256(f) for f in (run / "checks").iterdir()}
    said = line.ended(
        line.started("check", run.parent / "run.yaml", "--set", "run.executor=ray", "--set", "run.workers=2")
    )
    assert said.code == 0, said
    assert {f.name: line.sha256(f) for f in (run / "checks").iterdir()} == before
