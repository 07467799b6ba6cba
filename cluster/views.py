"""What commands print: lines of text from plans and run directories."""

from collections.abc import Callable, Sequence
from typing import Any

from cluster import ray_jobs, run_directory, stages
from cluster.config import Loaded
from cluster.plan import Plan
from cluster.ray_jobs import Job
from cluster.run_directory import RunDirectory
from reporting.people import told
from sharding import storage

MAX_LINES = 20
MAX_REASONS = 5

_TOTALS = {"read": "rows_read", "in cells": "rows_in_cells", "left out": "rows_quarantined"}
_COUNTS = ("num_rows_before", "num_rows_after", "num_trials_before", "num_trials_after")


def projection(plan: Plan) -> list[str]:
    """Say a projection in lines."""
    about = "at most " if plan.is_estimate else ""
    rows = "unknown until ingest" if plan.num_rows is None else f"{plan.num_rows:,}"
    cells = "unknown until ingest" if plan.num_cells is None else f"{plan.num_cells:,}"
    shards = "unknown until ingest" if plan.num_shards is None else f"{plan.num_shards:,}"
    seconds = (
        "unknown until ingest" if plan.seconds is None else f"about {plan.seconds:,.0f} s on {plan.workers} workers"
    )
    return [
        f"sources: files: {plan.num_files:,}, {_size(plan.source_bytes)}, rows: {rows}",
        f"cells: {cells}; shards: {shards}, the largest of {about}{plan.largest_shard_cells:,} cells",
        f"memory: {_size(plan.needed_bytes)} of {_size(plan.available_bytes)} available "
        f"(driver {_size(plan.driver_bytes)}, {plan.workers} workers of {_size(plan.worker_bytes)})",
        f"time of fits, audit and estimates, without the merge: {seconds}",
    ]


def status(loaded: Loaded) -> list[str]:
    """Say of every stage whether it is done, or why it would run."""
    path = loaded.config.run.directory
    directory = run_directory.open_existing(path, stages.identity(loaded.config))
    if directory is None:
        return [f"run directory {path}: not started"]
    return [f"run directory {path}", *(_stage_line(step, directory) for step in stages.steps(loaded, directory))]


def people(directory: str) -> list[str]:
    """Say who is not in the numbers of a run, and of whom the data say little; nothing where that is nobody."""
    who = told(storage.read_json(storage.join(directory, "audit.json")).get("population"))
    return [f"people: {who.title}", *(f"  {line}" for line in who.lines)] if who.lines else []


def reasons(directory: str) -> list[str]:
    """Say what a verdict other than pass is about: a line for each warning or failure of `audit.json`, failures first."""
    audit = storage.read_json(storage.join(directory, "audit.json"))
    rows = [row for row in audit.get("messages", ()) if row["severity"] in ("warn", "fail")]
    rows.sort(key=lambda row: row["severity"] != "fail")
    lines = [
        f"  {row['severity']} ({row.get('about', 'computation')}): {': '.join(filter(None, (row['where'], row['what'])))}. {row['do']}".rstrip()
        for row in rows[:MAX_REASONS]
    ]
    return lines + ([f"  ... and {len(rows) - MAX_REASONS} more, in the report"] if len(rows) > MAX_REASONS else [])


def attempts(jobs: Sequence[Job], logs_of: Callable[[Job], str]) -> list[str]:
    """Say the attempts at a run on a cluster, and the last line of progress of the one that is at work."""
    if not jobs:
        return ["on the cluster: never sent, or by an earlier cluster"]
    lines = [f"on the cluster: {ray_jobs.describe(job)}" for job in jobs]
    if not jobs[-1].has_ended:
        said = [line for line in logs_of(jobs[-1]).splitlines() if line.strip()]
        lines += [f"  now: {said[-1]}"] if said else []
    return lines


def update(explained: dict[str, Any]) -> list[str]:
    """Say what an update did and what moved, from the content of `update.json`."""
    return [*_files(explained), *_shards(explained), *_moved(explained)]


def _files(explained: dict[str, Any]) -> list[str]:
    files, rows = explained["files"], explained["rows"]
    counts = {status: sum(f["status"] == status for f in files) for status in ("new", "changed", "gone")}
    same = explained["num_files"]["after"] - counts["new"] - counts["changed"]
    lines = [f"files: {_listed(counts)}, {same:,} as before"]
    lines += [
        f"  {f['status']:<8} {f['url']}  {_from_to(f['num_rows_before'], f['num_rows_after'])} rows"
        for f in files[:MAX_LINES]
    ] + _more(files)
    totals = (f"{what} {rows['before'][key]:,} -> {rows['after'][key]:,}" for what, key in _TOTALS.items())
    lines.append(f"rows: {', '.join(totals)}")
    new = [
        f"{name} {', '.join(levels[:8])}{' ...' * (len(levels) > 8)}"
        for name, levels in explained["new_levels"].items()
        if levels
    ]
    return lines + ([f"new levels, after the others: {'; '.join(new)}"] if new else [])


def _shards(explained: dict[str, Any]) -> list[str]:
    shards, numbers, rounds = explained["shards"], explained["num_shards"], explained["rounds"]
    lines = [f"shards: fitted {numbers['fitted']:,}, kept {numbers['kept']:,}"]
    texts = {key: [f"{s[key] or 0:,}" for s in shards] for key in _COUNTS}
    for i, shard in enumerate(shards[:MAX_LINES]):
        shown = {key: None if shard[key] is None else texts[key][i] for key in _COUNTS}
        people, known = (
            _from_to(shown[f"{name}_before"], shown[f"{name}_after"]) for name in ("num_rows", "num_trials")
        )
        lines.append(f"  {shard['status']:<8} {shard['shard_id']}  {people} rows, {known} known outcomes")
    lines += _more(shards)
    if not numbers["kept"]:
        return [*lines, f"rounds: {rounds['of_all_shards']:,} over all shards"]
    lines.append(f"rounds: {rounds['of_some_shards']:,} over the shards that were fitted")
    if rounds["of_all_shards"]:
        lines.append(
            f"  the audit found that kept sites were no longer accurate: {rounds['of_all_shards']:,} more over all"
        )
    return lines


def _moved(explained: dict[str, Any]) -> list[str]:
    lines = ["moved, in sds of the posterior before:"]
    lines.append(f"  {'':<20} compared    new   gone  > 0.5 sd  > 1 sd  > 2 sd  largest")
    for of in explained["moved"]:
        above = of["above"]
        largest = "" if of["largest"] is None else f"{of['largest']:.2f} {of['where']}"
        lines.append(
            f"  {of['table']:<20} {of['compared']:>8,} {of['new']:>6,} {of['gone']:>6,} {above['0.5']:>9,} {above['1']:>7,} "
            f"{above['2']:>7,}  {largest}"
        )
    lines.append(f"largest moves ({len(explained['top'])}; noise is the Monte Carlo error of the move):")
    for row in explained["top"]:
        lines.append(
            f"  {row['table']:<12} {row['level']:<24} {row['mean_before']:>9.4g} -> {row['mean_after']:<9.4g} "
            f"{row['move']:>+6.2f} sd, noise {row['noise']:.2f}"
        )
    if explained["also_changed"]:
        lines.append(f"the config changed too: {explained['also_changed']}")
    verdict = explained["verdict"]
    return [*lines, f"verdict before: {verdict['before']}, after: {verdict['after']}"]


def _from_to(before: Any, after: Any) -> str:
    return f"{_count(before)} -> {_count(after)}"


def _count(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _more(found: list[Any]) -> list[str]:
    return [f"  and {len(found) - MAX_LINES:,} more, in update.json"] if len(found) > MAX_LINES else []


def _stage_line(step: stages.Step, directory: RunDirectory) -> str:
    if step.reason:
        return f"  {step.stage:<13} to do: {step.reason}"
    record = directory.records[step.stage]
    return f"  {step.stage:<13} done {record.finished} in {record.seconds:.1f} s, {len(record.files):,} files"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"
