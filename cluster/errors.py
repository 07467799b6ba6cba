"""Errors of the cluster layer, and the exit code each of them ends a command with.

Exit codes tell a scheduler what to do next: 0 good, 2 mend the config or the data, 3 fitted but the audit failed,
4 safe to run again, 130 interrupted, 141 nobody reads the output any more. Anything unforeseen ends with 1: a fault of Caucus itself.
"""

from dataclasses import dataclass

EXIT_GOOD = 0
EXIT_FAULT = 1
EXIT_MEND = 2
EXIT_AUDIT_FAILED = 3
EXIT_RUN_AGAIN = 4
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141


class ClusterError(Exception):
    """Base of every error raised by `cluster`; ``exit_code`` is what the command ends with."""

    exit_code = EXIT_MEND


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a config: where it is, which key, what was found, what was expected, what to try.

    ``found`` and ``expected`` are empty where ``hint`` says it all (a sentence from the owner of the section).
    """

    where: str
    key: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        key = f"`{self.key}`: " if self.key else ""
        mismatch = [f"expected {self.expected}, found {self.found}"] if self.expected else []
        return f"{self.where}: {key}" + ". ".join([*mismatch, *([self.hint] if self.hint else [])])


class ConfigError(ClusterError):
    """A config that cannot be used; carries every `Problem`, not only the first."""

    def __init__(self, problems: tuple[Problem, ...]):
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self):
        return type(self), (self.problems,)


class MissingExtraError(ClusterError):
    """A package that the config asks for is not installed."""

    def __init__(self, package: str, wanted_by: str, instead: str):
        self.package, self.wanted_by, self.instead = package, wanted_by, instead
        super().__init__(
            f"{wanted_by} needs the package {package!r}, which is not installed here. "
            f"Install it with `pip install 'caucus-bayes[{package}]'`, or {instead}."
        )

    def __reduce__(self):
        return type(self), (self.package, self.wanted_by, self.instead)


class MetricsError(ClusterError):
    """An environment variable asks for metrics at a place where they cannot go."""

    def __init__(self, variable: str, found: str, expected: str, do: str):
        self.variable, self.found, self.expected, self.do = variable, found, expected, do
        super().__init__(f"environment variable {variable}: expected {expected}, found {found!r}. {do}")

    def __reduce__(self):
        return type(self), (self.variable, self.found, self.expected, self.do)


class FrameError(ClusterError):
    """The table of counts that estimates are poststratified to cannot be used."""

    def __init__(self, url: str, found: str, expected: str, do: str = ""):
        self.url, self.found, self.expected, self.do = url, found, expected, do
        do = do or "Mend the frame, or use `frame: file`."
        super().__init__(f"poststratify.frame {url}: expected {expected}, found {found}. {do}")

    def __reduce__(self):
        return type(self), (self.url, self.found, self.expected, self.do)


class RunDirectoryError(ClusterError):
    """The run directory cannot be used for this config."""

    def __init__(self, directory: str, found: str, do: str):
        self.directory, self.found, self.do = directory, found, do
        super().__init__(f"{directory}: {found}. {do}")

    def __reduce__(self):
        return type(self), (self.directory, self.found, self.do)


class RunDirectoryLockedError(RunDirectoryError):
    """Another driver is at work in the run directory."""

    exit_code = EXIT_RUN_AGAIN


class UpdateError(RunDirectoryError):
    """There is no finished run to update, or the config is another than that of the run."""

    def __init__(self, directory: str, found: str, do: str):
        super().__init__(directory, found, do.rstrip(".") + ".")


class PublishError(RunDirectoryError):
    """A folder that a publication must not be written to, or a record of earlier publications that cannot be read."""


class StageError(ClusterError):
    """A stage was asked for before the stages it needs, or did not write what it owes."""

    def __init__(self, stage: str, found: str, do: str):
        self.stage, self.found, self.do = stage, found, do
        super().__init__(f"stage {stage!r}: {found}. {do}")

    def __reduce__(self):
        return type(self), (self.stage, self.found, self.do)


class AuditFailedError(ClusterError):
    """The run finished and its audit says `fail`: the numbers are kept, and marked."""

    exit_code = EXIT_AUDIT_FAILED

    def __init__(self, report: str):
        self.report = report
        super().__init__(f"the audit failed: do not use these numbers yet. What failed and what to do: {report}")

    def __reduce__(self):
        return type(self), (self.report,)


class MemoryProjectionError(ClusterError):
    """The run would not fit into memory, so it was not started."""

    def __init__(self, needed_bytes: int, available_bytes: int, what: str, do: str):
        self.needed_bytes, self.available_bytes, self.what, self.do = needed_bytes, available_bytes, what, do
        super().__init__(
            f"{what} needs about {needed_bytes / 2**20:,.0f} MiB, expected at most the "
            f"{available_bytes / 2**20:,.0f} MiB available. {do}"
        )

    def __reduce__(self):
        return type(self), (self.needed_bytes, self.available_bytes, self.what, self.do)


class WorkerDiedError(ClusterError):
    """A task's worker process or machine died every time the task was tried."""

    exit_code = EXIT_RUN_AGAIN

    def __init__(self, attempts: int, last: str):
        self.attempts, self.last = attempts, last
        super().__init__(
            f"the worker of a task died {attempts} times, last: {last}. Run again to resume; if memory was the cause, "
            "lower `run.workers` or `shards.target_cells`."
        )

    def __reduce__(self):
        return type(self), (self.attempts, self.last)


class ShardTooLargeError(ClusterError):
    """A task needed more memory than its machine had, also when it asked for more."""

    def __init__(self, attempts: int, memory_bytes: int):
        self.attempts, self.memory_bytes = attempts, memory_bytes
        asked = f"with {memory_bytes / 2**20:,.0f} MiB asked for" if memory_bytes else "with no memory asked for"
        super().__init__(
            f"a shard's task ran out of memory {attempts} times, last {asked}. Lower `shards.target_cells`, so that shards are "
            "smaller, or give the workers more memory; then run again: shards that are fitted are kept."
        )

    def __reduce__(self):
        return type(self), (self.attempts, self.memory_bytes)


class ClusterTooSmallError(ClusterError):
    """No machine of the cluster is large enough for one task, and none came."""

    def __init__(self, memory_bytes: int, largest_bytes: int, seconds: float):
        self.memory_bytes, self.largest_bytes, self.seconds = memory_bytes, largest_bytes, seconds
        super().__init__(
            f"a task needs one core and {memory_bytes / 2**20:,.0f} MiB (and `run.task_gpus`), the largest machine of the cluster "
            f"has {largest_bytes / 2**20:,.0f} MiB for tasks, and no other came in {seconds:,.0f} s. Lower `shards.target_cells`, "
            "or let the cluster have larger machines."
        )

    def __reduce__(self):
        return type(self), (self.memory_bytes, self.largest_bytes, self.seconds)


class JobError(ClusterError):
    """A run could not be sent to a cluster, or there is no such job there."""

    def __init__(self, found: str, do: str, exit_code: int = EXIT_MEND):
        self.found, self.do, self.exit_code = found, do, exit_code
        super().__init__(f"{found}. {do}")

    def __reduce__(self):
        return type(self), (self.found, self.do, self.exit_code)


class InsecureClusterError(ClusterError):
    """A cluster on another machine runs the jobs of everybody who reaches it."""

    def __init__(self, address: str):
        self.address = address
        super().__init__(
            f"{address} answers whoever asks: anybody who reaches it can run programs on it and read what it reads. Give the cluster "
            "a token (RAY_AUTH_MODE=token) or reach it through a tunnel on 127.0.0.1; or say --insecure."
        )

    def __reduce__(self):
        return type(self), (self.address,)


class ClusterUnreachableError(ClusterError):
    """Ray could not be started or reached."""

    exit_code = EXIT_RUN_AGAIN

    def __init__(self, address: str, reason: str):
        self.address, self.reason = address, reason
        is_for_jobs = address.startswith(("http://", "https://"))
        do = "Check the address, and the tunnel to it" if is_for_jobs else "Check with `caucus doctor`, or set `run.executor: serial`"
        super().__init__(f"Ray at {address!r} could not be started or reached: {reason.rstrip('.')}. {do}.")

    def __reduce__(self):
        return type(self), (self.address, self.reason)


class TokenRefusedError(ClusterError):
    """A running cluster asks for another token than this process has."""

    def __init__(self, address: str):
        self.address = address
        super().__init__(
            f"the cluster at {address!r} does not let this driver in. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's "
            "token (its owner has it; `ray get-auth-token` on the head)."
        )

    def __reduce__(self):
        return type(self), (self.address,)


class CodeMissingError(ClusterError):
    """The machines of a running cluster do not have this package, and it was not sent to them."""

    def __init__(self, address: str, module: str):
        self.address, self.module = address, module
        super().__init__(
            f"the machines of the cluster at {address!r} have no module {module!r}. Set `run.ship_code: true` to send this "
            "package to them (its dependencies have to be there), or install it on every machine."
        )

    def __reduce__(self):
        return type(self), (self.address, self.module)


class NotSharedError(ClusterError):
    """A machine of the cluster does not have a file that the driver's has."""

    def __init__(self, machine: str, path: str):
        self.machine, self.path = machine, path
        super().__init__(
            f"{path} is not there on the machine {machine!r}, where a worker looked for it; expected a folder that the driver and all workers "
            "share. Mount it there under the same path, set `run.directory` to one that is mounted everywhere or on an object store, or take "
            "the machine out of the cluster; then run again."
        )

    def __reduce__(self):
        return type(self), (self.machine, self.path)


class CodeDiffersError(ClusterError):
    """A worker has another version of this package than the driver; ``here`` and ``there`` name version and digest of both."""

    def __init__(self, machine: str, there: str, here: str):
        self.machine, self.there, self.here = machine, there, here
        super().__init__(
            f"a worker on {machine!r} has the Caucus code {there}, expected that of this driver, {here}; nothing of the worker was used. "
            "Install one version on every machine, or set `run.ship_code: true` to send this one. If it was installed anew while the run "
            "was at work, run again."
        )

    def __reduce__(self):
        return type(self), (self.machine, self.there, self.here)


class TaskError(ClusterError):
    """Stands for an error of a task that could not itself cross the process border."""

    exit_code = EXIT_FAULT

    def __init__(self, kind: str, message: str):
        self.kind, self.message = kind, message
        super().__init__(f"{kind}: {message}")

    def __reduce__(self):
        return type(self), (self.kind, self.message)
