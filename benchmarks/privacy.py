"""Attackers on the private files of runs and on what is published of them, and the table of docs/privacy.md:

    python -m benchmarks.privacy           # three simulated nations and a real survey, about a quarter of an hour; writes the table
    python -m benchmarks.privacy survey    # one of nation-1, nation-2, nation-3, answers-1, survey; writes nothing

Success beside chance: of votes the area under the curve of the attacker's scores (0.5 by chance), or how often he is right; of numbers the share that he finds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "privacy.md"
BEGIN, END = "<!-- attacks -->", "<!-- end -->"
sys.path.insert(0, str(ROOT / "tests" / "privacy"))
ROWS, TARGETS, KEYS = 200_000, 10, 200


def caucus(*arguments: object) -> None:
    """Run the command in a process of its own; its end decides."""
    subprocess.run([sys.executable, "-m", "cluster", *map(str, arguments)], check=True, capture_output=True, text=True)


def attacks(case, folder: Path) -> list[tuple[str, int, str, str, str]]:  # type: ignore[no-untyped-def]
    """Rows of the table for one case: attack, number, success on private files, on what is published, and by chance."""
    import attackers
    import cases

    rows = []
    for attack in attackers.OF_ONE_RUN:
        before, now = (attack(case.people, case.names, place) for place in (case.run, case.public))
        if before.number:
            chance = f"{now.chance:.2f}" + (f" ± {2 * now.sd:.2f}" if now.sd else "")
            rows.append((now.attack, now.number, f"{before.success:.2f}", f"{now.success:.2f}", chance))
    if not case.name.endswith("voted"):
        return rows
    targets = cases.one_of_each(case, TARGETS)
    states, votes = case.people.parent[targets], np.arange(len(targets)) % 2
    run, public = cases.joined_by(caucus, case, folder / "later", targets, votes)
    moved = [
        np.mean([attackers.by_movement(a, b, case.names, s, v, is_published=told) for s, v in zip(states, votes, strict=True)])
        for a, b, told in ((case.run, run, False), (case.public, public, True))
    ]
    rows.append(("movement of a state that one person joined", len(targets), f"{moved[0]:.2f}", f"{moved[1]:.2f}", "0.50"))
    other = cases.flipped(caucus, case, folder / "flipped", targets)
    right, differs = [], []
    for i in targets:
        tables = [cases.of_state(place, str(case.people.parent[i])) for place in (case.run, other)]
        either = tables if case.people.outcome[i] == 0 else tables[::-1]
        differs.append(not either[0]["mean"].equals(either[1]["mean"]))  # then whoever sees one of them knows which
        right.append(attackers.by_likelihood(either, lambda table, key: cases.published_by(key, table), KEYS))
    rows.append(("likelihood of either vote, all other votes known", len(targets), f"{(1 + np.mean(differs)) / 2:.2f}", f"{np.mean(right):.2f}", "0.50"))
    return rows


def main() -> int:
    """Attack the cases that are named, or all; print the table."""
    import cases

    makers: dict[str, Callable[[Path], object]] = {
        **{f"nation-{seed}": lambda folder, seed=seed: cases.nation(caucus, folder, rows=ROWS, seed=seed) for seed in (1, 2, 3)},
        "answers-1": lambda folder: cases.nation(caucus, folder, rows=ROWS, seed=1, outcome="support", answers=8000),
        "survey": lambda folder: cases.survey(caucus, folder),
    }
    lines = ["| run | attack | number | private files | published | by chance |", "|---|---|---|---|---|---|"]
    for name in sys.argv[1:] or makers:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name} ...", file=sys.stderr, flush=True)
            case = makers[name](Path(folder) / "case")
            for row in attacks(case, Path(folder)):
                lines.append("| " + " | ".join(map(str, (case.name, *row))) + " |")  # type: ignore[attr-defined]
                print(lines[-1], flush=True)
    if not sys.argv[1:]:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
