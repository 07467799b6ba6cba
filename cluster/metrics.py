"""Measures of a run for Prometheus: what a person is told while it works, as numbers to be plotted and alarmed on.

Where they go is a matter of the machine and not of the run, so the environment says it and no config does:

* `CAUCUS_METRICS_DIRECTORY`: a folder in which `caucus-<run>.prom` is kept up to date, for node-exporter's textfile
  collector. It stays after the run, with the last values.
* `CAUCUS_METRICS_ADDRESS`: ``host:port``, or a port on loopback, to be scraped while the run works. Of ``host:first-last``, the first port
  that is free: one address for all runs of a machine. Whoever scrapes it is waited for at the end, so that how the run ended is seen.

With neither, nothing is measured. Labels are the run, the stage and a few states, never a shard: there may be thousands.
Nothing here is read by a stage, so no result depends on it.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster import code_version, failures, run_directory
from cluster.errors import EXIT_GOOD, EXIT_INTERRUPTED, MetricsError, MissingExtraError
from cluster.progress import Progress
from cluster.run_directory import ON_WORKERS, STAGES
from sharding import storage, store

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

log = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "CAUCUS_METRICS_DIRECTORY"
ADDRESS_VARIABLE = "CAUCUS_METRICS_ADDRESS"
SECONDS_BETWEEN_FILES = 5.0
LAST_LOOK_SECONDS = 15.0
"""How long who scrapes an address is waited for at the end; `deploy/monitoring` scrapes every 10 s."""
VERDICTS = ("pass", "warn", "fail")


@dataclass(frozen=True)
class Measure:
    """One metric: its name as it is queried, what it says, and its labels besides ``run``."""

    name: str
    kind: Literal["gauge", "counter"]
    meaning: str
    labels: tuple[str, ...] = ()


MEASURES = (
    Measure("caucus_run_info", "gauge", "1; the version of Caucus that works on the run.", ("version",)),
    Measure("caucus_rows", "gauge", "Rows of the sources: read, in_cells or quarantined.", ("state",)),
    Measure("caucus_cells", "gauge", "Cells that the rows were compressed to."),
    Measure("caucus_shards", "gauge", "Shards of the pass under way: done, failed or waiting.", ("stage", "state")),
    Measure("caucus_shard_tasks_total", "counter", "Tasks that finished, done or failed.", ("stage", "state")),
    Measure("caucus_task_retries_total", "counter", "Tasks that ran again because their worker died.", ("stage",)),
    Measure("caucus_round", "gauge", "Round that is under way, or was the last; the first is 1."),
    Measure("caucus_round_move_sds", "gauge", "Largest change of a mean in the last round, in posterior sds."),
    Measure("caucus_worst_score_sds", "gauge", "Largest error of a mean that the audit sees, in posterior sds."),
    Measure("caucus_verdict", "gauge", "1 for the verdict of the audit, 0 for the others.", ("verdict",)),
    Measure("caucus_stage_state", "gauge", "Of a stage: 0 waiting, 1 at work, 2 done, 3 failed.", ("stage",)),
    Measure("caucus_stage_seconds", "gauge", "Seconds that a stage took, if this process ran it.", ("stage",)),
    Measure("caucus_exit_code", "gauge", "What the run ended with; there is none while it works. 0 good, 2 mend, 3 audit failed, 4 run again."),
    Measure("caucus_cores", "gauge", "Cores of the cluster for tasks; 0: the run waits for machines."),
    Measure("caucus_driver_memory_bytes", "gauge", "Most memory that the driver has held."),
    Measure("caucus_progress_timestamp_seconds", "gauge", "When the run last got on, in seconds since 1970."),
)
"""Everything that is measured; the dashboard may query these and no others."""

_NUM_STATES = {"waiting": 0.0, "running": 1.0, "done": 2.0, "failed": 3.0}


class RunMetrics:
    """The values of `MEASURES` for one run; a collector of `prometheus_client`. Safe to be read by another thread."""

    def __init__(self, run: str):
        self.run = run
        self._values: dict[str, dict[tuple[str, ...], float]] = {measure.name: {} for measure in MEASURES}
        self._lock = threading.Lock()

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge; ``labels`` are those of its `Measure`, in order."""
        with self._lock:
            self._values[name][labels] = float(value)

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add to a counter, which starts at 0."""
        with self._lock:
            self._values[name][labels] = self._values[name].get(labels, 0.0) + value

    def collect(self) -> Iterator["Metric"]:
        """Yield the metrics that have a value."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            values = {name: dict(series) for name, series in self._values.items()}
        for measure in MEASURES:
            kind = GaugeMetricFamily if measure.kind == "gauge" else CounterMetricFamily
            family = kind(measure.name, measure.meaning, labels=("run", *measure.labels))
            for labels, value in values[measure.name].items():
                family.add_metric((self.run, *labels), value)
            if family.samples:
                yield family


class MeasuredProgress:
    """Tells another `Progress` everything, and counts along; see `observed`."""

    def __init__(self, shown: Progress, metrics: RunMetrics, directory: str, outlets: tuple["Outlet", ...]):
        self._shown, self._metrics, self._directory, self._outlets = shown, metrics, directory, outlets
        self._is_interrupted = False
        self._stage = ""
        self._failed = 0
        metrics.set("caucus_run_info", 1.0, code_version.version())
        for stage in STAGES:
            metrics.set("caucus_stage_state", _NUM_STATES["waiting"], stage)
        self._got_on()

    def begin(self, stage: str, reason: str) -> None:
        """See `Progress.begin`."""
        self._shown.begin(stage, reason)
        self._stage, self._failed = stage, 0
        if stage in ON_WORKERS:  # a counter that is first seen at 1 has not increased, as Prometheus sees it
            for state in ("done", "failed"):
                self._metrics.add("caucus_shard_tasks_total", 0.0, stage, state)
            self._metrics.add("caucus_task_retries_total", 0.0, stage)
        self._metrics.set("caucus_stage_state", _NUM_STATES["running"], stage)
        self._got_on()

    def update(self, **news: Any) -> None:
        """See `Progress.update`."""
        self._shown.update(**news)
        done, total = news.get("done"), news.get("total")
        if done is not None and total is not None and news.get("phase") in (None, "shards"):
            states = {"done": done - self._failed, "failed": self._failed, "waiting": total - done}
            for state, number in states.items():
                self._metrics.set("caucus_shards", number, self._stage, state)
        names = {"round": "caucus_round", "move": "caucus_round_move_sds", "score": "caucus_worst_score_sds", "cores": "caucus_cores"}
        for key, name in names.items():
            if news.get(key) is not None:
                self._metrics.set(name, news[key])
        if set(news) != {"cores"}:  # to have looked at the machines is not to get on
            self._got_on(is_urgent=False)
        else:
            self._tell(is_urgent=False)

    def task(self, *, is_good: bool, attempt: int) -> None:
        """See `Progress.task`."""
        self._shown.task(is_good=is_good, attempt=attempt)
        self._failed += not is_good
        self._metrics.add("caucus_shard_tasks_total", 1.0, self._stage, "done" if is_good else "failed")
        self._metrics.add("caucus_task_retries_total", attempt - 1.0, self._stage)

    def end(self, seconds: float) -> None:
        """See `Progress.end`."""
        self._shown.end(seconds)
        self._metrics.set("caucus_stage_seconds", seconds, self._stage)
        self._is_done(self._stage)

    def skip(self, stage: str) -> None:
        """See `Progress.skip`."""
        self._shown.skip(stage)
        self._is_done(stage)

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        self._shown.say(text)

    def ended(self, exit_code: int) -> None:
        """The run ended, with what the command ends with; the stage that was at work has failed."""
        self._metrics.set("caucus_exit_code", exit_code)
        self._is_interrupted = exit_code == EXIT_INTERRUPTED
        if self._stage:
            self._metrics.set("caucus_stage_state", _NUM_STATES["failed"], self._stage)

    def close(self) -> None:
        """See `Progress.close`; a file keeps the last values, an address answers no more. Who stops a run is not kept waiting (Ray kills after 3 s)."""
        self._shown.close()
        for outlet in self._outlets:
            outlet.close(waits=not self._is_interrupted)

    def _is_done(self, stage: str) -> None:
        self._stage = ""
        self._metrics.set("caucus_stage_state", _NUM_STATES["done"], stage)
        if stage == "ingest":
            self._measure_cells()
        elif stage == "audit":
            self._measure_audit()
        self._got_on()

    def _measure_cells(self) -> None:
        manifest = store.read_manifest(self._directory)
        for state in ("read", "in_cells", "quarantined"):
            self._metrics.set("caucus_rows", manifest["totals"][f"rows_{state}"], state)
        self._metrics.set("caucus_cells", sum(shard["num_cells"] for shard in manifest["shards"]))

    def _measure_audit(self) -> None:
        audit = storage.read_json(storage.join(self._directory, "audit.json"))
        for verdict in VERDICTS:
            self._metrics.set("caucus_verdict", float(audit["verdict"] == verdict), verdict)
        for gate in audit["gates"]:
            if gate["name"] == "score" and gate["value"] is not None:
                self._metrics.set("caucus_worst_score_sds", gate["value"])

    def _got_on(self, *, is_urgent: bool = True) -> None:
        self._metrics.set("caucus_progress_timestamp_seconds", time.time())
        self._tell(is_urgent=is_urgent)

    def _tell(self, *, is_urgent: bool) -> None:
        self._metrics.set("caucus_driver_memory_bytes", run_directory.peak_memory_bytes())
        for outlet in self._outlets:
            outlet.tell(is_urgent=is_urgent)


class TextFile:
    """Keeps a `.prom` file up to date: at every stage, and every `SECONDS_BETWEEN_FILES` between.

    A file that cannot be written is told once, and the run goes on: it is worth more than its measures.
    """

    def __init__(self, metrics: RunMetrics, file: Path, clock: Callable[[], float] = time.monotonic):
        self._metrics, self._file, self._clock = metrics, file, clock
        self._written = -SECONDS_BETWEEN_FILES
        self._is_broken = False

    def tell(self, *, is_urgent: bool) -> None:
        """Write the values, if it is time or ``is_urgent``."""
        from prometheus_client import write_to_textfile

        now = self._clock()
        if not is_urgent and now - self._written < SECONDS_BETWEEN_FILES:
            return
        self._written = now
        try:
            write_to_textfile(str(self._file), self._metrics)
        except OSError as error:
            if not self._is_broken:
                log.warning("metrics not written", extra={"file": str(self._file), "reason": error.strerror})
            self._is_broken = True

    def close(self, *, waits: bool = True) -> None:
        """Write the last values, which stay, so that nobody is waited for."""
        self.tell(is_urgent=True)


class Endpoint:
    """Answers Prometheus at the first free one of some ports until it is closed; ``port`` is the one it got."""

    def __init__(self, metrics: RunMetrics, host: str, ports: range):
        from prometheus_client import start_http_server

        self._metrics, self._num_asked, self._asked = metrics, 0, threading.Event()
        for port in ports:
            try:
                self._server, self._thread = start_http_server(port, host, self)  # it is asked for `collect` alone
                break
            except OSError as error:
                reason = error.strerror
        else:
            found = f"{host}:{ports[0]}" + (f"-{ports[-1]}" if len(ports) > 1 else "")
            do = f"Free it, give more ports ({host}:{ports[0]}-{ports[0] + 15}), set another {ADDRESS_VARIABLE}, or unset it."
            raise MetricsError(ADDRESS_VARIABLE, found, f"an address to listen at ({reason})", do)
        self.port = int(self._server.server_port)

    def collect(self) -> Iterator["Metric"]:
        """What the server answers with; notes that it was asked."""
        self._num_asked += 1
        yield from self._metrics.collect()
        self._asked.set()

    def tell(self, *, is_urgent: bool) -> None:
        """Nothing to do: it is asked."""

    def close(self, *, waits: bool = True) -> None:
        """Answer no more, once whoever has asked before has asked for how the run ended (``waits``). May be called twice."""
        if self._num_asked and waits:
            self._asked.clear()
            self._asked.wait(LAST_LOOK_SECONDS)
            self._num_asked = 0
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Outlet = TextFile | Endpoint


@contextmanager
def observing(shown: Progress, run: str, directory: str) -> Iterator[Progress]:
    """`observed` as long as a run works; how it ended is measured, and ``shown`` closed."""
    progress, code = observed(shown, run, directory), EXIT_GOOD
    try:
        yield progress
    except BaseException as error:
        code = failures.explain(error)[1]
        raise
    finally:
        if isinstance(progress, MeasuredProgress):
            progress.ended(code)
        progress.close()


def observed(shown: Progress, run: str, directory: str, environment: Mapping[str, str] = os.environ) -> Progress:
    """Return ``shown``, measured for Prometheus if the environment says where to.

    Parameters
    ----------
    run
        Name of the run, the label ``run`` of every metric.
    directory
        Run directory, from which rows, cells and the verdict are read when their stages are done.

    Raises
    ------
    MetricsError
        The folder is not there, or the address is none, or it is taken.
    MissingExtraError
        `prometheus_client`, which Ray brings with it, is not installed.
    """
    folder, address = (environment.get(name, "") for name in (DIRECTORY_VARIABLE, ADDRESS_VARIABLE))
    if not folder and not address:
        return shown
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError:
        wanted_by = DIRECTORY_VARIABLE if folder else ADDRESS_VARIABLE
        raise MissingExtraError("metrics", wanted_by, f"unset {wanted_by}") from None
    metrics = RunMetrics(run)
    outlets: tuple[Outlet, ...] = ()
    if folder:
        if not Path(folder).is_dir():
            raise MetricsError(DIRECTORY_VARIABLE, folder, "a folder that is there", "Make it, or unset the variable.")
        outlets += (TextFile(metrics, Path(folder) / f"caucus-{run}.prom"),)
    if address:
        outlets += (Endpoint(metrics, *_parsed(address)),)
    return MeasuredProgress(shown, metrics, directory, outlets)


def _parsed(address: str) -> tuple[str, range]:
    host, _, ports = address.rpartition(":")
    found = re.fullmatch("([0-9]{1,5})(?:-([0-9]{1,5}))?", ports)
    numbers = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not numbers[0] <= numbers[1] <= 65_535:
        do = "Write 127.0.0.1:9464, 127.0.0.1:9464-9479 for several runs, or 0.0.0.0:9464 in a container whose network is closed to others."
        raise MetricsError(ADDRESS_VARIABLE, address, "host:port, or a port", do)
    return host.strip("[]") or "127.0.0.1", range(numbers[0], numbers[1] + 1)
