"""Is the audit of scales right? Sparse and healthy problems, judged by a reference: `python -m benchmarks.audit_scales [--small | --aside]`.

A drawn scale is off if the reference says so: quadrature where a problem has one scale and nothing else, else NUTS on all data
(`fitting.exact`). A gate that warns of a scale whose log sd is within 0.05 and whose mean is within 0.1 sds is a false alarm; one that is
silent beyond 0.12 or 0.2 is a miss. Limits are chosen on the first problems; those of `--aside` are for one run at the end.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from fitting import exact, in_memory
from fitting.in_memory import Run

PRIORS = {"intercept": "normal(0, 2.5)", "b": "normal(0, 2.5)", "sd": "half_normal(1)"}
HEALTHY, WRONG = (0.1, 0.05), (0.2, 0.12)  # of mean, in sds, and log sd
WORST_R_HAT = 1.02


class Problem(NamedTuple):
    """Rows from a model: ``terms`` are (column, its levels or the column that it is nested in, sd of intercepts, sd of slopes or None)."""

    family: str
    num_rows: int
    trials: int
    terms: tuple[tuple[str, int, float, float | None], ...]
    nested: bool = False
    base: float = -0.3


PROBLEMS = {
    "bernoulli, 30 groups x 10": Problem("binomial", 300, 1, (("g", 30, 0.7, None),)),
    "bernoulli, 300 groups x 10": Problem("binomial", 3000, 1, (("g", 300, 0.7, None),)),
    "bernoulli, 60 groups x 50": Problem("binomial", 3000, 1, (("g", 60, 0.5, None),)),
    "bernoulli, 30 groups x 200": Problem("binomial", 6000, 1, (("g", 30, 1.0, None),)),
    "bernoulli, 200 groups x 20, rare": Problem("binomial", 4000, 1, (("g", 200, 0.6, None),), base=-3.0),
    "bernoulli, 5 groups x 40": Problem("binomial", 200, 1, (("g", 5, 0.6, None),)),
    "bernoulli, scale near zero": Problem("binomial", 2000, 1, (("g", 40, 0.02, None),)),
    "bernoulli, one group": Problem("binomial", 200, 1, (("g", 1, 0.5, None),)),
    "binomial, 100 groups x 1, 20 trials": Problem("binomial", 100, 20, (("g", 100, 0.8, None),)),
    "binomial, 50 groups x 1, 400 trials": Problem("binomial", 50, 400, (("g", 50, 0.8, None),)),
    "poisson, 150 groups x 3": Problem("poisson", 450, 1, (("g", 150, 0.6, None),)),
    "poisson, 100 groups x 20": Problem("poisson", 2000, 1, (("g", 100, 0.6, None),), base=0.5),
    "poisson, 250 groups x 10, rare": Problem("poisson", 2500, 1, (("g", 250, 0.5, None),), base=-2.0),
    "poisson, scale near zero": Problem("poisson", 400, 1, (("g", 40, 0.02, None),)),
    "bernoulli, crossed": Problem("binomial", 3000, 1, (("g", 60, 0.6, None), ("h", 12, 0.4, None))),
    "bernoulli, nested": Problem("binomial", 4000, 1, (("g", 20, 0.5, None), ("c", 100, 0.5, None)), nested=True),
    "bernoulli, slopes": Problem("binomial", 3000, 1, (("g", 60, 0.6, 0.4),)),
    "poisson, crossed": Problem("poisson", 1500, 1, (("g", 50, 0.5, None), ("h", 8, 0.3, None))),
    "binomial, three scales, 5 trials": Problem("binomial", 800, 5, (("g", 40, 0.6, None), ("h", 10, 0.4, None), ("k", 5, 0.2, None))),
    "bernoulli, slopes, sparse": Problem("binomial", 600, 1, (("g", 60, 0.6, 0.4),)),
}  # fmt: skip

ASIDE = {
    "bernoulli, 25 groups x 16": Problem("binomial", 400, 1, (("g", 25, 0.9, None),)),
    "bernoulli, 150 groups x 15": Problem("binomial", 2250, 1, (("g", 150, 0.5, None),), base=0.8),
    "bernoulli, 80 groups x 80": Problem("binomial", 6400, 1, (("g", 80, 0.8, None),)),
    "bernoulli, 12 groups x 25, scale near zero": Problem("binomial", 300, 1, (("g", 12, 0.01, None),)),
    "binomial, 200 groups x 1, 10 trials": Problem("binomial", 200, 10, (("g", 200, 0.5, None),)),
    "poisson, 100 groups x 4": Problem("poisson", 400, 1, (("g", 100, 0.7, None),), base=0.2),
    "poisson, 40 groups x 30": Problem("poisson", 1200, 1, (("g", 40, 0.4, None),), base=-1.0),
    "bernoulli, 100 groups x 5": Problem("binomial", 500, 1, (("g", 100, 1.2, None),)),
    "binomial, crossed, 3 trials": Problem("binomial", 1000, 3, (("g", 50, 0.5, None), ("h", 15, 0.5, None))),
    "poisson, slopes": Problem("poisson", 1000, 1, (("g", 40, 0.5, 0.3),)),
}  # fmt: skip

SMALL = ("bernoulli, 30 groups x 10", "bernoulli, one group", "poisson, 150 groups x 3", "binomial, 100 groups x 1, 20 trials")


class Judged(NamedTuple):
    """One scale: error of its mean in reference sds and of its log sd, by the reference and by the audit; and the gate's word."""

    problem: str
    scale: str
    reference: str
    shift: float
    log_sd: float
    said_shift: float
    said_log_sd: float
    gates: str

    @property
    def is_false_alarm(self) -> bool:
        """Named, although right."""
        return bool(self.gates) and abs(self.shift) < HEALTHY[0] and abs(self.log_sd) < HEALTHY[1]

    @property
    def is_miss(self) -> bool:
        """Not named, although off."""
        return not self.gates and (abs(self.shift) > WRONG[0] or abs(self.log_sd) > WRONG[1])


def simulate(problem: Problem, seed: int) -> tuple[dict[str, np.ndarray], str]:
    """Columns of the rows, and the formula."""
    rng = np.random.default_rng([seed, problem.num_rows])
    n, columns, eta = problem.num_rows, {}, np.full(problem.num_rows, problem.base)
    has_x = len(problem.terms) > 1 or problem.terms[0][3] is not None
    x = rng.normal(size=n).round(1)
    if has_x:
        columns["x"], eta = x, eta + 0.4 * x
    texts, outer, levels = ["1 + x" if has_x else "1"], np.zeros(n, dtype=int), 1
    for name, size, sd, slope in problem.terms:
        each = np.arange(n) * size // n if name == "g" else rng.integers(0, size, n)
        if problem.nested and name != "g":
            each = outer * (size // levels) + rng.integers(0, size // levels, n)
        outer, levels = each, size
        columns[name] = np.array([f"{name}{i:03d}" for i in each])
        eta = eta + rng.normal(0, sd, size)[each]
        if slope is not None:
            eta = eta + rng.normal(0, slope, size)[each] * x
        texts.append(f"({'1 + x' if slope is not None else '1'} | {name})")
    columns["num_trials"] = np.full(n, float(problem.trials))
    if problem.family == "poisson":
        columns |= {"sum_y": rng.poisson(np.exp(eta)).astype(float), "sum_exposure": np.ones(n)}
    else:
        columns["num_successes"] = rng.binomial(problem.trials, expit(eta)).astype(float)
    return columns, "y ~ " + " + ".join(texts)


def by_quadrature(columns: dict[str, np.ndarray], family: str) -> tuple[float, float]:
    """Mean and sd of sd(1|g) in ``y ~ 1 + (1 | g)``: sums over a grid of predictors, for a grid of intercept and log sd."""
    _, group = np.unique(columns["g"], return_inverse=True)
    names = ("sum_exposure", "sum_y") if family == "poisson" else ("num_trials", "num_successes")
    totals = np.stack([np.bincount(group, columns[name]) for name in names])
    (size, events), counts = np.unique(totals, axis=1, return_counts=True)
    edges = np.linspace(-12.0, 12.0, 2401)
    eta = 0.5 * (edges[1:] + edges[:-1])
    each = np.exp(eta) if family == "poisson" else np.logaddexp(0, eta)
    value = events[:, None] * eta - size[:, None] * each
    top = value.max(axis=1, keepdims=True)
    rate = np.log(totals[1].sum() / totals[0].sum())
    middle = rate if family == "poisson" else rate - np.log1p(-np.exp(rate))
    intercepts, logs = np.linspace(middle - 3.0, middle + 3.0, 151), np.linspace(np.log(0.003), np.log(6.0), 150)
    log_p = np.empty((len(intercepts), len(logs)))
    for j, log_sd in enumerate(logs):
        mass = np.diff(norm.cdf((edges[:, None] - intercepts) / np.exp(log_sd)), axis=0)
        marginal = np.log(np.maximum(np.exp(value - top) @ mass, 1e-300)) + top
        log_p[:, j] = counts @ marginal - 0.5 * (intercepts / 2.5) ** 2 - 0.5 * np.exp(2 * log_sd) + log_sd
    p = np.exp(log_p - log_p.max()).sum(axis=0)
    p /= p.sum()
    mean = p @ np.exp(logs)
    return float(mean), float(np.sqrt(p @ (np.exp(logs) - mean) ** 2))


def by_nuts(run: Run, num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and sds of all hyperparameters, of draws that mix."""
    from fitting import combiner

    shards = list(zip(run.restrictions, run.designs, strict=True))
    draws = exact.draw(run.hierarchy, run.natural, run.proposal, shards, num_draws=num_draws, num_chains=4, num_warmup=400, seed=1)
    worst = combiner.mixed(run.hierarchy, draws.psi).r_hat.max()
    if worst > WORST_R_HAT:
        raise RuntimeError(f"the reference does not mix: R-hat {worst:.3f}")
    values = run.hierarchy.natural(draws.psi.reshape(-1, run.hierarchy.size))
    return values.mean(axis=0), values.std(axis=0)


def judge(name: str, problem: Problem, seed: int, num_draws: int = 1500) -> list[Judged]:
    """Fit, audit and compare every scale of one problem."""
    columns, formula = simulate(problem, seed)
    shards = np.random.default_rng(seed).integers(0, 3, problem.num_rows)
    run = in_memory.fit(columns, formula, family=problem.family, shards=shards, chosen_priors=PRIORS, num_draws=1000)
    result = in_memory.audit(run)
    said = {s["name"]: s for s in result["scales"]}
    gates: dict[str, list[str]] = {}
    for g in result["gates"]:
        if g["name"].startswith("scale_s") and g["status"] != "pass":
            for where in g["where"].split(", "):
                gates.setdefault(where, []).append(f"{g['name']} {g['status']}")
    is_one = formula == "y ~ 1 + (1 | g)"
    mean, sd = (np.array([v]) for v in by_quadrature(columns, problem.family)) if is_one else by_nuts(run, num_draws)
    drawn = run.hierarchy.natural(run.draws.psi.reshape(-1, run.hierarchy.size))
    return [
        Judged(
            name, scale, "quadrature" if is_one else "NUTS", float((drawn[:, h].mean() - mean[h]) / sd[h]),
            float(np.log(drawn[:, h].std() / sd[h])), -(said[scale]["shift"] or 0.0),
            float(np.log(said[scale]["sd_ratio"] or 1.0)), ", ".join(gates.get(scale, ())),
        )
        for h, scale in enumerate(run.hierarchy.names())
        if scale.startswith("sd(")
    ]


def main() -> None:
    """Print the table and both counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_scales", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="four problems with one scale")
    parser.add_argument("--aside", action="store_true", help="the problems that no limit was chosen on")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    problems: dict[str, Any] = ASIDE if arguments.aside else {n: PROBLEMS[n] for n in SMALL} if arguments.small else PROBLEMS
    print("| problem | scale | reference | error of mean, sds | of log sd | the audit says | of log sd | gates |")
    print("|---|---|---|--:|--:|--:|--:|---|")
    rows = []
    for seed, (name, problem) in enumerate(problems.items()):
        for row in judge(name, problem, seed + 1000 * arguments.aside):
            rows.append(row)
            scale = row.scale.replace("|", r"\|")
            print(
                f"| {row.problem} | `{scale}` | {row.reference} | {row.shift:+.2f} | {row.log_sd:+.3f} | {row.said_shift:+.2f} "
                f"| {row.said_log_sd:+.3f} | {row.gates or 'none'} |", flush=True,
            )  # fmt: skip
    print(f"\nFalse alarms: {sum(r.is_false_alarm for r in rows)}. Misses: {sum(r.is_miss for r in rows)}. Scales: {len(rows)}.")


if __name__ == "__main__":
    main()
