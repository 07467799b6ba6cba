"""An update: files that are new, changed or gone go into a finished run, and only the shards that they change are fitted.

    set the run aside -> ingest with its coding -> fit the shards that changed -> merge, audit, ... -> what moved

The steps after the first are the stages of any run (`cluster.stages`); that an update is under way is told to them by
what was set aside (`cluster.earlier_run`). So a killed update goes on with `caucus update`, and with `caucus run` too.
"""

from dataclasses import dataclass
from typing import Any

from cluster import earlier_run, run_directory, stages
from cluster.config import Loaded, RunConfig
from cluster.errors import UpdateError
from cluster.progress import Progress
from cluster.run_directory import CODING, RunDirectory, describe_changes
from cluster.stages import Finished, SharedExecutor
from sharding import storage

_BEFORE_REPORT = run_directory.STAGES[:-1]


@dataclass(frozen=True)
class Updated:
    """What `update` did: the stages that ran, and the content of `update.json`; None if nothing had changed."""

    finished: Finished
    explanation: dict[str, Any] | None


def update(loaded: Loaded, progress: Progress, shared: SharedExecutor) -> Updated:
    """Bring a finished run up to date with its files, and say what changed and what moved.

    The coding of the run stays: centre, scale, reference and order of levels; new levels come after the old ones. A run
    in a new directory decides it anew.

    Raises
    ------
    UpdateError
        There is no finished run, or the config is not the one that it was made with.
    RunDirectoryError
        Another process is at work in the directory, or its manifest is damaged.
    ShardingError, FittingError, ReportingError
        What the stages raise.
    """
    config = loaded.config
    path = config.run.directory
    if not storage.exists(storage.join(path, "manifest.json")):
        raise _unfinished(path, "no run has begun there")
    with run_directory.locked(path):
        directory = run_directory.read_directory(path)
        inputs = stages.all_inputs(config)
        is_under_way = earlier_run.is_under_way(path)
        before = earlier_run.read(path).inputs if is_under_way else _finished_inputs(directory)
        _check_same(config, directory, before, inputs)
        if not is_under_way:
            if _files(before) == _files(inputs):
                return Updated(Finished(path, (), stages.verdict(path)), None)
            earlier_run.set_aside(directory)
        coding = storage.read_bytes(storage.join(path, earlier_run.FOLDER, "dictionary.json"))
        storage.publish_bytes(storage.join(path, CODING), coding)
        directory.identity = stages.identity(config)  # the list of sources may be another
        directory.save()
        finished = stages.run_locked(loaded, progress, shared)
        return Updated(finished, storage.read_json(storage.join(path, "update.json")))


def _finished_inputs(directory: RunDirectory) -> dict[str, dict[str, Any]]:
    """What the stages of a finished run were made from; refuses a run that is not finished, or is damaged."""
    for stage in run_directory.STAGES:
        record = directory.records.get(stage)
        why = "not run yet" if record is None else directory.why_not_done(stage, record.key, record.inputs)
        if why:
            raise _unfinished(directory.path, f"the stage {stage!r} is not done: {why}")
    return {stage: record.inputs for stage, record in directory.records.items()}


def _check_same(
    config: RunConfig, directory: RunDirectory, before: dict[str, dict[str, Any]], inputs: dict[str, dict[str, Any]]
) -> None:
    """Refuse a config that differs in more than its sources: what moved would not be the files' doing."""
    then = {"name": directory.identity["name"], **_as_config(before)}
    now = {"name": config.name, **_as_config(inputs)}
    if then != now:
        raise UpdateError(
            directory.path,
            f"the config is not that of the run ({describe_changes(then, now)}); an update explains what other files change",
            "Put the config back as it was, or use `caucus run` with it, which fits every shard",
        )


def _as_config(inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return earlier_run.as_config({stage: inputs[stage] for stage in _BEFORE_REPORT})


def _files(inputs: dict[str, dict[str, Any]]) -> list[Any]:
    """Fingerprints of the sources, and of a frame where there is one."""
    return [inputs[stage].get("sources") for stage in ("ingest", "poststratify")]


def _unfinished(path: str, found: str) -> UpdateError:
    return UpdateError(path, f"there is no finished run to update: {found}", "Use `caucus run` first")
