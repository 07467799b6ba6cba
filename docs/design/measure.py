"""The figures of the design pages: ``python docs/design/measure.py [rounds | scales | tree | pairs | arrays | noise | float32 | pareto | cells | threads | freed_memory]``.

Each part prints Markdown. Times are CPU seconds on one thread, so that a busy machine changes them little; they are still
those of one machine. The reference posterior of the small nation is the one that the tests use (`tests/fitting/reference`).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cluster import threads

threads.set_environment()

import numpy as np  # noqa: E402  # after the number of threads is set
import pyarrow.parquet as pq  # noqa: E402

from fitting import (  # noqa: E402
    audit,
    combiner,
    families,
    in_memory,
    quadrature,
    rounds,
    scale_marginal,
    scale_proposal,
    sites,
    tilted_nuts,
)
from fitting import chain as chain_choice  # noqa: E402
from fitting import tree as tr  # noqa: E402
from sharding.simulate import simulate_cells  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "tests" / "fitting" / "reference"
SMALL = "voted ~ 1 + (1 | state/county) + (1 | race) + (1 | age) + (1 | race:age)"
NATION = "voted ~ 1 + female + (1 | state/county) + (1 | race) + (1 | age) + (1 | race:age) + (1 | state:race)"
SURVEY = (
    "support ~ 1 + male + repvote + (1 | state) + (1 | region) + (1 | eth) + (1 | educ) + (1 | age) + (1 | sex:eth) "
    "+ (1 | educ:age) + (1 | educ:eth)"
)
PRIORS = {"intercept": "normal(0, 2)", "sd": "half_normal(1)"}


def small_nation(name: str = "small_nation") -> dict[str, np.ndarray]:
    """Cells of 10 states x 30 counties x 5 races x 8 ages: 20,000 answers, or 1,000,000 as ``small_nation_1m``."""
    cells = pq.read_table(REFERENCE / f"{name}_cells.parquet")
    return {column: cells[column].to_numpy() for column in cells.column_names}


def survey() -> dict[str, np.ndarray]:
    """The real survey of `examples/cces2018` in cells."""
    answers = pq.read_table(REPOSITORY / "examples" / "cces2018" / "respondents.parquet")
    keys = [name for name in answers.column_names if name != "support"]
    cells = answers.group_by(keys).aggregate([("support", "count"), ("support", "sum")])
    columns = {name: cells[name].to_numpy() for name in keys}
    return columns | {"num_trials": cells["support_count"].to_numpy(), "num_successes": cells["support_sum"].to_numpy()}


def seconds(fn: Callable[[], Any], repeats: int = 5) -> float:
    """Median CPU seconds of a call."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        fn()
        taken.append(time.process_time() - started)
    return float(np.median(taken))


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a Markdown table."""
    names = list(head)
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row) + " |")
    print()


def part_rounds() -> None:
    """Error against full-data NUTS after each round, by how the cells are cut."""
    cells = small_nation()
    reference = pq.read_table(REFERENCE / "small_nation.parquet").to_pydict()
    named = {p.replace("[county]", ""): i for i, p in enumerate(reference["parameter"])}
    ways = {"1 shard": None, "10 shards, by state": cells["state"]}
    ways["51 shards, at random"] = np.random.default_rng(0).integers(0, 51, len(cells["state"]))
    rows = []
    for way, shards in ways.items():
        for num_rounds in (1, 2, 3, 4):
            run = in_memory.fit(cells, SMALL, shards=shards, chosen_priors=PRIORS, num_rounds=num_rounds, num_draws=1)
            order = [(i, named[str(n)]) for i, n in enumerate(run.hierarchy.model.coefficient_names()) if n in named]
            ours, theirs = (np.array(x) for x in zip(*order, strict=True))
            sd = np.array(reference["sd"])[theirs]
            error = np.abs(run.moments.mean[ours] - np.array(reference["mean"])[theirs]) / sd
            ratio = np.sqrt(run.moments.covariance[run.hierarchy.model.tree.diagonal])[ours] / sd
            rows.append([way, num_rounds, run.moves[-1], float(error.max()), float(np.sqrt(np.mean(error**2))),
                         f"{ratio.min():.2f} to {ratio.max():.2f}"])  # fmt: skip
    table(["cut", "rounds", "last move, sd", "worst error, sd", "rms error, sd", "sd ratios"], rows)


def _gibbs(run: in_memory.Run, num_draws: int) -> np.ndarray:
    """Scales by Gibbs: coefficients given scales exactly, each scale given its effects from a grid; (draw, scale)."""
    prior, rng, psi = run.hierarchy, np.random.default_rng(0), run.proposal.mode.copy()
    grid = np.linspace(-6.0, 3.0, 4001)
    kept = np.empty((num_draws, prior.size))
    for d in range(num_draws):
        given = scale_marginal.condition(prior, run.natural, psi)
        noise = rng.standard_normal((prior.model.tree.num_coefficients, 1))
        theta = tr.backward(prior.model.tree, given.factor, given.solved + noise)[:, 0]
        for g, group in enumerate(prior.model.groups):
            effects = theta[group.coefficients[:, 0]]
            scale = prior.scale_priors[g][0].args[0]  # half_normal(scale), with the Jacobian of the log
            log_p = -0.5 * (np.exp(grid) / scale) ** 2 + grid - len(effects) * grid
            log_p -= 0.5 * np.sum(effects**2) * np.exp(-2 * grid)
            psi[g] = rng.choice(grid, p=np.exp(log_p - log_p.max()) / np.exp(log_p - log_p.max()).sum())
        kept[d] = psi
    return kept


def part_scales() -> None:
    """Acceptance and effective draws of the scales: independence sampler, and Gibbs beside it."""
    from arviz_stats.base import array_stats

    nation = simulate_cells(2_000_000, 1)
    answers = simulate_cells(2_000_000, 1, outcome="support")
    asked = {name: values[answers["num_trials"] > 0] for name, values in answers.items()}
    problems = {
        "small nation, 20,000 answers": (small_nation(), SMALL, PRIORS),
        "small nation, 1,000,000 answers": (small_nation("small_nation_1m"), SMALL, PRIORS),
        "survey, 29,905 answers": (survey(), SURVEY, {"sd": "half_normal(1)"}),
        "nation, 2,000,000 voters": (nation, NATION, {"sd": "half_normal(1)"}),
        "nation, 50,000 answers": (asked, NATION.replace("voted", "support"), {"sd": "half_normal(1)"}),
    }
    rows = []
    for name, (cells, formula, priors) in problems.items():
        run = in_memory.fit(cells, formula, chosen_priors=priors, num_draws=250, num_chains=4)
        ess = np.atleast_1d(array_stats.ess(run.draws.psi, chain_axis=0, draw_axis=1))
        gibbs = np.atleast_1d(array_stats.ess(_gibbs(run, 1000)[None], chain_axis=0, draw_axis=1))
        again = scale_proposal.propose(run.hierarchy, run.natural, run.proposal.mode)
        cost = seconds(
            lambda r=run, p=again: combiner.draw(r.hierarchy, r.natural, p, num_draws=50, num_chains=1, seed=1), 1
        )
        rows.append([name, run.hierarchy.size, float(run.draws.acceptance.mean()), f"{ess.min():.0f} to {ess.max():.0f}",
                     f"{gibbs.min():.0f} to {gibbs.max():.0f}", 1000 * cost / 70])  # fmt: skip
    table(
        ["problem", "scales", "accepted", "ESS of scales in 1,000 draws", "the same by Gibbs", "CPU ms a proposal"],
        rows,
    )


def part_tree() -> None:
    """Arithmetic on the tree against a dense matrix of the same size."""
    from scipy.linalg import cholesky

    cells = simulate_cells(2_000_000, 1)
    run = in_memory.fit(cells, NATION, shards=cells["state"], chosen_priors={"sd": "half_normal(1)"}, num_draws=1)
    tree = run.hierarchy.model.tree
    precision, _, _ = run.hierarchy.add_prior(run.proposal.mode, run.natural.precision, run.natural.shift)
    dense = tr.dense(tree, precision)
    factor = tr.cholesky(tree, precision)
    padding = int(run.hierarchy.model.is_padding.sum())
    print(f"chain {run.hierarchy.model.chain}; nodes {tree.num_nodes}, blocks of {tree.block_sizes}; "
          f"{tree.num_coefficients - padding:,} coefficients and {padding:,} of padding; "
          f"{tree.num_entries:,} stored entries, dense {tree.num_coefficients**2:,}\n")  # fmt: skip
    formula, coding = run.hierarchy.model.formula, run.hierarchy.model.coding
    terms = [(group.columns, 1) for group in formula.groups]  # random intercepts: one coefficient per level
    tried = [(), *chain_choice.chains(formula.group_columns, coding)]
    costs = sorted((chain_choice.cost(chain, terms, len(formula.fixed), coding), chain) for chain in tried)
    table(["chain", "multiplications of one factorisation"],
          [[" > ".join(":".join(factor) for factor in c) or "(none: dense)", cost] for cost, c in costs])  # fmt: skip
    table(["", "tree, CPU ms", "dense, CPU ms"],
          [["Cholesky factor", 1000 * seconds(lambda: tr.cholesky(tree, precision)), 1000 * seconds(lambda: cholesky(dense, lower=True), 3)],
           ["covariances on the pattern", 1000 * seconds(lambda: tr.covariance(tree, factor)), 1000 * seconds(lambda: np.linalg.inv(dense), 1)]])  # fmt: skip
    rng = np.random.default_rng(0)
    parents = (np.zeros(51, dtype=int), *(np.sort(rng.integers(0, n, m)) for n, m in ((51, 3_144), (3_144, 50_000))))
    deep = tr.Tree((55, 6, 1, 1), parents)
    precision = tr.outer(deep, rng.normal(size=(deep.num_coefficients, 1)))
    precision[deep.diagonal] += 1e6
    factor, shift = tr.cholesky(deep, precision), rng.normal(size=(deep.num_coefficients, 1))
    timed = {"Cholesky factor": lambda: tr.cholesky(deep, precision), "covariances on the pattern": lambda: tr.covariance(deep, factor),
             "a solution": lambda: tr.solve(deep, factor, shift), "a product": lambda: tr.multiply(deep, precision, shift)}  # fmt: skip
    table(["with 50,000 precincts", "CPU ms"], [[name, 1000 * seconds(fn)] for name, fn in timed.items()])


def part_pairs() -> None:
    """One variational site of 125,000 cells, by how many cells form their pairs together, and how many values their quadrature."""
    cells = simulate_cells(2_000_000, 1)
    run = in_memory.fit(cells, NATION, chosen_priors={"sd": "half_normal(1)"}, num_draws=1)
    (restriction,), (design,) = run.restrictions, run.designs
    moments = rounds.part_of(run.moments, restriction)
    before, rows = (sites.CELLS_AT_ONCE, families.CHUNK_VALUES), []
    for at_once, values in ((design.num_cells, 1 << 21), (1 << 16, 1 << 17), before, (1 << 12, 1 << 17)):
        sites.CELLS_AT_ONCE, families.CHUNK_VALUES = at_once, values
        taken = []
        for _ in range(20):
            began = os.times()
            sites.fit(restriction.tree, design, families.BINOMIAL, *moments, num_nodes=11)
            ended = os.times()
            taken.append([1e3 * (ended.user - began.user), 1e3 * (ended.system - began.system)])
        rows.append([f"{at_once:,}", f"{values:,}", *np.mean(taken, axis=0)])
    sites.CELLS_AT_ONCE, families.CHUNK_VALUES = before
    table(["cells at once", "values at once", "user ms", "system ms"], rows)


def part_arrays() -> None:
    """One variational site per shard of a nation: NumPy, and the same arithmetic compiled by JAX."""
    import jax
    import jax.numpy as jnp

    cells = simulate_cells(2_000_000, 1)
    run = in_memory.fit(cells, NATION, shards=cells["state"], chosen_priors={"sd": "half_normal(1)"}, num_draws=1)
    (nodes,), weights = quadrature.rule(1, 0, 11, small=False)
    parts = [(r, d, rounds.part_of(run.moments, r)) for r, d in zip(run.restrictions, run.designs, strict=True)]

    @jax.jit
    def compiled(own: Any, crossed: Any, places: Any, statistics: Any, mean: Any, covariance: Any) -> Any:
        eta = sum(mean[p] for p in places)
        variance = sum(covariance[p] for p in own) + 2.0 * sum(covariance[p] for p in crossed)
        probability = jax.nn.sigmoid(eta[:, None] + jnp.sqrt(jnp.maximum(variance, 0))[:, None] * nodes)
        trials = statistics["num_trials"]
        gradient = statistics["num_successes"] - trials * (probability @ weights)
        curvature = trials * ((probability * (1 - probability)) @ weights)
        entries = sum(jnp.zeros_like(covariance).at[p].add(curvature) for p in [*own, *crossed])
        return entries, sum(jnp.zeros_like(mean).at[p].add(gradient + curvature * eta) for p in places)

    def by_numpy() -> None:
        for r, d, m in parts:
            sites.fit(r.tree, d, families.BINOMIAL, m.mean, m.covariance, num_nodes=11)

    def inputs(r: Any, d: Any, m: Any) -> tuple[Any, ...]:
        # the multipliers of `female` are left out: a little less work than NumPy has
        pairs = [(i == j, row + position) for i, row, partners in sites.pairs(r.tree, d) for j, position, _ in partners]
        own, crossed = ([place for is_own, place in pairs if is_own == same] for same in (True, False))
        return own, crossed, list(d.places), dict(d.statistics), m.mean, m.covariance

    prepared = [inputs(*part) for part in parts]

    def by_jax() -> None:
        for item in prepared:
            jax.block_until_ready(compiled(*item))

    with jax.enable_x64(True):
        first, again = seconds(by_jax, 1), seconds(by_jax, 3)
    num_cells = sum(d.num_cells for _, d, _ in parts)
    print(f"{len(parts)} shards, {num_cells:,} cells, a nation of 2,000,000 voters; all sites of one round:\n")
    table(["", "CPU s"], [["NumPy", seconds(by_numpy, 3)], ["JAX, first round (compiles every shape)", first],
                          ["JAX, later rounds", again]])  # fmt: skip


def part_noise() -> None:
    """Monte Carlo error of a shard's tilted moments by NUTS, with and without control variates."""
    cells = small_nation()
    run = in_memory.fit(cells, SMALL, shards=cells["state"], chosen_priors=PRIORS, num_draws=1)
    rows = []
    moments = combiner.conditional_moments(run.hierarchy, run.natural, run.proposal.mode)
    for s in (0, 4, 9):
        r, d, site = run.restrictions[s], run.designs[s], run.sites[s]
        part = rounds.part_of(moments, r)
        posterior = tr.precision_from_covariance(r.tree, part.covariance)
        cavity = sites.Site(posterior - site.precision,
                            tr.multiply(r.tree, posterior, part.mean[:, None])[:, 0] - site.shift, site.constants)  # fmt: skip
        reference = tilted_nuts._reference(r.tree, d, families.BINOMIAL, cavity, *part)
        found = tilted_nuts.sample(tilted_nuts.shard_key(0, s, 1), tilted_nuts._target(r.tree, d, reference),
                                   families.BINOMIAL, num_warmup=100, num_draws=250, num_chains=4)  # fmt: skip
        size = len(reference.touched)
        z, u = found.z[..., :size].reshape(-1, size), found.u[..., :size].reshape(-1, size)
        rows.append([f"state {s}", d.num_cells, size, float(np.median(z.std(axis=0))), float(np.median(u.std(axis=0))),
                     float(np.median(z.var(axis=0) / u.var(axis=0)))])  # fmt: skip
    table(
        ["shard", "cells", "coefficients", "sd of z (plain mean)", "sd of u (control variate)", "variance ratio"], rows
    )


def _sample_in_float32(rng_key: Any, target: tilted_nuts.Target, family: families.Family, **sizes: int) -> tilted_nuts.Draws:
    import jax

    def narrow(array: Any) -> Any:
        array = np.asarray(array)
        return jax.numpy.asarray(array.astype(np.float32) if array.dtype == np.float64 else array)

    with jax.enable_x64(False):
        z, gradient, diverging, acceptance = tilted_nuts._sample(
            rng_key, jax.tree.map(narrow, target), family=family, **sizes
        )
    z = np.asarray(z, dtype=float)
    return tilted_nuts.Draws(z, z - np.asarray(gradient, dtype=float), np.asarray(diverging), np.asarray(acceptance))


def part_float32() -> None:
    """A shard's tilted moments by NUTS in float32 beside float64, with all its people counted once, and more often."""
    repeats, rows, sample = 4, [], tilted_nuts.sample
    for times in (1, 100, 10_000):
        cells = small_nation()
        cells |= {name: times * cells[name] for name in ("num_trials", "num_successes")}
        run = in_memory.fit(cells, SMALL, shards=cells["state"], chosen_priors=PRIORS, num_draws=1)
        moments = combiner.conditional_moments(run.hierarchy, run.natural, run.proposal.mode)
        part = rounds.part_of(moments, run.restrictions[4])
        tree, design, site = run.restrictions[4].tree, run.designs[4], run.sites[4]
        posterior = tr.precision_from_covariance(tree, part.covariance)
        cavity = posterior - site.precision, tr.multiply(tree, posterior, part.mean[:, None])[:, 0] - site.shift
        means, sds = {}, {}
        for name, sampler in (("float64", sample), ("float32", _sample_in_float32)):
            tilted_nuts.sample, found = sampler, []
            for k in range(repeats):
                new, _ = tilted_nuts.fit(tilted_nuts.shard_key(0, 4, k), tree, design, families.BINOMIAL, *part, site,
                                         num_warmup=100, num_draws=250, num_chains=4)  # fmt: skip
                factor = tr.cholesky(tree, cavity[0] + new.precision)
                found.append([tr.solve(tree, factor, (cavity[1] + new.shift)[:, None])[:, 0],
                              np.sqrt(tr.covariance(tree, factor)[tree.diagonal])])  # fmt: skip
            means[name], sds[name] = np.array(found)[:, 0], np.array(found)[:, 1].mean(axis=0)
        tilted_nuts.sample = sample
        sd, touched = sds["float64"], site.precision[tree.diagonal] > 0
        error = np.abs(means["float32"].mean(axis=0) - means["float64"].mean(axis=0))[touched] / sd[touched]
        noise = np.sqrt(sum(m.var(axis=0, ddof=1) for m in means.values()) / repeats)[touched] / sd[touched]
        ratio = (sds["float32"] / sd)[touched]
        rows.append([f"{int(design.statistics['num_trials'].sum()):,}", float(error.max()), float(noise.max()),
                     f"{ratio.min():.3f} to {ratio.max():.3f}"])  # fmt: skip
    table(["people of the shard", "largest error of a mean, sd", "its Monte Carlo error, at most", "sd ratios"], rows)


def part_pareto() -> None:
    """Pareto k of log ratios that are exactly normal, by their sd: 40 sets of 1,000 draws each."""
    rng = np.random.default_rng(0)
    rows = []
    for spread in (0.03, 0.1, 0.3, 0.5, 1.0, 2.0):
        k = np.array([audit.k_hat(spread * rng.standard_normal(1000)) for _ in range(40)])
        rows.append([spread, spread**2 / 2, float(np.exp(-(spread**2))), *np.quantile(k, [0.05, 0.5, 0.95]).tolist()])
    table(["sd of the log ratio", "KL, nats", "efficiency", "k, 5%", "k, median", "k, 95%"], rows)


def part_cells() -> None:
    """How many cells a nation falls into."""
    rows = []
    for num_rows in (100_000, 2_000_000, 20_000_000):
        cells = simulate_cells(num_rows, 1)
        asked = simulate_cells(num_rows, 1, outcome="support", num_answers=50_000 if num_rows > 1e6 else 10_000)
        rows.append([f"{num_rows:,}", f"{len(cells['state']):,}", num_rows / len(cells["state"]),
                     f"{int((asked['num_trials'] > 0).sum()):,}"])  # fmt: skip
    table(["voters", "cells (state, county, race, age, sex)", "rows a cell", "cells with a survey answer"], rows)


def part_threads() -> None:
    """Whether a Cholesky factor has the same bytes on one and on two threads."""
    import scipy.linalg
    import threadpoolctl

    noise = np.random.default_rng(0).standard_normal((1500, 1500))
    matrix = noise @ noise.T + 1500 * np.eye(1500)
    found = {}
    for count in (1, 2, 1):
        with threadpoolctl.threadpool_limits(count):
            found.setdefault(count, []).append(scipy.linalg.cholesky(matrix, lower=True))
    one, two = found[1][0], found[2][0]
    print(f"one thread twice: {'same' if np.array_equal(*found[1]) else 'different'} bytes; one and two threads: "
          f"{'same' if np.array_equal(one, two) else 'different'} bytes, "
          f"largest difference {np.abs(one - two).max():.1g} of {np.abs(one).max():.3g}\n")  # fmt: skip


def part_freed_memory() -> None:
    """A nation with precincts fitted in a process that gives freed arrays back, and in one that keeps them; in turn, medians of three."""
    found: dict[str, list[list[float]]] = {"gives back": [], "keeps": []}
    for _ in range(3):
        for name, code in (("gives back", ""), ("keeps", "from cluster import freed_memory; freed_memory.keep(); ")):
            code += "import sys; sys.path.insert(0, 'docs/design'); import measure; measure.fit_precincts()"
            done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout))
    table(["freed memory", "wall s", "user s", "system s", "peak, MiB"], [[n, *np.median(f, axis=0)] for n, f in found.items()])


def fit_precincts() -> None:
    """Fit 2,000,000 voters in 20,000 precincts; print wall, user and system seconds of the fit, and the peak of the process."""
    cells, before, began = simulate_cells(2_000_000, 1, num_precincts=20_000), os.times(), time.perf_counter()
    formula = NATION.replace("state/county", "state/county/precinct")
    in_memory.fit(cells, formula, shards=cells["state"], chosen_priors={"sd": "half_normal(1)"}, num_draws=1)
    wall, after = time.perf_counter() - began, os.times()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([wall, after.user - before.user, after.system - before.system, peak]))


PARTS = {name[5:]: fn for name, fn in list(globals().items()) if name.startswith("part_")}


def main() -> None:
    """Measure the parts named, or all of them."""
    for name in sys.argv[1:] or PARTS:
        if name not in PARTS:
            raise SystemExit(f"{name!r} is no part; expected some of {', '.join(PARTS)}")
        print(f"## {name}: {PARTS[name].__doc__}\n")
        PARTS[name]()


if __name__ == "__main__":
    main()
