"""An update of a finished run: one file changed and one is new; who is fitted again, what moved, and what a kill leaves."""

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))
import line

CONFIG = """\
name: small
data: {source: "voters/*", outcome: voted, terms_of_use: synthetic}
model: {formula: "voted ~ 1 + female + share + (1 | state) + (1 | race)", family: bernoulli}
shards: {by: state, min_cells: 1}
fit: {draws: 1000}
audit: {draws: 200}
poststratify: {by: [all, state]}
publish: {min_count: 1}
run: {directory: run, seed: 1, executor: serial}
"""
EFFECTS = {"AL": -0.4, "AK": 0.2, "OH": 0.3, "WY": -0.1}
RACES = ("Black", "Other", "White")
REDONE = ["ingest", "fit", "merge", "audit", "poststratify", "report"]


def write_state(
    folder: Path, state: str, num_rows: int, seed: int, effect: float, races: tuple[str, ...] = RACES
) -> None:
    rng = np.random.default_rng(seed)
    race, female = rng.integers(0, len(races), num_rows), rng.integers(0, 2, num_rows)
    share = np.round(rng.normal(0.5, 0.1, 4), 3)[rng.integers(0, 4, num_rows)]
    chance = 1 / (1 + np.exp(-(effect + 0.3 * female + 0.4 * (race - 1))))
    columns = {"state": [state] * num_rows, "race": [races[r] for r in race], "female": female.tolist()}
    columns |= {"share": share.tolist(), "voted": (rng.random(num_rows) < chance).astype(int).tolist()}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{state}.parquet")


class Project:
    """A finished run, its files as they were and as they are later, and copies of its directory to update."""

    def __init__(self, folder: Path, config: str = CONFIG, races: tuple[str, ...] = RACES):
        self.folder, self.config = folder, folder / "run.yaml"
        for name in ("before", "after"):
            for seed, (state, effect) in enumerate(EFFECTS.items()):
                write_state(folder / name, state, 250, seed, effect)
        write_state(folder / "after", "OH", 300, 10, 1.4)
        write_state(folder / "after", "NC", 200, 11, 0.1, races)
        for state in ("AL", "AK", "WY"):
            shutil.copy2(folder / "before" / f"{state}.parquet", folder / "after")
        self.config.write_text(config)
        self.files_are("before")
        assert line.caucus("run", self.config).code == 0

    def files_are(self, when: str) -> None:
        """Put the files of a time there, with their times of writing, which tell whether a file is another."""
        shutil.rmtree(self.folder / "voters", ignore_errors=True)
        shutil.copytree(self.folder / when, self.folder / "voters", copy_function=shutil.copy2)

    def copy(self, name: str, of: str = "run") -> Path:
        shutil.copytree(self.folder / of, self.folder / name, copy_function=shutil.copy2)
        return self.folder / name

    def say(self, command: str, name: str, *settings: str) -> line.Said:
        return line.caucus(command, self.config, "--set", f"run.directory={name}", *settings)

    def summary(self, name: str) -> pd.DataFrame:
        return pq.read_table(self.folder / name / "summary.parquet").to_pandas().set_index("parameter")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a finished run of four states in four files."""
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def updated(project: Project) -> line.Said:
    """Return what the update of the copy `updated` said."""
    project.copy("updated")
    project.files_are("after")
    return project.say("update", "updated")


def shards(run: Path) -> dict[str, str]:
    manifest = json.loads((run / "shards" / "manifest.json").read_text())
    return {entry["shard_id"]: entry["sha256"] for entry in manifest["shards"]}


def last_sites(run: Path) -> dict[str, str]:
    """File of each shard's last site."""
    paths = json.loads((run / "sites" / "rounds.json").read_text())["sites"]
    return {path.split("/")[1].split(".")[0]: path.split("/")[1] for path in paths}


def assert_equal_within_error(after: pd.DataFrame, fresh: pd.DataFrame) -> None:
    """Equal means; false alarm 1e-6 over all parameters together."""
    assert set(after.index) == set(fresh.index)
    fresh = fresh.loc[after.index]
    limit = stats.norm.isf(1e-6 / (2 * len(after)))
    mcse = np.hypot(after["mcse_mean"], fresh["mcse_mean"])
    assert np.all(limit * mcse <= 0.3 * fresh["sd"]), "inconclusive: draw more"
    assert np.all(np.abs(after["mean"] - fresh["mean"]) <= limit * mcse)


def test_only_shards_that_changed_are_fitted(project: Project, updated: line.Said):
    assert updated.code == 0, updated
    assert updated.redone == REDONE
    before, after = project.folder / "run", project.folder / "updated"
    same = {name: sha for name, sha in shards(after).items() if name not in ("OH", "NC")}
    assert same == {name: sha for name, sha in shards(before).items() if name != "OH"}
    assert shards(after)["OH"] != shards(before)["OH"]
    old, new = last_sites(before), last_sites(after)
    assert {name: file for name, file in new.items() if name in same} == {name: old[name] for name in same}
    for name in same:  # copied with their times: written by nobody since
        was, now = (run / "sites" / old[name] for run in (before, after))
        assert was.stat().st_mtime_ns == now.stat().st_mtime_ns
        assert was.read_bytes() == now.read_bytes()
    assert len(list((after / "sites").glob("AL.*"))) == 1
    rounds = json.loads((after / "sites" / "rounds.json").read_text())["rounds"]
    assert rounds[0]["method"] == "kept"
    assert all(r["num_shards"] == 2 for r in rounds[1:])
    assert rounds[-1]["move"] < 0.01
    assert not (after / "updating").exists()


def test_it_equals_a_fit_of_every_shard_in_the_same_coding(project: Project, updated: line.Said):
    """The earlier posterior and the one that took no notice of the changed state are the twins that must fail."""
    project.copy("fresh", of="updated")
    settings = ("--set", "fit.tolerance=0.001", "--set", "run.seed=2")
    fresh = project.say("run", "fresh", *settings)
    assert fresh.redone == REDONE[1:]
    assert_equal_within_error(project.summary("updated"), project.summary("fresh"))
    names = project.summary("run").index
    with pytest.raises(AssertionError):
        assert_equal_within_error(project.summary("run"), project.summary("fresh").loc[names])
    rounds = json.loads((project.folder / "fresh" / "sites" / "rounds.json").read_text())["rounds"]
    assert rounds[0]["round"] == 0
    assert not any("num_shards" in r for r in rounds)


def test_it_says_what_changed_and_what_moved(project: Project, updated: line.Said):
    told = json.loads((project.folder / "updated" / "update.json").read_text())
    files = {
        f["url"].rsplit("/", 1)[-1]: (f["status"], f["num_rows_before"], f["num_rows_after"]) for f in told["files"]
    }
    assert files == {"OH.parquet": ("changed", 250, 300), "NC.parquet": ("new", None, 200)}
    assert {s["shard_id"]: s["status"] for s in told["shards"]} == {"OH": "changed", "NC": "new"}
    assert told["num_shards"] == {"kept": 3, "fitted": 2}
    assert told["new_levels"] == {"state": ["NC"], "race": []}
    assert told["verdict"] == {"before": "pass", "after": "pass"}
    moves = pq.read_table(project.folder / "updated" / "update.parquet").to_pandas()
    before, after = project.summary("run"), project.summary("updated")
    of_parameters = moves[moves["table"] == "parameters"].set_index("level")
    expected = (after["mean"].reindex(before.index) - before["mean"]) / before["sd"]
    np.testing.assert_allclose(of_parameters["move"].reindex(before.index), expected, rtol=1e-12)
    assert of_parameters["move"].drop(before.index).isna().all()
    states = of_parameters[of_parameters.index.str.startswith("1|state[")]["move"].abs()
    assert states.idxmax() == "1|state[OH]"
    assert (told["top"][0]["table"], told["top"][0]["level"]) == ("state", "OH")
    for summary in told["moved"]:
        own = moves[moves["table"] == summary["table"]]["move"].abs()
        assert summary["above"] == {key: int((own > float(key)).sum()) for key in ("0.5", "1", "2")}
    assert "files: 1 new, 1 changed, 0 gone, 3 as before" in updated.out
    assert "shards: fitted 2, kept 3" in updated.out
    assert "250 -> 300 rows" in updated.out
    assert "new levels, after the others: state NC" in updated.out
    assert "verdict before: pass, after: pass" in updated.out


def test_afterwards_nothing_is_left_to_do(project: Project, updated: line.Said):
    project.files_are("after")
    assert project.say("run", "updated").redone == []
    again = project.say("update", "updated")
    assert (again.code, again.redone) == (0, [])
    assert "nothing changed" in again.out
    prior = project.say("status", "updated", "--set", "model.priors.sd=half_normal(0.5)").out.splitlines()
    assert [text.split()[0] for text in prior if "to do" in text] == REDONE[2:]


def wait_for(happened: Callable[[], bool], process) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


KILLED = {
    "setting aside": ("update", lambda run: list((run / "updating").glob("*"))),
    "fitting": ("update", lambda run: list((run / "sites").glob("OH.*.round-06*"))),
    "auditing": ("run", lambda run: (run / "summary.parquet").exists() and not (run / "audit.json").exists()),
}


@pytest.mark.parametrize("when", KILLED)
def test_a_killed_update_goes_on(when: str, project: Project, updated: line.Said):
    command, reached = KILLED[when]
    name = f"killed-{when.replace(' ', '-')}"
    run = project.copy(name)
    project.files_are("after")
    process = line.started("update", project.config, "--set", f"run.directory={name}")
    wait_for(lambda: bool(reached(run)), process)
    process.send_signal(signal.SIGKILL)
    assert line.ended(process).code == -signal.SIGKILL
    assert "to do" in project.say("status", name).out
    said = project.say(command, name)
    assert said.code == 0, said
    for file in ("posterior.nc", "update.json", "update.parquet"):
        assert line.sha256(run / file) == line.sha256(project.folder / "updated" / file), file
    assert line.half_written(run) == []
    assert not (run / "updating").exists()


def files_of(run: Path) -> dict[str, tuple[int, int]]:
    return {name: identity for name, identity in line.identities(run).items() if name != ".lock"}


def test_nothing_changed(project: Project):
    project.files_are("before")
    run = project.copy("same")
    before = files_of(run)
    said = project.say("update", "same")
    assert (said.code, said.redone) == (0, [])
    assert "nothing changed: every file is as it was" in said.out
    assert files_of(run) == before


def test_another_config_is_refused_and_the_run_stays(project: Project):
    run = project.copy("refused")
    before = files_of(run)
    project.files_are("after")
    formula = "model.formula=voted ~ 1 + female + (1 | state) + (1 | race)"
    for setting in (formula, "model.priors.sd=half_normal(0.5)", "shards.by=race", "fit.draws=500"):
        said = project.say("update", "refused", "--set", setting)
        assert said.code == 2, said
        assert f"{setting.partition('=')[0]}: " in said.message
        assert "use `caucus run` with it" in said.message
    assert files_of(run) == before


def test_without_a_finished_run_there_is_nothing_to_update(project: Project):
    project.files_are("before")
    said = project.say("update", "nowhere")
    assert said.code == 2
    assert "there is no finished run to update" in said.message
    assert "Use `caucus run` first" in said.message
    assert not (project.folder / "nowhere").exists()
    run = project.copy("partly")
    (run / "posterior.nc").unlink()
    project.files_are("after")
    said = project.say("update", "partly")
    assert said.code == 2
    assert "the stage 'merge' is not done: posterior.nc is missing" in said.message


def test_an_update_that_a_run_of_another_model_took_over_is_given_up(project: Project, updated: line.Said):
    """Killed while its sites were fitted, then run with another formula: no site of the first model is used."""
    run = project.copy("taken-over")
    project.files_are("after")
    process = line.started("update", project.config, "--set", "run.directory=taken-over")
    wait_for(lambda: bool(list((run / "sites").glob("OH.*.round-05*"))), process)
    process.send_signal(signal.SIGKILL)
    line.ended(process)
    formula = ("--set", "model.formula=voted ~ 1 + female + (1 | state) + (1 | race)")
    assert "the config is not that of the run (model.formula" in project.say("update", "taken-over", *formula).message
    said = project.say("run", "taken-over", *formula)
    assert said.code == 0, said
    assert "the update that was begun is given up" in said.err
    assert not (run / "updating").exists()
    assert json.loads((run / "sites" / "rounds.json").read_text())["rounds"][0]["round"] == 0


def test_a_level_that_moves_the_others_coefficients(tmp_path: Path):
    """A race that only the new file has: root and nodes get longer, so kept sites are written down in their new places."""
    terms = "1 + female + race + (1 | state) + (1 | race:state)"
    config = CONFIG.replace("1 + female + share + (1 | state) + (1 | race)", terms)
    project = Project(tmp_path, config, (*RACES, "Asian"))
    run = project.copy("updated")
    project.files_are("after")
    assert project.say("update", "updated").code == 0
    kept = last_sites(run)
    assert {kept[name] for name in ("AL", "AK", "WY")}.isdisjoint(last_sites(tmp_path / "run").values())
    told = json.loads((run / "update.json").read_text())
    assert told["num_shards"] == {"kept": 3, "fitted": 2}
    assert told["new_levels"]["race"] == ["Asian"]
    project.copy("fresh", of="updated")
    assert project.say("run", "fresh", "--set", "fit.tolerance=0.001", "--set", "run.seed=2").redone == REDONE[1:]
    assert "race[Asian]" in project.summary("updated").index
    assert_equal_within_error(project.summary("updated"), project.summary("fresh"))
