"""Damaged and odd inputs for every reader: `python -m benchmarks.fuzz --inputs 10000`.

Each input is read in a child process with a limit of time and memory. It must be ingested with every line accounted
for, or refused with an error of Caucus that has nothing of a row in it. Anything else fails, and the input is kept in
`benchmarks/results/fuzz/`. The table goes to `docs/fuzzing.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.fuzzing import child, targets
from benchmarks.fuzzing.child import FAULTS, Case, Result
from benchmarks.problems import REPOSITORY

PAGE = REPOSITORY / "docs" / "fuzzing.md"
KEPT = REPOSITORY / "benchmarks" / "results" / "fuzz"


def cases(names: Sequence[str], num_inputs: int, seed: int) -> Iterator[Case]:
    """Make ``num_inputs`` inputs, the targets in turn; the same arguments make the same."""
    for i in range(num_inputs):
        name = names[i % len(names)]
        mutation, data = targets.make(name, np.random.default_rng([seed, i]))
        yield Case(name, mutation, data)


def keep(result: Result) -> None:
    """Write an input that found a fault, for a test to be made of it."""
    KEPT.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(result.case.data).hexdigest()[:12]
    (KEPT / f"{result.case.target.replace(' ', '-')}-{digest}").write_bytes(result.case.data)


def table(counts: Counter[tuple[str, str]], rows: str) -> str:
    """Return a Markdown table of outcomes by target or by mutation."""
    names = list(dict.fromkeys(name for name, _ in counts))
    outcomes = ("ingested", "refused", *FAULTS)
    lines = [f"| {rows} | inputs | {' | '.join(outcomes)} |", "|---" * (len(outcomes) + 2) + "|"]
    for name in [*names, "all"]:
        found = [sum(n for (key, o), n in counts.items() if o == outcome and name in (key, "all")) for outcome in outcomes]
        lines.append(f"| {name} | {sum(found):,} | {' | '.join(f'{n:,}' for n in found)} |")
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the tables; 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", nargs="*", choices=list(targets.TARGETS), default=list(targets.TARGETS))
    arguments = parser.parse_args()
    start = time.perf_counter()
    by_target: Counter[tuple[str, str]] = Counter()
    by_mutation: Counter[tuple[str, str]] = Counter()
    for i, result in enumerate(child.run(cases(arguments.targets, arguments.inputs, arguments.seed))):
        by_target[result.case.target, result.outcome] += 1
        by_mutation[result.case.mutation, result.outcome] += 1
        if result.outcome in FAULTS:
            keep(result)
            print(f"input {i}: {result.case.target}, {result.case.mutation}: {result.outcome}: {result.error}")
        if i % 500 == 499:
            print(f"{i + 1:,} inputs, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    text = f"{table(by_target, 'target')}\n\n{table(by_mutation, 'first damage')}\n"
    print(text)
    if arguments.targets == list(targets.TARGETS):
        before = PAGE.read_text().split("<!-- table -->")[0]
        command = f"`python -m benchmarks.fuzz --inputs {arguments.inputs} --seed {arguments.seed}`"
        PAGE.write_text(f"{before}<!-- table -->\n{command}, {time.perf_counter() - start:,.0f} s:\n\n{text}")
    return int(any(outcome in FAULTS for _, outcome in by_target))


if __name__ == "__main__":
    sys.exit(main())
