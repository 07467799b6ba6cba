"""The statistical stages on the shards of a run: fit, merge, audit, poststratify. The mathematics is in ``fitting``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster import compile_cache, kept_sites, population, posterior_files, site_files, tasks
from cluster.context import StageContext
from cluster.site_files import SiteFile
from cluster.threads import one_blas_thread
from cluster.work import Work, model_ref, open_work
from fitting import combiner, relayout, rounds, scale_audit, scale_proposal, verdict
from fitting.combiner import Moments
from fitting.config import ClassicConfig, ExactConfig, NUTSConfig
from fitting.rounds import Round, RoundsState
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.scale_source import Source
from fitting.sites import Site
from fitting.tree import Restriction
from sharding import storage, store

if TYPE_CHECKING:
    from cluster.config import RunConfig

ROUNDS_FILE = "sites/rounds.json"
EXTRA_DAMPING = 0.5


# ---- fit ----


def fit(context: StageContext) -> None:
    """Rounds of sites until the posterior stops moving; then ``sites/rounds.json`` names the last ones.

    In an update only shards that changed are fitted; the others keep their sites (:mod:`cluster.kept_sites`).
    """
    work = open_work(context)
    config = context.config.fit
    assert not isinstance(config, ClassicConfig), "that method has stages of its own"
    schedule = rounds.Schedule(config.method, config.rounds, config.tolerance, config.damping, work.hierarchy.family)
    done: list[rounds.Round] = []
    with one_blas_thread():
        start = kept_sites.start(work)
        state, restrictions, history = start.state, start.restrictions, list(start.history)
        paths, used = list(start.paths), set[str]()
        while start.fitted and (coming := rounds.next_round(schedule, done)) is not None:
            now = coming if done else coming._replace(damping=1.0)  # there is no site yet to stay near
            number = start.number + len(done)
            state, restrictions, record, written = _round(work, state, restrictions, number, now, start.fitted)
            done.append(coming._replace(move=state.move, along=state.along))
            history.append(record)
            used |= {path for of_shard in written for path in of_shard}
            for s, of_shard in zip(start.fitted, written, strict=True):
                paths[s] = of_shard[-1]
    final = [path for path in paths if path is not None]
    _finish_rounds(work, start.number + len(done) - 1, history, state.psi, final, used)


def _round(
    work: Work,
    state: RoundsState,
    restrictions: tuple[Restriction, ...],
    number: int,
    coming: Round,
    fitted: Sequence[int] = (),
) -> tuple[RoundsState, tuple[Restriction, ...], dict[str, Any], list[list[str]]]:
    """One round over the shards with the numbers ``fitted``, all of them if empty; the others keep their sites.

    Also returns the files that were written for each of them; the last one is the site in use.
    """
    fitted = fitted or range(len(work.entries))
    some = replace(work, entries=tuple(work.entries[s] for s in fitted))
    started = time.perf_counter()
    config = work.context.config
    sampling, per_task = None, config.run.shards_per_task
    method, damping = coming.method, coming.damping
    if method == "nuts" and isinstance(config.fit, NUTSConfig):
        sampling = tasks.Sampling(
            config.run.seed, config.fit.shard_warmup, config.fit.shard_draws, config.fit.shard_chains
        )

    under = rounds.moments_for(work.hierarchy, state, restrictions, method)

    order = [fitted[i] for i in some.longest_first()]
    beside = {s: order[i - i % per_task : i - i % per_task + per_task] for i, s in enumerate(order)}

    def items() -> Iterator[tasks.SiteTask]:
        for s in order:
            entry = work.entries[s]
            part = rounds.part_of(under, restrictions[s]) if restrictions else None
            site = state.sites[s] if sampling is not None else None
            depends_on = {
                "shard": entry["sha256"], "dictionary": work.ref.dictionary_sha256, "formula": work.ref.formula,
                "family": work.ref.family, "link": work.ref.link, "layout": work.ref.layout().priors, "terms": work.ref.terms, "method": method,
                "convex": coming.convex, "nodes": work.num_nodes, "moments": _digest(part),
                "sampling": [*sampling, number, s, _digest(site)] if sampling else None,
            }  # fmt: skip
            if sampling is not None and per_task > 1:  # draws beside others may be other draws
                depends_on["beside"] = beside[s]
            key = storage.sha256_bytes(storage.canonical_json(depends_on))
            path = work.site_path(entry, number, key)
            yield tasks.SiteTask(
                work.ref, entry, s, number, key, path, part, site, method, coming.convex, work.num_nodes, sampling
            )

    is_part = len(fitted) < len(work.entries)
    shown = {
        "round": number + 1,
        "rounds": None if is_part else config.fit.rounds,
        "move": state.move if np.isfinite(state.move) else None,
    }
    results: list[tasks.SiteResult]
    if per_task == 1:
        results = some.map(tasks.fit_site, items(), **shown)
    else:
        waiting, end = items(), tasks.Together(())
        together = iter(lambda: tasks.Together(tuple(itertools.islice(waiting, per_task))), end)
        results = some.map(tasks.fit_sites, together, **shown)
    written = [
        [site_files.name(e["shard_id"], number, r.file.key)] for e, r in zip(some.entries, results, strict=True)
    ]
    restrictions = restrictions or tuple(r.file.restriction(work.hierarchy.model.tree) for r in results)
    new = dict(enumerate(state.sites)) | {s: r.file.site for s, r in zip(fitted, results, strict=True)}
    state, info = rounds.step(
        work.hierarchy,
        state,
        restrictions,
        [new[s] for s in range(len(work.entries))],
        damping=damping,
        threads=work.threads,
    )
    work.context.progress.update(move=info.move)
    if info.damping != 1.0:  # the sites in use are not those that were fitted: keep the ones in use
        for s, result, of_shard in zip(fitted, results, written, strict=True):
            file = SiteFile(state.sites[s], result.file.nodes, f"damped {info.damping} {result.file.key}")
            site_files.write(work.site_path(work.entries[s], number, file.key), file)
            of_shard.append(site_files.name(work.entries[s]["shard_id"], number, file.key))
    record: dict[str, Any] = {"round": number, "move": round(info.move, 6), "damping": info.damping, "method": method,
              "where": str(work.hierarchy.model.coefficient_names()[info.where]), "seconds": round(time.perf_counter() - started, 3)}  # fmt: skip
    if sampling is not None:
        record["sampling"] = [{"shard_id": e["shard_id"], **r.info} for e, r in zip(some.entries, results, strict=True)]
    if is_part:
        record["num_shards"] = len(fitted)
    return state, restrictions, record, written


def _finish_rounds(
    work: Work,
    last: int,
    history: list[dict[str, Any]],
    psi: np.ndarray,
    final: Sequence[str],
    used: Collection[str] = (),
    since: int = 0,
) -> None:
    """Name the last sites, ``final`` by shard, and remove those of rounds from ``since`` on that are neither these nor ``used``.

    What is removed is of data, a coding or a model before, or was written late by a worker that had been given up.
    """
    storage.publish_json(
        storage.join(work.directory, ROUNDS_FILE),
        {
            "schema_version": 1,
            "last_round": last,
            "sites": final,
            "psi": psi.tolist(),
            "rounds": history,
            "layout": work.ref.layout().priors,
        },
    )
    # sites of earlier rounds stay: if a file is damaged, the rounds are gone through again and only its shard is refitted
    kept = {*final, *used}
    for path in storage.names_below(work.directory, "sites"):
        if path.endswith(".arrow") and path not in kept and not 0 <= site_files.round_of(path) < since:
            storage.remove(storage.join(work.directory, path))


def _digest(arrays: Any) -> str | None:
    return None if arrays is None else storage.sha256_bytes(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))


# ---- merge ----


def resolved_priors(directory: str, config: RunConfig) -> dict[str, str]:
    """The prior of every fixed coefficient and hyperparameter by its full name, defaults filled in."""
    dictionary = storage.read_bytes(storage.join(directory, store.DICTIONARY))
    ref = model_ref(directory, dictionary, config)
    return {name: str(prior) for name, prior in tasks.build_hierarchy(ref).described().items()}


@dataclass(frozen=True)
class Fitted:
    """Sites as they are on disk, and the rounds they came from."""

    paths: tuple[str, ...]
    files: tuple[SiteFile, ...]
    restrictions: tuple[Restriction, ...]
    psi: np.ndarray
    rounds: list[dict[str, Any]]
    last_round: int


def read_sites(work: Work) -> Fitted:
    """Read the last sites of a run."""
    state = storage.read_json(storage.join(work.directory, ROUNDS_FILE))
    paths = tuple(storage.join(work.directory, path) for path in state["sites"])
    files = tuple(site_files.read(path) for path in paths)
    restrictions = tuple(f.restriction(work.hierarchy.model.tree) for f in files)
    return Fitted(paths, files, restrictions, np.array(state["psi"]), state["rounds"], state["last_round"])


def merge(context: StageContext) -> None:
    """Draw from the product of all sites under the exact prior; write the posterior and its summary."""
    work = open_work(context)
    with one_blas_thread():
        _lay_out_again(work)
        _merge(work, read_sites(work))


def _lay_out_again(work: Work) -> None:
    """Where a structured prior was put on or taken off since the fit, write the sites down in the places they have now."""
    state = storage.read_json(storage.join(work.directory, ROUNDS_FILE))
    layout = tuple((key, text) for key, text in state.get("layout", ()))  # sites of older versions have no structures
    if layout == work.ref.layout().priors:
        return
    old, new = tasks.build_hierarchy(work.ref._replace(priors=layout)), work.hierarchy
    number, final = state["last_round"] + 1, []
    for entry, path in zip(work.entries, state["sites"], strict=True):
        file = site_files.read(storage.join(work.directory, path))
        nodes, site = relayout.move(old.model, new.model, file.nodes, file.site)
        moved = SiteFile(site, nodes, f"laid out again {file.key}")
        final.append(site_files.name(entry["shard_id"], number, moved.key))
        site_files.write(storage.join(work.directory, final[-1]), moved)
    record = {"round": number, "move": 0.0, "damping": 1.0, "method": "laid out again", "where": "", "seconds": 0.0}
    known = dict(zip(old.names(), state["psi"], strict=True))
    psi = combiner.start(new, known)
    _finish_rounds(work, number, [*state["rounds"], record], psi, final, since=number)


def _merge(work: Work, fitted: Fitted) -> None:
    config = work.context.config
    tree = work.hierarchy.model.tree
    natural = combiner.product(tree, [(r, f.site) for r, f in zip(fitted.restrictions, fitted.files, strict=True)])
    proposal = scale_proposal.propose(work.hierarchy, natural, fitted.psi)
    assert not isinstance(config.fit, ClassicConfig), "that method has stages of its own"
    chains, draws_each = config.fit.chains, config.fit.draws
    if isinstance(config.fit, ExactConfig):
        compile_cache.use()
        from fitting import exact  # JAX takes a second to import

        designs = [tasks.load_shard(work.ref, entry).design for entry in work.entries]
        draws = exact.draw(
            work.hierarchy, natural, proposal, list(zip(fitted.restrictions, designs, strict=True)),
            num_draws=draws_each, num_chains=chains, num_warmup=config.fit.warmup, seed=config.run.seed,
        )  # fmt: skip
        parts = posterior_files.parts_of(draws)
        posterior_files.write(
            work.directory, work.hierarchy, parts, config.name,
            num_chains=chains, num_draws=draws_each, acceptance=draws.acceptance,
        )  # fmt: skip
        return
    variance = _score_variance(work, fitted, natural, proposal)
    source = Source(
        work.hierarchy, natural, proposal, num_draws=draws_each, num_chains=chains, seed=config.run.seed, threads=work.threads
    )
    parts = posterior_files.parts_in_turn(
        work.hierarchy, natural, source, min_ess=config.fit.min_ess, say=work.context.progress.say, threads=work.threads,
        score_variance=variance,
    )  # fmt: skip
    posterior_files.write(work.directory, work.hierarchy, parts, config.name, num_chains=chains, num_draws=draws_each)


def _score_variance(work: Work, fitted: Fitted, natural: Natural, proposal: Proposal) -> np.ndarray | None:
    """Of all shards at the merged mean, where a corrected spread is asked for; shape (E,)."""
    if work.context.config.fit.spread == "model":
        return None
    moments = combiner.moments(work.hierarchy, natural, proposal, threads=work.threads)
    parts = [rounds.part_of(moments, restriction) for restriction in fitted.restrictions]
    found: list[np.ndarray] = work.map(
        tasks.score_variance, (tasks.FreshTask(work.ref, work.entries[s], parts[s], 1) for s in work.longest_first())
    )
    total = np.zeros_like(natural.precision)
    for restriction, own in zip(fitted.restrictions, found, strict=True):
        total[restriction.entries] += own
    return total


# ---- audit ----


def audit(context: StageContext) -> str:
    """Audit on all of the data; while the score fails, run damped rounds more and merge again. Returns the verdict."""
    work = open_work(context)
    config = context.config.audit
    with one_blas_thread():
        result = _audit(work, read_sites(work))
        # the score compares with variational sites; rounds of those would undo sampled ones
        extra = 0 if context.config.fit.method == "nuts" else config.max_extra_rounds
        for _ in range(extra):
            if not any(gate["name"] == "score" and gate["status"] == "fail" for gate in result["gates"]):
                break
            context.progress.say("the score failed: one more round, damped")
            _extra_round(work)
            result = _audit(work, read_sites(work))
    population.add(result, context.config, work.hierarchy.model.coding)
    storage.publish_json(storage.join(work.directory, "audit.json"), result)
    return str(result["verdict"])


def _audit(work: Work, fitted: Fitted) -> dict[str, Any]:
    config = work.context.config.audit
    total = work.context.config.fit.draws * work.context.config.fit.chains
    kept = np.linspace(0, total - 1, min(config.draws, total)).astype(int)
    draws = posterior_files.StoredDraws(work.directory, work.hierarchy, kept)
    residual = work.hierarchy.residual_sd(draws.psi)
    used = [f.site for f in fitted.files]
    natural, proposal, moments = rounds.merge(work.hierarchy, fitted.restrictions, used, fitted.psi, work.threads)

    parts = [rounds.part_of(moments, restriction) for restriction in fitted.restrictions]
    psi = posterior_files.unconstrained(work.directory, work.hierarchy)
    points = _scale_points(work, natural, proposal.mode, psi)

    def part(points: scale_audit.Points, s: int) -> scale_audit.Part:
        return scale_audit.part_of(work.hierarchy, points, fitted.restrictions[s])

    def items() -> Iterator[tasks.AuditTask]:
        for s in work.longest_first():
            scales = None if points is None else part(points, s)
            yield tasks.AuditTask(
                work.ref, work.entries[s], fitted.paths[s], kept, residual, parts[s], work.num_nodes, scales
            )

    def ratios_at(psi: np.ndarray) -> np.ndarray:
        assert points is not None
        new = scale_audit.at(work.hierarchy, natural, points.terms, psi, work.threads)
        found = work.map(tasks.scale_ratios, (
            tasks.ScaleTask(work.ref, work.entries[s], fitted.paths[s], part(new, s), parts[s].covariance)
            for s in work.longest_first()
        ))  # fmt: skip
        return scale_audit.add_up(work.hierarchy, new, fitted.restrictions, found)

    def refresh(at: Moments) -> list[Site]:
        parts = [rounds.part_of(at, restriction) for restriction in fitted.restrictions]
        fresh = (tasks.FreshTask(work.ref, work.entries[s], parts[s], work.num_nodes) for s in work.longest_first())
        results: list[Site] = work.map(tasks.fresh_site, fresh)
        return results

    both = work.map(tasks.audit_shard, items())
    reports, scales = [report for report, _ in both], None
    if points is not None:
        log_ratio = scale_audit.add_up(work.hierarchy, points, fitted.restrictions, [ratios for _, ratios in both])
        flat = psi.reshape(-1, work.hierarchy.size)
        scales = scale_audit.errors(work.hierarchy, natural, points, log_ratio, flat, ratios_at, work.threads)
    shown = [{name: e[name] for name in ("shard_id", "num_cells", "num_rows", "num_trials")} for e in work.entries]
    sampler = posterior_files.sampler(work.directory) if work.context.config.fit.method == "exact" else None
    evidence = verdict.gather(
        work.hierarchy, fitted.restrictions, used, reports, shown, draws, draws.psi, moments, natural, proposal,
        fitted.rounds, float(draws.acceptance.mean()), work.threads, refresh, sampler,
        scales, combiner.mixed(work.hierarchy, psi) if work.hierarchy.size else None,
    )  # fmt: skip
    fit = work.context.config.fit
    assert not isinstance(fit, ClassicConfig), "that method has stages of its own"
    result = verdict.judge(work.hierarchy, config, evidence, fit.min_ess)
    result["messages"] += _weights_note(work)
    work.context.progress.update(score=max(abs(block["score"] or 0.0) for block in result["blocks"]))
    return result


def _scale_points(work: Work, natural: Natural, mode: np.ndarray, psi: np.ndarray) -> scale_audit.Points | None:
    """Where the audit of the scales looks; None if there is nothing to see, or draws do not come from the sites."""
    if not work.hierarchy.size or work.context.config.fit.method == "exact":
        return None
    terms = scale_audit.terms_of(work.hierarchy, natural, mode)
    if not terms:
        return None
    at = scale_audit.first_design(work.hierarchy, terms, psi.reshape(-1, work.hierarchy.size))
    return scale_audit.at(work.hierarchy, natural, terms, at, work.threads)


def _weights_note(work: Work) -> list[dict[str, str]]:
    """What survey weights mean for the posterior, for people to read."""
    if work.context.config.data.weight is None:
        return []
    corrected = work.context.config.fit.spread == "sandwich"
    spread = "corrected for weights that are independent from person to person, not for clusters or strata"
    return [{
        "severity": "info", "where": "all estimates",
        "what": "survey weights make a pseudo-likelihood: means are weighted, spreads are " + (spread if corrected else "not corrected"),
        "do": "prefer to model what the weights stand for, and poststratify" + ("" if corrected else "; or set fit.spread: sandwich"),
    }]  # fmt: skip


def _extra_round(work: Work) -> None:
    fitted = read_sites(work)
    used = tuple(f.site for f in fitted.files)
    _, _, moments = rounds.merge(work.hierarchy, fitted.restrictions, used, fitted.psi, work.threads)
    state = RoundsState(moments, fitted.psi, used, np.inf)
    number = fitted.last_round + 1
    state, _, record, written = _round(work, state, fitted.restrictions, number, Round("vi", EXTRA_DAMPING))
    final = [of_shard[-1] for of_shard in written]
    every = [path for of_shard in written for path in of_shard]
    _finish_rounds(work, number, [*fitted.rounds, record], state.psi, final, every, since=number)
    _merge(work, read_sites(work))


# ---- poststratify ----


def poststratify(context: StageContext) -> None:
    """Estimates of every margin, aggregated per draw, and calibration."""
    from cluster import estimates  # arviz takes a second to import

    work = open_work(context)
    with one_blas_thread():
        estimates.write(work)
