"""From nothing to a report: a simulated nation, turnout of everybody and support from a survey, next to the truth."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import config, projects, stages
from cluster.config import Loaded
from cluster.errors import AuditFailedError
from cluster.progress import Progress
from cluster.stages import Finished, SharedExecutor
from reporting import margins

if TYPE_CHECKING:
    import pyarrow as pa

SEED = 1
WORKERS = 2
MARGINS = {"state": "states", "state:county": "counties"}


def run(directory: str, *, num_rows: int, num_answers: int, executor: str, progress: Progress) -> Iterator[str]:
    """Simulate, fit both outcomes, and yield the lines of the comparison with the truth.

    What is there already is not done again: the same nation is kept, finished stages are skipped.

    Raises
    ------
    SimulationError
        ``directory`` holds another nation.
    AuditFailedError
        After the last line, if an audit failed.
    """
    from sharding import simulate

    started = time.perf_counter()
    progress.begin("simulate", f"{num_rows:,} voters, {num_answers:,} of them answer")
    nation = simulate.simulate(directory, num_rows=num_rows, seed=SEED, num_answers=num_answers)
    if nation.reused:
        progress.skip("simulate")
    else:
        progress.end(time.perf_counter() - started)
    settings = [f"run.executor={executor}", f"run.workers={WORKERS}"]
    runs: list[tuple[Loaded, Finished]] = []
    with closing(SharedExecutor()) as shared:
        for path in projects.write_configs(directory):
            loaded = config.load(path, settings)
            progress.say(f"{loaded.config.name}:")
            runs.append((loaded, stages.run(loaded, progress, shared)))
    for loaded, finished in runs:
        yield from _results(loaded, finished, Path(directory) / "truth" / "expected.parquet")
    if nation.reused and not any(finished.redone for _, finished in runs):
        yield "everything was done already; nothing was redone"
    failed = [finished.directory for _, finished in runs if finished.verdict == "fail"]
    if failed:
        raise AuditFailedError(", ".join(f"{path}/report.html" for path in failed))


def _results(loaded: Loaded, finished: Finished, truth_file: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    from reporting.estimates import compare_with_truth
    from sharding import storage

    outcome = loaded.config.model.parsed_formula().outcome
    audit = storage.read_json(storage.join(finished.directory, "audit.json"))
    yield ""
    yield f"{loaded.config.name}: verdict {finished.verdict}, worst score {_worst_score(audit)}"
    truth = pq.read_table(truth_file)
    for margin, plural in MARGINS.items():
        estimates = pq.read_table(f"{finished.directory}/estimates/{margins.file(margin)}")
        compared = compare_with_truth(estimates, truth, outcome=outcome)
        if margin == "state":
            yield from _state_table(compared.table, estimates["num_trials"].to_pylist())
        yield (
            f"90% intervals cover the truth in {compared.coverage:.0%} of {compared.num_groups:,} {plural}; "
            f"root mean square error {100 * compared.rmse:.1f} points"
        )
        if compared.raw_coverage is not None and compared.raw_rmse is not None:
            yield (
                f"  raw means beside them: {compared.raw_coverage:.0%} (Wilson intervals, where anybody answered), "
                f"error {100 * compared.raw_rmse:.1f} points"
            )
    yield f"report: {finished.directory}/report.html"


def _worst_score(audit: dict) -> str:
    blocks = [block for block in audit["blocks"] if block["score"] is not None]
    if not blocks:
        return "not known"
    worst = max(blocks, key=lambda block: abs(block["score"]))
    return f"{abs(worst['score']):.3f} posterior sd ({worst['score_where']})"


def _state_table(compared: "pa.Table", num_trials: list[int | None]) -> Iterator[str]:
    yield "state    truth  estimate  90% interval       raw mean     answers"
    low, high = (name for name in compared.column_names if name.startswith("q"))
    for row, trials in zip(compared.to_pylist(), num_trials, strict=True):
        interval = f"{row[low]:.1%} to {row[high]:.1%}" + (" " if row["covered"] else "*")
        raw = "-" if row["raw_mean"] is None else f"{row['raw_mean']:.1%}"
        yield f"{row['level']:<6}{row['expected_mean']:>8.1%}{row['mean']:>10.1%}  {interval:<17}{raw:>10}{'hidden' if trials is None else f'{trials:,}':>12}"
    yield "* the truth is outside the interval: expected in one state of ten"
