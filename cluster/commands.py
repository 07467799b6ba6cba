"""What the commands share: the application, how a function becomes a command, and options that several have."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster import code_version, failures, logs

if TYPE_CHECKING:
    from cluster.config import Loaded

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Bayesian multilevel models on national voter files: sharded, merged, and audited against all of the data.",
    epilog="Exit codes: 0 good, 2 mend the config or the data, 3 the audit failed, 4 safe to run again, 130 interrupted, 141 output closed.",
)

RunFile = Annotated[str, typer.Argument(metavar="RUN.yaml", help="The config, or a run directory.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b.c=value", help="Override a key of the config; repeatable.")
]
_ADDRESS = typer.Option(
    "--address", envvar="RAY_API_SERVER_ADDRESS", metavar="http(s)://host:8265", help="Where the cluster takes jobs."
)
Address = Annotated[str, _ADDRESS]
MaybeAddress = Annotated[str | None, typer.Option("--address", metavar="http(s)://host:8265", help="Where the cluster takes jobs.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Accept a cluster that lets everybody in.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and every event.")]


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"caucus {code_version.version()}")
        raise typer.Exit


@app.callback()
def _first(
    version: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Take the options that come before a command."""


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register ``function``; what it raises becomes one message and an exit code. Its last argument is ``debug``."""

    @functools.wraps(function)
    def guarded(*arguments: Any, debug: bool = False, **options: Any) -> None:
        logs.configure(verbose=debug)
        try:
            function(*arguments, debug=debug, **options)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(failures.tell(error, debug=debug)) from None

    return app.command(function.__name__.rstrip("_"))(guarded)


def load(run: str, settings: list[str] | None) -> "Loaded":
    """Read and validate a config; imports what that needs."""
    from cluster import config

    return config.load(run, settings or ())
