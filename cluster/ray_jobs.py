"""A run as a job of a Ray cluster: sent there, watched, stopped, and sent again to go on where it was.

A job runs once and dies with its cluster; what is done is in the run directory, which has to be one that the cluster reaches.
So every attempt is a job of its own, `caucus-<run>-<hash of the run directory>-<attempt>`, and there is one at a time.

What is sent: the resolved config and, unless the image has it, this package. What is told of the job, to everybody who may list
jobs: the run's name, the attempt, the hash of the config, the version; no path, no count. Secrets are not sent: the machines
of the cluster have them in their environment, and a job can be told which names must be there.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import shutil
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from cluster import PACKAGES, code_version
from cluster import config as configs
from cluster.config import Loaded
from cluster.errors import (
    EXIT_GOOD,
    EXIT_INTERRUPTED,
    EXIT_RUN_AGAIN,
    ClusterUnreachableError,
    InsecureClusterError,
    JobError,
)
from cluster.metrics import ADDRESS_VARIABLE
from sharding import credentials, storage

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

NEEDED = "CAUCUS_NEEDS_ENV"
"""Environment variable of a job with the names, separated by commas, of others that have to be set there."""
ENTRYPOINT = "python -m cluster run run.yaml"
LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


class Job(NamedTuple):
    """One attempt at a run. ``status`` is Ray's word; times are seconds since 1970, 0 where it has not come to it."""

    submission_id: str
    run: str
    attempt: int
    status: str
    started: float
    ended: float
    exit_code: int | None
    message: str

    @property
    def has_ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in _ENDED


def connect(address: str, *, insecure: bool = False) -> JobSubmissionClient:
    """Connect to the job server of a cluster.

    Parameters
    ----------
    address
        ``http(s)://host:port``, or ``host:port`` for http. ``RAY_AUTH_TOKEN`` (or ``RAY_AUTH_TOKEN_PATH``) and the JSON in
        ``RAY_JOB_HEADERS`` go with every request; ``REQUESTS_CA_BUNDLE`` names a certificate authority of your own.
    insecure
        Whether a cluster on another machine may be one that lets everybody in.

    Raises
    ------
    InsecureClusterError
        It does.
    JobError
        The address is none, or the cluster refuses the token.
    ClusterUnreachableError
        Nothing answers.
    """
    address = _url(address)
    if not insecure and not _is_loopback(address) and _lets_everybody_in(address):
        raise InsecureClusterError(address)
    from ray.job_submission import JobSubmissionClient

    with _told(address):
        verify = os.environ.get("REQUESTS_CA_BUNDLE", True)
        client = JobSubmissionClient(address, headers=_headers(address), verify=verify)  # asks for the version
        client.list_jobs()  # needs the token
    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(chatty).setLevel(logging.WARNING)  # tell of every package that is sent
    return client


def submit(
    client: JobSubmissionClient, loaded: Loaded, *, image_code: bool = False, needs_env: tuple[str, ...] = (),
    driver_cpus: float = 0.0, metrics: str = "",
) -> Job:  # fmt: skip
    """Send a run to the cluster as its next attempt.

    Parameters
    ----------
    image_code
        Whether the machines have this package; otherwise it is sent.
    needs_env
        Names of environment variables that the job's machine has to have. Their values are not sent.
    driver_cpus
        What the driver asks for; with 0 it may run on a head that takes no tasks.
    metrics
        Where the driver answers Prometheus, see `cluster.metrics`; empty: as the environment of the cluster says.

    Raises
    ------
    JobError
        An attempt is under way.
    """
    earlier = attempts(client, loaded)
    at_work = [job for job in earlier if not job.has_ended]
    if at_work:
        found = f"attempt {at_work[0].attempt} of the run is {at_work[0].status.lower()}"
        raise JobError(found, "Watch it with `caucus logs --follow`, or `caucus stop` it.", EXIT_RUN_AGAIN)
    attempt = 1 + max((job.attempt for job in earlier), default=0)
    text = configs.for_cluster(loaded)  # to run there, with that cluster's own cores
    with tempfile.TemporaryDirectory(prefix="caucus-submit-") as folder:
        (Path(folder) / "run.yaml").write_text(text, encoding="utf-8")
        source = Path(__file__).resolve().parent.parent
        for package in () if image_code else PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(source / package, Path(folder) / package, ignore=ignored)
        submission_id = f"{_prefix(loaded)}{attempt}"
        told = {
            "caucus_run": loaded.config.name,
            "caucus_attempt": str(attempt),
            "caucus_config_sha256": storage.sha256_bytes(text.encode()),
            "caucus_version": code_version.version() or "from source",
        }
        job = {
            "entrypoint": ENTRYPOINT, "submission_id": submission_id, "metadata": told,
            "runtime_env": {"working_dir": folder, "env_vars": _environment(needs_env, metrics)},
            "entrypoint_num_cpus": driver_cpus or None,
        }  # fmt: skip
        _send(client, job)
    return latest(client, loaded)


def _send(client: JobSubmissionClient, job: dict[str, Any]) -> None:
    """Submit a job; a head that has just started has its job server before it has anybody to run jobs."""
    began = time.monotonic()
    while True:
        try:
            with _told(client.get_address()):
                client.submit_job(**job)
            return
        except JobError as error:
            if "No available agent" not in str(error) or time.monotonic() - began > PATIENCE_SECONDS:
                raise
            time.sleep(LOOK_SECONDS)


def attempts(client: JobSubmissionClient, loaded: Loaded) -> list[Job]:
    """Return the attempts at a run that the cluster knows, in order."""
    prefix = _prefix(loaded)
    return sorted((job for job in every_job(client) if job.submission_id.startswith(prefix)), key=lambda j: j.attempt)


def latest(client: JobSubmissionClient, loaded: Loaded) -> Job:
    """Return the last attempt at a run; `JobError` if there is none."""
    found = attempts(client, loaded)
    if not found:
        raise JobError("the cluster knows no attempt at this run", "Send it with `caucus submit`, or look with `caucus list`.")
    return found[-1]


def every_job(client: JobSubmissionClient) -> list[Job]:
    """Return the jobs of the cluster that are runs of Caucus, oldest first."""
    with _told(client.get_address()):
        found = [_job(d) for d in client.list_jobs() if d.submission_id and "caucus_run" in (d.metadata or {})]
    return sorted(found, key=lambda job: job.started)


def logs(client: JobSubmissionClient, job: Job) -> str:
    """Return what the job has said so far."""
    with _told(client.get_address()):
        return str(client.get_job_logs(job.submission_id))


def follow(client: JobSubmissionClient, job: Job, write: Callable[[str], object]) -> Job:
    """Give ``write`` what the job says until it has ended, and return how it ended.

    A cluster that does not answer is asked again for `PATIENCE_SECONDS`; the job goes on without its watcher.
    """
    said, answered = 0, time.monotonic()
    while True:
        try:
            with _told(client.get_address()):
                now = _job(client.get_job_info(job.submission_id))
            text = logs(client, job)
            answered = time.monotonic()
        except (ClusterUnreachableError, JobError) as error:
            if time.monotonic() - answered > PATIENCE_SECONDS:
                reason = f"no answer for {PATIENCE_SECONDS:.0f} s; the run goes on there, `caucus logs --follow` watches it"
                raise ClusterUnreachableError(client.get_address(), reason) from error
            time.sleep(LOOK_SECONDS)
            continue
        if len(text) > said:
            write(text[said:])
            said = len(text)
        if now.has_ended:
            return now
        time.sleep(LOOK_SECONDS)


def exit_code(job: Job) -> int:
    """Return what a command that waited for the job ends with: the run's own code, 130 if it was stopped, 4 if it was lost."""
    if job.status == "SUCCEEDED":
        return EXIT_GOOD
    if job.status == "STOPPED":
        return EXIT_INTERRUPTED
    return job.exit_code if job.exit_code in (1, 2, 3, 4, EXIT_INTERRUPTED) else EXIT_RUN_AGAIN


def stop(client: JobSubmissionClient, loaded: Loaded) -> Job:
    """Stop the attempt that is under way, and return it when it has ended."""
    job = latest(client, loaded)
    if job.has_ended:
        raise JobError(f"attempt {job.attempt} has ended already: {job.status.lower()}", "There is nothing to stop.")
    with _told(client.get_address()):
        client.stop_job(job.submission_id)
    return follow(client, job, lambda text: None)


def require_environment() -> None:
    """In a job: see that what it was told to need is there; `JobError` with the names that are not."""
    names = [name for name in os.environ.get(NEEDED, "").split(",") if name]
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        do = "Set them where the cluster's machines are made, such as a Kubernetes Secret; `caucus submit` sends no values."
        raise JobError(f"not set on {os.uname().nodename}: {', '.join(missing)}", do)


def describe(job: Job) -> str:
    """Say an attempt in one line."""
    times = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(t)) if t else "-" for t in (job.started, job.ended)]
    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    return f"{job.submission_id}  {job.status.lower()}{code}  started {times[0]}, ended {times[1]}"


def _prefix(loaded: Loaded) -> str:
    run = loaded.config
    return f"caucus-{run.name}-{storage.sha256_bytes(run.run.directory.encode())[:8]}-"


def _job(details: JobDetails) -> Job:
    told = details.metadata or {}
    started, ended = (float(t or 0) / 1000 for t in (details.start_time, details.end_time))
    attempt = told.get("caucus_attempt", "")
    return Job(
        str(details.submission_id), str(told.get("caucus_run", "")), int(attempt) if attempt.isdigit() else 0,
        str(details.status.value), started, ended, details.driver_exit_code, str(details.message or ""),
    )  # fmt: skip


def _environment(needs_env: tuple[str, ...], metrics: str = "") -> dict[str, str]:
    for name in needs_env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise JobError(f"--needs-env {name.partition('=')[0]!r}: no name of a variable", "Give the name alone, no value.")
    given = {NEEDED: ",".join(needs_env), ADDRESS_VARIABLE: metrics}
    return {"RAY_USAGE_STATS_ENABLED": "0"} | {name: value for name, value in given.items() if value}


def _url(address: str) -> str:
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or credentials.found_in(url):
        do = "Give that of the dashboard, where jobs are sent: http://host:8265, or https:// behind TLS."
        raise JobError(f"{parts.scheme}://{parts.hostname or ''} is no address of a job server", do)
    return url.rstrip("/")


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _lets_everybody_in(address: str) -> bool:
    """Ask for the jobs without saying who asks."""
    context = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE"))
    try:
        with urllib.request.urlopen(f"{address}/api/jobs/", timeout=20, context=context) as answer:  # http or https: _url
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code not in (401, 403)
    except OSError as error:
        raise ClusterUnreachableError(address, str(error)) from error


def _headers(address: str) -> dict[str, str]:
    """What goes with every request; `~/.ray/auth_token` is this machine's own and goes to no other."""
    text = os.environ.get("RAY_JOB_HEADERS", "")
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise JobError("RAY_JOB_HEADERS is no JSON object of texts", 'Write {"Authorization": "Bearer ..."}.')
    if any(name.lower() == "authorization" for name in found):
        return found
    token, own = os.environ.get("RAY_AUTH_TOKEN", ""), Path.home() / ".ray" / "auth_token"
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or (own if _is_loopback(address) and own.exists() else None)
    if not token and file:
        token = Path(file).read_text(encoding="utf-8").strip()
    return found | ({"Authorization": f"Bearer {token}"} if token else {})


@contextmanager
def _told(address: str) -> Iterator[None]:
    """What Ray's client raises, as errors of ours."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        do = "Set RAY_AUTH_TOKEN to the cluster's token (its owner has it; `ray get-auth-token` on the head)."
        raise JobError(f"{address} does not let this user in", do) from error
    except OSError as error:  # those of `requests` among them, whose text is of no use to a person
        kind = type(error).__name__
        reason = f"it does not answer ({kind})" if type(error).__module__.startswith("requests") else str(error).partition("\n")[0]
        raise ClusterUnreachableError(address, reason) from error
    except RuntimeError as error:
        raise JobError(f"{address}: {str(error).partition(chr(10))[0][:300]}", "Look at `caucus list` and the cluster.") from error
