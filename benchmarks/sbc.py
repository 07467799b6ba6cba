"""Simulation-based calibration through shard, fit, merge and poststratification (Talts et al. 2018), with broken twins.

Parameters are drawn from the prior, data from the parameters, and the rank of each true value among posterior draws must be
uniform: of coefficients, of scales, and of the expected shares of the nation, of a state and of a county. Each twin makes one
classic mistake on the very same sites, and must be found out:

* ``prior per shard``: the prior is counted once for every shard;
* ``fixed scales``: the scales are set to 0.2 instead of estimated;
* ``site twice``: the first shard's site is multiplied in a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from benchmarks import ours
from fitting import combiner, in_memory, predict, scale_proposal
from fitting.scale_marginal import Natural

FORMULA = "y ~ 1 + x + (1 | state/county) + (1 | race)"
PRIORS = {"intercept": "normal(0, 1)", "b": "normal(0, 0.5)", "sd": "half_normal(0.5)"}
INTERCEPT_SD, FIXED_SD, SCALE_SD = 1.0, 0.5, 0.5
NUM_STATES, NUM_COUNTIES, NUM_RACES = 6, 4, 3
NUM_KEPT = 99
THIN = 10
NUM_BINS = 20
FALSE_ALARM = 1e-3
TWIN_SCALE = 0.2


class Simulated(NamedTuple):
    """Cells with outcomes drawn from a model drawn from the prior, and the true values of what is ranked."""

    cells: dict[str, np.ndarray]
    truth: dict[str, float]


def simulate(rng: np.random.Generator) -> Simulated:
    """Draw parameters from the prior, and outcomes from them."""
    c, r, x = (axis.ravel() for axis in np.indices((NUM_STATES * NUM_COUNTIES, NUM_RACES, 2)))
    s = c // NUM_COUNTIES
    intercept, b = rng.normal(0, INTERCEPT_SD), rng.normal(0, FIXED_SD)
    sds = np.abs(rng.normal(0, SCALE_SD, 3))
    state, county = rng.normal(0, sds[0], NUM_STATES), rng.normal(0, sds[1], NUM_STATES * NUM_COUNTIES)
    race = rng.normal(0, sds[2], NUM_RACES)
    share = 1 / (1 + np.exp(-(intercept + b * x + state[s] + county[c] + race[r])))
    num_trials = 1 + rng.poisson(rng.gamma(0.7, 12.0, len(c)))
    cells = {
        "state": np.array([f"s{i}" for i in s]),
        "county": np.array([f"s{i // NUM_COUNTIES}c{i % NUM_COUNTIES}" for i in c]),
        "race": np.array([f"r{i}" for i in r]),
        "x": x,
        "num_trials": num_trials,
        "num_successes": rng.binomial(num_trials, share),
    }
    truth = {
        "Intercept": intercept,
        "x": b,
        "1|state[s0]": state[0],
        "1|state:county[s0:s0c0]": county[0],
        "1|race[r0]": race[0],
        "sd(1|state)": sds[0],
        "sd(1|state:county)": sds[1],
        "sd(1|race)": sds[2],
        "share of all": float(np.average(share, weights=num_trials)),
        "share of s0": float(np.average(share[s == 0], weights=num_trials[s == 0])),
        "share of s0c0": float(np.average(share[c == 0], weights=num_trials[c == 0])),
    }
    return Simulated(cells, truth)


def correct(run: in_memory.Run, seed: int) -> in_memory.Run:
    """The merge as it is."""
    return _merged(run, run.natural, seed)


def prior_per_shard(run: in_memory.Run, seed: int) -> in_memory.Run:
    """Multiply the prior in once more for every shard but one."""
    h, n, more = run.hierarchy, run.natural, len(run.sites) - 1
    precision, shift, _ = h.add_prior(run.proposal.mode, n.precision / more, n.shift / more)
    return _merged(run, n._replace(precision=precision * more, shift=shift * more), seed)


def fixed_scales(run: in_memory.Run, seed: int) -> in_memory.Run:
    """Put every scale at `TWIN_SCALE`."""
    narrow = run.proposal._replace(
        mode=np.full(run.hierarchy.size, np.log(TWIN_SCALE)), widths=run.proposal.widths * 1e-6
    )
    draws = combiner.draw(run.hierarchy, run.natural, narrow, num_draws=NUM_KEPT * THIN, num_chains=1, seed=seed)
    return run._replace(draws=draws)


def site_twice(run: in_memory.Run, seed: int) -> in_memory.Run:
    """Use the first shard's site twice."""
    pairs = list(zip(run.restrictions, run.sites, strict=True))
    return _merged(run, combiner.product(run.hierarchy.model.tree, [*pairs, pairs[0]]), seed)


def _merged(run: in_memory.Run, natural: Natural, seed: int) -> in_memory.Run:
    proposal = scale_proposal.propose(run.hierarchy, natural, run.proposal.mode)
    draws = combiner.draw(run.hierarchy, natural, proposal, num_draws=NUM_KEPT * THIN, num_chains=1, seed=seed)
    return run._replace(draws=draws)


Merge = Callable[[in_memory.Run, int], in_memory.Run]
MERGES: Mapping[str, Merge] = {
    "correct": correct,
    "prior per shard": prior_per_shard,
    "fixed scales": fixed_scales,
    "site twice": site_twice,
}


def quantities(run: in_memory.Run, wanted: list[str]) -> dict[str, np.ndarray]:
    """Draws, thinned to `NUM_KEPT`, of parameters by name and of poststratified shares."""
    names, draws = ours.parameter_draws(run)
    flat = draws.reshape(-1, len(names))[::THIN]
    found = {name: flat[:, i] for i, name in enumerate(names) if name in wanted}
    theta = run.draws.theta.reshape(-1, run.draws.theta.shape[-1])[::THIN].T
    coding = run.hierarchy.model.coding
    state, county = coding.factors["state"].index("s0"), coding.factors["county"].index("s0c0")
    sums, people = np.zeros((3, theta.shape[1])), np.zeros(3)
    for restriction, design, codes in zip(run.restrictions, run.designs, _codes(run), strict=True):
        weight = design.statistics["num_trials"]
        inside = np.stack([np.ones(len(weight), dtype=bool), codes[0] == state, codes[1] == county])
        margins = {str(i): inside[i].astype(int) for i in range(3)}
        by_margin, _ = predict.group_sums(
            run.hierarchy.family, design, theta[restriction.coefficients], margins, dict.fromkeys(margins, 2), weight
        )
        sums += np.stack([by_margin[str(i)][1] for i in range(3)])
        people += inside @ weight
    return found | dict(zip(("share of all", "share of s0", "share of s0c0"), sums / people[:, None], strict=True))


def _codes(run: in_memory.Run) -> list[tuple[np.ndarray, np.ndarray]]:
    """State and county code of each shard's cells: shards are states here, cells in the order of `simulate`."""
    county = np.repeat(np.arange(NUM_COUNTIES), NUM_RACES * 2)
    return [(np.full(len(county), s), s * NUM_COUNTIES + county) for s in range(len(run.designs))]


def ranks(num_replicates: int, seed: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """Rank of each true value among `NUM_KEPT` draws, (num_replicates,), by merge and quantity."""
    collected: dict[str, dict[str, list[int]]] = {merge: {} for merge in MERGES}
    for replicate in range(num_replicates):
        simulated = simulate(np.random.default_rng([seed, replicate]))
        run = in_memory.fit(
            simulated.cells, FORMULA, shards=simulated.cells["state"], chosen_priors=PRIORS, num_draws=1, num_chains=1
        )
        for merge, merger in MERGES.items():
            values = quantities(merger(run, replicate), list(simulated.truth))
            for name, true in simulated.truth.items():
                collected[merge].setdefault(name, []).append(int((values[name] < true).sum()))
    return {merge: {name: np.array(r) for name, r in by_name.items()} for merge, by_name in collected.items()}


def uniformity(by_name: Mapping[str, np.ndarray], num_bins: int = NUM_BINS) -> dict[str, float]:
    """P-value of each quantity's ranks under uniformity (chi-squared, equal bins)."""
    p_values = {}
    for name, values in by_name.items():
        counts = np.bincount(values * num_bins // (NUM_KEPT + 1), minlength=num_bins)
        p_values[name] = float(stats.chisquare(counts).pvalue)
    return p_values


def is_uniform(p_values: Mapping[str, float]) -> bool:
    """All quantities together, at `FALSE_ALARM` (Bonferroni)."""
    return min(p_values.values()) * len(p_values) > FALSE_ALARM
