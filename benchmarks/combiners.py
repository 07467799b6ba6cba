"""Which classic combiner fails when, and does the audit see it?

``python -m benchmarks.combiners`` merges the same subposteriors by every combiner of ``fitting.classic``, on problems whose
posterior is known, and writes the tables of `docs/combiners.md` (a few minutes on a core). True errors are those of the worst
coefficient, in sds of the true posterior; beside them what the audit says without knowing it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.special import digamma, expit, polygamma

from benchmarks.audit_healthy import cells_of
from benchmarks.problems import REPOSITORY
from fitting import classic, classic_fit, in_memory, shard_draws, subposterior
from fitting.classic_fit import Errors, ModelData
from fitting.config import AuditConfig
from fitting.shard_draws import CombinerError

PAGE = REPOSITORY / "docs" / "combiners.md"
CHAINS, DRAWS, WARMUP = 4, 500, 400
DIAGONAL = "consensus, diagonal weights"
METHODS: dict[str, Callable[..., np.ndarray]] = {
    "consensus": classic.consensus,
    DIAGONAL: lambda draws, *, seed: classic.consensus(draws, seed=seed, weights="diagonal"),
    **{name: combiner.merge for name, combiner in classic.COMBINERS.items() if name != "consensus"},
}


class Row(NamedTuple):
    """One combiner on one problem: true and reported errors of the worst mean (sds) and sd (ratio), and the verdict."""

    problem: str
    combiner: str
    true_mean: float
    audit_mean: float
    true_sd: float
    audit_sd: float
    verdict: str


def kind_of(method: str) -> classic.Kind:
    """The kind of subposterior that a row's combiner needs."""
    return classic.require(method.split(",")[0]).kind


def row(problem: str, method: str, true: Errors, seen: Errors, r_hat: float) -> Row:
    """The worst of both, and the verdict on what the audit saw."""
    verdict = classic_fit.judge(seen, AuditConfig(), r_hat, method)["verdict"]
    widest = [float(np.exp(e.log_sd[np.argmax(np.abs(e.log_sd))])) for e in (true, seen)]
    worst = [float(np.max(np.abs(e.mean))) for e in (true, seen)]
    return Row(problem, method, worst[0], worst[1], widest[0], widest[1], verdict)


# ---- problems in closed form ----


class Toy(NamedTuple):
    """Draws by kind, the true mean and sd, and a step towards the posterior from any Gaussian: what the audit iterates."""

    name: str
    draws: dict[str, list[np.ndarray]]
    mean: np.ndarray
    sd: np.ndarray
    step: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def correlated(num_shards: int = 10, size: int = 4, seed: int = 1) -> Toy:
    """Normal data whose coefficients correlate by 0.95 in one half of the shards and by -0.95, in pairs, in the other."""
    rng = np.random.default_rng(seed)
    prior = np.eye(size)
    precisions = []
    for s in range(num_shards):
        sign = np.where(np.arange(size) % 2, (-1.0) ** s, 1.0)
        precisions.append(np.linalg.inv(np.outer(sign, sign) * (0.05 * np.eye(size) + 0.95)) / num_shards)
    exact = np.linalg.inv(prior + np.sum(precisions, axis=0))
    shifts = [p @ rng.multivariate_normal(np.full(size, 0.3), np.linalg.inv(p)) for p in precisions]
    mean = exact @ np.sum(shifts, axis=0)
    draws: dict[str, list[np.ndarray]] = {}
    for kind, share, power in (("fractionated", 1 / num_shards, 1.0), ("powered", 1.0, num_shards)):
        draws[kind] = []
        for s, (precision, shift) in enumerate(zip(precisions, shifts, strict=True)):
            covariance = np.linalg.inv(share * prior + power * precision)
            noise = np.random.default_rng([seed, s]).standard_normal((CHAINS, DRAWS, size))
            draws[kind].append(covariance @ (power * shift) + noise @ np.linalg.cholesky(covariance).T)
    return Toy(
        f"correlated Gaussians, {num_shards} shards", draws, mean, np.sqrt(np.diag(exact)), lambda *_: (mean, exact)
    )


def exponential(num_shards: int, seed: int = 2) -> Toy:
    """40 exponential waiting times under a gamma(2, 1) rate: the law of the log rate is log gamma in every shard."""
    shape, rate = 2.0 + 40, float(np.exp(digamma(42.0) - 0.264))
    draws: dict[str, list[np.ndarray]] = {}
    total = (rate - 1.0) * np.random.default_rng(seed).dirichlet(np.full(num_shards, 40 / num_shards))  # time per shard
    for kind, a, rates in (
        ("fractionated", shape / num_shards, 1.0 / num_shards + total),
        ("powered", shape, 1.0 + num_shards * total),
    ):
        streams = [np.random.default_rng([seed, s]) for s in range(num_shards)]
        draws[kind] = [np.log(g.gamma(a, 1 / b, (CHAINS, DRAWS, 1))) for g, b in zip(streams, rates, strict=True)]

    def step(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        precision = rate * np.exp(mean + 0.5 * covariance[0])  # E_q of minus the second derivative
        return mean + np.clip((shape - precision) / precision, -2.0, 2.0), 1.0 / precision[None]

    name = f"gamma / exponential, {num_shards} shards of {40 // num_shards} rows"
    return Toy(name, draws, np.array([0.264]), np.sqrt(polygamma(1, [shape])), step)


def toy_rows(toy: Toy) -> Iterator[Row]:
    """Every combiner on a problem in closed form."""
    for method, merge in METHODS.items():
        if method == DIAGONAL and len(toy.mean) == 1:
            continue
        draws = toy.draws[kind_of(method)]
        merged = merge(draws, seed=0)
        flat, names = merged.reshape(-1, len(toy.mean)), np.array([f"theta[{j}]" for j in range(len(toy.mean))])
        size = np.full(len(names), min(shard_draws.effective_size(d) for d in [merged, *draws]))
        mean, covariance = flat.mean(axis=0), np.atleast_2d(np.cov(flat.T))
        for _ in range(200):
            mean, covariance = toy.step(mean, covariance)
        seen = classic_fit.compare(names, flat, size, mean, np.sqrt(np.diag(covariance)))
        yield row(toy.name, method, classic_fit.compare(names, flat, size, toy.mean, toy.sd), seen, 1.0)


# ---- problems of the model ----


class Problem(NamedTuple):
    """A model with its shards, and the true posterior's means and sds of coefficients and hyperparameters by name."""

    name: str
    data: ModelData
    truth: dict[str, tuple[float, float]]


def nested(whole: bool, seed: int = 3) -> Problem:
    """The nested normal model of 1,800 rows in ten shards: six whole groups in each, or twelve groups, each cut over all shards."""
    rng = np.random.default_rng(seed)
    num_groups = 60 if whole else 12
    group = np.repeat(np.arange(num_groups), 1800 // num_groups)
    outcome = 0.3 + rng.normal(0, 0.6, num_groups)[group] + rng.normal(0, 1.0, len(group))
    columns = {
        "g": np.array([f"g{j:02d}" for j in group]),
        "shard": group % 10 if whole else np.arange(len(group)) % 10,
    }
    cells = cells_of(columns, outcome, "gaussian")
    table = {name: cells[name].to_numpy() for name in cells}
    options: dict[str, Any] = {
        "shards": table["shard"],
        "family": "gaussian",
        "chosen_priors": {"intercept": "normal(0, 1)", "sd": "half_normal(1)", "sigma": "exponential(1)"},
    }
    exact = in_memory.fit(table, "y ~ 1 + (1 | g)", num_draws=2500, **options)
    draws = np.concatenate([exact.draws.theta, exact.draws.psi], axis=-1).reshape(10_000, -1)
    names = [*exact.hierarchy.model.coefficient_names(), *exact.hierarchy.names()]
    truth = {str(n): (float(d.mean()), float(d.std())) for n, d in zip(names, draws.T, strict=True) if n}
    name = f"nested normal, 10 shards, {num_groups} groups {'whole' if whole else 'cut'}"
    return Problem(name, classic_fit.prepare(table, "y ~ 1 + (1 | g)", **options), truth)


def rare_predictor(num_shards: int, seed: int = 1) -> Problem:
    """100,000 rows, a 5% base rate, a predictor in 1% of them; the posterior on a grid of two dimensions."""
    rng = np.random.default_rng(seed)
    rare = (rng.random(100_000) < 0.01).astype(np.float64)
    outcome = rng.random(len(rare)) < expit(-2.94 + rare)
    cells = cells_of({"shard": np.arange(len(rare)) * num_shards // len(rare), "rare": rare}, outcome)
    table = {name: cells[name].to_numpy() for name in cells}
    total = cells.groupby("rare")[["num_trials", "num_successes"]].sum().to_numpy(np.float64)
    intercept, effect = np.linspace(-3.1, -2.75, 351)[:, None], np.linspace(0.4, 1.7, 651)[None, :]
    log_p = -0.5 * (intercept / 2.5) ** 2 - 0.5 * (effect / 2.5) ** 2
    for (trials, successes), eta in zip(total, (intercept, intercept + effect), strict=True):
        log_p = log_p + successes * eta - trials * np.logaddexp(0.0, eta)
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    truth = {}
    for name, grid in (("Intercept", intercept), ("rare", effect)):
        mean = float((weight * grid).sum())
        truth[name] = mean, float(np.sqrt((weight * (grid - mean) ** 2).sum()))
    data = classic_fit.prepare(table, "y ~ 1 + rare", shards=table["shard"])
    return Problem(f"rare predictor, {num_shards} shards of {100_000 // num_shards:,} rows", data, truth)


def model_rows(problem: Problem, sampler: subposterior.Sampler) -> Iterator[Row]:
    """Every combiner on a problem of the model; combiners whose subposteriors it cannot have are refused."""
    sampled: dict[str, Any] = {}
    for kind in ("fractionated", "powered"):
        try:
            sampled[kind] = classic_fit.sample(problem.data, kind, sampler=sampler)  # type: ignore[arg-type]
        except CombinerError:
            sampled[kind] = None
    for method, merge in METHODS.items():
        if sampled[kind_of(method)] is None:
            yield Row(problem.name, method, *[float("nan")] * 4, "refused")
            continue
        partition, found = sampled[kind_of(method)]
        run = classic_fit.merge(problem.data, partition, found, method, merge=merge)
        seen, _ = classic_fit.errors(run)
        model = problem.data.hierarchy.model
        flat = np.concatenate([run.draws.theta, run.draws.psi], axis=-1).reshape(CHAINS * DRAWS, -1)
        kept = np.concatenate([~model.is_padding, np.ones(problem.data.hierarchy.size, dtype=bool)])
        mean, sd = np.array([problem.truth[name] for name in seen.names]).T
        true = classic_fit.compare(seen.names, flat[:, kept], np.ones(len(mean)), mean, sd)
        yield row(problem.name, method, true, seen, max(part.r_hat for part in found))


def rows() -> Iterator[Row]:
    """All problems by all combiners."""
    for toy in (correlated(), exponential(2), exponential(20)):
        yield from toy_rows(toy)
    for problems in ([nested(True)], [nested(False)], [rare_predictor(10), rare_predictor(100)]):
        sizes = {"num_warmup": WARMUP, "num_draws": DRAWS, "num_chains": CHAINS}
        sampler = subposterior.sampler(problems[0].data.hierarchy, **sizes)  # one program where the model is the same
        for problem in problems:
            yield from model_rows(problem, sampler)


# ---- the page ----


def summary(found: list[Row]) -> list[str]:
    """Verdicts by combiner and problem, with the true error of the worst mean."""
    problems = list(dict.fromkeys(r.problem for r in found))
    lines = ["| combiner | " + " | ".join(problems) + " |", "|---|" + "---|" * len(problems)]
    for method in METHODS:
        cells = []
        for problem in problems:
            own = [r for r in found if (r.problem, r.combiner) == (problem, method)]
            cells.append(
                ""
                if not own
                else own[0].verdict + ("" if own[0].verdict == "refused" else f" ({own[0].true_mean:.2f})")
            )
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def details(found: list[Row]) -> list[str]:
    """Every number."""
    lines = [
        "| problem | combiner | error of a mean: true | as the audit sees it | sd ratio: true | as the audit sees it | verdict |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for r in found:
        numbers = [r.true_mean, r.audit_mean, r.true_sd, r.audit_sd]
        written = ["" if r.verdict == "refused" else f"{x:.2f}" for x in numbers]
        lines.append(f"| {r.problem} | {r.combiner} | {' | '.join(written)} | {r.verdict} |")
    return lines


def write(lines: list[str]) -> None:
    """Put the tables into the page, between the two markers."""
    begin, end = "<!-- combiners:begin -->\n", "<!-- combiners:end -->"
    head, _, rest = PAGE.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    PAGE.write_text(head + begin + "\n".join(lines) + "\n" + end + tail)


def main() -> int:
    """Print and write the tables; 1 if the audit passes a merge that is off by more than its failing limit."""
    found = []
    for r in rows():
        print(r, file=sys.stderr)
        found.append(r)
    lines = [*summary(found), "", *details(found)]
    print("\n".join(lines))
    write(lines)
    limit = AuditConfig().fail_above.score
    return int(any(r.verdict == "pass" and max(r.true_mean, abs(np.log(r.true_sd))) > limit for r in found))


if __name__ == "__main__":
    sys.exit(main())
