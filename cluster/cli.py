"""The command line: each command is a few lines over a library function. Results go to stdout, the rest to stderr.

Nothing heavy is imported before a command needs it, so that `caucus --help` answers at once.
"""

import json
import os
import signal
import sys
import threading
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster import freed_memory, job_commands, terminal, threads
from cluster.commands import Debug, Insecure, MaybeAddress, RunFile, Settings, app, command, load
from cluster.errors import AuditFailedError

if TYPE_CHECKING:
    from cluster.config import Loaded
    from cluster.progress import Progress
    from cluster.stages import Finished
    from cluster.user_config import UserLoaded


@command
def init(
    name: Annotated[str, typer.Argument(help="Folder to make; also the name of the run.")],
    rows: Annotated[int, typer.Option(help="Voters in the simulated file.", min=1_000)] = 100_000,
    debug: Debug = False,
) -> None:
    """Start a project: a config to edit, and a simulated nation to try it on."""
    from cluster import projects

    for line in projects.init(name, num_rows=rows):
        typer.echo(line)


@command
def simulate(
    directory: Annotated[str, typer.Argument(help="Where to write voters/ and truth/.")],
    rows: Annotated[int, typer.Option(min=1, help="Voters.")] = 2_000_000,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    answers: Annotated[int, typer.Option(min=0, help="Voters whose `support` is known.")] = 50_000,
    precincts: Annotated[int, typer.Option(min=0, help="Precincts, nested in counties; 0: no such column.")] = 0,
    layout: Annotated[str, typer.Option(help="Raw files of this layout instead (nc, oh, fl, ...), with faults counted.")] = "",
    debug: Debug = False,
) -> None:
    """Write a simulated nation, with the truth beside it."""
    from sharding import simulate as simulation
    from sharding.dirty.generate import generate

    if layout:
        dirty = generate(directory, layout, num_rows=rows, seed=seed)
        typer.echo(f"{dirty.num_rows:,} voters, {dirty.num_faults:,} faults in {dirty.num_files} files in {directory}/files")
        return

    made = simulation.simulate(directory, num_rows=rows, seed=seed, num_answers=answers, num_precincts=precincts)
    typer.echo(f"{made.num_rows:,} voters, {made.num_answers:,} answers in {made.directory}/voters")


@command
def validate(run: RunFile, set_: Settings = None, debug: Debug = False) -> None:
    """Check a config: every error, with its line. Of sources and frame it reads the headers, no row."""
    from cluster import stages

    loaded = load(run, set_)
    stages.all_inputs(loaded.config)
    stages.check_headers(loaded.config)
    typer.echo(f"{run}: good")


@command
def plan(
    run: RunFile,
    set_: Settings = None,
    format_: Annotated[
        Literal["text", "kuberay"],
        typer.Option("--format", help="text, or kuberay: sizes of a Ray cluster of `run.workers` cores on Kubernetes, as an overlay of deploy/kuberay."),
    ] = "text",
    debug: Debug = False,
) -> None:
    """Show shards, bytes, memory and time, and what would run; runs nothing."""
    from cluster import kuberay, stages, views
    from cluster import plan as plans

    loaded = load(run, set_)
    directory = loaded.config.run.directory
    projected = plans.make(loaded.config, directory, kuberay.HEAD_CORES if format_ == "kuberay" else None)
    if projected.is_estimate:  # nothing was read yet
        stages.check_headers(loaded.config)
    if format_ == "kuberay":
        typer.echo(kuberay.overlay(loaded.config, projected), nl=False)
        return
    for line in views.projection(projected) + views.status(loaded):
        typer.echo(line)
    plans.check(loaded.config, directory)


@command
def run(
    run: RunFile,
    set_: Settings = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read every source whole first: one that has changed and kept its size and time is noticed.")] = False,
    debug: Debug = False,
) -> None:
    """Run every stage that is not done; a second call redoes nothing."""
    if os.environ.get("CAUCUS_NEEDS_ENV"):  # in a job that was sent to a cluster
        from cluster import ray_jobs

        ray_jobs.require_environment()
    _run(run, set_, only=None, verify=verify)


@command
def update(run: RunFile, set_: Settings = None, debug: Debug = False) -> None:
    """Take in new and changed files of a finished run: fit only their shards, and say what changed and what moved."""
    from cluster import stages, updating, views

    loaded = load(run, set_)
    with _observed(loaded) as shown:
        with closing(stages.SharedExecutor()) as shared:
            updated = updating.update(loaded, shown, shared)
        if updated.explanation is None:
            typer.echo("nothing changed: every file is as it was when it was read")
        else:
            for line in views.update(updated.explanation):
                typer.echo(line)
        _tell_verdict(updated.finished, is_judged=updated.explanation is not None)


def _stage_command(name: str, stage: str, text: str) -> None:
    def one_stage(run: RunFile, set_: Settings = None, debug: Debug = False) -> None:
        _run(run, set_, only=stage)

    one_stage.__name__, one_stage.__doc__ = name, text
    command(one_stage)


_stage_command("shard", "ingest", "Only: read the sources, code them, and cut them into shards of cells.")
_stage_command("fit", "fit", "Only: fit every shard.")
_stage_command("merge", "merge", "Only: merge the shards with the prior into one posterior.")
_stage_command("audit", "audit", "Only: audit the posterior against all of the data.")
_stage_command("poststratify", "poststratify", "Only: estimates by the margins of `poststratify`.")
_stage_command("report", "report", "Only: write report.html.")


def _run_model(
    run: RunFile,
    set_: Settings = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help="Execute the Python file that the config names.")] = False,
    debug: Debug = False,
) -> None:
    """Run a model of your own, written in NumPyro: docs/user-models.md."""
    from cluster import stages, user_config, user_run, views

    loaded = user_config.load(run, set_ or ())
    with _observed(loaded) as shown:
        with closing(stages.SharedExecutor()) as shared:
            finished = user_run.run(loaded, shown, shared, allow_code=allow_code)
        if not finished.redone:
            typer.echo("everything is done already; nothing was redone")
        typer.echo(f"verdict: {finished.verdict}")
        for line in views.reasons(finished.directory):
            typer.echo(line)
        typer.echo(f"summary: {os.path.join(finished.directory, 'summary.parquet')}")
        if finished.verdict == "fail":
            raise AuditFailedError(os.path.join(finished.directory, "audit.json"))


_run_model.__name__ = "run-model"
command(_run_model)


@command
def check(
    run: RunFile,
    by: Annotated[
        str | None, typer.Option(help="Margins, such as state,race:age; those of `poststratify` if not given.")
    ] = None,
    set_: Settings = None,
    debug: Debug = False,
) -> None:
    """Check the model of a finished run: leave-one-out, replicated outcomes, and what the prior says; writes checks/."""
    from cluster import checks, progress, stages

    loaded = load(run, set_)
    with closing(progress.make()) as shown, closing(stages.SharedExecutor()) as shared:
        for line in checks.check(loaded, shown, shared, by):
            typer.echo(line)


@command
def publish(
    run: RunFile,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Folder or URL for readers; new, or an earlier publication of this run.")],
    after: Annotated[
        str | None, typer.Option("--after", metavar="RUN_DIR", help="The directory of an earlier run of the same people, whose publications this one continues.")
    ] = None,
    set_: Settings = None,
    debug: Debug = False,
) -> None:
    """Write what readers may have of a finished run: a run directory itself is private, whole."""
    from cluster import publishing

    for line in publishing.publish(load(run, set_), to, after):
        typer.echo(line)


@command
def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run that was checked: its config or directory.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another run of the same data.")],
    debug: Debug = False,
) -> None:
    """Compare how well two runs of the same data predict, one person left out at a time."""
    from cluster import comparison

    runs = (run if os.path.isdir(run) else load(run, None).config.run.directory for run in (run_a, run_b))
    for line in comparison.compare(*runs):
        typer.echo(line)


@command
def status(
    run: RunFile, set_: Settings = None, address: MaybeAddress = None, insecure: Insecure = False, debug: Debug = False
) -> None:
    """Show which stages are done, and why the others would run; with --address, its attempts on a cluster too."""
    from cluster import views

    loaded = load(run, set_)
    if address is not None:
        from cluster import ray_jobs

        client = ray_jobs.connect(address, insecure=insecure)
        for line in views.attempts(ray_jobs.attempts(client, loaded), lambda job: ray_jobs.logs(client, job)):
            typer.echo(line)
    for line in views.status(loaded):
        typer.echo(line)


for _job_command in (job_commands.submit, job_commands.logs_, job_commands.stop, job_commands.list_):
    command(_job_command)


@command
def doctor(debug: Debug = False) -> None:
    """Look for what is wrong with this machine."""
    from cluster import doctor as doctors

    findings = doctors.examine()
    for finding in findings:
        typer.echo(str(finding))
    if any(finding.is_bad for finding in findings):
        raise typer.Exit(2)


@command
def dirt(run: RunFile, set_: Settings = None, debug: Debug = False) -> None:
    """Write dirt.html: what the raw files of a layout had, also of a run that went no further."""
    from reporting import dirt as dirt_report
    from sharding import storage

    source, page = (storage.join(load(run, set_).config.run.directory, name) for name in ("dirt.json", "dirt.html"))
    storage.publish_bytes(page, dirt_report.render(dirt_report.summarise(storage.read_json(source), source)).encode())
    typer.echo(f"dirt report: {page}")


@command
def layouts(
    name: Annotated[str, typer.Argument(help="A layout, or the path of one of your own.")] = "",
    debug: Debug = False,
) -> None:
    """List the layouts of raw voter files, or say what one of them reads and how."""
    from sharding.layouts import explain, library

    for line in explain.explain(library.load(name)) if name else explain.listing():
        typer.echo(line)


@command
def schema(debug: Debug = False) -> None:
    """Print the JSON schema of the config, for editors."""
    from cluster.config import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


@command
def demo(
    directory: Annotated[str, typer.Argument(help="Folder of the demo.")] = "demo",
    rows: Annotated[int, typer.Option(min=10_000, help="Voters.")] = 2_000_000,
    answers: Annotated[int, typer.Option(min=1_000, help="Voters whose `support` is known.")] = 50_000,
    executor: Annotated[str, typer.Option(help="ray or serial.")] = "ray",
    debug: Debug = False,
) -> None:
    """From nothing to a report: simulate a nation, fit turnout and support, compare with the truth."""
    from cluster import demo as demos
    from cluster import progress

    with closing(progress.make()) as shown:
        for line in demos.run(directory, num_rows=rows, num_answers=answers, executor=executor, progress=shown):
            typer.echo(line)


def _observed(loaded: "Loaded | UserLoaded") -> "AbstractContextManager[Progress]":
    from cluster import metrics, progress

    return metrics.observing(progress.make(), loaded.config.name, loaded.config.run.directory)


def _run(run: str, settings: list[str] | None, *, only: str | None, verify: bool = False) -> None:
    from cluster import stages

    loaded = load(run, settings)
    with _observed(loaded) as shown:
        with closing(stages.SharedExecutor()) as shared:
            finished = stages.run(loaded, shown, shared, only=only, verify=verify)
        if not finished.redone:
            typer.echo("everything is done already; nothing was redone")
        _tell_verdict(finished, is_judged=only in (None, "audit"))


def _tell_verdict(finished: "Finished", *, is_judged: bool) -> None:
    from sharding import storage

    report = storage.join(finished.directory, "report.html")
    has_report = storage.exists(report)
    if finished.verdict:
        from cluster import views

        typer.echo(f"verdict: {finished.verdict}")
        for line in (*views.reasons(finished.directory), *views.people(finished.directory)):
            typer.echo(line)
    if has_report:
        typer.echo(f"report: {report}")
    if finished.verdict == "fail" and is_judged:
        raise AuditFailedError(report if has_report else storage.join(finished.directory, "audit.json"))


def main() -> None:
    """Run the command in ``sys.argv``."""
    threads.set_environment()
    freed_memory.keep()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is stopped gives its lease back
    with terminal.guarded():
        app(prog_name="caucus", args=sys.argv[1:])
