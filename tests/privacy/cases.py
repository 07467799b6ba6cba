"""Runs to attack: simulated nations whose smallest counties have one voter, and a real survey with cells of one respondent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from attackers import Names, People

from reporting import disclosure

ROOT = Path(__file__).resolve().parent.parent.parent
COLUMNS = ["voter_id", "state", "county", "race", "female", "voted", "support"]
NATION = """\
name: nation
data: {{source: "voters/*.parquet", outcome: {outcome}, terms_of_use: synthetic}}
model: {{formula: "{outcome} ~ 1 + female + (1 | state/county) + (1 | race)", family: bernoulli}}
poststratify: {{by: [all, state, "state:county", "state:race"]}}
run: {{directory: run, seed: 1, executor: serial}}
"""
SURVEY = """\
name: survey
data: {{source: {folder}/respondents.parquet, outcome: support, terms_of_use: public use}}
model: {{formula: "support ~ 1 + male + (1 | state/eth) + (1 | educ)", family: bernoulli}}
shards: {{by: state, min_cells: 1}}
poststratify: {{by: [all, state, "state:eth"], frame: {folder}/frame.parquet, count: n}}
run: {{directory: run, seed: 1, executor: serial}}
"""

Caucus = Callable[..., object]


class Case(NamedTuple):
    """A finished run that was checked and published: who is in it, names, its private directory and its publication."""

    name: str
    people: People
    names: Names
    run: Path
    public: Path


def nation(caucus: Caucus, folder: Path, *, rows: int, seed: int, outcome: str = "voted", answers: int = 1000) -> Case:
    """Simulate a nation, fit turnout or support by county, check it and publish it."""
    caucus("simulate", folder / "made", "--rows", rows, "--seed", seed, "--answers", answers)
    voters = ds.dataset(folder / "made" / "voters").to_table(columns=COLUMNS)
    text = {name: voters[name].cast(pa.string()) for name in ("state", "county", "race")}
    voters = pa.table({name: text.get(name, voters[name]) for name in COLUMNS})
    write(folder, voters, NATION.format(outcome=outcome))
    finish(caucus, folder)
    return Case(f"nation {seed}, {outcome}", people(voters, outcome), Names("state", "county", "1|state:county"), folder / "run", folder / "public")


def survey(caucus: Caucus, folder: Path) -> Case:
    """The CCES 2018 with an effect of each ethnicity in each state, of the adults of the census."""
    (folder / "run.yaml").parent.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(SURVEY.format(folder=ROOT / "examples" / "cces2018"))
    finish(caucus, folder)
    asked, frame = (pq.read_table(ROOT / "examples" / "cces2018" / f"{name}.parquet") for name in ("respondents", "frame"))
    counted = frame.group_by(["state", "eth"]).aggregate([("n", "sum")]).to_pylist()
    size = {f"{row['state']}:{row['eth']}": float(row["n_sum"]) for row in counted}
    parent, group = (np.array(asked[name].cast(pa.string()).to_pylist()) for name in ("state", "eth"))
    who = People(parent, group, asked["support"].cast(pa.float64()).to_numpy(zero_copy_only=False), size)
    return Case("survey (CCES 2018)", who, Names("state", "eth", "1|state:eth"), folder / "run", folder / "public")


def write(folder: Path, voters: pa.Table, config: str) -> None:
    """Write the file of voters and the config."""
    (folder / "voters").mkdir(parents=True, exist_ok=True)
    pq.write_table(voters, folder / "voters" / "part-0.parquet")
    (folder / "run.yaml").write_text(config)


def finish(caucus: Caucus, folder: Path) -> None:
    """Run, check and publish."""
    for command in (("run", folder / "run.yaml"), ("check", folder / "run.yaml"), ("publish", folder / "run.yaml", "--to", folder / "public")):
        caucus(*command)


def people(voters: pa.Table, outcome: str) -> People:
    """Who is in a file of voters."""
    parent, group = (np.array(voters[name].to_pylist()) for name in ("state", "county"))
    labels, counts = np.unique(np.char.add(np.char.add(parent, ":"), group), return_counts=True)
    known = voters[outcome].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return People(parent, group, known, dict(zip(labels.tolist(), counts.astype(float).tolist(), strict=True)))


def one_of_each(case: Case, number: int) -> np.ndarray:
    """Places of people with a known outcome in different states, of the smallest states that are published: one in each, those alone in a county first."""
    states, counts = np.unique(case.people.parent[case.people.known], return_counts=True)
    told = pq.read_table(case.public / "estimates" / "state.parquet")["state"].to_pylist()
    alone = set(case.people.targets().tolist())
    chosen = []
    for state in [s for s in states[np.argsort(counts)] if s in told][:number]:
        places = np.flatnonzero((case.people.parent == state) & case.people.known).tolist()
        chosen.append(next((i for i in places if i in alone), places[0]))
    return np.array(chosen)


def flipped(caucus: Caucus, case: Case, folder: Path, targets: np.ndarray) -> Path:
    """The run of a nation in which the targets voted otherwise, made anew; its directory."""
    voters = pq.read_table(case.run.parent / "voters" / "part-0.parquet")
    votes = voters["voted"].to_numpy().copy()
    votes[targets] = 1 - votes[targets]
    place = voters.column_names.index("voted")
    write(folder, voters.set_column(place, "voted", pa.array(votes)), (case.run.parent / "run.yaml").read_text())
    caucus("run", folder / "run.yaml")
    return folder / "run"


def joined_by(caucus: Caucus, case: Case, folder: Path, targets: np.ndarray, votes: np.ndarray) -> tuple[Path, Path]:
    """Directory and publication of the run after an update by one more person beside each target; the case itself stays as it was."""
    shutil.copytree(case.run.parent, folder)
    config = (folder / "run.yaml").read_text().replace('"voters/*.parquet"', f'"{case.run.parent}/voters/*.parquet"')
    (folder / "run.yaml").write_text(config)
    voters = pq.read_table(folder / "voters" / "part-0.parquet").take(pa.array(targets))
    more = voters.set_column(voters.column_names.index("voted"), "voted", pa.array(votes.astype(np.int8)))
    new = case.run.parent / "voters" / "part-1.parquet"
    pq.write_table(more.set_column(0, "voter_id", pa.array([f"new{i}" for i in range(len(targets))])), new)
    try:
        caucus("update", folder / "run.yaml")
        caucus("publish", folder / "run.yaml", "--to", folder / "public")
    finally:
        new.unlink()
    return folder / "run", folder / "public"


def of_state(folder: Path, state: str) -> pa.Table:
    """Private estimates of a state and of the groups within it, as one table of text labels."""
    parts = []
    for margin in ("state", "state-county", "state-race"):
        table = pq.read_table(folder / "estimates" / f"{margin}.parquet")
        table = table.filter(pc.equal(table["state"], state))
        columns = table.column_names[: table.column_names.index("num_rows")]
        label = [f"{margin}|" + "|".join(parts) for parts in zip(*(table[c].to_pylist() for c in columns), strict=True)]
        parts.append(table.drop_columns(columns).add_column(0, "state", pa.array(label)))
    return pa.concat_tables(parts)


def published_by(key: bytes, table: pa.Table, min_count: int = 11) -> pa.Table:
    """What a key publishes of a table of :func:`of_state`."""
    return disclosure.publishable({"state": table}, disclosure.Rule(min_count, True, key, True), "a", 1)
