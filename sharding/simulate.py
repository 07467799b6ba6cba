"""A national voter file that never was, of any size, with the truth beside it.

People are drawn county by county from the real list of counties (:mod:`sharding.simulation_population`) and answer by
a known model (:mod:`sharding.simulation_truth`). ``voted`` is known for everybody. ``support`` is known for
``num_answers`` people, as in a survey matched to the file, and those people are **not** representative: older, White,
educated people, women, some states, and the groups that say yes answer far more often. All of that goes by race, age,
sex and county, which are in the model, and by education, which has no effect on the outcome. So the answers are missing
at random: multilevel regression and poststratification can undo it, a mean of the answers cannot.

:func:`simulate` writes people; :func:`simulate_cells` has the very same nation without them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sharding import simulation_people, simulation_precincts, simulation_truth
from sharding.errors import ShardingError
from sharding.simulation_people import CODES, ELECTIONS, PARTIES, Nation, People
from sharding.simulation_population import AGES, EDUCATIONS, NUM_CELLS, RACES, SEXES, Counties, load_counties
from sharding.simulation_precincts import Precincts

COLUMNS = (
    "voter_id", "state", "county", "race", "age", "education", "sex", "female", "party", *ELECTIONS,
    "dem_share", "pct_college", "voted", "support",
)  # fmt: skip
ROWS_PER_GROUP = 250_000
MAX_ROWS_PER_COUNTY = 10_000_000  # voter_id has seven digits after the county
SCHEMA_VERSION = 1


class SimulationError(ShardingError):
    """The nation cannot be simulated as asked."""

    def __init__(self, message: str):
        self.message = message
        super().__init__(message)

    def __reduce__(self) -> tuple[type[SimulationError], tuple[str]]:
        return type(self), (self.message,)


@dataclass(frozen=True)
class SimulationSummary:
    """What :func:`simulate` wrote, or found there."""

    directory: str
    num_rows: int
    num_answers: int
    num_counties: int
    num_files: int
    num_bytes: int
    turnout: float
    """Realised share of ``voted``."""
    expected_support: float
    """True expected share of ``support`` over everybody."""
    raw_support: float | None
    """Mean of the answers alone; None where nobody answered."""
    reused: bool = False
    """The very same nation was there already, complete, and was left alone."""


def simulate(
    directory: str | os.PathLike[str],
    *,
    num_rows: int,
    seed: int,
    num_answers: int = 50_000,
    rows_per_file: int = 2_500_000,
    only_columns: Sequence[str] | None = None,
    num_precincts: int = 0,
) -> SimulationSummary:
    """Write ``voters/part-00000.parquet``, ... and ``truth/*.parquet`` into a local ``directory``.

    The same arguments give the same bytes; ``rows_per_file`` changes how rows fall into files and nothing else. Memory
    stays below 1 GB at any size. Nothing is published before everything is written.

    Parameters
    ----------
    num_rows
        People in the file. Each county gets its share by voting-age population, and at least one person where
        ``num_rows`` is 3,144 or more.
    num_answers
        People whose ``support`` is known; no more than ``num_rows`` are.
    rows_per_file
        Upper limit of the rows of one part.
    only_columns
        Write only these columns.
    num_precincts
        Precincts in the nation, each in a county: a column ``precinct`` and effects on both outcomes. 0: none, and the
        file is what it was before there were precincts.

    Raises
    ------
    SimulationError
        An argument is out of range, or the directory holds another nation.
    """
    every = _columns(num_precincts)
    columns = every if only_columns is None else tuple(only_columns)
    _check(num_rows, num_answers, rows_per_file, columns, num_precincts)
    num_answers = min(num_answers, num_rows)
    target = Path(directory)
    request = {
        "schema_version": SCHEMA_VERSION, "num_rows": num_rows, "seed": seed, "num_answers": num_answers,
        "rows_per_file": rows_per_file, "columns": list(columns),
        **({"num_precincts": num_precincts} if num_precincts else {}),
    }  # fmt: skip
    if existing := _find(target, request):
        return existing

    partial = target / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    for path in (partial / "voters", partial / "truth"):
        path.mkdir(parents=True, mode=0o700)
    nation = simulation_people.found(num_rows, seed, num_answers, num_precincts)
    tally = simulation_people.Tally(nation)
    blocks = _blocks(simulation_people.draw_people(nation, tally), min(ROWS_PER_GROUP, rows_per_file))
    num_files = _write_parts(blocks, nation, partial / "voters", rows_per_file, columns)
    totals = tally.totals()
    places = _places(nation)
    simulation_truth.write_coefficients(
        list(nation.truths.values()), nation.counties, partial / "truth", places[1] if places else ()
    )
    simulation_truth.write_expected(totals, nation.counties, partial / "truth" / "expected.parquet", places)

    answered = int(totals["support"].num_answers.sum())
    summary = SimulationSummary(
        directory=str(target),
        num_rows=num_rows,
        num_answers=answered,
        num_counties=int((nation.num_rows > 0).sum()),
        num_files=num_files,
        num_bytes=sum(path.stat().st_size for path in (partial / "voters").iterdir()),
        turnout=float(totals["voted"].num_successes.sum() / num_rows),
        expected_support=float(totals["support"].expected.sum() / num_rows),
        raw_support=float(totals["support"].num_successes.sum() / answered) if answered else None,
    )
    record = {"request": request, "summary": {k: v for k, v in asdict(summary).items() if k != "directory"}}
    (partial / "truth" / "simulation.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    for path in partial.glob("*/*"):
        path.chmod(0o600)
    os.replace(partial / "voters", target / "voters")
    os.replace(partial / "truth", target / "truth")  # last: a nation without its truth is not finished
    partial.rmdir()
    return summary


def simulate_cells(
    num_rows: int, seed: int, *, outcome: str = "voted", num_answers: int = 50_000, num_precincts: int = 0
) -> dict[str, npt.NDArray]:
    """Return the nation of :func:`simulate` as cells over state, county, race, age and sex, without making its people.

    The numbers are those of grouping the file made with the same arguments, in FIPS order. 20,000,000 voters are about
    200,000 cells.

    Returns
    -------
    dict
        Arrays of one length: text ``state``, ``county``, ``race``, ``age``; ``female`` (0/1); the county predictors
        ``dem_share`` and ``pct_college``; ``num_rows``, and ``num_trials`` and ``num_successes`` of ``outcome``
        (``voted``: of everybody; ``support``: of those who answered). With ``num_precincts`` also text ``precinct``.
    """
    if outcome not in simulation_truth.OUTCOMES:
        raise SimulationError(f"outcome is {outcome!r}, expected one of {', '.join(simulation_truth.OUTCOMES)}")
    _check(num_rows, num_answers, 1, COLUMNS, num_precincts)
    nation = simulation_people.found(num_rows, seed, min(num_answers, num_rows), num_precincts)
    counties = nation.counties
    if nation.precincts is not None:
        return _precinct_cells(nation, outcome)
    cells = np.zeros((len(counties.fips), 3, NUM_CELLS), dtype=np.int64)
    for place, _, counts in simulation_people.draw_codes(nation):
        by_cell = counts.reshape(NUM_CELLS, len(EDUCATIONS), 2, 2, 2).sum(axis=1)  # cell, answered, voted, support
        everybody = by_cell.sum(axis=(1, 2, 3))
        if outcome == "voted":
            cells[place] = everybody, everybody, by_cell[:, :, 1].sum(axis=(1, 2))
        else:
            cells[place] = everybody, by_cell[:, 1].sum(axis=(1, 2)), by_cell[:, 1, :, 1].sum(axis=1)
    county, cell = np.nonzero(cells[:, 0])
    num_cell_rows, num_trials, num_successes = cells[county, :, cell].T
    return {
        "state": np.array(counties.state)[county],
        "county": np.array(counties.fips)[county],
        "race": np.array(RACES)[cell >> 4],
        "age": np.array(AGES)[(cell >> 1) & 7],
        "female": cell & 1,
        "dem_share": counties.dem_share[county],
        "pct_college": counties.pct_college[county],
        "num_rows": num_cell_rows,
        "num_trials": num_trials,
        "num_successes": num_successes,
    }


def _precinct_cells(nation: Nation, outcome: str) -> dict[str, npt.NDArray]:
    """The cells of a nation with precincts, in the order of precinct, race, age and sex."""
    counties, precincts = nation.counties, nation.precincts
    assert precincts is not None, "asked for precincts"
    parts = []
    ones = CODES.voted if outcome == "voted" else CODES.support
    for _, (precinct, code) in simulation_people.draw_residents(nation):
        known = np.ones(len(code), dtype=bool) if outcome == "voted" else CODES.answered[code]
        kinds, which = np.unique(precinct.astype(np.int64) * NUM_CELLS + (code >> 5), return_inverse=True)
        counts = [
            np.bincount(which),
            *(np.bincount(which[k], minlength=len(kinds)) for k in (known, known & (ones[code] == 1))),
        ]
        parts.append(np.stack([kinds, *counts]))
    kinds, num_cell_rows, num_trials, num_successes = np.concatenate(parts, axis=1)
    place, cell = np.divmod(kinds, NUM_CELLS)
    county = precincts.county[place]
    return {
        "state": np.array(counties.state)[county],
        "county": np.array(counties.fips)[county],
        "precinct": np.array(precincts.labels)[place],
        "race": np.array(RACES)[cell >> 4],
        "age": np.array(AGES)[(cell >> 1) & 7],
        "female": cell & 1,
        "dem_share": counties.dem_share[county],
        "pct_college": counties.pct_college[county],
        "num_rows": num_cell_rows,
        "num_trials": num_trials,
        "num_successes": num_successes,
    }


def _columns(num_precincts: int) -> tuple[str, ...]:
    """Every column of a nation: ``precinct`` comes after ``county``."""
    after = COLUMNS.index("county") + 1
    return (*COLUMNS[:after], "precinct", *COLUMNS[after:]) if num_precincts else COLUMNS


def _places(nation: Nation) -> tuple[npt.NDArray, list[str]] | None:
    """County and full label, ``CA:06037:06037-0001``, of every precinct."""
    if nation.precincts is None:
        return None
    county = nation.precincts.county
    prefix = nation.counties.labels
    return county, [f"{prefix[c]}:{p}" for c, p in zip(county.tolist(), nation.precincts.labels, strict=True)]


def _check(num_rows: int, num_answers: int, rows_per_file: int, columns: Sequence[str], num_precincts: int = 0) -> None:
    counties = load_counties()
    limit = int(MAX_ROWS_PER_COUNTY * (counties.adults.sum() / counties.adults.max()))
    if not 1 <= num_rows <= limit:
        raise SimulationError(f"num_rows is {num_rows:,}, expected 1 to {limit:,}")
    if num_answers < 0:
        raise SimulationError(f"num_answers is {num_answers:,}, expected 0 or more")
    if rows_per_file < 1:
        raise SimulationError(f"rows_per_file is {rows_per_file:,}, expected 1 or more")
    fewest, most = simulation_precincts.limits(counties)
    if num_precincts and not fewest <= num_precincts <= most:
        raise SimulationError(f"num_precincts is {num_precincts:,}, expected 0, or {fewest:,} to {most:,}")
    every = _columns(num_precincts)
    unknown = [name for name in columns if name not in every]
    if unknown or not columns:
        raise SimulationError(f"only_columns has {unknown or 'nothing'}, expected some of {', '.join(every)}")


def _find(target: Path, request: dict) -> SimulationSummary | None:
    path = target / "truth" / "simulation.json"
    if not path.exists():
        leftover = [name for name in ("voters", "truth") if (target / name).exists()]
        if leftover:
            raise SimulationError(
                f"{target / leftover[0]} exists and is not part of a finished simulated nation. "
                "Name another directory, or remove it."
            )
        return None
    record = json.loads(path.read_text())
    there = record["request"]
    if there != request:
        differs = "; ".join(f"{k} {there.get(k)!r} (asked: {v!r})" for k, v in request.items() if there.get(k) != v)
        raise SimulationError(
            f"{target} holds another simulated nation: {differs}. Name another directory, or remove it."
        )
    return SimulationSummary(**{**record["summary"], "directory": str(target), "reused": True})


def _blocks(people: Iterator[People], size: int) -> Iterator[People]:
    """Cut the stream of counties into blocks of exactly ``size`` rows; the last may be smaller."""
    waiting: list[People] = []
    num_waiting = 0
    for rows in people:
        waiting.append(rows)
        num_waiting += len(rows.code)
        if num_waiting >= size:
            joined = _join(waiting)
            whole = num_waiting - num_waiting % size
            for start in range(0, whole, size):
                yield _cut(joined, start, start + size)
            waiting = [_cut(joined, whole, num_waiting)]
            num_waiting -= whole
    if num_waiting:
        yield _join(waiting)


def _join(parts: list[People]) -> People:
    return People._make(np.concatenate(column) for column in zip(*parts, strict=True))


def _cut(people: People, start: int, stop: int) -> People:
    return People._make(column[start:stop] for column in people)


def _write_parts(
    blocks: Iterator[People], nation: Nation, directory: Path, rows_per_file: int, columns: tuple[str, ...]
) -> int:
    """Write the blocks as row groups of ``part-00000.parquet``, ...; return the number of files."""
    with_dictionary: list = [name for name in columns if name != "voter_id"]
    num_files, room = 0, 0
    writer: pq.ParquetWriter | None = None
    try:
        for block in blocks:
            table = _table(block, nation, columns)
            if writer is None or len(table) > room:
                if writer is not None:
                    writer.close()
                writer = pq.ParquetWriter(
                    directory / f"part-{num_files:05d}.parquet",
                    table.schema,
                    compression="zstd",
                    compression_level=1,
                    use_dictionary=with_dictionary,
                    column_encoding={"voter_id": "DELTA_BYTE_ARRAY"} if "voter_id" in columns else None,
                )
                num_files, room = num_files + 1, rows_per_file
            writer.write_table(table, row_group_size=len(table))
            room -= len(table)
    finally:
        if writer is not None:
            writer.close()
    return num_files


def _table(people: People, nation: Nation, columns: tuple[str, ...]) -> pa.Table:
    counties, precincts = nation.counties, nation.precincts
    first, last = int(people.county[0]), int(people.county[-1]) + 1
    code = people.code

    def labels(codes: npt.NDArray, names: Sequence[str], *, ordered: bool = False) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names, pa.string()), ordered=ordered)

    make: dict[str, Callable[[], pa.Array]] = {
        "voter_id": lambda: _voter_ids(people, counties),
        "state": lambda: labels(counties.state_code.astype(np.int8)[people.county], counties.states),
        "county": lambda: labels(people.county - first, counties.fips[first:last]),
        "precinct": lambda: _precinct_labels(people, precincts),
        "race": lambda: labels(CODES.race[code], RACES),
        "age": lambda: labels(CODES.age[code], AGES, ordered=True),
        "education": lambda: labels(CODES.education[code], EDUCATIONS, ordered=True),
        "sex": lambda: labels(CODES.female[code], SEXES),
        "female": lambda: pa.array(CODES.female[code]),
        "party": lambda: labels(people.party, PARTIES),
        "g2016": lambda: pa.array(people.history[:, 0].astype(np.int8)),
        "g2018": lambda: pa.array(people.history[:, 1].astype(np.int8)),
        "g2020": lambda: pa.array(people.history[:, 2].astype(np.int8)),
        "g2022": lambda: pa.array(people.history[:, 3].astype(np.int8)),
        "dem_share": lambda: pa.array(counties.dem_share[people.county]),
        "pct_college": lambda: pa.array(counties.pct_college[people.county]),
        "voted": lambda: pa.array(CODES.voted[code]),
        "support": lambda: pa.array(CODES.support[code], mask=~CODES.answered[code]),
    }
    return pa.table({name: make[name]() for name in columns})


def _precinct_labels(people: People, precincts: Precincts | None) -> pa.Array:
    assert precincts is not None, "the column exists in a nation with precincts"
    first, last = int(people.precinct.min()), int(people.precinct.max()) + 1
    names = pa.array(precincts.labels[first:last], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(people.precinct - first), names)


_FOUR_DIGITS = np.array([f"{i:04d}".encode() for i in range(10_000)]).view("<u4")


def _voter_ids(people: People, counties: Counties) -> pa.Array:
    """Return the county's FIPS code and seven digits, made four characters at a time."""
    fips = np.array([int(code) for code in counties.fips])[people.county]
    text = np.empty((len(fips), 3), dtype="<u4")
    text[:, 0] = _FOUR_DIGITS[fips // 10]
    text[:, 1] = _FOUR_DIGITS[fips % 10 * 1000 + people.serial // 10_000]
    text[:, 2] = _FOUR_DIGITS[people.serial % 10_000]
    offsets = 12 * np.arange(len(fips) + 1, dtype=np.int32)
    return pa.StringArray.from_buffers(len(fips), pa.py_buffer(offsets.tobytes()), pa.py_buffer(text.tobytes()))
