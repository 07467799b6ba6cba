"""Healthy problems for the audit, which must fail none of them: the second table of `benchmarks.audit_faults`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from benchmarks import problems
from fitting import in_memory
from fitting.in_memory import Run


class Healthy(NamedTuple):
    """One healthy problem: how the audit judged it, and its most extreme numbers."""

    name: str
    num_cells: int
    num_shards: int
    verdict: str
    score: float
    shift: float
    log_ratio_sd: float
    k_hat: float | None
    min_p: float
    gates: str


def cells_of(columns: dict[str, np.ndarray], outcome: np.ndarray, family: str = "binomial") -> pd.DataFrame:
    """Cells of rows: every combination of the columns with the family's statistics."""
    frame = pd.DataFrame(columns).assign(y=outcome.astype(np.float64), y_squared=np.square(outcome, dtype=np.float64))
    grouped = frame.groupby(list(columns), as_index=False)
    if family == "gaussian":
        return grouped.agg(num_trials=("y", "size"), sum_y=("y", "sum"), sum_y_squared=("y_squared", "sum"))
    return grouped.agg(num_trials=("y", "size"), num_successes=("y", "sum"))


def fit(cells: pd.DataFrame, formula: str, shards: np.ndarray | None, **options: Any) -> Run:
    """Fit cells whose columns beyond the statistics are those of the formula, and perhaps `shard`."""
    return in_memory.fit({name: cells[name].to_numpy() for name in cells}, formula, shards=shards, **options)


def simulate(
    seed: int, num_rows: int, base: float, sizes: dict[str, int], *, num_shards: int, rare: float = 0.0, slope: bool = False,
    skew: float = 0.0, family: str = "binomial",
) -> tuple[pd.DataFrame, str]:  # fmt: skip
    """A problem from its own model: group levels of unequal size (``skew``), perhaps a rare predictor and a varying slope."""
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {"shard": rng.integers(0, num_shards, num_rows)}
    eta, terms = np.full(num_rows, base), ["1", "x"]
    x = rng.integers(0, 2, num_rows).astype(np.float64)
    columns["x"] = x
    eta += 0.3 * x
    if rare:
        columns["rare"] = (rng.random(num_rows) < rare).astype(np.float64)
        eta += 0.7 * columns["rare"]
        terms.append("rare")
    for i, (name, size) in enumerate(sizes.items()):
        share = np.exp(skew * rng.normal(size=size))
        columns[name] = rng.choice(size, num_rows, p=share / share.sum())
        eta += rng.normal(0, 0.4, size)[columns[name]]
        if slope and i == 0:
            eta += rng.normal(0, 0.3, size)[columns[name]] * x
        terms.append(f"({'1 + x' if slope and i == 0 else '1'} | {name})")
    outcome = eta + rng.normal(0, 1.5, num_rows) if family == "gaussian" else rng.random(num_rows) < expit(eta)
    return cells_of(columns, outcome, family), f"y ~ {' + '.join(terms)}"


HEALTHY: dict[str, dict[str, Any]] = {
    "small, balanced": {"num_rows": 2_000, "base": 0.0, "sizes": {"g": 10}, "num_shards": 4},
    "tiny": {"num_rows": 300, "base": 0.3, "sizes": {"g": 6}, "num_shards": 2},
    "base rate 2%": {"num_rows": 50_000, "base": -3.9, "sizes": {"g": 20, "h": 6}, "num_shards": 10},
    "base rate 98%": {"num_rows": 50_000, "base": 3.9, "sizes": {"g": 20, "h": 6}, "num_shards": 10},
    "base rate 5%, sparse": {"num_rows": 5_000, "base": -2.9, "sizes": {"g": 50, "h": 8}, "num_shards": 8},
    "one shard": {"num_rows": 20_000, "base": -0.5, "sizes": {"g": 30, "h": 8}, "num_shards": 1},
    "51 shards": {"num_rows": 100_000, "base": -0.5, "sizes": {"g": 30, "h": 8}, "num_shards": 51},
    "400 small shards": {"num_rows": 100_000, "base": -2.9, "sizes": {"g": 10}, "num_shards": 400},
    "400 shards, rare predictor": {
        "num_rows": 100_000,
        "base": -2.9,
        "sizes": {"g": 5},
        "num_shards": 400,
        "rare": 0.01,
    },
    "rare predictor, 0.2%": {"num_rows": 50_000, "base": -1.0, "sizes": {"g": 10}, "num_shards": 20, "rare": 0.002},
    "two levels": {"num_rows": 5_000, "base": -0.5, "sizes": {"g": 2, "h": 3}, "num_shards": 5},
    "very uneven levels": {"num_rows": 20_000, "base": -0.7, "sizes": {"g": 200}, "num_shards": 10, "skew": 2.0},
    "300 sparse levels": {"num_rows": 3_000, "base": -0.3, "sizes": {"g": 300, "h": 5}, "num_shards": 6},
    "correlated slopes": {
        "num_rows": 30_000,
        "base": -0.5,
        "sizes": {"g": 40, "h": 6},
        "num_shards": 10,
        "slope": True,
    },
    "correlated slopes, sparse": {"num_rows": 2_000, "base": -1.0, "sizes": {"g": 30}, "num_shards": 5, "slope": True},
    "large": {"num_rows": 500_000, "base": 0.5, "sizes": {"g": 60, "h": 10, "k": 4}, "num_shards": 20},
    "gaussian": {"num_rows": 20_000, "base": 10.0, "sizes": {"g": 40, "h": 5}, "num_shards": 10, "family": "gaussian"},
    "gaussian, sparse": {"num_rows": 300, "base": -5.0, "sizes": {"g": 60}, "num_shards": 3, "family": "gaussian"},
}


def healthy() -> Iterator[Healthy]:
    """Twenty problems without a fault: eighteen simulated, the small nation by state, the real survey by state."""
    for seed, (name, options) in enumerate(HEALTHY.items()):
        cells, formula = simulate(seed, **options)
        yield judged(name, cells, formula, cells["shard"].to_numpy(), family=options.get("family", "binomial"))
    for problem in (problems.small_nation(), problems.survey()):
        formula = f"y ~ {problem.formula}"
        yield judged(
            problem.name, problem.cells, formula, problem.cells["state"].to_numpy(), chosen_priors=problem.priors
        )


def judged(name: str, cells: pd.DataFrame, formula: str, shards: np.ndarray, **options: Any) -> Healthy:
    """Fit and audit one healthy problem."""
    result = in_memory.audit(fit(cells, formula, shards, **options))
    values = {g["name"]: g["value"] for g in result["gates"]}
    return Healthy(
        name, len(cells), len(result["shards"]), result["verdict"], values["score"], values["shift"], values["log_ratio_sd"],
        result["total"]["k_hat"], min(s["heterogeneity"]["p_adjusted"] for s in result["shards"]),
        ", ".join(sorted({m["what"].split(":")[0] for m in result["messages"]})) or "none",
    )  # fmt: skip


def healthy_table(rows: list[Healthy]) -> list[str]:
    """Markdown of the healthy problems."""
    lines = [
        "| problem | cells | shards | verdict | score | shift | log-ratio sd | k̂ | smallest adjusted p | messages |",
        "|---|--:|--:|---|--:|--:|--:|--:|--:|---|",
    ]
    for r in rows:
        k_hat = "exact" if r.k_hat is None else f"{r.k_hat:.2f}"
        lines.append(
            f"| {r.name} | {r.num_cells:,} | {r.num_shards} | {r.verdict} | {r.score:.3f} | {r.shift:.3f} "
            f"| {r.log_ratio_sd:.3f} | {k_hat} | {r.min_p:.2g} | {r.gates} |"
        )
    return lines
