"""Whole runs on two Ray machines that are rare: ``python -m benchmarks.two_machines [NAME ...]``.

400 tiny shards, NUTS, a classic combiner, a NumPyro model, and a run directory on S3. Each is run in one process and on a cluster of two machines of one core
(two raylets on one computer); every file with numbers has to be the same. Prints a table; exits with 1 if one differs.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import faults, measure, ray_clusters
from benchmarks.faults import CONFIG
from benchmarks.races import CAUCUS
from sharding import simulate, storage

NUTS = CONFIG.replace("fit: {rounds: 3, draws: 100}", "fit: {method: nuts, rounds: 2, draws: 100, shard_draws: 100, shard_warmup: 100}")
CLASSIC = """
name: classic
data: {source: ../tiny.parquet, outcome: voted, terms_of_use: synthetic}
model: {formula: voted ~ 1 + female + (1 | race), family: bernoulli}
shards: {num_shards: 4, min_cells: 1}
fit: {method: classic, draws: 20, warmup: 30, chains: 2}
audit: {draws: 100, max_extra_rounds: 0}
poststratify: {by: [all, race]}
run: {directory: run, seed: 1}
"""
TINY = """
name: tiny
data: {source: ../tiny.parquet, outcome: voted, terms_of_use: synthetic}
model: {formula: voted ~ 1 + female + (1 | place) + (1 | race), family: bernoulli}
shards: {by: place, min_cells: 1}
fit: {rounds: 3, draws: 100}
audit: {draws: 100, max_extra_rounds: 0}
poststratify: {by: [all, race]}
run: {directory: run, seed: 1}
"""
MODEL = """
import numpyro
from numpyro import distributions as dist

from fitting.user_model import ShardedModel


def normal_states(data, sizes):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("state", sizes["state"]):
        effect = numpyro.sample("effect", dist.Normal(mu, 0.7))
    with numpyro.plate("rows", sizes["rows"]):
        numpyro.sample("y", dist.Normal(effect[data["state"]], 1.0), obs=data["y"])


MODEL = ShardedModel(normal_states, global_sites=("mu",), local_factors=("state",))
"""
USER = """
name: mine
data: {source: ../rows.parquet, columns: [state, y], terms_of_use: synthetic}
model: {file: my_model.py}
shards: {by: region}
fit: {method: nuts, rounds: 2, draws: 100, chains: 2, shard_draws: 100, shard_warmup: 100, shard_chains: 2}
audit: {draws: 100}
run: {directory: run, seed: 1}
"""
RUNS = {"tiny shards": TINY, "nuts": NUTS, "classic": CLASSIC, "numpyro": USER, "s3": CONFIG}


def prepare(folder: Path) -> None:
    """Voters of 51 states, and rows for the NumPyro model."""
    simulate.simulate(str(folder), num_rows=6_000, seed=1, num_answers=1_000)
    rng = np.random.default_rng(0)
    state = np.arange(600) % 30
    table = {
        "region": [f"R{s // 3}" for s in state], "state": [f"S{s}" for s in state],
        "y": (1 + 0.7 * rng.standard_normal(30))[state] + rng.standard_normal(600),
    }  # fmt: skip
    pq.write_table(pa.table(table), folder / "rows.parquet")
    size = 400 * 20
    place, race = np.arange(size) % 400, rng.integers(0, 4, size)
    voted = rng.random(size) < 1 / (1 + np.exp(-rng.normal(0, 0.5, 400)[place] - 0.3 * race))
    tiny = {
        "place": [f"P{p:03d}" for p in place], "race": [f"R{r}" for r in race], "female": rng.integers(0, 2, size),
        "voted": voted.astype(int),
    }  # fmt: skip
    pq.write_table(pa.table(tiny), folder / "tiny.parquet")


@contextmanager
def store() -> Iterator[str]:
    """An S3 (moto) with a bucket; its address is in the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "testing",
                       "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
        storage.resolve("s3://runs")[0].mkdir("runs")
        yield "s3://runs"
    finally:
        server.stop()


def done(name: str, folder: Path, directory: str, executor: str) -> float:
    """Do a run to its end; return its seconds."""
    own = folder / name.replace(" ", "-")
    own.mkdir(exist_ok=True)
    (own / "run.yaml").write_text(RUNS[name])
    (own / "my_model.py").write_text(MODEL)
    command = [CAUCUS, *(["run-model", "--allow-code"] if name == "numpyro" else ["run"]), str(own / "run.yaml")]
    command += ["--set", f"run.directory={directory}", "--set", f"run.executor={executor}"]
    return measure.run(command, limit_seconds=1200.0, accepted=(0, 3)).seconds


def compared(name: str, folder: Path, bucket: str, address: str) -> tuple[str, bool]:
    """A line of the table, and whether the two runs are the same."""
    alone = str(folder / name.replace(" ", "-") / "alone")
    together = f"{bucket}/together" if name == "s3" else str(folder / name.replace(" ", "-") / "together")
    serial, on_two = done(name, folder, alone, "serial"), done(name, folder, together, address)
    expected, found = faults.numbers(alone), faults.numbers(together)
    differ = sorted(file for file in {*expected, *found} if expected.get(file) != found.get(file))
    shards = len({file for file in expected if file.startswith("shards/")})
    return f"| {name} | {shards} | {len(expected)} | {len(differ)} | {serial:.0f} | {on_two:.0f} |", not differ


def main() -> None:
    """Do the runs that are named, or all."""
    names, began = sys.argv[1:] or list(RUNS), time.monotonic()
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray_clusters.TOKEN}
    is_good = True
    with tempfile.TemporaryDirectory(prefix="caucus-two-") as name, store() as bucket:
        prepare(Path(name))
        with ray_clusters.head(1, jobs=False) as head, ray_clusters.worker(head, 1):
            print("| Run | Shards | Files with numbers | Differ | Seconds in one process | On two machines |\n|---|---:|---:|---:|---:|---:|")
            for run in names:
                line, same = compared(run, Path(name), bucket, head.address)
                print(line, flush=True)
                is_good &= same
    print(f"{time.monotonic() - began:.0f} s")
    raise SystemExit(int(not is_good))


if __name__ == "__main__":
    main()
