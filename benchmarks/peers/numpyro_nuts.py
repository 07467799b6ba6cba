"""NumPyro NUTS on the cells, as an experienced user writes it today; run as a child process by the races.

    python -m benchmarks.peers.numpyro_nuts nation --num-warmup 300 --num-draws 100 --output out.parquet

Float64, two chains in parallel on two devices of the CPU, all defaults of NUTS, started near the prior's median (from NumPyro's
default, uniform on (-2, 2), 3,500 effects begin absurdly far away, and the warm-up is longer still). Two coordinates are on offer, because which is
the better one depends on the data: ``noncentred`` (``effect = sigma z``) and ``centred``. The likelihood is a factor without the
binomial coefficients: the same posterior, and 3 s of compilation for the nation where `dist.Binomial` takes 13 to 43 s.

A problem too large to finish is extrapolated by the race from the cost of a draw after the warm-up that was run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyarrow as pa
import pyarrow.parquet as pq
from numpyro.infer import MCMC, NUTS, init_to_median

from benchmarks import problems
from benchmarks.peers.reference import flatten, summarise
from benchmarks.problems import FIXED_SD, SCALE_SD, Design

NUM_CHAINS = 2


def model(design: Design, intercept_sd: float, centred: bool) -> None:
    """Varying intercepts on binomial cells."""
    eta = numpyro.sample("Intercept", dist.Normal(0, intercept_sd))
    if design.fixed.shape[1]:
        b = numpyro.sample("b", dist.Normal(0, FIXED_SD).expand([design.fixed.shape[1]]))
        eta = eta + design.fixed @ b
    for group, (codes, levels) in design.groupings.items():
        sigma = numpyro.sample(f"sd(1|{group})", dist.HalfNormal(SCALE_SD))
        if centred:
            effect = numpyro.sample(f"1|{group}", dist.Normal(0, sigma).expand([len(levels)]))
        else:
            z = numpyro.sample(f"z({group})", dist.Normal(0, 1).expand([len(levels)]))
            effect = numpyro.deterministic(f"1|{group}", sigma * z)
        eta = eta + effect[codes]
    numpyro.factor("likelihood", jnp.sum(design.num_successes * eta - design.num_trials * jax.nn.softplus(eta)))


def fit(problem: problems.Problem, *, centred: bool, num_warmup: int, num_draws: int, seed: int) -> dict[str, Any]:
    """Fit and time: ``record`` (seconds by stage, steps, ESS) and ``parameters`` (the summary)."""
    jax.config.update("jax_enable_x64", True)
    design = problem.design()
    mcmc = MCMC(
        NUTS(model, init_strategy=init_to_median()),
        num_warmup=num_warmup,
        num_samples=num_draws,
        num_chains=NUM_CHAINS,
        progress_bar=False,
    )
    arguments = (design, problem.intercept_sd, centred)
    clock = [(time.perf_counter(), time.process_time())]
    mcmc.warmup(jax.random.key(seed), *arguments, extra_fields=("num_steps",), collect_warmup=True)
    warmup_steps = np.asarray(mcmc.get_extra_fields()["num_steps"])
    clock.append((time.perf_counter(), time.process_time()))
    mcmc.run(jax.random.key(seed + 1), *arguments, extra_fields=("num_steps", "diverging"))
    draws = flatten(mcmc.get_samples(group_by_chain=True), problem)
    clock.append((time.perf_counter(), time.process_time()))
    (warmup_seconds, warmup_cpu_seconds), (draw_seconds, draw_cpu_seconds) = np.diff(clock, axis=0).tolist()
    extra = mcmc.get_extra_fields()
    table = summarise(problem, draws)
    worst = table.loc[table["ess_bulk"].idxmin()]
    record = {
        "coordinates": "centred" if centred else "noncentred",
        "num_chains": NUM_CHAINS,
        "num_warmup": num_warmup,
        "num_draws": num_draws,
        "warmup_seconds": warmup_seconds,
        "draw_seconds": draw_seconds,
        "warmup_cpu_seconds": warmup_cpu_seconds,
        "draw_cpu_seconds": draw_cpu_seconds,
        "warmup_steps_per_draw": float(warmup_steps.mean()),
        "steps_per_draw": float(np.asarray(extra["num_steps"]).mean()),
        "num_diverging": int(extra["diverging"].sum()),
        "ess_min": float(worst["ess_bulk"]),
        "ess_min_of": worst["parameter"],
        "ess_median": float(table["ess_bulk"].median()),
        "r_hat_max": float(table["r_hat"].max()),
    }
    return {"record": record, "parameters": table}


def main() -> None:
    """Fit one problem; the summary goes to a Parquet file whose metadata hold the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("problem", choices=["nation", "survey", "small_nation"])
    parser.add_argument("--num-rows", type=int, help="of the nation or the small nation")
    parser.add_argument("--problem-seed", type=int, default=1)
    parser.add_argument("--centred", action="store_true")
    parser.add_argument("--num-warmup", type=int, default=1000)
    parser.add_argument("--num-draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    problem = problems.make(arguments.problem, arguments.num_rows, arguments.problem_seed)
    result = fit(
        problem,
        centred=arguments.centred,
        num_warmup=arguments.num_warmup,
        num_draws=arguments.num_draws,
        seed=arguments.seed,
    )
    table = pa.Table.from_pandas(result["parameters"], preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"record": json.dumps(result["record"])}), arguments.output)
    print(json.dumps(result["record"]))


if __name__ == "__main__":
    main()
