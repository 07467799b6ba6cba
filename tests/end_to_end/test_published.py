"""What a whole run publishes of few people: counts and raw means in none of its files, in none of its pages."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

CONFIG = line.CONFIG.replace("publish: {min_count: 1}\n", "").replace("[all, state, race]", '[all, state, race, "state:race"]')


def voters() -> dict:
    """900 people of four states, of whom 7 are in Wyoming, and 3 of these of other race."""
    columns = line.voters(900)
    wyoming = iter(range(900))
    columns["state"] = [s if s != "WY" or next(wyoming) < 7 else "OH" for s in columns["state"]]
    return columns


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    config = line.make(folder, voters(), CONFIG)
    assert line.caucus("run", config).code == 0
    assert line.caucus("check", config, "--by", "state,race,female").code in (0, 2)
    assert line.caucus("check", config).code == 0
    return folder / "run"


def test_estimates_hide_the_small_state_and_what_gives_it_away(finished: Path) -> None:
    state = pq.read_table(finished / "estimates" / "state.parquet").to_pydict()
    hidden = [name for name, count in zip(state["state"], state["num_rows"], strict=True) if count is None]
    assert "WY" in hidden
    assert len(hidden) == 2
    assert all(np.isfinite(state["mean"]))
    shown = {name: count for name, count in zip(state["state"], state["num_rows"], strict=True) if count is not None}
    counts = voters()["state"]
    assert shown == {name: counts.count(name) for name in shown}
    by_race = pq.read_table(finished / "estimates" / "state-race.parquet").to_pydict()
    is_wyoming = [name == "WY" for name in by_race["state"]]
    assert all(n is None for n, small in zip(by_race["num_trials"], is_wyoming, strict=True) if small)
    assert all(m is None for m, small in zip(by_race["raw_mean"], is_wyoming, strict=True) if small)


def test_checks_show_no_more_than_estimates(finished: Path) -> None:
    ppc = pq.read_table(finished / "checks" / "ppc.parquet").to_pylist()
    state = {row["level"]: row for row in ppc if row["margin"] == "state"}
    assert state["WY"]["num_trials"] is None
    assert state["WY"]["observed"] is None
    assert sum(row["num_trials"] is None for row in state.values()) == 2
    shards = pq.read_table(finished / "checks" / "loso.parquet").to_pydict()
    assert set(shards["observed"]) == {None}
    assert all(count % 100 == 0 for count in shards["num_trials"])
    calibration = pq.read_table(finished / "checks" / "calibration.parquet").to_pylist()
    assert all(row["num_trials"] is None for row in calibration if row["level"] == "WY")


def test_audit_and_report_tell_roughly_how_many_a_shard_has(finished: Path) -> None:
    shards = json.loads((finished / "audit.json").read_text())["shards"]
    assert all(shard["num_rows"] % 100 == 0 and shard["num_trials"] % 100 == 0 for shard in shards)
    page = (finished / "report.html").read_text()
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"WY\s+hidden\s+hidden", text)
    assert not re.search(r"WY: 7 rows", page)
