"""The stages of a run, in order, and what each of them depends on.

    ingest -> fit -> merge -> audit -> poststratify -> report

A stage runs if its key differs from the one it last finished with, or if its files are not what it wrote. Its key is the
hash of exactly what its result depends on: the priors are in the key of the merge and not in that of the fit, so another
prior needs no shard fitted again.
"""

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import config as configs
from cluster import earlier_run, executors, plan, run_directory
from cluster.code_version import RESULTS
from cluster.config import Loaded, RunConfig, RunSection
from cluster.context import StageContext
from cluster.errors import StageError
from cluster.execution import Executor
from cluster.progress import Progress
from cluster.run_directory import CHECKS, CODING, FILES, ON_WORKERS, STAGES, RunDirectory, stage_key
from fitting import classic
from fitting.config import ClassicConfig
from fitting.families import ALIASES, OUTCOMES, mean_is_share
from sharding import cleaned_rows, privacy, retrying, storage
from sharding.errors import SourceError

log = logging.getLogger(__name__)

_NOT_IN_RESULT = {"terms_of_use", "memory_limit", "threads", "keep_cleaned"}  # of `data`: these change how or why, not what
_WITH_LAYOUT = {"layout", "election"}  # of `data`: not in the keys of runs without one
_OF_MERGE = {"draws", "chains", "warmup", "spread"}  # of `fit`: these concern the draws from the merged posterior


@dataclass(frozen=True)
class Step:
    """One stage of a run: ``reason`` says why it has to run, and is empty if it is done."""

    stage: str
    key: str
    inputs: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Finished:
    """What `run` did: the stages that ran, and the verdict of the audit (empty if it was not reached)."""

    directory: str
    redone: tuple[str, ...]
    verdict: str


class SharedExecutor:
    """One executor, made when it is first needed and kept for every run of this process."""

    def __init__(self) -> None:
        self._executor: Executor | None = None

    def get(self, run: RunSection, work_seconds: float | None) -> Executor:
        """Return the executor, made as `executors.make` does if there is none yet."""
        if self._executor is None:
            self._executor = executors.make(run, work_seconds=work_seconds)
        return self._executor

    def close(self) -> None:
        """Close it, if it was made."""
        if self._executor is not None:
            self._executor.close()


def run(
    loaded: Loaded, progress: Progress, shared: SharedExecutor, *, only: str | None = None, verify: bool = False
) -> Finished:
    """Run the stages that are not done, in order; with ``only``, that one, if the ones before it are done.

    Parameters
    ----------
    verify
        Read every source whole first, and all data again where one is not known to be what was read.

    Raises
    ------
    RunDirectoryError
        The run directory holds another run, or another process is at work in it.
    StageError
        ``only`` needs a stage that is not done.
    ShardingError, FittingError, ReportingError
        What the stages raise.
    """
    config = loaded.config
    run_directory.look(config.run.directory, identity(config))  # before a lock is left in what is no run
    with run_directory.locked(config.run.directory):
        return run_locked(loaded, progress, shared, only=only, verify=verify)


def run_locked(
    loaded: Loaded, progress: Progress, shared: SharedExecutor, *, only: str | None = None, verify: bool = False
) -> Finished:
    """`run` in a directory that this process has locked; an update that was begun in it is finished."""
    config = loaded.config
    path = config.run.directory
    directory = _open(loaded)
    redone = []
    with cleaned_rows.removed_on_failure(path):
        inputs = all_inputs(config, directory.inputs())
        if verify:
            _verify(directory, inputs["ingest"]["sources"], progress)
    if earlier_run.is_under_way(path) and not earlier_run.read(path).fits_alike(inputs["fit"]):
        progress.say("model or fit are others now: the update that was begun is given up, every shard is fitted")
        earlier_run.forget(path)
    for stage in STAGES if only is None else STAGES[: STAGES.index(only) + 1]:
        step = _step(stage, inputs[stage], directory)
        if not step.reason:
            if stage == "ingest" and not config.data.keep_cleaned:
                cleaned_rows.remove(path)
            if only in (None, stage):
                progress.skip(stage)
        elif only not in (None, stage):
            do = f"Run `caucus {'shard' if stage == 'ingest' else stage}` first, or `caucus run` for all."
            raise StageError(str(only), f"needs the stage {stage!r}: {step.reason}", do)
        else:
            if only is None and stage in ("ingest", "fit"):
                import arviz_stats  # noqa: F401  # asks for the working folder, which can be gone when the merge needs it
            _run_stage(step, config, directory, progress, shared)
            redone.append(stage)
    if only is None and earlier_run.is_under_way(path):
        from cluster import what_moved  # pyarrow takes a second to import

        what_moved.write(directory)
    return Finished(path, tuple(redone), verdict(path))


def report_again(loaded: Loaded, directory: RunDirectory, progress: Progress, shared: SharedExecutor) -> None:
    """Write the report of a finished run anew, if what it tells of has changed."""
    *others, report = steps(loaded, directory)
    if report.reason and "report" in directory.records and not any(step.reason for step in others):
        _run_stage(report, loaded.config, directory, progress, shared)


def steps(loaded: Loaded, directory: RunDirectory) -> list[Step]:
    """Return every stage with the reason why it would run now; runs nothing."""
    inputs = all_inputs(loaded.config, directory.inputs())
    return [_step(stage, inputs[stage], directory) for stage in STAGES]


def verdict(directory: str) -> str:
    """Return the verdict in `audit.json`: pass, warn, fail, or nothing if there is none."""
    file = storage.join(directory, "audit.json")
    return str(storage.read_json(file)["verdict"]) if storage.exists(file) else ""


def identity(config: RunConfig) -> dict[str, Any]:
    """Return what a run directory must agree on to be continued."""
    data = config.data.model_dump(mode="json")
    return {"name": config.name, "data": {"source": data["source"], "outcome": data["outcome"]}}


def all_inputs(config: RunConfig, before: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Return what every stage depends on; ``sources`` (url to fingerprint) are looked at now.

    A coding that is frozen in the run directory (`cluster.run_directory.CODING`) is among what ingest depends on.

    Parameters
    ----------
    before
        What the stages of a run depended on when they finished: of a source that is gone since, and of which nothing else
        was changed, that counts. What was read from it is in the run.

    Raises
    ------
    SourceError
        A source matches no file.
    """
    data = config.data.model_dump(mode="json", exclude=_NOT_IN_RESULT)
    data = {key: value for key, value in data.items() if value is not None or key not in _WITH_LAYOUT}
    shards = config.shards.model_dump(mode="json")
    model = config.model.model_dump(mode="json")
    bases = {name: {k: v for k, v in spline.items() if k != "sd"} for name, spline in model["splines"].items()}
    scales = {name: spline["sd"] for name, spline in model["splines"].items()}
    fit = config.fit.model_dump(mode="json")
    seed = {"run": {"seed": config.run.seed}}
    inputs: dict[str, dict[str, Any]] = {}
    before = before or {}

    def add(stage: str, **depends_on: Any) -> str:
        inputs[stage] = depends_on
        return stage_key(depends_on)

    ingest = add(
        "ingest",
        results=RESULTS,
        data=data,
        shards=shards,
        columns=_columns(config),
        sources=_fingerprints("data.source", config.data.source, before.get("ingest", {}), data=data),
        **_layout(config.data.layout),
        **_coding(config.run.directory),
        **(seed if config.shards.method != "columns" else {}),
    )
    of_merge, of_model = _OF_MERGE, {n: model[n] for n in model if n != "priors"} | {"splines": bases}
    if isinstance(config.fit, ClassicConfig):  # subposteriors carry the prior; combiners of one kind share them
        of_merge, of_model = {"combiner"}, model | {"kind": classic.require(config.fit.combiner).kind}
    fitted = add(
        "fit",
        after={"ingest": ingest},
        results=RESULTS,
        model=of_model,
        fit={name: value for name, value in fit.items() if name not in of_merge},
        **(_of_draws(config) if config.fit.method in ("nuts", "classic") else {}),
    )
    merged = add(
        "merge",
        after={"fit": fitted},
        model={"priors": model["priors"], "splines": scales},
        fit={name: value for name, value in fit.items() if name in of_merge},
        **seed,
    )
    margins = config.poststratify
    wanted, frame = margins.model_dump(mode="json"), {}
    if margins.frame != "file":
        earlier = before.get("poststratify", {})
        frame["sources"] = _fingerprints("poststratify.frame", [margins.frame], earlier, poststratify=wanted)
    of_frame = frame and frame | {"poststratify": margins.model_dump(mode="json", exclude={"interval"})}
    audited = add("audit", after={"merge": merged}, audit=config.audit.model_dump(mode="json"), **seed, **of_frame)
    estimated = add("poststratify", after={"merge": merged}, poststratify=wanted, **frame)
    add(
        "report",
        after={"audit": audited, "poststratify": estimated},
        data={"terms_of_use": config.data.terms_of_use},
        **_checks(config.run.directory),
    )
    return inputs


def _of_draws(config: RunConfig) -> dict[str, Any]:
    """What draws on workers depend on: the seed, and for NUTS how many shards are sampled side by side."""
    run: dict[str, Any] = {"seed": config.run.seed}
    if config.fit.method == "nuts" and config.run.shards_per_task > 1:
        run["shards_per_task"] = config.run.shards_per_task
    return {"run": run}


def _layout(name: str | None) -> dict[str, str]:
    if name is None:
        return {}
    from sharding.layouts import library  # pyarrow takes a second to import

    return {"layout": library.sha256(library.load(name))}


def _coding(directory: str) -> dict[str, str]:
    file = storage.join(directory, CODING)
    return {"coding": storage.sha256_bytes(storage.read_bytes(file))} if storage.exists(file) else {}


def _checks(directory: str) -> dict[str, str]:
    """What `caucus check` found is told in the report."""
    file = storage.join(directory, CHECKS)
    return {"checks": storage.sha256_bytes(storage.read_bytes(file))} if storage.exists(file) else {}


def _columns(config: RunConfig) -> dict[str, Any]:
    """What ingest has to code: the model's columns, and those of the margins of estimates."""
    columns = config.model.data_columns()
    named = [column for margin in config.poststratify.columns.values() for column in margin]
    used = {name: "model.formula" for name in (*columns.factors, *columns.predictors)}
    privacy.check_columns(
        dict.fromkeys(named, "poststratify.by") | used, config.data.privacy.allow, source_name=config.data.source_name
    )
    extra = named if config.poststratify.frame == "file" else []
    outside = dict.fromkeys(name for name in extra if name not in (*columns.factors, *columns.predictors))
    return {
        "outcome_kind": OUTCOMES[ALIASES.get(config.model.family, config.model.family)],
        "factor_columns": list(columns.factors),
        "margin_columns": list(outside),
        "predictor_columns": list(columns.predictors),
        "group_columns": [list(group) for group in columns.groups],
    }


def _fingerprints(key: str, sources: Sequence[str], before: Mapping[str, Any], **section: Any) -> dict[str, str]:
    """Fingerprints of files by URL; those of ``before`` where there is no file any more and ``section`` is as it was."""
    found: dict[str, str] = {}
    for source in sources:
        files = storage.list_files(source)
        if not files and before.get("sources") and all(before.get(name) == value for name, value in section.items()):
            return dict(before["sources"])
        if not files:
            raise SourceError(f"{key} {source!r}", "no file", "at least one", f"Correct `{key}` in the config.")
        found |= {file: storage.fingerprint(file)["fingerprint"] for file in files}
    return found


def _verify(directory: RunDirectory, sources: Iterable[str], progress: Progress) -> None:
    """Hash every source whole; have the data read again if one is not as it was when they were last verified, or was never verified."""
    found = {url: storage.sha256_file(url) for url in sources}
    before = directory.facts["verified"] or {}
    changed = [url for url, sha256 in found.items() if before.get(url) != sha256]
    if changed and "ingest" in directory.records:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        why = "changed" if changed[0] in before else "not verified when it was read"
        progress.say(f"{changed[0]}{more}: {why}; the data are read again")
        directory.begin("ingest")
    directory.facts["verified"] = found
    directory.save()


def _step(stage: str, inputs: dict[str, Any], directory: RunDirectory) -> Step:
    key = stage_key(inputs)
    return Step(stage, key, inputs, directory.why_not_done(stage, key, inputs))


def _run_stage(
    step: Step, config: RunConfig, directory: RunDirectory, progress: Progress, shared: SharedExecutor
) -> None:
    started, before = time.perf_counter(), retrying.num_retries()
    retries: Counter[str] = Counter()
    directory.begin(step.stage)
    progress.begin(step.stage, step.reason)
    if step.stage == "ingest":
        _ingest(step, config, directory.path, progress)
    elif step.stage in ON_WORKERS:
        task_bytes = plan.check(config, directory.path).worker_bytes
        ahead = plan.work_ahead(config, directory.path, is_fitted=step.stage != "fit")
        executor = shared.get(config.run, ahead)  # before JAX is imported
        executor.watch(lambda cores: progress.update(cores=cores))
        context = StageContext(config, directory.path, executor, progress, step.key, task_bytes, retries)
        if step.stage == "fit":
            _check_frame(directory.path, config)
        _function(step.stage, config)(context)
        if step.stage == "merge":
            directory.facts["priors"] = _function("resolved_priors", config)(directory.path, config)
    else:
        _report(directory.path)
    seconds = time.perf_counter() - started
    retries["storage"] += retrying.num_retries() - before
    directory.finish(step.stage, step.key, step.inputs, seconds, +retries)
    log.info("stage finished", extra={"stage": step.stage, "seconds": round(seconds, 3), "key": step.key[:12]})
    progress.end(seconds)


def check_headers(config: RunConfig) -> None:
    """See, from the headers of sources and frame, that they have every column that the run needs; reads no row.

    Raises
    ------
    ShardingError, FrameError
        A file cannot be opened, or a column is missing, twice, or of a type that its use contradicts.
    """
    from cluster import frames  # pyarrow takes a second to import
    from sharding import requested

    columns = _columns(config)
    asked = requested.columns(
        config.data, config.shards, columns["outcome_kind"], columns["factor_columns"], columns["predictor_columns"], columns["margin_columns"]
    )
    requested.look(config.data, config.shards, asked)
    frames.check_columns(config)


def _function(name: str, config: RunConfig) -> Callable[..., Any]:
    from cluster import classic_stages, inference

    is_classic = isinstance(config.fit, ClassicConfig) and name in ("fit", "merge", "audit")
    return getattr(classic_stages if is_classic else inference, name)


def _check_frame(directory: str, config: RunConfig) -> None:
    """Before hours go into a fit whose frame is not of its population."""
    from cluster import population  # pyarrow takes a second to import

    population.check_frame(directory, config)


def _ingest(step: Step, config: RunConfig, directory: str, progress: Progress) -> None:
    from sharding.dictionary import Dictionary
    from sharding.ingest import ingest

    columns = step.inputs["columns"]
    file = storage.join(directory, CODING)
    made = ingest(
        config.data,
        config.shards,
        outcome_kind=columns["outcome_kind"],
        factor_columns=tuple(columns["factor_columns"]),
        predictor_columns=tuple(columns["predictor_columns"]),
        group_columns=tuple(tuple(group) for group in columns["group_columns"]),
        margin_columns=tuple(columns["margin_columns"]),
        directory=directory,
        seed=config.run.seed,
        progress=lambda phase, done, total: progress.update(phase=phase, done=done, total=total),
        coding=Dictionary.from_json(storage.read_json(file)) if "coding" in step.inputs else None,
    )
    for note in made.dictionary.notes:
        progress.say(f"data.columns.{note.column}: {note.what}. {note.do}")


def _report(directory: str) -> None:
    """Build the report; of a directory on an object store, beside copies of the files it is made from."""
    from reporting import report

    if storage.is_local(directory):
        report.build(directory)
        return
    with tempfile.TemporaryDirectory(prefix="caucus-report-") as folder:
        for stage in STAGES[:-1]:
            for name in (name for owned in FILES[stage] for name in storage.names_below(directory, owned)):
                if not (name.startswith("sites/") or (name.startswith("shards/") and name.endswith(".parquet"))):
                    storage.copy(storage.join(directory, name), storage.join(folder, name))
        for name in ("manifest.json", "run.yaml", *([CHECKS] if storage.exists(storage.join(directory, CHECKS)) else [])):
            storage.copy(storage.join(directory, name), storage.join(folder, name))
        report.build(folder)
        storage.publish_file(Path(folder) / "report.html", storage.join(directory, "report.html"))


def _open(loaded: Loaded) -> RunDirectory:
    config = loaded.config
    path = config.run.directory
    directory = run_directory.open_directory(path, identity(config))
    resolved = configs.dump(loaded)
    directory.facts = {
        "config_sha256": storage.sha256_bytes(resolved.encode()),
        "overrides": list(loaded.overrides),
        "seed": config.run.seed,
        "executor": config.run.executor,
        "truth": _truth(config),
        "priors": directory.facts.get("priors"),  # told by the merge
        "is_share": mean_is_share(config.model.family),
        "verified": directory.facts.get("verified"),
    }
    directory.save()
    storage.publish_bytes(storage.join(path, "run.yaml"), resolved.encode())
    return directory


def _truth(config: RunConfig) -> str | None:
    """Return the folder with the truth, where the source is a simulated nation: it lies beside its voters."""
    source = config.data.source[0]
    if "://" in source:
        return None
    folders = (parent / "truth" for parent in list(Path(source).parents)[:2])
    return next((str(folder) for folder in folders if (folder / "simulation.json").is_file()), None)
