"""Commands about a run on a Ray cluster: submit, logs, stop, list."""

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands import Address, Debug, Insecure, RunFile, Settings, load
from cluster.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from cluster.ray_jobs import Job, JobSubmissionClient


def submit(
    run: RunFile,
    address: Address,
    set_: Settings = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show its log and end as the run ends.")] = True,
    image_code: Annotated[bool, typer.Option("--image-code", help="The machines have this package: send the config only.")] = False,
    needs_env: Annotated[
        list[str] | None, typer.Option(help="Name of a variable that the machines must have set; no value is sent. Repeatable.")
    ] = None,
    driver_cpus: Annotated[float, typer.Option(min=0, help="Cores that the driver asks for.")] = 0.0,
    metrics: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where its driver answers Prometheus, such as 0.0.0.0:9464-9471.")] = "",
    insecure: Insecure = False,
    debug: Debug = False,
) -> None:
    """Send a run to a Ray cluster; sent again, it goes on where it was."""
    from cluster import ray_jobs

    loaded = load(run, set_)
    client = ray_jobs.connect(address, insecure=insecure)
    job = ray_jobs.submit(
        client, loaded, image_code=image_code, needs_env=tuple(needs_env or ()), driver_cpus=driver_cpus, metrics=metrics
    )
    typer.echo(ray_jobs.describe(job))
    if wait:
        _follow(client, job)


def logs_(
    run: RunFile,
    address: Address,
    set_: Settings = None,
    follow: Annotated[bool, typer.Option("--follow", help="Until the run ends; ends as it does.")] = False,
    insecure: Insecure = False,
    debug: Debug = False,
) -> None:
    """Show what the last attempt on a cluster has said."""
    from cluster import ray_jobs

    client = ray_jobs.connect(address, insecure=insecure)
    job = ray_jobs.latest(client, load(run, set_))
    if follow:
        _follow(client, job)
    else:
        typer.echo(ray_jobs.logs(client, job), nl=False)


def stop(run: RunFile, address: Address, set_: Settings = None, insecure: Insecure = False, debug: Debug = False) -> None:
    """Stop the attempt that is under way on a cluster; what is done is kept."""
    from cluster import ray_jobs

    client = ray_jobs.connect(address, insecure=insecure)
    typer.echo(ray_jobs.describe(ray_jobs.stop(client, load(run, set_))))


def list_(address: Address, insecure: Insecure = False, debug: Debug = False) -> None:
    """Show every run that a cluster was sent."""
    from cluster import ray_jobs

    for job in ray_jobs.every_job(ray_jobs.connect(address, insecure=insecure)):
        typer.echo(ray_jobs.describe(job))


def _follow(client: "JobSubmissionClient", job: "Job") -> None:
    from cluster import ray_jobs

    try:
        ended = ray_jobs.follow(client, job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo("caucus: not watched any more; the run goes on there (`caucus logs --follow`, `caucus stop`)", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    typer.echo(ray_jobs.describe(ended), err=True)
    if code := ray_jobs.exit_code(ended):
        raise typer.Exit(code)
