"""Every family against full-data NUTS that shares no code with it: `python -m benchmarks.families [--families ...] [--methods ...] [--cuts ...]`.

A small problem for each family (`benchmarks.family_problems`), its reference by plain NumPyro (`benchmarks.peers.family_nuts`, kept in
`benchmarks/cache`), and the merge by every method for one shard, by state, and ten random shards. Limits are those of
`benchmarks.accuracy`: means within 0.1 posterior sd, sds within 10%, means of scales within 0.15 sd, beyond Monte Carlo error; and
rounds that stop by themselves, before they are used up (not of `nuts`, whose last ones are three at most). `laplace` is reported, not
judged. Rows are kept in `benchmarks/results/families.json`, and the table is written into `docs/families.md`; what is not asked for again
keeps its row. Code 3 if a row that is judged is outside its limits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import accuracy, family_problems
from benchmarks.family_page import write
from benchmarks.family_problems import FORMULA, NAMES, FamilyProblem
from benchmarks.peers import family_nuts
from benchmarks.problems import REPOSITORY
from fitting import exact, in_memory

RESULTS = REPOSITORY / "benchmarks" / "results" / "families.json"
METHODS = ("vi", "laplace", "nuts", "exact")
CUTS = ("one", "by state", "10 random")
NOT_JUDGED = ("laplace",)
NUM_CHAINS, NUM_DRAWS = 4, 1000
EXACT_DRAWS, EXACT_WARMUP = 1000, 300
MAX_ROUNDS = 20


def shards(cells: dict[str, np.ndarray], cut: str) -> np.ndarray:
    """Shard of each cell, for one of `CUTS`."""
    if cut == "one":
        return np.zeros(len(cells["x"]), dtype=int)
    return cells["state"] if cut == "by state" else np.random.default_rng(1).integers(0, 10, len(cells["x"]))


def fit(problem: FamilyProblem, method: str, cut: str, **options: Any) -> in_memory.Run:
    """Fit by one of `METHODS`; ``exact`` is preconditioned by the merge of `vi`."""
    cells = problem.cells
    seed = zlib.crc32(f"{problem.name} {method} {cut}".encode())
    options = {"num_draws": NUM_DRAWS, "num_chains": NUM_CHAINS, "num_rounds": MAX_ROUNDS, "seed": seed, **options}
    run = in_memory.fit(
        cells, FORMULA, family=problem.family, link=problem.link, categories=problem.categories, shards=shards(cells, cut),
        chosen_priors=problem.priors, method="vi" if method == "exact" else method, **options,
    )  # fmt: skip
    if method != "exact":
        return run
    pieces = list(zip(run.restrictions, run.designs, strict=True))
    draws = exact.draw(
        run.hierarchy, run.natural, run.proposal, pieces, num_draws=EXACT_DRAWS, num_chains=NUM_CHAINS,
        num_warmup=EXACT_WARMUP, seed=seed,
    )  # fmt: skip
    return run._replace(draws=draws)


def rows(names: list[str], methods: list[str], cuts: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each family, method and cut, as it is done; ``exact`` once, by state."""
    for name in names:
        problem = family_problems.make(name)
        reference, provenance = family_nuts.reference(problem)
        for method in methods:
            for cut in cuts if method != "exact" else ("by state",):
                run = fit(problem, method, cut)
                about = {
                    "family": name,
                    "method": method,
                    "cut": cut,
                    "num_shards": len(run.sites),
                    "rounds": len(run.moves),
                }
                found = accuracy.compare(run, reference)
                found["passed"] &= method == "nuts" or len(run.moves) < MAX_ROUNDS
                yield about | found | {"problem_sha256": problem.sha256, "reference_sha256": provenance["code_sha256"]}


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown of the rows, in the order of families, methods and cuts."""
    lines = [
        "| family | method | shards | mean off by, sd | beyond noise | rms | worst at | sd ratios | scales off by, sd | beyond noise | passed |",
        "|---|---|---|--:|--:|--:|---|---|--:|--:|---|",
    ]
    for r in found:
        verdict = "not judged" if r["method"] in NOT_JUDGED else "yes" if r["passed"] else "NO"
        where = r["coefficient_where"].replace("|", r"\|")
        lines.append(
            f"| {r['family']} | {r['method']} | {r['cut']} | {r['coefficient_error']:.3f} | {r['beyond_noise']:.3f} "
            f"| {r['coefficient_rms']:.3f} | {where} | {r['sd_ratio_min']:.2f}-{r['sd_ratio_max']:.2f} "
            f"| {r['scale_error']:.3f} | {r['scale_beyond_noise']:.3f} | {verdict} |"
        )
    return lines


def kept_rows(new: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Rows in the file that belong to today's problems and references, in order; with ``new`` among them, which is kept."""
    now = {name: (family_problems.make(name).sha256, family_nuts.CODE_SHA256) for name in NAMES}
    order = [(name, method, cut) for name in NAMES for method in METHODS for cut in CUTS]
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    by_key = {(r["family"], r["method"], r["cut"]): r for r in [*found, *([new] if new else [])]}
    valid = [
        r for key in order if (r := by_key.get(key)) and (r["problem_sha256"], r["reference_sha256"]) == now[key[0]]
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    partial = RESULTS.with_suffix(f".{os.getpid()}")  # several commands may run at once, a family each
    partial.write_text(json.dumps(valid, indent=1) + "\n")
    partial.replace(RESULTS)
    return valid


def main() -> int:
    """Run what is asked for, and write the table of everything that belongs to today's problems and references."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="*", choices=NAMES, default=list(NAMES), help="none: only write the table")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--cuts", nargs="+", choices=CUTS, default=list(CUTS))
    arguments = parser.parse_args()
    for row in rows(arguments.families, arguments.methods, arguments.cuts):
        kept_rows(row)
        print({k: v for k, v in row.items() if "sha256" not in k}, file=sys.stderr, flush=True)
    found = kept_rows()
    lines = table(found)
    print("\n".join(lines))
    write("families", lines)
    return 0 if all(r["passed"] for r in found if r["method"] not in NOT_JUDGED) else 3


if __name__ == "__main__":
    sys.exit(main())
