"""What is noted of the columns of outcome, exposure, trials and weight, and of files beside each other: codes for missing, units, codings."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from sharding import samples, units
from sharding.config import DataConfig, ShardsConfig
from sharding.dictionary import Dictionary
from sharding.ingest import ingest

N = 400
RNG = np.random.default_rng(16)
SHAPE = {"count": {"count": "y", "exposure": "e"}, "binomial": {"successes": "s", "trials": "m"}, "keyed_trials": {"successes": "s", "trials": "m"}}


def rows(num_rows: int = N, **columns: Any) -> dict[str, Any]:
    found = {
        "g": [f"g{i % 6}" for i in range(num_rows)], "x": RNG.uniform(0, 100, num_rows).round(1), "y": RNG.poisson(3, num_rows),
        "s": RNG.integers(0, 3, num_rows), "m": RNG.integers(3, 9, num_rows), "e": RNG.integers(1, 6, num_rows), "w": RNG.gamma(2, 0.5, num_rows) + 0.01,
    }  # fmt: skip
    return {**found, **columns}


def described(
    folder: Path, files: list[dict[str, Any]], outcome: Any = "y", kind: str = "keyed_count", *, text: bool = False, **options: Any
) -> Dictionary:
    (folder / "in").mkdir(exist_ok=True, parents=True)
    for i, columns in enumerate(files):
        table, path = pa.table(columns), folder / "in" / f"f{i}"
        if text:
            pyarrow.csv.write_csv(table, f"{path}.csv")
        else:
            pq.write_table(table, f"{path}.parquet")
    coding = options.pop("coding", None)
    data = DataConfig(source=str(folder / "in" / "*"), outcome=outcome, terms_of_use="synthetic", threads=1, **options)
    columns = {"factor_columns": ["g"], "predictor_columns": ["x"], "group_columns": [("g",)]}
    return ingest(data, ShardsConfig(), outcome_kind=kind, directory=str(folder / "run"), coding=coding, **columns).dictionary


def with_codes(values: np.ndarray, code: float, number: int = 12) -> np.ndarray:
    found = np.array(values, dtype=float)
    found[:number] = code
    return found


@pytest.mark.parametrize(
    ("column", "code", "outcome", "kind", "lines"),
    [
        ("y", 999, "y", "count", 'data.columns.y.missing_values: ["", "999"]'),
        ("y", -9, "y", "gaussian", 'data.columns.y.missing_values: ["", "-9"]'),
        ("y", 99, "y", "keyed_count", 'data.columns.y.missing_values: ["", "99"]'),
        ("e", 999, SHAPE["count"], "count", 'data.columns.exposure.missing_values: ["", "999"]'),
        ("m", 999, SHAPE["binomial"], "binomial", 'data.columns.trials: {missing_values: ["", "999"], missing: quarantine}'),
        ("m", 999, SHAPE["keyed_trials"], "keyed_trials", 'data.columns.trials: {missing_values: ["", "999"], missing: quarantine}'),
        ("w", 9999, "b", "binomial", 'data.columns.w: {missing_values: ["", "9999"], missing: quarantine}'),
    ],
)  # fmt: skip
def test_codes_for_missing_in_outcome_exposure_trials_and_weight(column, code, outcome, kind, lines, tmp_path: Path):
    columns = rows(b=RNG.integers(0, 2, N))
    weight = {"weight": "w"} if column == "w" else {}
    assert described(tmp_path / "clean", [columns], outcome, kind, **weight).notes == ()
    columns[column] = with_codes(columns[column], code)
    (note,) = described(tmp_path, [columns], outcome, kind, **weight).notes
    assert (note.kind, note.count) == ("sentinel", 12)
    assert lines in note.do


def test_the_lines_take_the_codes_out(tmp_path: Path):
    columns = rows(e=with_codes(rows()["e"], 999))
    found = described(tmp_path, [columns], SHAPE["count"], "count", columns={"exposure": {"missing_values": ["", "999"]}})
    assert (found.notes, found.outcome.num_known) == ((), N - 12)


@pytest.mark.parametrize("text", [False, True])
def test_what_is_found_in_a_sample_is_counted_in_all_rows(text: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "MAX_ROWS", 1000)
    monkeypatch.setattr(samples, "BLOCK_BYTES", 1 << 10)
    where = RNG.permutation(8000) < 400
    columns = [rows(8000, y=np.where(where, 999, RNG.poisson(3, 8000))), rows(8000, x=RNG.uniform(0, 1, 8000).round(3))]
    found = described(tmp_path, columns, "y", "count", text=text)
    assert {(note.column, note.kind, note.count) for note in found.notes} == {("y", "sentinel", 400), ("x", "files", 1)}
    assert found.scales["x"].num_values < 5000


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (lambda r: r.negative_binomial(0.1, 0.01, N), "keyed_count"),
        (lambda r: r.lognormal(0, 2, N), "gaussian"),
        (lambda r: np.round(r.lognormal(8, 1.5, N)), "count"),
        (lambda r: r.integers(1, 6, N), "gaussian"),
        (lambda r: r.integers(18, 100, N), "gaussian"),
        (lambda r: r.standard_t(3, N), "gaussian"),
    ],
)
def test_honest_tails_are_not_noted(values, kind: str, tmp_path: Path):
    for seed in range(3):
        assert described(tmp_path / str(seed), [rows(y=values(np.random.default_rng(seed)))], "y", kind).notes == ()


UNITS: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "x of 0 to 1 and of 0 to 100": ("x", {"x": RNG.uniform(0, 1, N).round(2)}, "y", {}),
    "outcome in thousands": ("y", {"y": RNG.lognormal(10, 0.6, N) / 1000}, "y", {"y": RNG.lognormal(10, 0.6, N)}),
    "exposure in months": ("exposure", {"e": 12 * RNG.integers(1, 6, N)}, SHAPE["count"], {}),
    "weights of the population": ("w", {"w": 5000 * RNG.gamma(2, 0.5, N)}, "y", {"w": (lambda w: w / w.mean())(RNG.gamma(2, 0.5, N))}),
}


@pytest.mark.parametrize("name", UNITS)
def test_files_of_one_run_and_later_files_in_other_units(name: str, tmp_path: Path):
    column, other, outcome, base = UNITS[name]
    kind = "count" if outcome != "y" else "gaussian"
    weight: dict[str, Any] = {"weight": "w"} if column == "w" else {}
    files = [rows(**base), rows(**base)]
    before = described(tmp_path / "before", files, outcome, kind, **weight)
    assert before.notes == ()
    assert {"x", column} <= {*before.scales}
    together = described(tmp_path / "together", [*files, rows(**{**base, **other})], outcome, kind, **weight)
    assert [(note.column, note.kind) for note in together.notes] == [(column, "files")]
    assert "1 of 3 files (f2.parquet)" in together.notes[0].what
    if column != "w":  # weights of all files together are refused before
        later = described(tmp_path / "later", [*files, rows(**{**base, **other})], outcome, kind, coding=before)
        assert [(note.column, note.kind) for note in later.notes] == [(column, "files")]
        assert later.scales == before.scales


def test_few_later_rows_with_weights_on_another_scale(tmp_path: Path):
    """Twenty rows among thousands: the average of all weights hardly moves."""
    files = [rows(5000), rows(60, w=8 * (RNG.gamma(20, 0.05, 60)))]
    before = described(tmp_path / "before", [{**files[0], "w": RNG.gamma(20, 0.05, 5000)}], "y", "gaussian", weight="w")
    later = described(tmp_path / "later", [{**files[0], "w": RNG.gamma(20, 0.05, 5000)}, files[1]], "y", "gaussian", weight="w", coding=before)
    assert [(note.column, note.kind) for note in later.notes] == [("w", "files")]


def test_files_of_states_are_not_noted():
    """Shares of a group, incomes, populations, densities and sampling weights of states, two at a time and fifty at a time."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        num_files = int(rng.choice([2, 3, 10, 50]))
        shares = [units.measured(rng.beta(20 * m, 20 * (1 - m), 40)[rng.integers(0, 40, 400)]) for m in rng.beta(1, 4, num_files)]
        incomes = [units.measured(rng.lognormal(10.5 + rng.normal(0, 0.3), 0.8, 400)) for _ in range(num_files)]
        towns = [units.measured(rng.lognormal(10.5 + rng.normal(0, 1), 1.2, 40)[rng.integers(0, 40, 400)]) for _ in range(num_files)]
        weights = [units.measured(rng.lognormal(0, 1.5) * rng.gamma(20, 0.05, 400)) for _ in range(num_files)]
        counts = [units.measured(rng.poisson(rng.lognormal(1, 0.7), 400).astype(float)) for _ in range(num_files)]
        of_uses: tuple[tuple[list[units.Scale | None], units.Use], ...] = (
            (shares, "predictor"), (incomes, "outcome"), (towns, "predictor"), (weights, "weight"), (counts, "outcome"),
        )
        for scales, use in of_uses:
            by_file = {str(i): scale for i, scale in enumerate(scales) if scale is not None}
            assert units.odd_group(by_file, use) is None


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [("x", RNG.integers(1, 3, N), "have 0 and 1 where others have 1 and 2"), ("g", [("Alabama", "Ohio")[i % 2] for i in range(N)], "no level in common")],
)
def test_codings_and_spellings_that_differ_by_file(column: str, values: Any, words: str, tmp_path: Path):
    columns = rows(x=RNG.integers(0, 2, N))
    assert described(tmp_path / "alike", [columns, rows(x=RNG.integers(0, 2, N))]).notes == ()
    (note,) = described(tmp_path, [columns, {**columns, column: values}]).notes
    assert (note.column, note.kind) == (column, "files")
    assert words in note.what


def test_counties_of_states_have_no_level_in_common_and_are_not_noted(tmp_path: Path):
    files = [rows(g=[f"{state} {i % 9:03d}" for i in range(N)]) for state in ("AL", "AK", "AZ")]
    assert described(tmp_path, files).notes == ()


@pytest.mark.parametrize("pair", [("1E+05", "100000"), ("01", "1"), ("-0", "0"), ("0.1", "0.10000000000000001")])
def test_levels_that_are_one_number_are_noted(pair: tuple[str, str], tmp_path: Path):
    (note,) = described(tmp_path, [rows(g=[pair[i % 2] for i in range(N)])]).notes
    assert (note.column, note.kind) == ("g", "doubled")


def test_large_numbers_that_differ_are_levels_of_their_own(tmp_path: Path):
    assert described(tmp_path, [rows(g=[str(2**53 + i % 4) for i in range(N)])]).notes == ()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_sample_of_text_reads_every_kind_of_line_end(end: str, is_packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_ROWS", 50)
    monkeypatch.setattr(samples, "BLOCK_BYTES", 97)  # a line end lies on the edge of some block, the header in more than one
    columns = rows(count=with_codes(RNG.poisson(3, N), 999, 200).astype(int))
    long = "a_column_of_a_long_name_" * 5
    lines = [",".join([*columns, long]), *(",".join([*map(str, row), "z"]) for row in zip(*columns.values(), strict=True))]
    text = (end.join(lines) + end).encode()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"v.csv{'.gz' * is_packed}").write_bytes(gzip.compress(text) if is_packed else text)
    (note,) = [n for n in described(tmp_path, [], outcome="count").notes if n.column == "count"]
    assert (note.kind, note.count) == ("sentinel", 200)
