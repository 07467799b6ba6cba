"""One driver for 1,000 workers and 10,000 shards: what it can hand out, what it holds, and what a merge costs.

    python -m benchmarks.coordinator [--shards 10000]

Measured, on Ray with two workers on this machine: how many stub fits a second go through the executor and back (`RayExecutor`, sent the moments
of a state and giving back a site of that size, which the driver keeps), and the driver's memory; reading and multiplying the sites of 51 to ``--shards`` shards (files of the
size of a state's site), and what the merge takes beside it. From these, by simulation: rounds of fits over many workers with a driver
that hands out one task after the other and merges in between. Prints what it found, and writes it into `docs/scaling.md`.
"""

from __future__ import annotations

import argparse
import heapq
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.family_page import write
from benchmarks.problems import REPOSITORY
from benchmarks.races import MIB
from cluster import site_files
from fitting.sites import Site

PAGE = REPOSITORY / "docs" / "scaling.md"
SIZES = (51, 1_000, 10_000)
ENTRIES, COEFFICIENTS, NATION_ENTRIES = 6_000, 100, 250_000
"""Of a state's site in the demo's nation (60 counties on a path to a root of 90 coefficients), and of the nation."""
WORKERS = (2, 16, 64, 256, 1_000)
FIT_SECONDS, SPREAD = 20.0, 0.5
"""Mean of a simulated fit, and the sd of its logarithm: the longest of thousands takes five times the mean."""
ROUNDS = 5


def stub(task: tuple[int, np.ndarray]) -> tuple[int, np.ndarray]:
    """A fit without the fit: what a task gets and gives back has the size of what a real one does."""
    return task[0], task[1] + 1.0


def throughput(num_tasks: int) -> dict[str, float]:
    """Tasks a second through Ray and back, and how much the driver's memory grew, bytes."""
    from cluster import bundles, ray_executor

    bundles.MAX_BUNDLE = 1  # fits of seconds go alone
    executor = ray_executor.RayExecutor(address="local", workers=2)
    try:
        moments = np.random.default_rng(0).normal(size=ENTRIES + COEFFICIENTS)
        list(executor.map_unordered(stub, ((i, moments.copy()) for i in range(200))))  # workers are started
        process = psutil.Process()
        before, started = process.memory_info().rss, time.perf_counter()
        results = dict(o.value for o in executor.map_unordered(stub, ((i, moments.copy()) for i in range(num_tasks))))
        seconds = time.perf_counter() - started
        assert sorted(results) == list(range(num_tasks))
        return {"tasks": num_tasks, "per_second": num_tasks / seconds, "bytes": process.memory_info().rss - before}
    finally:
        executor.close()


def merging(num_shards: int) -> dict[str, float]:
    """Seconds to read and to multiply the sites of so many shards, a file each."""
    rng = np.random.default_rng(0)
    nodes = (np.zeros(1, dtype=np.int64), np.arange(1, dtype=np.int64), np.arange(60, dtype=np.int64))
    places = rng.choice(NATION_ENTRIES, ENTRIES, replace=False)
    with tempfile.TemporaryDirectory() as folder:
        urls = [str(Path(folder) / f"{s}.arrow") for s in range(min(num_shards, 1_000))]
        for url in urls:
            site = Site(rng.normal(size=ENTRIES), rng.normal(size=COEFFICIENTS), np.zeros(2))
            site_files.write(url, site_files.SiteFile(site, nodes, "key"))
        precision, started = np.zeros(NATION_ENTRIES), time.perf_counter()
        reading = 0.0
        for s in range(num_shards):
            begun = time.perf_counter()
            file = site_files.read(urls[s % len(urls)])
            reading += time.perf_counter() - begun
            precision[places] += file.site.precision
        return {"shards": num_shards, "seconds": time.perf_counter() - started, "reading": reading}


def simulated(num_workers: int, num_shards: int, per_second: float, merge_seconds: float) -> dict[str, float]:
    """Rounds of fits, longest first, handed out one by one; each round ends with a merge. Efficiency: work over workers and time."""
    durations = FIT_SECONDS * np.exp(np.random.default_rng(1).normal(-(SPREAD**2) / 2, SPREAD, num_shards))
    free, now = [0.0] * num_workers, 0.0
    heapq.heapify(free)
    for duration in np.sort(durations)[::-1]:
        now = max(now + 1.0 / per_second, free[0])  # the driver is busy with one task, or waits for a worker
        heapq.heapreplace(free, now + float(duration))
    span = max(free) + merge_seconds
    work = float(durations.sum())
    return {"workers": num_workers, "round": span, "efficiency": work / (num_workers * span), "run": ROUNDS * span}


def main() -> int:
    """Measure, simulate, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coordinator", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, default=SIZES[-1])
    chosen = parser.parse_args()
    sizes = sorted({*(n for n in SIZES if n < chosen.shards), chosen.shards})
    rates = [throughput(n) for n in sizes]
    merges = [merging(n) for n in sizes]
    per_second = statistics.median(r["per_second"] for r in rates)
    lines = ["| shards | stub fits a second | driver grew by, MiB | sites read and multiplied, s | of it reading, s |", "|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {r['tasks']:,.0f} | {r['per_second']:,.0f} | {r['bytes'] / MIB:,.0f} | {m['seconds']:.2f} | {m['reading']:.2f} |"
        for r, m in zip(rates, merges, strict=True)
    ]
    found: list[dict[str, Any]] = [simulated(w, chosen.shards, per_second, merges[-1]["seconds"]) for w in WORKERS]
    lines += ["", f"Simulated: {chosen.shards:,} shards of {FIT_SECONDS:g} s on average, {ROUNDS} rounds.", ""]
    lines += ["| workers | a round, s | efficiency | a run, hours |", "|--:|--:|--:|--:|"]
    lines += [f"| {f['workers']:,} | {f['round']:,.0f} | {f['efficiency']:.0%} | {f['run'] / 3600:.2f} |" for f in found]
    limit = per_second * FIT_SECONDS
    lines += ["", f"The driver keeps {limit:,.0f} workers busy at {FIT_SECONDS:g} s a fit (fits a second times seconds a fit).",
              f"Load of the machine: {os.getloadavg()[0]:.1f}."]  # fmt: skip
    print("\n".join(lines))
    write("scaling", lines, PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
