"""Write docs/formulas.md: what formulas mean, as R's model.matrix has it, and what Caucus makes of them.

    python docs/generate_formulas.py

R itself is not asked. Its columns are written by its documented rule, in R's own order of steps (Chambers & Hastie 1992,
*Statistical Models in S*, sec. 2.4.1; `?model.matrix`, `?terms.formula`, and TermCode in R's src/library/stats/src/model.c); a test
compares them with the design matrices of another library, and the fits of random formulas with least squares on those.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from fitting import formula, hierarchy, in_memory, sites
from fitting.config import ModelConfig

Columns = dict[str, np.ndarray]
PAGE = Path(__file__).with_name("formulas.md")

FIXED = (
    "1", "x", "0 + x", "1 + x + z", "1 + x:z", "x*z", "x + x:z", "0 + x + z + x:z", "0 + x*z",
    "f", "0 + f", "f + g", "0 + f + g", "f:g", "0 + f:g", "f*g", "0 + f*g", "f + f:g", "f/g",
    "0 + f/g", "f*g - f", "f*g*h", "(f + g + h) - g", "f + x", "0 + f + x", "1 + f:x", "0 + f:x", "f*x", "x + x:f",
    "0 + x + x:f", "f + f:x", "0 + f + f:x", "f + f:x:z", "b", "0 + b", "b:x", "b*x", "f:g:x", "f*g + f:x", "x*z + f",
)  # fmt: skip
"""Right sides. ``x`` and ``z`` are numbers, ``b`` is 0 or 1, ``f``, ``g`` and ``h`` have the levels a, b; u, v, w; 1, 2."""

GROUPS = (
    ("(1 + x | g)", "1, x, correlated", "lme4, brms"),
    ("(0 + x | g)", "x: lines of groups meet at x = 0", "lme4, brms"),
    ("(1 + x || g)", "1 and x, independent at x = 0", "lme4, brms"),
    ("(1 + f || g)", "1, fb: a coefficient for each but the reference, all independent", "brms; lme4 keeps `f` together (see below)"),
    ("(0 + f | g)", "fa, fb, correlated", "lme4, brms"),
    ("(1 | f/g)", "(1 | f) + (1 | f:g)", "lme4, brms"),
    ("x + (1 | x)", "one slope of x, and a constant for each of its values", "lme4, brms"),
)


def data() -> Columns:
    """Rows with every combination of levels, and numbers that no formula is exact for."""
    rng = np.random.default_rng(1)
    cells = np.array(list(product("ab", "uvw", "12"))).repeat(6, axis=0)
    rows = len(cells)
    columns: Columns = {"f": cells[:, 0], "g": cells[:, 1], "h": cells[:, 2]}
    columns |= {"x": rng.normal(5.0, 1.0, rows), "z": rng.normal(3.0, 2.0, rows), "b": rng.integers(0, 2, rows).astype(float)}
    return columns | {"y": rng.normal(size=rows)}


def r_matrix(terms: Sequence[tuple[str, ...]], columns: Columns) -> tuple[list[str], np.ndarray]:
    """R's columns for some terms, ``()`` the intercept: their names, and the matrix.

    A factor of a term is coded by contrasts if the term without it is in the model, the empty one always counting as such; else by
    dummies, one a level. Without an intercept the first factor that is found is coded by dummies.
    """
    ordered = sorted(terms, key=len)
    present = {frozenset(term) for term in ordered} | {frozenset()}
    by_dummies = {
        (term, c) for term in ordered for c in term if _is_factor(columns, c) and frozenset(term) - {c} not in present
    }
    if () not in terms:
        first = next(((term, c) for term in ordered for c in term if _is_factor(columns, c)), None)
        by_dummies |= {first} if first is not None else set()
    names, found, rows = [], [], len(columns["y"])
    for term in ordered:
        parts = [_coded(columns, c, (term, c) in by_dummies) for c in term]
        for chosen in product(*parts[::-1]):  # the first factor varies fastest
            names.append(":".join(name for name, _ in chosen[::-1]) or "(Intercept)")
            found.append(np.prod([value for _, value in chosen], axis=0) * np.ones(rows))
    return names, np.stack(found, axis=1) if found else np.zeros((rows, 0))


def _is_factor(columns: Columns, name: str) -> bool:
    return columns[name].dtype.kind in "UO"


def _coded(columns: Columns, name: str, dummies: bool) -> list[tuple[str, np.ndarray]]:
    values = columns[name]
    if not _is_factor(columns, name):
        return [(name, values)]
    return [(f"{name}{level}", (values == level).astype(float)) for level in np.unique(values)[0 if dummies else 1 :]]


def our_matrix(text: str, columns: Columns) -> tuple[list[str], frozenset[str], np.ndarray]:
    """What Caucus makes of the right side of a formula: names of coefficients, the columns that are centred, and the design matrix."""
    config = ModelConfig(formula=f"y ~ {text}", family="gaussian")
    rows = len(columns["y"])
    statistics = {"num_trials": np.ones(rows), "sum_y": columns["y"], "squared_deviations": np.zeros(rows)}
    coding, coded = in_memory.code(columns, config.parsed_formula(), statistics)
    model = hierarchy.of_config(config, coding).model
    design = model.design(coded, statistics)
    unit = np.eye(model.tree.num_coefficients)[: sum(len(block.names) for block in model.fixed)]
    matrix = np.stack([sites.predictor_mean(design, row)[0] for row in unit], axis=1)
    centred = frozenset().union(*(block.centred for block in model.fixed))
    return [name for block in model.fixed for name in block.names], centred, matrix


def rank(matrix: np.ndarray) -> int:
    """Rank of a matrix whose columns may be of any size."""
    return int(np.linalg.matrix_rank(matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-300), tol=1e-8)) if matrix.size else 0


def is_same_space(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two matrices span the same columns."""
    return rank(a) == rank(b) == rank(np.concatenate([a, b], axis=1))


def rows() -> list[tuple[str, list[str], list[str], frozenset[str], int]]:
    """Each formula with R's columns, Caucus's coefficients, what is centred, and the rank of both.

    Raises
    ------
    AssertionError
        They are not of one space.
    """
    columns, out = data(), []
    for text in FIXED:
        terms = formula.parse(f"y ~ {text}").fixed
        names, matrix = r_matrix(terms, columns)
        ours, centred, own = our_matrix(text, columns)
        assert is_same_space(matrix, own), text
        out.append((text, names, ours, centred, rank(own)))
    return out


def page(text: str) -> str:
    """The page with its tables as they have to be."""
    table = ["| formula | R's columns | Caucus | centred | rank |", "|---|---|---|---|--:|"]
    table += [
        f"| `{text}` | {_list(names)} | {_list(ours)} | {', '.join(sorted(centred)) or '-'} | {size} |"
        for text, names, ours, centred, size in rows()
    ]
    groups = ["| written | coefficients of a group | the same in |", "|---|---|---|"]
    groups += [f"| `{_list([written])}` | {_list([meaning])} | {whose} |" for written, meaning, whose in GROUPS]
    for name, lines in (("fixed", table), ("groups", groups)):
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}<!-- {name} -->\n" + "\n".join(lines) + "\n<!-- end -->" + rest.partition("<!-- end -->")[2]
    return text


def _list(names: Sequence[str]) -> str:
    return ", ".join(name.replace("|", "\\|") for name in names)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
