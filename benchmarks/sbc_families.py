"""Simulation-based calibration of every family: shard by state, fit, merge, poststratify (Talts et al. 2018), with broken twins.

Parameters, a likelihood's own among them, are drawn from the prior, some 250 rows from the parameters, and the rank of each true value
among posterior draws must be uniform: of the intercept, the slope, an effect, the scales, own parameters, and the poststratified mean.
Twins are made on the very same sites, and must be found out:

* ``prior per shard``: the prior of coefficients is counted once for every shard (not for gaussian, whose sites have no units yet);
* ``fixed scales``: of gaussian, all scales at 0.2, the residual sd among them;
* ``own prior``: a normal prior of the last own parameter stands two of its sds away, and is a quarter as wide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr, softmax

from benchmarks import ours, sbc
from benchmarks.family_page import write
from benchmarks.family_problems import FORMULA, FamilyProblem
from benchmarks.problems import REPOSITORY
from fitting import combiner, in_memory, predict, scale_marginal, scale_proposal

NUM_STATES, NUM_AGES, MEAN_ROWS = 6, 4, 5.0
INTERCEPT_SD, SLOPE_SD, SCALE_SD = 0.8, 0.5, 0.4
RESULTS = REPOSITORY / "benchmarks" / "results" / "sbc_families.json"
NUM_KEPT, THIN = sbc.NUM_KEPT, 2
PRIORS = {"intercept": f"normal(0, {INTERCEPT_SD})", "b": f"normal(0, {SLOPE_SD})", "sd": f"half_normal({SCALE_SD})"}

Outcome = tuple[dict[str, np.ndarray], np.ndarray]
"""Columns of the outcome, and each row's expected outcome."""


class Spec(NamedTuple):
    """How a family's rows are drawn; ``own`` are normal priors (mean, sd) of its own parameters."""

    outcome: Callable[[np.random.Generator, np.ndarray, np.ndarray], Outcome]
    options: Mapping[str, Any]
    own: Mapping[str, tuple[float, float]] = {}


def _yes_or_no(inverse_link: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Outcome]:
    def draw(rng: np.random.Generator, eta: np.ndarray, own: np.ndarray) -> Outcome:
        share = inverse_link(eta[0])
        return {"y": rng.binomial(1, share).astype(float)}, share

    return draw


def _beta_binomial(rng: np.random.Generator, eta: np.ndarray, own: np.ndarray) -> Outcome:
    trials, share, precision = rng.integers(2, 9, eta.shape[1]), expit(eta[0]), np.exp(own[0])
    p = rng.beta(np.maximum(precision * share, 1e-9), np.maximum(precision * (1 - share), 1e-9))
    return {"y": rng.binomial(trials, p).astype(float), "trials": trials.astype(float)}, share


def _poisson(rng: np.random.Generator, eta: np.ndarray, own: np.ndarray) -> Outcome:
    exposure = rng.choice([0.5, 1.0, 2.0], eta.shape[1])
    return {"y": rng.poisson(exposure * np.exp(eta[0])).astype(float), "exposure": exposure}, np.exp(eta[0])


def _negative_binomial(rng: np.random.Generator, eta: np.ndarray, own: np.ndarray) -> Outcome:
    exposure, shape = rng.choice([0.5, 1.0, 2.0], eta.shape[1]), np.exp(own[0])
    mean = exposure * np.exp(eta[0])
    return {"y": rng.negative_binomial(shape, shape / (shape + mean)).astype(float), "exposure": exposure}, np.exp(
        eta[0]
    )


def _gaussian(rng: np.random.Generator, eta: np.ndarray, own: np.ndarray) -> Outcome:
    return {"y": eta[0] + own[0] * rng.normal(size=eta.shape[1])}, eta[0]


def _student_t(rng: np.random.Generator, eta: np.ndarray, own: np.ndarray) -> Outcome:
    return {"y": eta[0] + np.exp(own[0]) * rng.standard_t(np.exp(own[1]), eta.shape[1])}, eta[0]


def _categorical(rng: np.random.Generator, eta: np.ndarray, own: np.ndarray) -> Outcome:
    utility = np.concatenate([np.zeros_like(eta[:1]), eta])
    y = (utility + rng.gumbel(size=utility.shape)).argmax(axis=0)
    return {"y": y.astype(float)}, softmax(utility, axis=0)[1]


def _ordinal(rng: np.random.Generator, eta: np.ndarray, own: np.ndarray) -> Outcome:
    cuts = np.cumsum([own[0], *np.exp(own[1:])])
    y = np.searchsorted(cuts, eta[0] + rng.logistic(size=eta.shape[1]))
    return {"y": y.astype(float)}, expit(cuts[1] - eta[0]) - expit(cuts[0] - eta[0])


SPECS: Mapping[str, Spec] = {
    "binomial": Spec(_yes_or_no(expit), {"family": "binomial", "link": "logit"}),
    "probit": Spec(_yes_or_no(ndtr), {"family": "binomial", "link": "probit"}),
    "cloglog": Spec(_yes_or_no(lambda eta: -np.expm1(-np.exp(eta))), {"family": "binomial", "link": "cloglog"}),
    "beta_binomial": Spec(_beta_binomial, {"family": "beta_binomial"}, {"log_precision": (2.0, 0.7)}),
    "poisson": Spec(_poisson, {"family": "poisson"}),
    "negative_binomial": Spec(_negative_binomial, {"family": "negative_binomial"}, {"log_shape": (1.0, 0.7)}),
    "gaussian": Spec(_gaussian, {"family": "gaussian"}),
    "student_t": Spec(_student_t, {"family": "student_t"}, {"log_sigma": (-0.5, 0.5), "log_nu": (1.7, 0.6)}),
    "categorical": Spec(_categorical, {"family": "categorical", "categories": ("a", "b", "c")}),
    "ordinal": Spec(
        _ordinal, {"family": "ordinal", "categories": ("never", "rarely", "often", "always")},
        {"cutpoint_1": (-1.0, 0.7), "log_step_2": (0.0, 0.5), "log_step_3": (0.0, 0.5)},
    ),
}  # fmt: skip
NAMES = tuple(SPECS)


def simulate(name: str, rng: np.random.Generator) -> tuple[FamilyProblem, dict[str, float]]:
    """A problem from its own prior, and the true values of what is ranked."""
    spec = SPECS[name]
    prefixes = ("b:", "c:") if name == "categorical" else ("",)
    strata = [axis.ravel() for axis in np.indices((NUM_STATES, NUM_AGES, 2))]
    count = 1 + rng.poisson(MEAN_ROWS - 1, len(strata[0]))
    state, age, x = (np.repeat(axis, count) for axis in strata)
    truth: dict[str, float] = {}
    eta = []
    for prefix in prefixes:
        intercept = 0.0 if name == "ordinal" else rng.normal(0, INTERCEPT_SD)
        slope = rng.normal(0, SLOPE_SD)
        sds = np.abs(rng.normal(0, SCALE_SD, 2))
        of_state, of_age = rng.normal(0, sds[0], NUM_STATES), rng.normal(0, sds[1], NUM_AGES)
        truth |= {} if name == "ordinal" else {f"{prefix}Intercept": intercept}
        truth |= {f"{prefix}x": slope, f"{prefix}1|state[s0]": of_state[0], f"sd({prefix}1|state)": sds[0],
                  f"sd({prefix}1|age)": sds[1]}  # fmt: skip
        eta.append(intercept + slope * x + of_state[state] + of_age[age])
    own = np.array([rng.normal(mean, sd) for mean, sd in spec.own.values()])
    truth |= dict(zip(spec.own, own.tolist(), strict=True))
    if name == "gaussian":
        own = np.array([rng.exponential(1.0)])
        truth["sigma"] = float(own[0])
    columns, expected = spec.outcome(rng, np.array(eta), own)
    truth["mean of all"] = float(expected.mean())
    rows = {"state": [f"s{i}" for i in state], "age": [f"a{i}" for i in age], "x": x.astype(float), **columns}
    return FamilyProblem(name, rows=pd.DataFrame(rows), **spec.options), truth


def fit(problem: FamilyProblem) -> in_memory.Run:
    """Sites by state under the priors that the parameters were drawn from."""
    cells = problem.cells
    own = {key: f"normal({mean}, {sd})" for key, (mean, sd) in SPECS[problem.name].own.items()}
    priors = PRIORS | own | ({"sigma": "exponential(1)"} if problem.family == "gaussian" else {})
    if problem.family == "ordinal":
        del priors["intercept"]
    return in_memory.fit(
        cells, FORMULA, family=problem.family, link=problem.link, categories=problem.categories, shards=cells["state"],
        chosen_priors=priors, num_draws=1, num_chains=1,
    )  # fmt: skip


def _own_prior(run: in_memory.Run, seed: int) -> in_memory.Run:
    """Put the last own parameter's prior two sds up, and a quarter as wide."""
    h, n = run.hierarchy, run.natural
    mean, precision = h.fixed_mean[-1], h.fixed_precision[-1]
    place, wrong = h.fixed_places[-1], mean + 2.0 / np.sqrt(precision)
    shift, diagonal = n.shift.copy(), n.precision.copy()
    diagonal[h.model.tree.diagonal[place]] += 15.0 * precision
    shift[place] += 16.0 * precision * wrong - precision * mean
    return _merged(run, n._replace(precision=diagonal, shift=shift), seed)


def merges(name: str) -> dict[str, sbc.Merge]:
    """The right merge of a family, and its twins."""
    found: dict[str, sbc.Merge] = {"correct": lambda run, seed: _merged(run, run.natural, seed)}
    found |= {"fixed scales": _fixed_scales} if name == "gaussian" else {"prior per shard": _prior_per_shard}
    return found | ({"own prior": _own_prior} if SPECS[name].own else {})


def _prior_per_shard(run: in_memory.Run, seed: int) -> in_memory.Run:
    h, n, more = run.hierarchy, run.natural, len(run.sites) - 1
    precision, shift, _ = h.add_prior(run.proposal.mode, n.precision / more, n.shift / more)
    return _merged(run, n._replace(precision=precision * more, shift=shift * more), seed)


def _fixed_scales(run: in_memory.Run, seed: int) -> in_memory.Run:
    narrow = run.proposal._replace(
        mode=np.full(run.hierarchy.size, np.log(sbc.TWIN_SCALE)), widths=run.proposal.widths * 1e-6
    )
    return _drawn(run, run.natural, narrow, seed)


def _merged(run: in_memory.Run, natural: scale_marginal.Natural, seed: int) -> in_memory.Run:
    return _drawn(run, natural, scale_proposal.propose(run.hierarchy, natural, run.proposal.mode), seed)


def _drawn(run: in_memory.Run, natural: scale_marginal.Natural, proposal: scale_proposal.Proposal, seed: int) -> in_memory.Run:
    draws = combiner.draw(run.hierarchy, natural, proposal, num_draws=NUM_KEPT * THIN, num_chains=1, seed=seed)
    return run._replace(draws=draws)


def quantities(run: in_memory.Run, wanted: list[str]) -> dict[str, np.ndarray]:
    """`NUM_KEPT` draws of parameters by name and of the poststratified mean."""
    names, draws = ours.parameter_draws(run)
    flat = draws.reshape(-1, len(names))[::THIN]
    found = {name: flat[:, i] for i, name in enumerate(names) if name in wanted}
    theta = run.draws.theta.reshape(-1, run.draws.theta.shape[-1])[::THIN].T
    which = 1 if run.hierarchy.family.counts else 0
    total, people = np.zeros(len(flat)), 0.0
    for restriction, design in zip(run.restrictions, run.designs, strict=True):
        weight = design.statistics["num_trials"]
        everyone = {"all": np.zeros(len(weight), dtype=int)}
        sums, _ = predict.group_sums(
            run.hierarchy.family, design, theta[restriction.coefficients], everyone, {"all": 1}, weight
        )
        total += sums["all"][which, 0]
        people += weight.sum()
    return found | {"mean of all": total / people}


def ranks(name: str, num_replicates: int, seed: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """Rank of each true value of a family among `NUM_KEPT` draws, (num_replicates,), by merge and quantity."""
    collected: dict[str, dict[str, list[int]]] = {merge: {} for merge in merges(name)}
    for replicate in range(num_replicates):
        problem, truth = simulate(name, np.random.default_rng([seed, NAMES.index(name), replicate]))
        run = fit(problem)
        for merge, merger in merges(name).items():
            values = quantities(merger(run, replicate), list(truth))
            for quantity, true in truth.items():
                collected[merge].setdefault(quantity, []).append(int((values[quantity] < true).sum()))
    return {merge: {q: np.array(r) for q, r in by_name.items()} for merge, by_name in collected.items()}


def judged(name: str, num_replicates: int) -> list[dict[str, Any]]:
    """A row for each merge of a family: whether its ranks are uniform, and whether that is as it should be."""
    rows = []
    for merge, by_name in ranks(name, num_replicates).items():
        p_values = sbc.uniformity(by_name)
        uniform, worst = sbc.is_uniform(p_values), min(p_values, key=lambda quantity: p_values[quantity])
        rows.append({
            "family": name, "merge": merge, "replicates": num_replicates, "quantities": len(p_values),
            "smallest p": p_values[worst], "of": worst.replace("|", r"\|"), "uniform": uniform,
            "passed": uniform == (merge == "correct"),
        })  # fmt: skip
    return rows


def keep(new: list[dict[str, Any]]) -> list[str]:
    """Keep rows in `RESULTS` with those of other families, and write the table of all of them into the page."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    by_key = {(r["family"], r["merge"]): r for r in [*found, *new]}
    rows = sorted(by_key.values(), key=lambda r: NAMES.index(r["family"]))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        "| family | merge | replicates | quantities | smallest p | of | uniform | as it should be |",
        "|---|---|--:|--:|--:|---|---|---|",
    ]
    for r in rows:
        yes = {True: "yes", False: "no"}
        lines.append(
            f"| {r['family']} | {r['merge']} | {r['replicates']} | {r['quantities']} | {r['smallest p']:.2g} | {r['of']} "
            f"| {yes[r['uniform']]} | {'yes' if r['passed'] else 'NO'} |"
        )
    write("sbc", lines)
    return lines
