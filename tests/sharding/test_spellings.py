"""Levels that are one value written in several ways, dates of several forms, text of another encoding, and what is none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding import notes, spellings

NUM = 600
OPTIONS: dict[str, Any] = {
    "outcome": "y", "factor_columns": ["g"], "predictor_columns": ["x"], "group_columns": [], "shards": {"by": "random"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("18-29", "18\u201329"), ("O'Brien", "O\u2019Brien"), ("New York", "New\u00a0York"), ("New York", "New\u200b York"), ("NewYork", "New\u00adYork"),
        ("AL", "\u0410L"), ("Do\u00f1a Ana", "Dona Ana"), ("St. Louis", "St Louis"), ("Winston-Salem", "Winston Salem"), ("U.S.", "US"), ("-5", "\u22125"),
        ("01", "1"), ("1E+05", "100000"), ("office", "o\ufb03ce"), ("al", "\u200eAL"), ("90071992547409930", "090071992547409930"),
    ],
)  # fmt: skip
def test_one_value_in_two_spellings(first: str, second: str) -> None:
    assert spellings.folded(first) == spellings.folded(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("B-", "B"), ("A+", "A"), ("A-1", "A1"), ("18-29", "1829"), ("1.5", "15"), ("x_1", "x1"), ("90071992547409930", "90071992547409931"), ("1e400", "1e401")],
)
def test_two_values(first: str, second: str) -> None:
    assert spellings.folded(first) != spellings.folded(second)


@pytest.mark.parametrize(
    ("levels", "found"),
    [
        (["Yes", "Y", "no"], [["Yes", "Y"]]), (["M", "F", "Male", "Female"], [["Male", "M"], ["Female", "F"]]), (["true", "false", "1", "0"], [["true", "1"], ["false", "0"]]),
        (["N", "S", "E", "W"], []), (["0", "1", "2", "T", "Y"], []), (["yes", "no"], []), (["Male", "Female"], []),
    ],
)  # fmt: skip
def test_words_for_the_same(levels: list[str], found: list[list[str]]) -> None:
    assert spellings.same_words(levels) == found


@pytest.mark.parametrize(
    ("levels", "is_odd"),
    [
        (["2024-01-02", "01/02/2024"], True), (["01/02/2024", "1/3/2024"], True), (["13/01/2024", "01/13/2024"], True), (["2024-01-02", "20240103"], True),
        (["2024-01-02", "2024-01-02T00:00:00Z"], True), (["1-Jan-2024", "2024-01-01"], True), (["2024.01.02", "2024-01-02"], True),
        (["2024-01-02", "2024-11-12"], False), (["2024-01-02", "2024-01-02 10:00:00"], False), (["1/2/2024", "11/12/2024"], False), (["1/05/2024", "1/15/2024"], False),
        (["123-45-6789", "12-34-5678"], False), (["01-02-03", "1-2-3"], False), (["20240102", "20240103"], False), (["01/02/2024", "x", "1/2/2024", "y", "z", "u"], False),
    ],
)  # fmt: skip
def test_dates_of_several_forms(levels: list[str], is_odd: bool) -> None:
    assert bool(spellings.date_forms(levels)) == is_odd


@pytest.mark.parametrize(
    ("level", "is_garbled"),
    [("Do\u00c3\u00b1a", True), ("Do\ufffda", True), ("O\x92Brien", True), ("Do\u00f1a", False), ("na\u00efve", False), ("Z\u00fcrich", False), ("\u041c\u043e\u0441\u043a\u0432\u0430", False), ("plain", False)],
)
def test_text_of_another_encoding(level: str, is_garbled: bool) -> None:
    assert spellings.is_garbled(level) == is_garbled


def kinds(helpers: Any, folder: Path, **changed: Any) -> dict[str, str]:
    columns = {"g": [f"g{i % 3}" for i in range(NUM)], "x": [i % 50 for i in range(NUM)], "y": [0, 1] * (NUM // 2)} | changed
    pq.write_table(pa.table(columns), folder / "a.parquet")
    found = helpers.run(folder / "a.parquet", folder / "run", **OPTIONS).dictionary.notes
    return {note.kind: note.what for note in found}


@pytest.mark.parametrize(
    ("pair", "kind"),
    [
        (("Do\u00f1a Ana", "Dona Ana"), "doubled"), (("Yes", "Y"), "words"), (("2024-01-02", "01/03/2024"), "dates"), (("Do\u00c3\u00b1a", "b"), "encoding"), (("?", "b"), "marker"),
        (("#REF!", "b"), "marker"), (("inf", "b"), "marker"),
    ],
)  # fmt: skip
def test_odd_levels_are_noted_with_the_run(helpers: Any, tmp_path: Path, pair: tuple[str, str], kind: str) -> None:
    found = kinds(helpers, tmp_path, g=[pair[i % 2] for i in range(NUM)])
    assert set(found) == {kind}
    assert repr(pair[0]) in found[kind]


def test_a_header_among_the_rows_is_noted(helpers: Any, tmp_path: Path) -> None:
    assert set(kinds(helpers, tmp_path, g=["g" if i == 100 else f"g{i % 3}" for i in range(NUM)])) == {"marker"}
    assert kinds(helpers, tmp_path, g=["g" if i % 3 else f"g{i % 2}" for i in range(NUM)]) == {}


def test_numbers_in_a_column_of_text_are_noted_where_they_are_fixed_effects(helpers: Any, tmp_path: Path) -> None:
    numbers = [str(20 + i % 50) for i in range(NUM)]
    assert set(kinds(helpers, tmp_path, x=numbers)) == {"numbers"}
    assert kinds(helpers, tmp_path, g=numbers) == {}
    assert kinds(helpers, tmp_path, x=[str(i % 5) for i in range(NUM)]) == {}


# ---- codes and spikes within the range of a number ----


@pytest.mark.parametrize(
    ("values", "code", "kind"),
    [
        (lambda r: r.integers(18, 95, NUM), 0, "spike"), (lambda r: r.integers(18, 95, NUM), 99, "sentinel"), (lambda r: r.integers(18, 105, NUM), 99, "sentinel"),
        (lambda r: r.normal(0.5, 0.1, NUM), 0, "spike"), (lambda r: r.normal(0, 10, NUM), -9, "sentinel"), (lambda r: r.normal(5e4, 2e4, NUM).round(), 99999, "sentinel"),
        (lambda r: r.integers(1950, 2006, NUM), 1900, "spike"),
    ],
)  # fmt: skip
def test_a_code_that_a_tenth_of_the_rows_have_is_noted(helpers: Any, tmp_path: Path, values: Any, code: float, kind: str) -> None:
    x = values(np.random.default_rng(1)).astype(float)
    assert kinds(helpers, tmp_path, x=x) == {}
    x[: NUM // 10] = code
    found = kinds(helpers, tmp_path, x=x)
    assert set(found) == {kind}
    assert f"rows have {code:g}" in found[kind]


def test_honest_predictors_are_not_noted() -> None:
    """Heaps without a gap, tops of scales, groups of very different sizes, tails, and values that many rows have by rounding."""
    rng = np.random.default_rng(2)
    shares = np.sort(np.append(rng.uniform(0.3, 0.7, 50), 0.92))
    people = rng.lognormal(0, 1, 51)
    people[-1] = np.median(people)  # one far group, as large as others
    makers = {
        "capped": lambda: np.minimum(rng.lognormal(10, 1, 5000), 1e5), "zeros": lambda: rng.lognormal(3, 1, 5000) * rng.integers(0, 2, 5000),
        "groups": lambda: shares[rng.choice(51, 5000, p=people / people.sum())], "ages": lambda: np.minimum(rng.normal(50, 18, 5000).round(), 90),
        "counts": lambda: rng.negative_binomial(0.5, 0.05, 5000), "answers": lambda: rng.integers(1, 8, 5000), "rounded": lambda: rng.normal(50, 10, 5000).round(-1),
        "years": lambda: rng.choice([1, 2, 3, 5, 10, 20], 5000), "heavy": lambda: rng.standard_t(2, 5000).round(1),
    }  # fmt: skip
    for name, make in makers.items():
        for _ in range(20):
            values, counts = np.unique(make(), return_counts=True)
            pairs = [(float(v), int(n)) for v, n in zip(values, counts, strict=True)]
            assert notes.of_number("x", pairs[: notes.NUM_EXTREMES], pairs[::-1][: notes.NUM_EXTREMES], 5000) == [], name
