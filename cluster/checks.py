"""Checks of a finished run's model, written to ``checks/`` beside it: ``caucus check``.

No stage reads or owns these files. ``checks.json`` names the posterior that they are about, so that checks of an older one
are not taken for those of the present one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from cluster import check_tables, check_tasks, inference, plan, posterior_files, run_directory, stages
from cluster.context import StageContext
from cluster.errors import StageError
from cluster.threads import one_blas_thread
from cluster.work import Work, open_work
from fitting import loo as loos
from fitting import loso, predictive, rounds
from fitting.combiner import Draws
from fitting.loo import Elpd, Estimate
from reporting import margins, tables
from sharding import storage
from sharding.errors import ContractError

if TYPE_CHECKING:
    from cluster.config import Loaded
    from cluster.progress import Progress
    from cluster.stages import SharedExecutor

SCHEMA_VERSION = 1
FOLDER = "checks"
SUMMARY = run_directory.CHECKS
LOO = f"{FOLDER}/loo.parquet"
REPLICATES = 400
OUT_DRAWS = 256
NEEDED = ("ingest", "fit", "merge")


class Kept(NamedTuple):
    """Posterior draws that the checks use: coefficients (D, M) and residual sds (M,)."""

    theta: np.ndarray
    residual_sd: np.ndarray


def check(loaded: Loaded, progress: Progress, shared: SharedExecutor, by: str | None = None) -> list[str]:
    """Check the model of a finished run, write ``checks/`` and return the lines of a summary.

    Parameters
    ----------
    by
        Margins, separated by commas (``state,race:age``); those of `poststratify` if None.

    Raises
    ------
    StageError
        The run is not merged, or not by this config.
    ContractError
        A column of a margin is not a factor of the run.
    RunDirectoryLockedError
        Another process is at work in the run directory.
    """
    config, path = loaded.config, loaded.config.run.directory
    identity = stages.identity(config)
    if run_directory.open_existing(path, identity) is None:
        raise StageError("check", f"there is no run in {path}", "Run `caucus run` first.")
    with run_directory.locked(path):
        directory = run_directory.open_directory(path, identity)
        for step in stages.steps(loaded, directory):
            if step.stage in NEEDED and step.reason:
                raise StageError("check", f"needs the stage {step.stage!r}: {step.reason}", "Run `caucus run` first.")
        if config.data.weight is not None:
            do = "Compare unweighted models, or look at the calibration in the report."
            raise StageError("check", "survey weights make a pseudo-likelihood, which predicts no people", do)
        started = time.perf_counter()
        progress.begin("check", "of the model")
        context = StageContext(config, path, shared.get(config.run, plan.work_ahead(config, path, is_fitted=True)), progress, "check")
        work = open_work(context)
        with one_blas_thread():
            summary = _check(work, _margins(work, by), directory.records["merge"].files[posterior_files.POSTERIOR])
        progress.end(time.perf_counter() - started)
        stages.report_again(loaded, directory, progress, shared)
    return check_tables.lines(summary)


def _margins(work: Work, by: str | None) -> dict[str, tuple[str, ...]]:
    """Columns of every margin by its name; all people first."""
    asked = by is not None
    names = (by or "").split(",") if asked else list(work.context.config.poststratify.by)
    known = work.hierarchy.model.coding.factors
    out: dict[str, tuple[str, ...]] = {margins.ALL: ()}
    for name in names:
        try:
            columns = margins.columns(name)
        except ValueError as error:
            raise ContractError("--by", str(error), "margins", "Give names such as state,race:age.") from None
        name = margins.name(columns)
        unknown = [c for c in columns if c not in known]
        if name in out:
            continue
        if unknown and asked:
            raise ContractError(
                f"--by {name!r}", f"{unknown}, not among the run's factors", f"some of {sorted(known)}",
                "List a further column under `poststratify.by` and run again.",
            )  # fmt: skip
        if not unknown:
            out[name] = columns
    return out


def _check(work: Work, margins: dict[str, tuple[str, ...]], posterior_sha256: str) -> dict[str, Any]:
    seed = work.context.config.run.seed
    kept, few = (_pick(work, count) for count in (work.context.config.audit.draws, REPLICATES))
    fitted = inference.read_sites(work)
    files = {}

    def publish(name: str, table: pa.Table) -> None:
        files[name] = storage.publish_bytes(storage.join(work.directory, FOLDER, name), tables.to_parquet(table))

    left_out, corrected = _leave_one_out(work, fitted, kept)
    publish("loo.parquet", check_tables.cells(work, left_out))
    out = _leave_shards_out(work, fitted, seed)
    publish("loso.parquet", check_tables.shards(work, left_out, out))

    family, coding, groups = work.hierarchy.family, work.hierarchy.model.coding, {}
    if not family.categories:
        groups = _check_groups(work, fitted, few, margins, seed, publish)
    config = work.context.config
    summary = _plain({
        "schema_version": SCHEMA_VERSION, "name": config.name, "formula": str(work.hierarchy.model.formula),
        "family": family.name, "link": family.link, "statistics": list(family.statistics),
        "categories": list(family.categories), "outcome": work.hierarchy.model.formula.outcome,
        "columns": [c for c in left_out[0].columns if c in coding.factors or c in coding.numerics],
        "outcomes": [p.outcome for p in left_out[0].found.people],
        "posterior_sha256": posterior_sha256, "num_draws": kept.theta.shape[1], "by": list(margins), "files": files,
        "loo": {"corrected": corrected, **_estimates(left_out)}, "loso": check_tables.worst_shard(work, out),
        "ppc": groups.get("ppc"), "prior": groups.get("prior"),
    })  # fmt: skip
    storage.publish_json(storage.join(work.directory, SUMMARY), summary)
    return dict(summary)


def _check_groups(
    work: Work, fitted: inference.Fitted, few: Kept, margins: dict[str, tuple[str, ...]], seed: int,
    publish: Callable[[str, pa.Table], None],
) -> dict[str, Any]:  # fmt: skip
    """Replicated and a priori expected outcomes of every margin's groups; their part of the summary."""
    prior = predictive.prior_draws(work.hierarchy, num_draws=REPLICATES, seed=seed, threads=work.threads)
    checked = _predict(work, fitted, few, prior, margins, seed)
    names = tuple(margins)
    labels = {name: check_tables.labels(work, margins[name], m.codes) for name, m in zip(names, checked, strict=True)}
    replicates = check_tables.replicates(names, labels, checked)
    publish("ppc.parquet", replicates)
    prior_table = check_tables.prior(names, labels, checked, predictive.prior_terms(work.hierarchy, prior))
    publish("prior_predictive.parquet", prior_table)
    if checked[0].calibration is not None:
        publish("calibration.parquet", check_tables.calibration(names, labels, checked))

    return {"ppc": check_tables.outside(names, replicates), "prior": check_tables.prior_summary(prior_table)}


def _pick(work: Work, count: int) -> Kept:
    """Evenly from all chains, as the audit does."""
    total = work.context.config.fit.draws * work.context.config.fit.chains
    rows = np.linspace(0, total - 1, min(count, total)).astype(int)
    draws = posterior_files.StoredDraws(work.directory, work.hierarchy, rows)
    return Kept(np.ascontiguousarray(draws[:, :].T), work.hierarchy.residual_sd(draws.psi))


def _leave_one_out(work: Work, fitted: inference.Fitted, kept: Kept) -> tuple[list[check_tasks.LooResult], str]:
    """Every shard's cells left out, and how the draws were corrected: ``exact``, ``yes``, or ``no`` where they cannot be."""

    def parts() -> Iterator[tuple[int, np.ndarray]]:
        for s in work.longest_first():
            yield s, np.ascontiguousarray(kept.theta[fitted.restrictions[s].coefficients])

    usable, corrected = None, "exact"
    if work.context.config.fit.method != "exact":
        ratios = work.map(check_tasks.ratio, (
            check_tasks.RatioTask(
                work.ref, work.entries[s], fitted.paths[s], theta, kept.residual_sd
            ) for s, theta in parts()
        ), phase="shards, weighing draws")  # fmt: skip
        usable = loos.usable_ratio(np.sum(ratios, axis=0))
        if usable is not None:
            corrected = "yes"
        elif not work.hierarchy.family.has_residual_scale:
            corrected = "no"
    found: list[check_tasks.LooResult] = work.map(
        check_tasks.leave_one_out,
        (check_tasks.LooTask(work.ref, work.entries[s], theta, kept.residual_sd, usable) for s, theta in parts()),
        phase="shards, leaving cells out",
    )
    return found, corrected


def _estimates(found: Sequence[check_tasks.LooResult]) -> dict[str, Any]:
    cells = loos.estimate(*((_all_units(r.found.cells)) for r in found))
    people = [(p.each, p.num_people) for r in found for p in r.found.people]
    person: Estimate | None = loos.estimate(*people) if people else None
    return {"cell": cells._asdict(), "person": person._asdict() if person else None}


def _all_units(each: Elpd) -> tuple[Elpd, np.ndarray]:
    return each, np.ones(len(each.elpd))


def _leave_shards_out(work: Work, fitted: inference.Fitted, seed: int) -> list[loso.ShardOut]:
    used = [f.site for f in fitted.files]
    natural, proposal, moments = rounds.merge(work.hierarchy, fitted.restrictions, used, fitted.psi, work.threads)
    found: list[loso.ShardOut] = work.map(check_tasks.leave_shard_out, (
        check_tasks.OutTask(
            work.ref, work.entries[s], fitted.paths[s], natural, proposal, moments,
            OUT_DRAWS, seed + s,
        ) for s in work.longest_first()
    ), phase="shards, left out whole")  # fmt: skip
    return found


def _predict(
    work: Work, fitted: inference.Fitted, few: Kept, prior: Draws, margins: dict[str, tuple[str, ...]], seed: int
) -> list[check_tasks.MarginCheck]:
    """Replicates and prior expectations of every margin, summed over the shards in their order."""
    prior_theta = prior.theta[0].T

    def items() -> Iterator[check_tasks.PredictTask]:
        for s in work.longest_first():
            places = fitted.restrictions[s].coefficients
            yield check_tasks.PredictTask(
                work.ref, work.entries[s], np.ascontiguousarray(few.theta[places]), few.residual_sd,
                np.ascontiguousarray(prior_theta[places]), tuple(margins.values()), (seed, 11, s),
            )  # fmt: skip

    shards: list[tuple[check_tasks.MarginCheck, ...]] = work.map(
        check_tasks.predict_shard, items(), phase="shards, replicated"
    )
    return [check_tables.add([shard[i] for shard in shards]) for i in range(len(margins))]


def _plain(value: Any) -> Any:
    """Numbers as JSON has them: no arrays, and None for what is no finite number."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
