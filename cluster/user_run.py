"""A run of a user's own model: ingest, fit, merge, audit, each keyed by a hash of what it depends on.

The user's file is part of the keys of fit and all that follows it. Nothing of it is executed before it was allowed.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from cluster import run_directory, user_code
from cluster.code_version import RESULTS
from cluster.progress import Progress
from cluster.run_directory import RunDirectory, stage_key
from cluster.stages import Finished, SharedExecutor, verdict
from cluster.user_code import CodeNotAllowedError
from cluster.user_config import UserLoaded, UserRunConfig, dump
from sharding import storage
from sharding.errors import SourceError

log = logging.getLogger(__name__)

STAGES = ("ingest", "fit", "merge", "audit")


def run(loaded: UserLoaded, progress: Progress, shared: SharedExecutor, *, allow_code: bool) -> Finished:
    """Run the stages that are not done.

    Raises
    ------
    CodeNotAllowedError, CodeFileError
        The file may not be executed, or is not where it may be.
    UserModelError, ShardDataError, ShardingError, ReportingError, RunDirectoryError
        What the stages raise.
    """
    config = loaded.config
    if not allow_code:
        raise CodeNotAllowedError(config.model.file)
    path, sha256 = user_code.resolve(config.model.file, Path(loaded.path).parent)
    inputs = all_inputs(config, sha256)
    directory_path = config.run.directory
    identity = {"name": config.name, "data": {"source": list(config.data.source)}, "model": {"file": config.model.file}}
    run_directory.look(directory_path, identity)
    redone = []
    with run_directory.locked(directory_path):
        directory = run_directory.open_directory(directory_path, identity)
        resolved = dump(loaded)
        directory.facts = {
            "config_sha256": storage.sha256_bytes(resolved.encode()), "overrides": list(loaded.overrides),
            "seed": config.run.seed, "executor": config.run.executor,
        }  # fmt: skip
        directory.save()
        storage.publish_bytes(storage.join(directory_path, "run.yaml"), resolved.encode())
        for stage in STAGES:
            reason = directory.why_not_done(stage, stage_key(inputs[stage]), inputs[stage])
            if not reason:
                progress.skip(stage)
                continue
            _run_stage(stage, reason, inputs[stage], config, (path, sha256), directory, progress, shared)
            redone.append(stage)
    return Finished(directory_path, tuple(redone), verdict(directory_path))


def all_inputs(config: UserRunConfig, sha256: str) -> dict[str, dict[str, Any]]:
    """What every stage depends on, by stage.

    Raises
    ------
    SourceError
        A source of the data matches no file.
    """
    data = config.data.model_dump(mode="json")
    terms = data.pop("terms_of_use")
    fit = config.fit.model_dump(mode="json")
    sources: dict[str, str] = {}
    for pattern in config.data.source:
        files = storage.list_files(pattern)
        if not files:
            raise SourceError(f"data.source {pattern!r}", "no file", "at least one", "Correct it in the config.")
        sources |= {file: storage.fingerprint(file)["fingerprint"] for file in files}
    ingest = {
        "results": RESULTS,
        "data": data,
        "shards": config.shards.model_dump(mode="json"),
        "sources": sources,
        "model": {"sha256": sha256},
    }
    # the draws of a merge also decide the moments of a round, so they belong to the fit
    fitted = {"after": {"ingest": stage_key(ingest)}, "fit": fit, "model": {"sha256": sha256}, "seed": config.run.seed}
    merged = {"after": {"fit": stage_key(fitted)}}
    audited = {
        "after": {"merge": stage_key(merged)}, "audit": config.audit.model_dump(mode="json"),
        "terms_of_use": terms,
    }  # fmt: skip
    return {"ingest": ingest, "fit": fitted, "merge": merged, "audit": audited}


def _run_stage(
    stage: str, reason: str, inputs: dict[str, Any], config: UserRunConfig, code: tuple[str, str],
    directory: RunDirectory, progress: Progress, shared: SharedExecutor,
) -> None:  # fmt: skip
    started = time.perf_counter()
    directory.begin(stage)
    progress.begin(stage, reason)
    executor = shared.get(config.run, None)  # before JAX is imported
    executor.watch(lambda cores: progress.update(cores=cores))
    if stage == "ingest":
        from cluster import user_ingest

        user_ingest.ingest(config, user_code.load(*code), directory.path)
    else:
        from cluster import user_stages

        work = user_stages.open_work(config, *code, executor, progress)
        {"fit": user_stages.fit, "merge": user_stages.merge, "audit": user_stages.audit}[stage](work)
    seconds = time.perf_counter() - started
    directory.finish(stage, stage_key(inputs), inputs, seconds)
    log.info("stage finished", extra={"stage": stage, "seconds": round(seconds, 3)})
    progress.end(seconds)
