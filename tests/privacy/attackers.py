"""What attackers do to learn a person's outcome, or how many answered, from files of a run: the private ones, and the published ones.

Each knows all about everybody but what he is after. Each returns a success beside that of somebody who has no file: 0.5 for an outcome (area under
the curve of his scores, ties a half), and 0 for what nobody can guess exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import optimize, special

HIDDEN_BELOW = 11
MAX_HIDDEN, MAX_PARENTS = 8, 20


class People(NamedTuple):
    """Those in the files: ``parent`` and ``group`` (n,) of each, and ``outcome`` (n,), NaN where nobody asked; how many people a group has, by label."""

    parent: np.ndarray
    group: np.ndarray
    outcome: np.ndarray
    size: Mapping[str, float]

    @property
    def known(self) -> np.ndarray:
        """Whose outcome the run was given, (n,)."""
        return np.isfinite(self.outcome)

    def targets(self) -> np.ndarray:
        """Those who are the only known outcome of their group: their places."""
        places = np.flatnonzero(self.known)
        _, first, count = np.unique(self.labels()[places], return_index=True, return_counts=True)
        return places[first[count == 1]]

    def labels(self) -> np.ndarray:
        """`parent:group` of everybody."""
        return np.char.add(np.char.add(self.parent, ":"), self.group)


class Names(NamedTuple):
    """Names in the files: of the margin of parents and of groups within them, their columns, and the term of the groups' effects."""

    parent: str
    group: str
    term: str

    @property
    def within(self) -> str:
        """`state:county`."""
        return f"{self.parent}:{self.group}"


class Result(NamedTuple):
    """``success`` beside ``chance``, over ``number`` persons or groups. ``sd`` is that of ``success`` by chance alone; 0 where it is no chance."""

    attack: str
    number: int
    success: float
    chance: float
    sd: float = 0.0


# ---- reading ----


def table(folder: Path, name: str) -> dict[str, list[Any]] | None:
    """A Parquet file as columns; None where there is none."""
    return pq.read_table(folder / name).to_pydict() if (folder / name).exists() else None


def estimates(folder: Path, margin: str) -> dict[str, list[Any]]:
    """The estimates of a margin, private or published."""
    return pq.read_table(folder / "estimates" / f"{margin.replace(':', '-')}.parquet").to_pydict()


def by_label(found: Mapping[str, list[Any]], columns: Sequence[str], value: str) -> dict[str, Any]:
    """A column of a table by the labels of its groups, joined with `:`."""
    labels = [":".join(parts) for parts in zip(*(found[c] for c in columns), strict=True)]
    return dict(zip(labels, found[value], strict=True))


def curve(attack: str, scores: np.ndarray, votes: np.ndarray) -> Result:
    """The area under the curve of scores for votes, with its standard deviation if they had nothing to do with each other (Mann & Whitney 1947)."""
    ones, zeros = scores[votes == 1], scores[votes == 0]
    pairs = (ones[:, None] > zeros[None, :]) + 0.5 * (ones[:, None] == zeros[None, :])
    sd = np.sqrt((len(votes) + 1) / (12 * max(len(ones) * len(zeros), 1)))
    return Result(attack, len(votes), float(pairs.mean()) if pairs.size else 0.5, 0.5, float(sd))


# ---- the outcome of the only one of his group ----


def by_p_value(people: People, names: Names, folder: Path) -> Result:
    """For one person the p-value is half of the replicates' mean if he did, and that and a half more if he did not."""
    found = table(folder, "checks/ppc.parquet") or {"margin": [], "level": [], "mean": [], "p_value": []}
    rows = {level: (mean, p) for margin, level, mean, p in zip(*(found[c] for c in ("margin", "level", "mean", "p_value")), strict=True) if margin == names.within}
    targets = people.targets()
    seen = [rows.get(label) for label in people.labels()[targets]]
    scores = np.array([0.0 if row is None else abs(row[1] - (1 + row[0]) / 2) - abs(row[1] - row[0] / 2) for row in seen])
    return curve("p-value of a group of one", scores, people.outcome[targets])


def by_effect(people: People, names: Names, folder: Path) -> Result:
    """The sign of a group's effect is the outcome of the only one in it."""
    found = table(folder, "summary.parquet") or {"variable": [], "level": [], "mean": []}
    means = {level: mean for variable, level, mean in zip(*(found[c] for c in ("variable", "level", "mean")), strict=True) if variable == names.term}
    targets = people.targets()
    scores = np.array([means.get(label, 0.0) for label in people.labels()[targets]])
    return curve("sign of the effect of a group of one", scores, people.outcome[targets])


def by_subtraction(people: People, names: Names, folder: Path) -> Result:
    """What a parent's mean leaves for the groups of which nothing is told, less what the parent's mean says of everybody in it.

    Where every group has its mean, that of his own is taken. Groups are weighted by their people, whom the attacker counts himself.
    """
    columns = (names.parent, names.group)
    parents, groups = estimates(folder, names.parent), estimates(folder, names.within)
    value = "mean" if "mean" in parents else "estimate"
    of_parent, of_group = by_label(parents, columns[:1], value), by_label(groups, columns, value)
    size, targets, scores = people.size, people.targets(), []
    within: dict[str, list[str]] = {}
    for label in size:
        within.setdefault(label.partition(":")[0], []).append(label)
    for i in targets:
        parent, own = str(people.parent[i]), f"{people.parent[i]}:{people.group[i]}"
        mean = of_parent.get(parent)
        if mean is None:
            scores.append(0.0)
            continue
        told = [label for label in within[parent] if label in of_group]
        total = sum(size[label] for label in within[parent])
        rest = total - sum(size[label] for label in told)
        left = of_group[own] if own in of_group else (total * mean - sum(size[label] * of_group[label] for label in told)) / max(rest, 1)
        scores.append(left - mean)
    return curve("mean of a group of one, or what others leave of it", np.array(scores), people.outcome[targets])


# ---- how many answered ----


def hidden(people: People) -> dict[str, int]:
    """Known outcomes of the groups that have few of them, and at least one."""
    labels, counts = np.unique(people.labels()[people.known], return_counts=True)
    return {label: int(n) for label, n in zip(labels.tolist(), counts.tolist(), strict=True) if n < HIDDEN_BELOW}


def number_by_sd(people: People, names: Names, folder: Path) -> Result:
    """The sd of an effect tells how much was learnt of it: ``1/sd^2 = 1/tau^2 + n p (1 - p)``, so mean over squared sd is a sum of residuals of n."""
    found = table(folder, "summary.parquet") or {"variable": [], "level": [], "mean": [], "sd": []}
    effect = {level: (m, s) for v, level, m, s in zip(*(found[c] for c in ("variable", "level", "mean", "sd")), strict=True) if v == names.term}
    wanted = hidden(people)
    spread = [m for v, m in zip(found["variable"], found["mean"], strict=True) if v == f"sd({names.term})"]
    share = float(np.nanmean(people.outcome))
    right = 0
    for label, number in wanted.items():
        if label in effect and spread:
            logit = special.logit(share) + effect[label][0]
            information = special.expit(logit) * special.expit(-logit)
            right += round((1 / effect[label][1] ** 2 - 1 / spread[0] ** 2) / information) == number
    return Result("number of answers by the sd of the effect", len(wanted), right / max(len(wanted), 1), 0.0)


def number_by_quantiles(people: People, names: Names, folder: Path) -> Result:
    """Replicated shares of n people are multiples of 1/n: the quantiles tell n."""
    found = table(folder, "checks/ppc.parquet") or {"margin": [], "level": [], "mean": [], "sd": []}
    rows = {level: (m, s) for margin, level, m, s in zip(*(found[c] for c in ("margin", "level", "mean", "sd")), strict=True) if margin == names.within}
    wanted = hidden(people)
    right = 0
    for label, number in wanted.items():
        mean, sd = rows.get(label, (0.0, 0.0))
        right += sd > 0 and round(mean * (1 - mean) / sd**2) == number
    return Result("number of answers by mean and sd of replicates", len(wanted), right / max(len(wanted), 1), 0.0)


def number_listed(people: People, names: Names, folder: Path) -> Result:
    """`audit.json` names the levels with few known outcomes."""
    wanted = hidden(people)
    listed: set[str] = set()
    if (folder / "audit.json").exists():
        rows = json.loads((folder / "audit.json").read_text()).get("levels", [])
        listed = {str(row["level"]) for row in rows if row.get("term") == names.term and row.get("issue") in ("few_trials", "separated")}
    found = sum(label in listed for label, number in wanted.items() if number < 5)
    few = sum(number < 5 for number in wanted.values())
    return Result("groups of one to four answers, by name", few, found / max(few, 1), 0.0)


class Family(NamedTuple):
    """What is told of a parent's groups: their ``labels``, which counts are ``wanted``, limits of the counts and of two sums over them.

    ``low <= n <= high`` (g,), ``total[0] <= sum n <= total[1]`` and ``moment[0] <= weights @ n <= moment[1]``.
    """

    labels: list[str]
    wanted: list[int]
    low: np.ndarray
    high: np.ndarray
    total: tuple[float, float]
    weights: np.ndarray
    moment: tuple[float, float]


def by_equations(people: People, names: Names, folder: Path) -> Result:
    """Counts of hidden groups, by integer programming over all counts and means that are told of a parent and its groups.

    Private files have exact counts of what is not small, and the small ones with the next group withheld, as until 2026-11; and means to 16 digits, so that
    people times mean of the groups add up to that of the parent. Published ones have both within their roundings. Found is who has one possible count.
    It is for files in which all outcomes are known: else means are weighted by other counts, which are no secret of the same people.
    """
    wanted, found, number = hidden(people), 0, 0
    if not people.known.all():
        return Result("number of answers by integer programming over counts and means", 0, 0.0, 0.0)
    for family in families(people, names, folder):
        truth = {g: wanted[family.labels[g]] for g in family.wanted}
        number += len(truth)
        found += sum(solved.get(g) == n for solved in [solve(family)] for g, n in truth.items())
    return Result("number of answers by integer programming over counts and means", number, found / max(number, 1), 0.0)


def families(people: People, names: Names, folder: Path) -> Iterator[Family]:
    """What is told of some parents that have hidden groups, at most :data:`MAX_HIDDEN` of them."""
    labels, counts = np.unique(people.labels()[people.known], return_counts=True)
    number = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    of_parent: dict[str, list[str]] = {}
    for label in number:
        of_parent.setdefault(label.partition(":")[0], []).append(label)
    parent_rows, group_rows = estimates(folder, names.parent), estimates(folder, names.within)
    columns = (names.parent, names.group)
    is_private = "mean" in parent_rows
    told = {name: by_label(group_rows, columns, name) for name in group_rows if name not in columns}
    of = {name: by_label(parent_rows, columns[:1], name) for name in parent_rows if name != names.parent}
    some = [p for p, found in of_parent.items() if 2 <= sum(number[x] < HIDDEN_BELOW for x in found) <= MAX_HIDDEN and len(found) > 3]
    for parent in sorted(some, key=lambda p: len(of_parent[p]))[:MAX_PARENTS]:
        found = of_parent[parent]
        n = np.array([number[x] for x in found], dtype=float)
        wanted = [g for g in range(len(found)) if n[g] < HIDDEN_BELOW]
        if is_private:
            low, high = n.copy(), n.copy()
            low[wanted], high[wanted] = 1, HIDDEN_BELOW - 1
            for g in sorted((g for g in range(len(found)) if g not in wanted), key=lambda g: n[g])[:1]:
                low[g], high[g] = HIDDEN_BELOW, np.inf
            weights = np.array([told["mean"][x] for x in found]) - of["mean"][parent]
            yield Family(found, wanted, low, high, (n.sum(), n.sum()), weights, (-1e-11 * n.sum(), 1e-11 * n.sum()))
        else:
            is_told = parent in of["people"]  # else he has nothing but that each of the hidden has few
            width, total = HIDDEN_BELOW - 2, of["known_outcomes"].get(parent, 0)
            mean, parent_step = of["estimate"].get(parent, 0.0), of["step"].get(parent, 1.0)
            shown = [x in told["known_outcomes"] for x in found]
            at = np.array([told["known_outcomes"].get(x, 0) for x in found], dtype=float)
            low, high = np.where(shown, at - width, 1), np.where(shown, at + width, np.inf)
            high[wanted] = HIDDEN_BELOW - 1
            weights = np.array([told["estimate"].get(x, mean) - mean for x in found])
            steps = np.array([told["step"].get(x, 1.0) for x in found]) + parent_step  # of what is untold the mean is anything
            slack = float((steps * np.where(np.isfinite(high), high, total)).sum()) if is_told else np.inf
            limits = (total - width, total + width) if is_told else (0.0, np.inf)
            yield Family(found, wanted, np.maximum(low, 1), high, limits, weights, (-slack, slack))


def solve(family: Family) -> dict[int, int]:
    """The wanted counts that have one possible value. Means to many digits are searched whole, from both halves; others by HiGHS."""
    if family.moment[1] < 1e-6:
        return _search(family)
    size = len(family.labels)
    limits = optimize.LinearConstraint(np.array([np.ones(size), family.weights]), *np.array([family.total, family.moment]).T)
    out = {}
    for g in family.wanted:
        aim = np.zeros(size)
        aim[g] = 1.0
        ends = [
            optimize.milp(sign * aim, constraints=limits, integrality=np.ones(size), bounds=optimize.Bounds(family.low, family.high))
            for sign in (1.0, -1.0)
        ]  # fmt: skip
        least, most = (sign * end.fun if end.success else np.nan for sign, end in zip((1.0, -1.0), ends, strict=True))
        if round(least) == round(most):
            out[g] = round(least)
    return out


def _search(family: Family) -> dict[int, int]:
    """Every combination of small counts, by halves: their moments have to cancel those of what is known, and the withheld group takes the rest."""
    wanted = family.wanted
    free = [g for g in range(len(family.labels)) if not np.isfinite(family.high[g])]
    known = [g for g in range(len(family.labels)) if g not in wanted and g not in free]
    rest = family.total[0] - family.low[known].sum()
    base = float(family.weights[free[0]]) if free else 0.0
    target = -float(family.weights[known] @ family.low[known]) - base * rest
    weights = family.weights[wanted] - base
    middle = len(wanted) // 2
    halves = [np.stack(np.meshgrid(*[np.arange(1, HIDDEN_BELOW)] * k, indexing="ij"), -1).reshape(-1, k) if k else np.zeros((1, 0), dtype=int)
              for k in (middle, len(wanted) - middle)]  # fmt: skip
    first, second = halves[0] @ weights[:middle], halves[1] @ weights[middle:]
    order = np.argsort(second)
    begin, end = (np.searchsorted(second[order], target - first + sign * family.moment[1], side) for sign, side in ((-1, "left"), (1, "right")))
    found = [np.concatenate([halves[0][i], halves[1][order[j]]]) for i in np.flatnonzero(end > begin) for j in range(begin[i], end[i])]
    left = [n for n in found if (rest - n.sum() >= HIDDEN_BELOW if free else rest == n.sum())]
    return dict(zip(wanted, left[0].tolist(), strict=True)) if len(left) == 1 else {}


# ---- two files that differ by a person ----


def by_movement(before: Path, after: Path, names: Names, parent: str, vote: int, *, is_published: bool) -> float:
    """1 if what moved in the person's parent says how he voted, a half if nothing moved."""
    value = "estimate" if is_published else "mean"
    old, new = (by_label(estimates(folder, names.parent), (names.parent,), value).get(parent) for folder in (before, after))
    if old is None or new is None or old == new:
        return 0.5
    return float((new > old) == (vote == 1))


def by_likelihood(either: Sequence[pa.Table], publish: Callable[[pa.Table, bytes], pa.Table], repeats: int, seed: int = 1) -> float:
    """How often somebody is right who has computed the run for either vote, and sees what is published of one of them; he has not the key.

    ``either`` are the private estimates of one margin for vote 0 and 1; ``publish`` gives the rows that a key publishes of one, in the same order, with nulls.
    He takes the vote under which what he sees is more likely.
    """
    rng, right = np.random.default_rng(seed), 0.0
    for _ in range(repeats):
        key = rng.bytes(32)
        for vote in (0, 1):
            seen = publish(either[vote], key)
            likely = [_log_probability(seen, table["mean"].to_numpy()) for table in either]
            right += 0.5 if likely[0] == likely[1] else float((likely[1] > likely[0]) == (vote == 1))
    return right / (2 * repeats)


def _log_probability(seen: pa.Table, exact: np.ndarray) -> float:
    """Of estimates rounded up or down at random: a multiple is taken with a probability of one less its distance in steps."""
    told, step = (seen[name].to_numpy(zero_copy_only=False) for name in ("estimate", "step"))
    shown = np.isfinite(told)
    chance = np.clip(1 - np.abs(told[shown] - exact[shown]) / step[shown], 0.0, 1.0)
    with np.errstate(divide="ignore"):
        return float(np.log(chance).sum())


OF_ONE_RUN = (by_p_value, by_effect, by_subtraction, number_by_quantiles, number_by_sd, number_listed, by_equations)
"""Attacks on one folder, a run directory or a publication."""
