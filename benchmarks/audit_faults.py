"""Does the audit tell the truth? Planted faults, each detected, located and sized against the true error; and healthy runs.

``python -m benchmarks.audit_faults`` prints two Markdown tables and writes them into `docs/audit.md` (about two minutes on a
core). The true error of a coefficient is the difference between the mean of the faulty merge and that of the same cells fitted
without the fault, in posterior sds of the latter; for separation, between the variational mean and the exact one by quadrature.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from benchmarks import audit_healthy, problems
from benchmarks.audit_healthy import cells_of, fit
from benchmarks.family_page import write
from benchmarks.problems import REPOSITORY
from fitting import in_memory, rounds, sites
from fitting import tree as tr
from fitting.config import AuditConfig
from fitting.in_memory import Run
from fitting.sites import Site

PAGE = REPOSITORY / "docs" / "audit.md"
TOLERANCE = 0.25  # of the true error: how far off a reported size may be
SMALL = AuditConfig().warn_above.score
BAR = r"\|"  # a bar inside a Markdown table
FAULTY = 3  # number of the shard that the fault is planted in


class Finding(NamedTuple):
    """One row: what the audit said of a planted fault, and what is true."""

    fault: str
    signal: str
    verdict: str
    detected: bool
    where: str
    located: bool
    reported: float
    true: float
    mcse: float = 0.0
    """Monte Carlo error that the audit states beside the size."""

    @property
    def ratio(self) -> float:
        return abs(self.reported / self.true)

    @property
    def holds(self) -> bool:
        """An error below the audit's own warning limit is well sized if it is reported as such, within its stated noise."""
        small = max(abs(self.true), abs(self.reported)) < SMALL
        close = abs(abs(self.reported) - abs(self.true)) <= (3 * self.mcse if small else TOLERANCE * abs(self.true))
        return self.detected and self.located and close


def sds(run: Run) -> np.ndarray:
    """Posterior sds, shape (D,)."""
    return np.sqrt(run.moments.covariance[run.hierarchy.model.tree.diagonal])


def names(run: Run) -> np.ndarray:
    """Names of the coefficients, shape (D,)."""
    return run.hierarchy.model.coefficient_names()


# ---- faults that the score sizes ----


def scored(fault: str, bad: Run, good: Run, shard: int | None) -> Finding:
    """A merge whose sites are not the likelihood; ``shard`` is the one at fault, None if all are alike."""
    result = in_memory.audit(bad)
    error = (good.moments.mean - bad.moments.mean) / sds(good)
    worst = int(np.argmax(np.abs(error)))
    gate = next(g for g in result["gates"] if g["name"] == "score")
    loudest = max(result["shards"], key=lambda s: abs(s["score"]))
    spread = max(result["shards"], key=lambda s: s["log_ratio_sd"])
    located = found_at(gate["where"].split(",")[0], good, error)
    if shard is not None:
        located &= loudest["shard_id"] == spread["shard_id"] == f"{shard:02d}"
        located &= f"shard {shard:02d}" in gate["where"]
    return Finding(
        fault, "score", result["verdict"], gate["status"] != "pass", gate["where"], located, gate["value"], error[worst]
    )


def found_at(name: str, run: Run, error: np.ndarray) -> bool:
    """Whether a coefficient is where the largest error is, or one as wrong within the tolerance."""
    place = int(np.flatnonzero(names(run) == name)[0])
    return bool(abs(error[place]) >= (1 - TOLERANCE) * np.max(np.abs(error)))


def classic_sites(run: Run) -> list[Site]:
    """Sites of the classic one-shot merge: every shard alone, at its own mode under its share of the prior."""
    prior, share = run.hierarchy, 1.0 / len(run.designs)
    start = rounds.init(prior).moments
    found = []
    for restriction, design in zip(run.restrictions, run.designs, strict=True):
        mode = rounds.part_of(start, restriction).mean
        for _ in range(100):
            site = sites.fit(
                restriction.tree, design, prior.family, mode, np.zeros(restriction.tree.num_entries), num_nodes=1
            )
            precision = tr.dense(restriction.tree, site.precision) + np.diag(prior.fixed_precision * share)
            previous, mode = (
                mode,
                np.linalg.solve(precision, site.shift + prior.fixed_precision * prior.fixed_mean * share),
            )
            if np.max(np.abs(mode - previous)) < 1e-9:
                break
        found.append(site)
    return found


def rare_predictor(num_shards: int, seed: int = 1) -> tuple[Run, Run]:
    """100,000 rows, a 5% base rate, a predictor in 1% of them: merged in the classic way, and well."""
    rng = np.random.default_rng(seed)
    rare = (rng.random(100_000) < 0.01).astype(np.float64)
    outcome = rng.random(len(rare)) < expit(-2.94 + rare)
    cells = cells_of({"shard": np.arange(len(rare)) * num_shards // len(rare), "rare": rare}, outcome)
    good = fit(cells, "y ~ 1 + rare", cells["shard"].to_numpy())
    return in_memory.merge(good, classic_sites(good)), good


def nation(num_rows: int = 2_000_000) -> tuple[pd.DataFrame, str]:
    """Ten states x thirty counties, race, age, race x age: the problem of design section 2, with the formula."""
    problem = problems.small_nation(seed=1, num_rows=num_rows)
    return problem.cells, f"y ~ {problem.formula}"


def corrupted(good: Run, factor: float) -> Run:
    """One site with precision and shift too large."""
    new = list(good.sites)
    site = new[FAULTY]
    new[FAULTY] = site._replace(precision=factor * site.precision, shift=factor * site.shift)
    return in_memory.merge(good, new)


def shifted(good: Run, size: float) -> Run:
    """One site whose own mean is moved by ``size`` of its sds in its most informative age."""
    new = list(good.sites)
    site, restriction = new[FAULTY], good.restrictions[FAULTY]
    information = site.precision[restriction.tree.diagonal]
    is_age = np.array([name.startswith("1|age[") for name in names(good)[restriction.coefficients]])
    place = int(np.argmax(information * is_age))
    moved = np.zeros((len(information), 1))
    moved[place] = size / np.sqrt(information[place])
    new[FAULTY] = site._replace(shift=site.shift + tr.multiply(restriction.tree, site.precision, moved)[:, 0])
    return in_memory.merge(good, new)


def permuted(cells: pd.DataFrame, column: str, faulty: np.ndarray) -> pd.DataFrame:
    """Some cells with the levels of a factor in another order."""
    levels = np.unique(cells[column])
    other = dict(zip(levels, np.roll(levels, 1), strict=True))
    return cells.assign(**{column: cells[column].map(other).where(faulty, cells[column])})


# ---- faults in the data: heterogeneity, sized by the shard's influence ----


def influential(fault: str, bad: Run, good: Run, shard: int = FAULTY) -> Finding:
    """A shard whose data tell another story; the true error is that of the common coefficients."""
    result = in_memory.audit(bad)
    common = good.hierarchy.model.tree.level_of == 0
    error = np.where(common, (bad.moments.mean - good.moments.mean) / sds(good), 0.0)
    worst = int(np.argmax(np.abs(error)))
    flagged = [s for s in result["shards"] if s["heterogeneity"]["p_adjusted"] < 0.001]
    entry = result["shards"][shard]
    first = max(result["shards"], key=lambda s: s["heterogeneity"]["statistic"])
    p = entry["heterogeneity"]["p_adjusted"]
    where = f"{entry['influence_where']}, shard {first['shard_id']} (adjusted p {p:.1g}; {len(flagged)} flagged; chance ± {entry['influence_sd']:.2g})"
    located = first is entry and found_at(entry["influence_where"], good, error)
    return Finding(
        fault, "influence", result["verdict"], entry in flagged, where, located, entry["influence"], error[worst]
    )


def flipped(cells: pd.DataFrame, faulty: np.ndarray) -> pd.DataFrame:
    """Outcomes turned round in some cells."""
    turned = cells["num_trials"] - cells["num_successes"]
    return cells.assign(num_successes=cells["num_successes"].where(~faulty, turned))


def panel(by: str, seed: int = 2) -> tuple[pd.DataFrame, str]:
    """400,000 rows at a 70% rate in twenty states, sharded by state or at random, with the formula."""
    rng = np.random.default_rng(seed)
    size = 400_000
    columns = {
        "shard": rng.integers(0, 20, size),
        "state": rng.integers(0, 20, size),
        "female": rng.integers(0, 2, size).astype(np.float64),
        "urban": rng.integers(0, 2, size).astype(np.float64),
        "age": rng.integers(0, 6, size),
    }
    if by == "state":
        columns["shard"] = columns["state"]
    eta = 0.8 + rng.normal(0, 0.3, 20)[columns["state"]] + np.linspace(-0.4, 0.4, 6)[columns["age"]]
    outcome = rng.random(size) < expit(eta + 0.2 * columns["female"] - 0.3 * columns["urban"])
    return cells_of(columns, outcome), "y ~ 1 + female + urban + (1 | age) + (1 | state)"


# ---- separation: variational means against quadrature ----


def separated_predictor(method: str) -> Finding:
    """A fixed effect whose 40 rows have no success, in four shards; exact posterior on a grid of two dimensions."""
    rng = np.random.default_rng(3)
    x = (np.arange(8_000) < 40).astype(np.float64)
    outcome = (rng.random(len(x)) < 0.35) & (x == 0)
    cells = cells_of({"shard": rng.integers(0, 4, len(x)), "x": x}, outcome)
    run = fit(cells, "y ~ 1 + x", cells["shard"].to_numpy(), method=method, num_draws=1000)
    total = cells.groupby("x")[["num_trials", "num_successes"]].sum().to_numpy(np.float64)
    intercept, effect = np.linspace(-1.0, -0.2, 401)[:, None], np.linspace(-14.0, 4.0, 1801)[None, :]
    log_p = -0.5 * (intercept / 2.5) ** 2 - 0.5 * (effect / 2.5) ** 2
    for (trials, successes), eta in zip(total, (intercept, intercept + effect), strict=True):
        log_p = log_p + successes * eta - trials * np.logaddexp(0.0, eta)
    weight = np.exp(log_p - log_p.max())
    exact = float((weight * effect).sum() / weight.sum())
    return separated(f"separation: a fixed effect without a success, {method}", run, "x", exact)


def separated_level(method: str) -> Finding:
    """A group level whose 60 rows have no success; exact by quadrature over intercept and scale, and within over effects."""
    rng = np.random.default_rng(4)
    trials = np.array([60.0, *np.full(11, 200.0)])
    successes = np.array([0.0, *rng.binomial(200, expit(-0.4 + rng.normal(0, 0.5, 11)))])
    cells = pd.DataFrame(
        {
            "g": [f"g{i:02d}" for i in range(12)],
            "shard": np.arange(12) % 4,
            "num_trials": trials,
            "num_successes": successes,
        }
    )
    run = fit(cells, "y ~ 1 + (1 | g)", cells["shard"].to_numpy(), method=method, num_draws=1000)
    z = np.linspace(-8.0, 8.0, 321)
    grid = [(a, s) for a in np.linspace(-2.5, 1.5, 81) for s in np.linspace(-2.5, 1.6, 83)]
    logs, means = np.empty(len(grid)), np.empty(len(grid))
    for i, (intercept, log_sd) in enumerate(grid):
        sd = np.exp(log_sd)
        eta = intercept + sd * z[:, None]
        log_p = successes * eta - trials * np.logaddexp(0.0, eta) - 0.5 * z[:, None] ** 2
        top = log_p.max(axis=0)
        weight = np.exp(log_p - top)
        logs[i] = (top + np.log(weight.sum(axis=0))).sum() - 0.5 * (intercept / 2.5) ** 2 - 0.5 * sd**2 + log_sd
        means[i] = sd * (weight[:, 0] @ z) / weight[:, 0].sum()
    outer = np.exp(logs - logs.max())
    exact = float(outer @ means / outer.sum())
    return separated(f"separation: a group level without a success, {method}", run, "1|g[g00]", exact)


def separated(fault: str, run: Run, name: str, exact_mean: float) -> Finding:
    """What the importance weights say of a separated coefficient, against its exact mean."""
    result = in_memory.audit(run, AuditConfig(draws=4000))
    entry = next(c for c in result["coefficients"] if c["name"] == name)
    listed = [r for r in result["levels"] if r["issue"] == "separated"]
    place = int(np.flatnonzero(names(run) == name)[0])
    error = (exact_mean - run.moments.mean[place]) / sds(run)[place]
    where = f"{name}, in the list of separated levels"
    located = any(name in (r["level"], f"{r['term']}[{r['level']}]") for r in listed)
    return Finding(
        fault, "shift", result["verdict"], bool(listed), where, located, entry["shift"], error, entry["shift_mcse"]
    )


def faults() -> Iterator[Finding]:
    """Every planted fault, audited."""
    for num_shards in (10, 100, 400):
        bad, good = rare_predictor(num_shards)
        yield scored(
            f"rare predictor, classic merge of {num_shards} shards of {100_000 // num_shards:,} rows", bad, good, None
        )
    for method in ("laplace", "vi"):
        yield separated_predictor(method)
        yield separated_level(method)

    cells, formula = nation()
    states = cells["state"].to_numpy()
    good = fit(cells, formula, states)
    yield scored("a site with precision and shift 30% too large", corrupted(good, 1.3), good, FAULTY)
    yield scored("a site shifted by 10 of its sds", shifted(good, 10.0), good, FAULTY)
    yield scored("a site shifted by 40 of its sds", shifted(good, 40.0), good, FAULTY)
    recoded = fit(permuted(cells, "age", states == np.unique(states)[FAULTY]), formula, states)
    yield scored("a site made with another coding (ages rotated)", recoded._replace(designs=good.designs), good, FAULTY)

    for by, what in (("state", "one state of 20"), ("random", "one random shard of 20")):
        cells, formula = panel(by)
        shards = cells["shard"].to_numpy()
        faulty = shards == np.unique(shards)[FAULTY]
        good = fit(cells, formula, shards)
        yield influential(f"outcomes of {what} turned round", fit(flipped(cells, faulty), formula, shards), good)
        recoded = fit(permuted(cells, "age", faulty), formula, shards)
        yield influential(f"data of {what} with another coding (ages rotated)", recoded, good)


# ---- the page ----


def fault_table(rows: list[Finding]) -> list[str]:
    """Markdown of the faults."""
    lines = [
        "| fault | verdict | by | located at | reported, sds | true, sds | ratio | holds |",
        "|---|---|---|---|--:|--:|--:|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r.fault} | {r.verdict} | {r.signal} | {r.where.replace('|', BAR)} | {abs(r.reported):.2f}{f' ± {r.mcse:.2f}' if r.mcse else ''} "
            f"| {abs(r.true):.2f} | {r.ratio:.2f} | {'yes' if r.holds else 'NO'} |"
        )
    return lines


def main() -> int:
    """Print and write both tables; 1 if a fault is missed or a healthy problem fails."""
    found, well = list(faults()), list(audit_healthy.healthy())
    for name, lines in (("faults", fault_table(found)), ("healthy", audit_healthy.healthy_table(well))):
        print("\n".join(lines), end="\n\n")
        write(name, lines, PAGE)
    return int(not all(r.holds for r in found) or any(r.verdict == "fail" for r in well))


if __name__ == "__main__":
    sys.exit(main())
