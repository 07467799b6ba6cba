"""The whole loop on arrays in one process: cells in, audited posterior out. For notebooks, tests and benchmarks.

>>> run = in_memory.fit(cells, "voted ~ 1 + female + (1 | state/county)", family="binomial", shards=cells["state"])
>>> run.draws.theta.shape, in_memory.audit(run)["verdict"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fitting import audit as audits
from fitting import columns as data_columns
from fitting import (
    combiner,
    families,
    formula,
    hierarchy,
    rounds,
    sandwich,
    scale_audit,
    scale_proposal,
    sites,
    verdict,
)
from fitting.cell_design import CellDesign
from fitting.coding import Coding, Numeric, OutcomeSummary
from fitting.columns import DataColumns
from fitting.combiner import Draws, Moments
from fitting.config import AuditConfig, ModelConfig
from fitting.families import Family
from fitting.hierarchy import Hierarchy
from fitting.likelihoods import gaussian
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.sites import Site
from fitting.terms import number_name
from fitting.tree import Restriction

MIN_ESS, SHARE_OF_DRAWS = 400.0, 0.4  # of the draws asked for, for few of them
FitSite = Callable[[Restriction, CellDesign, Moments, Site | None, int, int], Site]


class Run(NamedTuple):
    """A fitted posterior with everything it was made from; one restriction, design and site per shard."""

    hierarchy: Hierarchy
    restrictions: tuple[Restriction, ...]
    designs: tuple[CellDesign, ...]
    sites: tuple[Site, ...]
    moments: Moments
    natural: Natural
    proposal: Proposal
    draws: Draws
    moves: tuple[float, ...]
    methods: tuple[str, ...] = ()  # of the rounds


def code(
    columns: Mapping[str, np.ndarray],
    parsed: formula.Formula,
    statistics: Mapping[str, np.ndarray],
    categories: Sequence[str] = (),
    roles: DataColumns | None = None,
) -> tuple[Coding, dict]:
    """Code labels and numbers as the dictionary of a run would, and the coded columns.

    ``roles`` are the columns to code, those of the formula if not given. Columns of text and all grouping columns are factors with
    levels in sorted order, the first one the reference. A predictor of numbers is a number, whether or not it groups as well;
    its mean and sd are over the people in the cells.
    """
    weight = statistics["num_trials"].astype(np.float64)
    factors: dict[str, tuple[str, ...]] = {}
    numerics: dict[str, Numeric] = {}
    coded: dict[str, np.ndarray] = {}
    roles = roles or data_columns.of(parsed)
    for name in dict.fromkeys((*roles.factors, *roles.predictors)):
        values = np.asarray(columns[name])
        is_text = values.dtype.kind in "UO"
        if name in roles.factors or is_text:
            levels, codes = np.unique(values.astype(str), return_inverse=True)
            factors[name], coded[name] = tuple(levels.tolist()), codes
        if name in roles.predictors and not is_text:
            x = values.astype(np.float64)
            binary = bool(np.isin(x, (0, 1)).all())
            mean = float(np.average(x, weights=weight))
            sd = float(np.sqrt(np.average((x - mean) ** 2, weights=weight)))
            ends = float(x.min()), float(x.max())
            numerics[name] = Numeric(0.0, 1.0, True, *ends) if binary else Numeric(mean, sd or 1.0, False, *ends)
            coded[number_name(name) if name in factors else name] = x
    groups = {g: _combinations([coded[c] for c in g]) for g in roles.groups}
    parents: dict[str, dict[str, np.ndarray]] = {}
    for inner in roles.factors:
        for outer in roles.factors:
            pairs = _combinations([coded[inner], coded[outer]])
            if inner != outer and len(pairs) == len(factors[inner]):
                parents.setdefault(inner, {})[outer] = pairs[:, 1]
    coding = Coding(
        factors, dict.fromkeys(factors, 0), numerics, groups, parents, summarise_outcome(statistics, categories)
    )
    return coding, coded


def summarise_outcome(statistics: Mapping[str, np.ndarray], categories: Sequence[str] = ()) -> OutcomeSummary:
    """Totals of the outcome from the family's cell statistics."""
    rows = statistics["num_trials"]
    if "num_successes" in statistics or "successes" in statistics:
        if "successes" in statistics:
            mean = float((rows * statistics["successes"]).sum() / (rows * statistics["trials"]).sum())
        else:
            mean = float(statistics["num_successes"].sum() / rows.sum())
        return OutcomeSummary(mean, float(np.sqrt(mean * (1 - mean))))
    if "count_0" in statistics:
        counts = np.array(
            [statistics[f"count_{k}"].sum() for k in range(sum(n.startswith("count_") for n in statistics))]
        )
        return OutcomeSummary(0.0, 0.0, tuple(categories), tuple(counts / counts.sum()))
    if "sum_exposure" in statistics:
        return OutcomeSummary(float(statistics["sum_y"].sum() / statistics["sum_exposure"].sum()), 1.0)
    if "exposure" in statistics:
        return OutcomeSummary(float((rows * statistics["y"]).sum() / (rows * statistics["exposure"]).sum()), 1.0)
    if "y" in statistics:
        mean = float(np.average(statistics["y"], weights=rows))
        return OutcomeSummary(mean, float(np.sqrt(np.average((statistics["y"] - mean) ** 2, weights=rows))))
    mean = float(statistics["sum_y"].sum() / rows.sum())
    return OutcomeSummary(mean, float(np.sqrt(gaussian.squares(statistics, mean).sum() / rows.sum())))


def _statistics(columns: Mapping[str, np.ndarray], family: Family) -> dict[str, np.ndarray]:
    """The family's, and those of weights if there are any. ``sum_y_squared`` does for ``squared_deviations``, with the digits that it has."""
    given = {name: np.asarray(values) for name, values in columns.items()}
    if family.has_residual_scale and "squared_deviations" not in given and "sum_y_squared" in given:
        rows, total = (given[name].astype(np.float64) for name in ("num_trials", "sum_y"))
        rest = given["sum_y_squared"] - total * gaussian.mean({"num_trials": rows, "sum_y": total})
        given["squared_deviations"] = np.where(rows == 1.0, 0.0, np.maximum(rest, 0.0))
    wanted = (*family.statistics, *(name for name in sandwich.SQUARED if name in given))
    return {name: np.asarray(given[name], dtype=np.float64) for name in wanted}


def _combinations(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Observed combinations of codes, sorted, shape (number of them, number of columns)."""
    sizes = tuple(int(c.max()) + 1 for c in codes)
    return np.stack(np.unravel_index(np.unique(np.ravel_multi_index(tuple(codes), sizes)), sizes), axis=1)


def fit(
    columns: Mapping[str, np.ndarray],
    formula_text: str,
    *,
    family: str = "binomial",
    link: str | None = None,
    categories: Sequence[str] = (),
    shards: Sequence[Any] | np.ndarray | None = None,
    chosen_priors: Mapping[str, Any] | None = None,
    splines: Mapping[str, Any] | None = None,
    multi_membership: Mapping[str, Any] | None = None,
    method: str = "vi",
    num_rounds: int = 20,
    tolerance: float = 0.01,
    num_nodes: int = 11,
    num_draws: int = 250,
    num_chains: int = 4,
    seed: int = 0,
    threads: int = 1,
    nuts: Mapping[str, int] | None = None,
    fit_site: FitSite | None = None,
) -> Run:
    """Fit a model to cells held in memory.

    Parameters
    ----------
    columns
        Labels and numbers of each cell, and the family's statistics (`fitting.families.Family.statistics`: ``num_trials``
        and ``num_successes`` for binomial), each of shape (n,). Of a gaussian family ``squared_deviations`` are those of a cell's
        rows from the cell's own mean (0 of a single row); ``sum_y_squared`` will do near zero.
    family, link, categories
        As `fitting.families.make` takes them; ``categories`` name those of ``count_0``, ``count_1``, ...
    shards
        The shard of each cell, shape (n,); one shard if not given.
    chosen_priors, splines, multi_membership
        As under ``model:`` of a run (`fitting.config.ModelConfig`).
    method
        ``vi``, ``laplace`` or ``nuts``.
    nuts
        ``num_warmup``, ``num_draws`` and ``num_chains`` per shard and round, for ``method="nuts"``.
    fit_site
        Fits a shard's site in place of the method, given restriction, design, moments of q on that part, the shard's site
        so far, the shard's number and the round.
    """
    config = ModelConfig(
        formula=formula_text, family=family, link=link, priors=dict(chosen_priors or {}),  # type: ignore[arg-type]
        splines=dict(splines or {}), multi_membership=dict(multi_membership or {}),
    )  # fmt: skip
    kind = families.make(family, link, tuple(categories))
    statistics = _statistics(columns, kind)
    parsed = config.parsed_formula()
    coding, coded = code(columns, parsed, statistics, categories, config.data_columns())
    prior = hierarchy.of_config(config, coding)
    built = prior.model
    labels = np.zeros(len(statistics["num_trials"]), dtype=int) if shards is None else np.asarray(shards)
    restrictions, designs = [], []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        part = {name: values[rows] for name, values in coded.items()}
        restriction = built.restriction(part)
        restrictions.append(restriction)
        own = {name: values[rows] for name, values in statistics.items()}
        designs.append(built.design(part, own, within=restriction))

    def site(s: int, state: rounds.RoundsState, under: Moments, number: int, coming: rounds.Round) -> Site:
        restriction, design = restrictions[s], designs[s]
        part = rounds.part_of(under, restriction)
        if fit_site is not None:
            return fit_site(restriction, design, part, state.sites[s] if state.sites else None, s, number)
        if coming.method == "nuts":
            from fitting import tilted_nuts  # JAX takes a second to import

            key = tilted_nuts.shard_key(seed, s, number)
            mean, covariance = part
            return tilted_nuts.fit(key, restriction.tree, design, kind, mean, covariance, state.sites[s], **sampling)[0]
        covariance = np.zeros_like(part.covariance) if coming.method == "laplace" else part.covariance
        return sites.fit(
            restriction.tree, design, kind, part.mean, covariance, num_nodes=num_nodes, convex=coming.convex
        )

    sampling = {"num_warmup": 100, "num_draws": 250, "num_chains": 4, **(nuts or {})}
    schedule = rounds.Schedule(method, num_rounds, tolerance, 1.0, kind)
    state = rounds.init(prior)
    done: list[rounds.Round] = []
    while (coming := rounds.next_round(schedule, done)) is not None:
        under = rounds.moments_for(prior, state, restrictions, coming.method)
        new = [site(s, state, under, len(done), coming) for s in range(len(designs))]
        state, info = rounds.step(prior, state, restrictions, new, damping=coming.damping, threads=threads)
        done.append(coming._replace(move=info.move, along=state.along))
    natural = combiner.product(built.tree, list(zip(restrictions, state.sites, strict=True)))
    proposal = scale_proposal.propose(prior, natural, state.psi)
    moments = combiner.moments(prior, natural, proposal, threads=threads)  # at the points that the audit compares at
    draws = combiner.draw(
        prior, natural, proposal, num_draws=num_draws, num_chains=num_chains, seed=seed, threads=threads,
        min_ess=min(MIN_ESS, SHARE_OF_DRAWS * num_draws * num_chains),
    )  # fmt: skip
    return Run(
        prior,
        tuple(restrictions),
        tuple(designs),
        state.sites,
        moments,
        natural,
        proposal,
        draws,
        tuple(r.move for r in done),
        tuple(r.method for r in done),
    )


def merge(run: Run, new_sites: Sequence[Site], *, seed: int = 0, threads: int = 1) -> Run:
    """The same run with other sites, one per shard: merged and drawn from anew."""
    natural, proposal, moments = rounds.merge(run.hierarchy, run.restrictions, new_sites, run.proposal.mode, threads)
    num_chains, num_draws = run.draws.theta.shape[:2]
    draws = combiner.draw(
        run.hierarchy, natural, proposal, num_draws=num_draws, num_chains=num_chains, seed=seed, threads=threads
    )
    return run._replace(sites=tuple(new_sites), moments=moments, natural=natural, proposal=proposal, draws=draws)


def audit(run: Run, config: AuditConfig | None = None, *, num_nodes: int = 11, threads: int = 1) -> dict[str, Any]:
    """Audit a run on all of its data: the content of ``audit.json``."""
    config = config or AuditConfig()
    flat = run.draws.theta.reshape(-1, run.draws.theta.shape[-1])
    psi = run.draws.psi.reshape(len(flat), -1)
    kept = np.linspace(0, len(flat) - 1, min(config.draws, len(flat))).astype(int)
    theta, residual = flat[kept], run.hierarchy.residual_sd(psi[kept])
    reports = [
        audits.shard(
            r.tree,
            d,
            run.hierarchy.family,
            s,
            theta[:, r.coefficients].T,
            residual,
            rounds.part_of(run.moments, r),
            num_nodes=num_nodes,
        )
        for r, d, s in zip(run.restrictions, run.designs, run.sites, strict=True)
    ]

    def refresh(moments: Moments) -> list[Site]:
        parts = [rounds.part_of(moments, r) for r in run.restrictions]
        return [
            sites.fit(r.tree, d, run.hierarchy.family, part.mean, part.covariance, num_nodes=num_nodes)
            for r, d, part in zip(run.restrictions, run.designs, parts, strict=True)
        ]

    entries = [
        {
            "shard_id": f"{s:02d}",
            "num_cells": d.num_cells,
            "num_rows": int(d.statistics["num_trials"].sum()),
            "num_trials": int(d.statistics["num_trials"].sum()),
        }
        for s, d in enumerate(run.designs)
    ]
    evidence = verdict.gather(
        run.hierarchy,
        run.restrictions,
        run.sites,
        reports,
        entries,
        theta,
        psi[kept],
        run.moments,
        run.natural,
        run.proposal,
        [
            {"round": i, "move": move, "damping": 1.0, "seconds": 0.0, "method": method}
            for i, (move, method) in enumerate(zip(run.moves, run.methods, strict=True))
        ],
        float(run.draws.acceptance.mean()),
        threads,
        refresh,
        scales=scale_errors(run, threads),
        mixing=combiner.mixed(run.hierarchy, run.draws.psi) if run.hierarchy.size else None,
    )
    return verdict.judge(run.hierarchy, config, evidence, min_ess=min(MIN_ESS, SHARE_OF_DRAWS * len(flat)))


def scale_errors(run: Run, threads: int = 1) -> scale_audit.ScaleErrors | None:
    """What the sites get wrong about the scales; None where no term is worth a look."""
    terms = scale_audit.terms_of(run.hierarchy, run.natural, run.proposal.mode) if run.hierarchy.size else ()
    if not terms:
        return None

    def points_at(psi: np.ndarray) -> scale_audit.Points:
        return scale_audit.at(run.hierarchy, run.natural, terms, psi, threads)

    def evaluate(points: scale_audit.Points) -> np.ndarray:
        parts = [scale_audit.part_of(run.hierarchy, points, r) for r in run.restrictions]
        reports = [
            scale_audit.shard(r.tree, d, run.hierarchy.family, s, p, rounds.part_of(run.moments, r).covariance)
            for r, d, s, p in zip(run.restrictions, run.designs, run.sites, parts, strict=True)
        ]
        return scale_audit.add_up(run.hierarchy, points, run.restrictions, reports)

    psi = run.draws.psi.reshape(-1, run.hierarchy.size)
    first = points_at(scale_audit.first_design(run.hierarchy, terms, psi))
    return scale_audit.errors(
        run.hierarchy, run.natural, first, evaluate(first), psi, lambda psi: evaluate(points_at(psi)), threads
    )
