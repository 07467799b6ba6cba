"""Clean rows of voters and history -> one row per person, out of core in DuckDB: repeated ids, and who voted."""

from __future__ import annotations

from pathlib import Path

import duckdb

from sharding.layouts.read import VOTED, Request
from sharding.sql import quoted

Counts = dict[tuple[str, int], int]
"""Rows by rule and place of the file in the list."""


def join(
    connection: duckdb.DuckDBPyConnection, request: Request, voters: list[Path], history: list[Path], target: Path
) -> tuple[Counts, int]:
    """Write the people of ``voters`` to Parquet at ``target``; return the rows left out, and the people whose vote was found.

    ``history`` files are numbered after those of ``voters``.
    """
    counts: Counts = {}
    files = [*voters, *history]
    connection.execute("CREATE TEMP TABLE files (path VARCHAR, place INTEGER)")
    connection.executemany("INSERT INTO files VALUES (?, ?)", [[str(path), i] for i, path in enumerate(files)])
    _view(connection, "people", voters)
    latest = "__registered DESC NULLS LAST, " if request.layout.people.keep == "latest" else ""
    connection.execute(
        "CREATE TEMP TABLE dropped AS SELECT place, __line FROM ("
        f"SELECT place, __line, row_number() OVER (PARTITION BY __id ORDER BY {latest}place, __line) AS n FROM people "
        "SEMI JOIN (SELECT __id FROM people WHERE __kept GROUP BY __id HAVING count(*) > 1) USING (__id) WHERE __kept"
        ") WHERE n > 1"
    )
    for place, count in connection.execute("SELECT place, count(*) FROM dropped GROUP BY place").fetchall():
        counts[("id:duplicate", place)] = count
    person = request.layout.people.id
    columns = [f"kept.__id AS {quoted(name)}" if name == person else quoted(name) for name in request.columns]
    outcome, votes = "", ""
    vote = request.layout.vote
    if request.has_vote and vote is not None and vote.form != "long":
        columns.append(VOTED)
    elif history:
        counts |= _history(connection, history)
        outcome = f"CASE WHEN votes.__id IS NULL THEN 0 WHEN votes.counts THEN 1 END::TINYINT AS {VOTED}"
        columns.append(outcome)
        votes = "LEFT JOIN votes ON votes.__id = kept.__id"
    connection.execute(
        f"COPY (SELECT {', '.join(columns)} FROM (SELECT * FROM people ANTI JOIN dropped USING (place, __line) WHERE __kept) "
        f"AS kept {votes}) TO $path (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, USE_TMP_FILE false)",
        {"path": str(target)},
    )
    return counts, _one(connection, "SELECT count(*) FROM votes WHERE counts") if history else 0


def _history(connection: duckdb.DuckDBPyConnection, history: list[Path]) -> Counts:
    """Make the table ``votes`` (id, whether a row counts) of ids that are known, and return the rows left out."""
    counts: Counts = {}
    _view(connection, "history", history)
    connection.execute(
        "CREATE TEMP TABLE known AS SELECT * FROM history SEMI JOIN (SELECT DISTINCT __id FROM people) USING (__id)"
    )
    unknown = "SELECT place, count(*) FROM history ANTI JOIN known USING (__id) WHERE __counts GROUP BY place"
    for place, count in connection.execute(unknown).fetchall():
        counts[("id:unknown", place)] = count
    repeated = (
        "SELECT place, count(*) FROM (SELECT place, row_number() OVER (PARTITION BY __id ORDER BY place, __line) AS n "
        "FROM known WHERE __counts) WHERE n > 1 GROUP BY place"
    )
    for place, count in connection.execute(repeated).fetchall():
        counts[("history:repeated", place)] = count
    connection.execute("CREATE TEMP TABLE votes AS SELECT __id, bool_or(__counts) AS counts FROM known GROUP BY __id")
    return counts


def _view(connection: duckdb.DuckDBPyConnection, name: str, paths: list[Path]) -> None:
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    connection.execute(
        f"CREATE TEMP VIEW {name} AS SELECT rows.* EXCLUDE (filename), files.place "
        f"FROM read_parquet([{listed}], filename=true, hive_partitioning=false) AS rows JOIN files ON files.path = rows.filename"
    )


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])
