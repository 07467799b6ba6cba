"""What commands print: lines of text from plans and run directories."""

from cluster import run_directory, stages
from cluster.config import Loaded
from cluster.plan import Plan
from cluster.run_directory import RunDirectory


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
        f"time of fit, merge and audit: {seconds}",
    ]


def status(loaded: Loaded) -> list[str]:
    """Say of every stage whether it is done, or why it would run."""
    path = loaded.config.run.directory
    directory = run_directory.open_existing(path, stages.identity(loaded.config))
    if directory is None:
        return [f"run directory {path}: not started"]
    return [f"run directory {path}", *(_stage_line(step, directory) for step in stages.steps(loaded, directory))]


def _stage_line(step: stages.Step, directory: RunDirectory) -> str:
    if step.reason:
        return f"  {step.stage:<13} to do: {step.reason}"
    record = directory.records[step.stage]
    return f"  {step.stage:<13} done {record.finished} in {record.seconds:.1f} s, {len(record.files):,} files"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"
