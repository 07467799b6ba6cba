"""What a worker keeps of the shards that it has read."""

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import config, stages, tasks, work
from cluster.progress import PlainProgress
from sharding import store

CONFIG = """\
name: turnout
data: {source: voters.parquet, outcome: voted, terms_of_use: synthetic}
model: {formula: "voted ~ 1 + (1 | state) + (1 | race)", family: bernoulli}
shards: {by: state, min_cells: 1}
poststratify: {by: [state, race]}
run: {seed: 1, executor: serial, directory: run}
"""
NUM_SHARDS, NUM_ROUNDS = 4, 5
Shards = list[tuple[tasks.ModelRef, dict]]


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """Shards, each with the model that it is read for; an empty cache."""
    rng = np.random.default_rng(0)
    draws = {name: rng.integers(0, n, 400) for name, n in (("state", NUM_SHARDS), ("race", 3), ("voted", 2))}
    voters = {name: draw if name == "voted" else [f"{name}{code}" for code in draw] for name, draw in draws.items()}
    pq.write_table(pa.table(voters), tmp_path / "voters.parquet")
    (tmp_path / "run.yaml").write_text(CONFIG)
    loaded = config.load(tmp_path / "run.yaml", [])
    stages.run(loaded, PlainProgress(io.StringIO()), stages.SharedExecutor(), only="ingest")
    directory = loaded.config.run.directory
    ref = work.model_ref(directory, Path(directory, store.DICTIONARY).read_bytes(), loaded.config)
    monkeypatch.setattr(tasks, "_cache", OrderedDict())
    return [(ref, entry) for entry in store.read_manifest(directory)["shards"]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Shards that were read from their files."""
    names: list[str] = []

    def noted(directory: str, entry: dict) -> dict[str, np.ndarray]:
        names.append(entry["shard_id"])
        return read_shard(directory, entry)

    read_shard = store.read_shard
    monkeypatch.setattr(store, "read_shard", noted)
    return names


def load(shards: Shards) -> None:
    for ref, entry in shards:
        tasks.load_shard(ref, entry)


def one_too_many(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cache have room for all of them but one."""
    load(shards)
    sizes = [tasks._num_bytes(shard) for shard in tasks._cache.values()]
    tasks._cache.clear()
    monkeypatch.setattr(tasks, "CACHE_BYTES", sum(sizes) - 1)


def test_rounds_over_one_shard_too_many_read_few_of_them_again(shards, read, monkeypatch):
    one_too_many(shards, monkeypatch)
    read.clear()
    for _ in range(NUM_ROUNDS):
        load(shards)
    assert len(read) <= NUM_SHARDS + 2 * (NUM_ROUNDS - 1), "letting go of the oldest reads all of them in every round"


def test_shards_of_another_model_make_room_first(shards, read, monkeypatch):
    one_too_many(shards, monkeypatch)
    without_race = [(ref._replace(formula="voted ~ 1 + (1 | state)"), entry) for ref, entry in shards]
    load(without_race)
    load(shards)
    assert {layout.formula for layout, _ in tasks._cache} == {shards[0][0].formula}


def test_the_shard_at_work_is_kept_however_large(shards, read, monkeypatch):
    monkeypatch.setattr(tasks, "CACHE_BYTES", 0)
    load(shards)
    read.clear()
    load(shards[-1:])
    assert read == []
