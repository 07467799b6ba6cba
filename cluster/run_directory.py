"""The run directory: what is in it, what has been done in it, and who is at work in it.

`manifest.json` holds, for every finished stage, its key, what the key was made from, and the sha256 of every file that
the stage wrote. A stage counts as done only if its key is the wanted one and every file is there with its bytes.
"""

import fcntl
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster import code_version, lease, plain_files
from cluster.errors import RunDirectoryError, RunDirectoryLockedError, StageError
from sharding import storage
from sharding.errors import StorageError

SCHEMA_VERSION = 1
CODING = "coding.json"
"""The coding that ingest is given, where it is not to decide it anew: a dictionary of an earlier ingest."""
CHECKS = "checks/checks.json"
"""What `caucus check` found; it belongs to no stage."""
STAGES = ("ingest", "fit", "merge", "audit", "poststratify", "report")
ON_WORKERS = ("fit", "merge", "audit", "poststratify")
"""The stages whose work is tasks of shards."""
FILES = {
    "ingest": ("dictionary.json", "shards", "quarantine", "dirt.json", CODING),
    "fit": ("sites",),
    "merge": ("posterior.nc", "summary.parquet"),
    "audit": ("audit.json",),
    "poststratify": ("estimates",),
    "report": ("report.html",),
}
"""What each stage writes, files and folders. No file belongs to two stages."""

_MAY_LACK = ("quarantine", "dirt.json", CODING)
_KEPT_WHEN_STALE = ("ingest", "fit")  # these look after their own files: shards and sites are reused one by one
_AMENDED_BY = {
    "merge": ("fit",),
    "audit": ("fit", "merge"),
}  # another layout moves sites; an audit that fails runs more rounds
_READERS = 8
_FACTS = ("config_sha256", "overrides", "seed", "executor", "truth", "priors", "is_share", "verified")
_VERSIONS = ("jax", "jaxlib", "numpy", "scipy", "numpyro", "pyarrow", "duckdb", "ray")


@dataclass
class StageRecord:
    """One finished stage.

    ``inputs`` is what ``key`` is the hash of; ``files`` are sha256 by relative path; ``peak_memory_bytes`` is the most
    that the driver had held by the end of the stage, without its workers; ``retries`` counts ``tasks`` that ran again because
    a worker died, and operations on ``storage`` that were tried again.
    """

    key: str
    inputs: dict[str, Any]
    seconds: float
    finished: str
    files: dict[str, str]
    peak_memory_bytes: int
    retries: dict[str, int] = field(default_factory=dict)


@dataclass
class RunDirectory:
    """A run directory that is open; see `open_directory`.

    ``facts`` are told to readers of the manifest and decide nothing: hash of the config, ``--set`` overrides, seed,
    executor, and the folder with the truth where the data are simulated. ``replaced`` are records of stages that this
    process has begun again, or has yet to.
    """

    path: str
    identity: dict[str, Any]
    records: dict[str, StageRecord] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, StageRecord] = field(default_factory=dict)

    def why_not_done(self, stage: str, key: str, inputs: dict[str, Any]) -> str:
        """Return why ``stage`` has to run, in words; empty if it is done and its files are what it wrote."""
        record = self.records.get(stage)
        if record is None and stage in self.replaced:
            return describe_changes(self.replaced[stage].inputs, inputs)
        if record is None:
            return "not run yet"
        if record.key != key:
            return describe_changes(record.inputs, inputs)
        for name, found in _sha256(self.path, record.files).items():
            if found != record.files[name]:
                return f"{name} is not the file that was written" if found else f"{name} is missing"
        return ""

    def inputs(self) -> dict[str, dict[str, Any]]:
        """What every finished stage depended on."""
        return {stage: record.inputs for stage, record in self.records.items()}

    def begin(self, stage: str) -> None:
        """Forget ``stage`` and every later one, and remove what they wrote, so that nothing stale can be read."""
        stale = STAGES[STAGES.index(stage) :]
        self.replaced |= {name: record for name, record in self.records.items() if name in stale}
        self.records = {name: record for name, record in self.records.items() if name not in stale}
        self.save()
        for name in (name for name in stale if name not in _KEPT_WHEN_STALE):
            for owned in FILES[name]:
                storage.remove(storage.join(self.path, owned))

    def finish(
        self, stage: str, key: str, inputs: dict[str, Any], seconds: float, retries: Mapping[str, int] | None = None
    ) -> None:
        """Record ``stage`` as done, with the files it wrote and what was tried again on the way.

        Raises
        ------
        StageError
            One of the things that the stage owes is not there.
        """
        _remove_unpublished(self.path)  # of workers that were killed while they wrote: their tasks were run again
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.records[stage] = StageRecord(
            key, inputs, round(seconds, 3), finished, self._files(stage), peak_memory_bytes(), dict(retries or {})
        )
        for amended in _AMENDED_BY.get(stage, ()):
            if amended in self.records:
                self.records[amended].files = self._files(amended)
        self.save()

    def save(self) -> None:
        """Publish the manifest.

        Raises
        ------
        RunDirectoryLockedError
            Another driver has taken the directory over.
        """
        lease.require(self.path)
        storage.publish_json(
            storage.join(self.path, "manifest.json"),
            {
                "schema_version": SCHEMA_VERSION,
                "identity": self.identity,
                **{name: self.facts.get(name) for name in _FACTS},
                "versions": versions(),
                "stages": {name: vars(record) for name, record in self.records.items()},
            },
        )

    def _files(self, stage: str) -> dict[str, str]:
        names: list[str] = []
        for owned in FILES[stage]:
            found = storage.names_below(self.path, owned)
            if not found and owned not in _MAY_LACK:
                raise StageError(stage, f"wrote no {owned}", "This is a fault of Caucus; please report it.")
            names += found
        return {name: found for name, found in _sha256(self.path, names).items() if found}


def open_directory(path: str, identity: dict[str, Any]) -> RunDirectory:
    """Open the run directory of a run, or start one; see `open_existing`. Call with the directory `locked`.

    What a killed writer had begun and not published is removed.
    """
    directory = open_existing(path, identity)
    if directory is None:
        storage.make_directory(path)
        directory = RunDirectory(path, identity)
    _remove_unpublished(path)
    return directory


def _remove_unpublished(path: str) -> None:
    for unpublished in Path(path).rglob(".*.partial") if storage.is_local(path) else ():
        unpublished.unlink(missing_ok=True)


def look(path: str, identity: dict[str, Any]) -> None:
    """See, without a lock, that a run may begin in ``path`` or go on there; leaves nothing where it may not.

    Raises
    ------
    RunDirectoryError
        As `open_existing`.
    RunDirectoryLockedError
        Another process is at work in it: what looks like no run may be one that is being made.
    """
    try:
        open_existing(path, identity)
    except RunDirectoryLockedError:
        raise
    except RunDirectoryError:
        if not lease.is_there(path):
            raise
        with locked(path):
            open_existing(path, identity)


def open_existing(path: str, identity: dict[str, Any]) -> RunDirectory | None:
    """Open the run directory of a run; None if there is nothing in it yet.

    Parameters
    ----------
    identity
        What makes two runs different things, not two versions of one: name, sources, outcome.

    Raises
    ------
    RunDirectoryError
        The directory holds another run, or things that are no run, or a manifest that cannot be read.
    """
    plain_files.check(path)
    try:
        present = storage.children(path)
    except NotADirectoryError:
        raise RunDirectoryError(path, "a file, expected a folder", "Set another `run.directory`.") from None
    if all(name == "run.yaml" or lease.is_lease(name) for name in present):
        return None
    directory = read_directory(path)
    if not directory.records:  # nothing was finished in it, so there is no other run to keep
        return RunDirectory(path, identity, facts=directory.facts)
    if directory.identity != identity:
        found = f"holds another run ({describe_changes(directory.identity, identity)})"
        raise RunDirectoryError(path, found, "Set another `run.directory`, or remove this one if it is not needed.")
    return directory


def read_directory(path: str) -> RunDirectory:
    """Read the manifest of a run directory.

    Raises
    ------
    RunDirectoryError
        There is none, or it is not one that this version can read.
    """
    plain_files.check(path)
    try:
        manifest = storage.read_bytes(storage.join(path, "manifest.json"))
    except StorageError:
        do = "Set `run.directory` to a new folder, or to that of a run."
        raise RunDirectoryError(path, "has no manifest.json, so it is not a run directory", do) from None
    try:
        stored = json.loads(manifest)
        if stored["schema_version"] != SCHEMA_VERSION:
            found = f"has a manifest of version {stored['schema_version']}, expected {SCHEMA_VERSION}"
            raise RunDirectoryError(path, found, "Use the version of Caucus that wrote it, or a new folder.")
        if not isinstance(stored["identity"], dict):
            raise TypeError("identity")
        if not all(isinstance(record["files"], dict) for record in stored["stages"].values()):
            raise TypeError("files")
        records = {name: StageRecord(**record) for name, record in stored["stages"].items()}
        return RunDirectory(path, stored["identity"], records, {name: stored.get(name) for name in _FACTS})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        do = "Remove manifest.json to have every stage checked and run again."
        raise RunDirectoryError(path, "has a manifest.json that is damaged", do) from None


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the run directory for this process; the lock ends with the process, however that ends.

    On an object store it is a lease (`cluster.lease`), which ends half a minute after its process.

    Raises
    ------
    RunDirectoryLockedError
        Another process holds it.
    """
    if not storage.is_local(path):
        with lease.held(path):
            yield
        return
    storage.make_directory(path)
    plain_files.check(path)
    with open(os.open(os.path.join(path, lease.LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock.read().strip() or "another process"
            do = "Wait until it has finished, or stop it; then run again."
            raise RunDirectoryLockedError(path, f"{holder} is at work in it", do) from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        lock.flush()
        yield


def describe_changes(old: dict[str, Any], new: dict[str, Any], *, limit: int = 3) -> str:
    """Say in one line what differs: ``model.priors.sd: half_normal(1) -> half_normal(2)``."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    own = [_change(name, before.get(name), after.get(name)) for name in names if not name.startswith("after.")]
    shown = own + [f"{name.removeprefix('after.')} is new" for name in names if name.startswith("after.")]
    more = [f"and {len(shown) - limit} more"] if len(shown) > limit else []
    return ", ".join(shown[:limit] + more) or "an earlier stage ran again"


def stage_key(inputs: dict[str, Any]) -> str:
    """Return the key of a stage: the sha256 of the canonical JSON of what it depends on."""
    return storage.sha256_bytes(storage.canonical_json(inputs))


def versions() -> dict[str, str]:
    """Return the versions of what computes, by package; absent ones left out."""
    found = {"python": platform.python_version(), "caucus": code_version.version()}
    for package in _VERSIONS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _change(name: str, before: Any, after: Any) -> str:
    if name.startswith("sources."):
        what = "is new" if before is None else "is gone" if after is None else "changed"
        return f"{name.removeprefix('sources.')} {what}"
    if name == "results":
        return "it was made by a version of Caucus whose numbers may differ"
    if name == "coding":
        return "the coding of before an update " + ("is no longer held" if after is None else "is held")
    return f"{name}: {_short(before)} -> {_short(after)}"


def _short(value: Any) -> str:
    text = "(not set)" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _sha256(directory: str, names: Iterable[str]) -> dict[str, str | None]:
    """The hash of every file, None for one that is not there; several are read at once, for the sake of object stores."""

    def one(name: str) -> str | None:
        try:
            return storage.sha256_file(storage.join(directory, name))
        except StorageError:
            return None

    names = list(names)
    with ThreadPoolExecutor(_READERS) as readers:
        return dict(zip(names, readers.map(one, names), strict=True))
