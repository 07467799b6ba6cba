"""Every hostile config, source and run directory of `tests/cluster/hostile`, and the table of docs/security.md:

    python -m benchmarks.hostile              # about ten minutes; writes the table, and exits with 1 if anything got through
    python -m benchmarks.hostile manifests    # one kind; writes nothing
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- hostile -->", "<!-- end -->"
sys.path.insert(0, str(ROOT / "tests" / "cluster" / "hostile"))


def table(results: Sequence) -> str:  # type: ignore[type-arg]
    """Return the Markdown table: per kind, cases, how they ended, what got through, and the most time and memory of one."""
    lines = ["| kind | cases | refused (2) | safe to run again (4) | harmless (0, 3) | got through | longest | largest |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    kinds = list(dict.fromkeys(r.case.kind for r in results))
    for kind in [*kinds, "all"]:
        of = [r for r in results if kind in ("all", r.case.kind)]
        counts = [sum(not r.wrong and r.code in codes for r in of) for codes in ((2,), (4,), (0, 3))]
        wrong = sum(bool(r.wrong) for r in of)
        cells = [kind, len(of), *counts, wrong, f"{max(r.seconds for r in of):.0f} s", f"{max(r.peak_bytes for r in of) >> 20:,} MiB"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the cases of the kinds that are named, or all; print the table and what got through."""
    import duckdb  # noqa: F401  # before the forks, so that each has it already
    import inputs
    import pyarrow.parquet  # noqa: F401
    import trial

    import sharding.ingest  # noqa: F401

    kinds = sys.argv[1:]
    results = []
    with trial.prepared() as base:
        for case in inputs.all_cases():
            if not kinds or case.kind in kinds:
                if not results or results[-1].case.kind != case.kind:
                    print(f"{case.kind} ...", file=sys.stderr, flush=True)
                results.append(trial.run(case, base))
                if results[-1].wrong:
                    print(f"{case.kind}: {case.name!a}: {results[-1].wrong}\n  {results[-1].said[-500:]!r}", flush=True)
    print(table(results))
    if not kinds:
        text = PAGE.read_text()
        before, _, rest = text.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}")
    return int(any(r.wrong for r in results))


if __name__ == "__main__":
    sys.exit(main())
