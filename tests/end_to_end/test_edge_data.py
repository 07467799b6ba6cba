"""Data at the edge through the whole line: nothing known of a state, one row, no variation, one shard, own frames."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from scipy import stats
from scipy.special import expit, logsumexp

sys.path.insert(0, str(Path(__file__).parent))
import line
from line import CONFIG, STATES

MORE_DRAWS = ("--set", "fit.draws=500")


def run(folder: Path, *settings: str, **columns: Any) -> line.Said:
    """Run the small file with some columns replaced, in ``folder/run``."""
    return line.caucus("run", line.make(folder, line.voters() | columns), *settings)


def table(folder: Path, name: str) -> dict[str, list[Any]]:
    """A table of the run."""
    return pq.read_table(folder / "run" / name).to_pydict()


def draws(folder: Path) -> Any:
    """Posterior draws by name, chains joined."""
    with xr.open_datatree(folder / "run" / "posterior.nc", engine="h5netcdf") as tree:
        return tree["posterior"].to_dataset().stack(sample=("chain", "draw")).load()


def assert_same_means(one: Path, other: Path, *, false_alarm: float = 1e-6) -> None:
    """Means of all parameters differ by their Monte Carlo errors only."""
    a, b = table(one, "summary.parquet"), table(other, "summary.parquet")
    assert a["parameter"] == b["parameter"]
    mcse = np.hypot(a["mcse_mean"], b["mcse_mean"])
    limit = stats.norm.isf(false_alarm / (2 * len(mcse)))
    assert np.all(limit * mcse <= 0.4 * np.array(a["sd"])), "inconclusive: draw more"
    assert np.all(np.abs(np.subtract(a["mean"], b["mean"])) <= limit * mcse)


@pytest.mark.parametrize(
    "shards", ["{by: random, num_shards: 1}", "{by: random, num_shards: 7}", "{by: hash, column: race, num_shards: 3}"]
)
def test_any_cut_gives_the_same_posterior(shards: str, tmp_path: Path):
    assert run(tmp_path / "states", *MORE_DRAWS).code == 0
    assert run(tmp_path / "cut", *MORE_DRAWS, "--set", f"shards={shards}", "--set", "run.seed=2").code == 0
    assert_same_means(tmp_path / "states", tmp_path / "cut")


def test_a_state_of_which_nothing_is_known_is_estimated_from_the_others(tmp_path: Path):
    known = line.voters()
    voted = [None if state == "WY" else value for state, value in zip(known["state"], known["voted"], strict=True)]
    assert run(tmp_path, voted=voted).code == 0
    found = table(tmp_path, "estimates/state.parquet")
    assert sorted(found["state"]) == sorted(STATES)
    at = found["state"].index("WY")
    assert found["num_rows"][at] == known["state"].count("WY")
    assert found["num_trials"][at] == 0
    assert found["raw_mean"][at] is None
    assert found["sd"][at] > 2 * max(sd for i, sd in enumerate(found["sd"]) if i != at)


def test_one_row_is_the_prior_and_a_little(tmp_path: Path):
    one = {name: values[:1] for name, values in line.voters().items()}
    config = CONFIG.replace(" + female + share", "")
    said = line.caucus("run", line.make(tmp_path, one, config))
    assert said.code in (0, 3), said
    assert table(tmp_path, "estimates/all.parquet")["num_rows"] == [1]


@pytest.mark.parametrize("value", [0, 1])
def test_outcomes_that_are_all_equal_fit_with_a_warning(value: int, tmp_path: Path):
    said = run(tmp_path, voted=[value] * 400)
    assert said.code == 0, said
    assert "verdict: warn" in said.out
    mean = table(tmp_path, "estimates/all.parquet")["mean"][0]
    assert abs(mean - value) < 0.03


def test_a_group_of_one_level_is_its_prior(tmp_path: Path):
    said = run(tmp_path, *MORE_DRAWS, race=["White"] * 400)
    assert said.code == 0, said
    summary = table(tmp_path, "summary.parquet")
    at = summary["parameter"].index("sd(1|race)")
    assert abs(summary["mean"][at] - np.sqrt(2 / np.pi)) < 0.1, "one level says next to nothing of a half_normal(1)"


def test_gaussian_outcomes_against_integration(tmp_path: Path):
    rng = np.random.default_rng(3)
    columns = line.voters()
    share = rng.normal(0.5, 0.1, 400)
    y = 2.0 + 3.0 * share + rng.normal(0, 0.7, 400)
    config = CONFIG.replace("voted ~ 1 + female + share + (1 | state) + (1 | race)", "voted ~ 1 + share")
    config = config.replace(
        "family: bernoulli",
        "family: gaussian\n  priors: {intercept: 'normal(0, 5)', b: 'normal(0, 2)', sigma: exponential(1)}",
    )
    file = line.make(tmp_path, columns | {"share": share, "voted": y}, config)
    assert line.caucus("run", file, "--set", "fit.draws=1000").code == 0
    z = np.stack([np.ones(400), (share - share.mean()) / share.std()], axis=1)
    log_sigma = np.linspace(np.log(0.5), np.log(1.0), 400)
    prior = np.diag([1 / 25, 1 / 4])
    weights, means, variances = [], [], []
    for sigma in np.exp(log_sigma):  # given sigma everything is normal
        precision = z.T @ z / sigma**2 + prior
        mean = np.linalg.solve(precision, z.T @ y / sigma**2)
        fit = -400 * np.log(sigma) - (y @ y / sigma**2 - mean @ precision @ mean) / 2
        weights.append(fit - np.linalg.slogdet(precision)[1] / 2 - sigma + np.log(sigma))
        means.append(mean)
        variances.append(np.diag(np.linalg.inv(precision)))
    weight = np.exp(np.array(weights) - logsumexp(weights))
    expected = weight @ np.array(means)
    sd = np.sqrt(weight @ (np.array(variances) + (np.array(means) - expected) ** 2))
    sigma_mean = weight @ np.exp(log_sigma)
    summary = table(tmp_path, "summary.parquet")
    limit = stats.norm.isf(1e-6 / 6)
    for name, truth, width in [
        ("Intercept", expected[0], sd[0]),
        ("share", expected[1], sd[1]),
        ("sigma", sigma_mean, None),
    ]:
        at = summary["parameter"].index(name)
        assert abs(summary["mean"][at] - truth) <= limit * summary["mcse_mean"][at], name
        if width is not None:  # an sd of 4,000 nearly independent draws has a relative error of 1.1%
            assert abs(summary["sd"][at] / width - 1) < 0.06, name


FRAME = {
    "state": ["AL", "AK", "OH", "WY", "TX", "PR"],
    "race": ["White", "Black", "Other", "White", "White", "Black"],
    "female": [1, 0, 1, 0, 1, 1],
    "share": [0.4, 0.5, 0.6, 0.55, 0.5, 0.45],
    "n": [100, 20, 300, 5, 40, 60],
    "zone": ["01", "01", "02", "02", "03", "03"],
}


def effects(found: Any, frame: dict[str, list[Any]], row: int, data: dict[str, Any]) -> Any:
    """Fixed effects of one row of a frame, per draw."""
    center, scale = np.mean(data["share"]), np.std(data["share"])
    return (
        found["Intercept"]
        + found["female"] * frame["female"][row]
        + found["share"] * (frame["share"][row] - center) / scale
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_own_frame_against_brute_force(suffix: str, tmp_path: Path):
    """Two states that the data never had: their effects are drawn; a margin that only the frame has."""
    file = line.make(tmp_path)
    frame = tmp_path / f"frame.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(FRAME), frame)
    else:
        rows = [FRAME.keys(), *zip(*FRAME.values(), strict=True)]
        frame.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    own = ["--set", f"poststratify={{by: [all, race, zone], frame: {frame}, count: n}}"]
    said = line.caucus("run", file, *MORE_DRAWS, *own)
    assert said.code == 0, said
    assert "2 levels of the frame were not in the data" in said.err
    found, data = draws(tmp_path), line.voters()
    expected = np.stack(
        [
            expit(
                effects(found, FRAME, i, data)
                + found["1|state"].sel(state=FRAME["state"][i])
                + found["1|race"].sel(race=FRAME["race"][i])
            ).to_numpy()
            for i, state in enumerate(FRAME["state"])
            if state in STATES
        ]
    )
    count = np.array(FRAME["n"])
    zones = table(tmp_path, "estimates/zone.parquet")
    assert zones["zone"] == ["01", "02", "03"]
    assert zones["num_rows"] == [120, 305, 100]
    for row, members in enumerate(([0, 1], [2, 3])):
        means = count[members] @ expected[members] / count[members].sum()
        np.testing.assert_allclose([zones["mean"][row], zones["sd"][row]], [means.mean(), means.std(ddof=1)], rtol=1e-6)
    rng = np.random.default_rng(1)
    drawn = 0.0
    for i in (4, 5):  # each of the new states has an effect of its own, many times over for the reference
        rest = effects(found, FRAME, i, data) + found["1|race"].sel(race=FRAME["race"][i])
        effect = rng.standard_normal((50, rest.size)) * found["sd(1|state)"].to_numpy()
        drawn = drawn + FRAME["n"][i] * expit(rest.to_numpy() + effect) / 100
    z = stats.norm.isf(1e-6)
    assert abs(zones["mean"][2] - np.mean(drawn)) < z * np.std(drawn) / np.sqrt(found.sizes["sample"])
    assert abs(zones["sd"][2] / np.std(drawn) - 1) < z / np.sqrt(2 * found.sizes["sample"]), (
        "effects are drawn, one a level"
    )
    assert zones["raw_mean"] == [None] * 3
    races = table(tmp_path, "estimates/race.parquet")
    voted = {race: [y for y, r in zip(data["voted"], data["race"], strict=True) if r == race] for race in data["race"]}
    np.testing.assert_allclose(races["raw_mean"], [np.mean(voted[race]) for race in races["race"]])


def test_a_trend_with_deviations_by_year_goes_on_in_a_frame(tmp_path: Path):
    """`1 + year + (1 | year)`: a year that the data did not have has the trend's value, and a deviation drawn for it."""
    rng = np.random.default_rng(8)
    year = rng.integers(2001, 2012, 3000)
    deviation = rng.normal(0, 0.2, 11)
    y = 0.5 * (year - 2006) + deviation[year - 2001] + rng.normal(size=3000)
    (tmp_path / "voters").mkdir(parents=True)
    pq.write_table(pa.table({"year": year, "y": y}), tmp_path / "voters" / "a.parquet")
    for of_frame in (2003, 2031):
        (tmp_path / f"{of_frame}.csv").write_text(f"year,n\n{of_frame},10\n")
    config = """\
name: years
data: {source: "voters/*", outcome: y, terms_of_use: synthetic}
model: {formula: y ~ 1 + year + (1 | year), family: gaussian}
shards: {by: random, num_shards: 3}
fit: {draws: 200}
poststratify: {by: [all], frame: 2003.csv, count: n}
publish: {min_count: 1}
run: {directory: run, executor: serial}
"""
    (tmp_path / "run.yaml").write_text(config)
    assert line.caucus("run", tmp_path / "run.yaml").code == 0
    summary = table(tmp_path, "summary.parquet")
    where = summary["parameter"].index("year")
    scale = float(np.std(year))
    assert summary["unit"][where] == f"per {scale:.4g} of year"
    by_hand = np.polyfit(np.arange(2001, 2012), [y[year == k].mean() for k in range(2001, 2012)], 1)
    assert abs(summary["mean"][where] / scale - by_hand[0]) < 0.02
    (known,), (spread,) = (table(tmp_path, "estimates/all.parquet")[name] for name in ("mean", "sd"))
    assert abs(known - y[year == 2003].mean()) < 0.1
    assert line.caucus("run", tmp_path / "run.yaml", "--set", "poststratify.frame=2031.csv").code == 0
    later = table(tmp_path, "estimates/all.parquet")
    assert abs(later["mean"][0] - np.polyval(by_hand, 2031)) < 0.6
    assert later["sd"][0] > 2 * spread


@pytest.mark.parametrize("source", ["voters/*", "voters", "voters/part-0.parquet", "voters/part-?.parquet"])
def test_folders_may_have_characters_of_globs_in_their_names(tmp_path: Path, source: str):
    folder = tmp_path / "state [OH] *2024* {a,b}?"
    config = line.make(folder, config=line.CONFIG.replace('"voters/*"', f'"{source}"'))
    other = tmp_path / "state O 2024 a1"  # what the name of the folder would match
    line.make(other, line.voters(seed=2))
    assert line.caucus("run", config).code == 0
    plain = line.make(tmp_path / "plain", config=line.CONFIG.replace('"voters/*"', f'"{source}"'))
    assert line.caucus("run", plain).code == 0
    assert line.sha256(folder / "run/summary.parquet") == line.sha256(tmp_path / "plain/run/summary.parquet")


def test_a_finished_run_can_be_used_when_its_source_is_gone(tmp_path: Path):
    config = line.make(tmp_path)
    assert line.caucus("run", config).code == 0
    shutil.copytree(tmp_path / "run", tmp_path / "a copy")
    (tmp_path / "voters" / "part-0.parquet").unlink()
    assert line.caucus("run", config).out.startswith("everything is done already")
    assert line.caucus("run", config, "--set", "run.directory=a copy").out.startswith("everything is done already"), "wherever it lies"
    assert line.caucus("report", config).code == 0
    assert line.caucus("check", config).code == 0
    merged = line.caucus("run", config, "--set", "model.priors.sd=half_normal(2)")
    assert merged.code == 0
    assert merged.redone[0] == "merge"
    other = line.caucus("run", config, "--set", "data.columns.female.type=factor")
    assert other.code == 2, "what was read does not tell"
    assert "no file" in other.message


def test_a_change_in_the_dark_of_a_file_is_found_by_reading_all_of_it(tmp_path: Path):
    """Between head, middle and tail, with size and time kept: what no look at a directory can see."""
    columns = line.voters(60_000)
    text = ",".join(columns) + "\n" + "".join(f"{','.join(map(str, row))}\n" for row in zip(*columns.values(), strict=True))
    config = line.make(tmp_path, config=CONFIG.replace("voters/*", "voters.csv"))
    file = tmp_path / "voters.csv"
    file.write_text(text)
    assert line.caucus("run", config).code == 0
    verified = line.caucus("run", config, "--verify")
    assert "not verified when it was read; the data are read again" in verified.err
    assert verified.redone[0] == "ingest"
    assert line.caucus("run", config, "--verify").redone == []
    before, known = file.stat(), line.caucus("run", config).redone
    assert known == []
    place = text.index("\n", len(text) // 4) - 1
    other = text[:place] + str(1 - int(text[place])) + text[place + 1 :]
    file.write_text(other)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert line.caucus("run", config).redone == [], "as it says: the head, the middle and the tail"
    found = line.caucus("run", config, "--verify")
    summary = line.sha256(tmp_path / "run/summary.parquet")
    assert "voters.csv: changed; the data are read again" in found.err
    assert found.redone[0] == "ingest"
    shutil.rmtree(tmp_path / "run")
    assert line.caucus("run", config).code == 0
    assert line.sha256(tmp_path / "run/summary.parquet") == summary


def test_a_working_folder_that_goes_away_ends_nothing(tmp_path: Path):
    config = line.make(tmp_path, config=line.CONFIG.replace("directory: run", f"directory: {tmp_path}/run"))
    where = tmp_path / "where"
    where.mkdir()
    script = "from cluster.cli import main; main()"
    command = [sys.executable, "-c", script, "run", str(config)]
    with subprocess.Popen(command, cwd=where, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for told in process.stderr:
            said += told
            if "ingest: done" in told:
                where.rmdir()
        assert process.wait() == 0, said
    assert not where.exists()
    assert (tmp_path / "run" / "report.html").exists()
