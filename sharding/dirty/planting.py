"""Which faults a table gets, and what must be counted of them (rules as in ``docs/layouts.md``)."""

from __future__ import annotations

from datetime import date

import numpy as np

from sharding.dirty.faults import Draft, Mask
from sharding.dirty.lines import Change, TextFormat
from sharding.dirty.people import LAST_REGISTRATION, MOST_PEOPLE, dates
from sharding.dirty.tables import Table

STAND_IN = "@"
"""Written where a line gets a byte that text cannot hold; in no value otherwise."""


def voters(table: Table, seed: int, is_copy: Mask, is_touched: Mask) -> Draft:
    """Put faults into a table of voters."""
    roles, rows_free = table.roles, ~is_touched & ~_is_edge(table)
    draft = Draft(table, seed, rows_free)
    after = dates(np.array([LAST_REGISTRATION + 40]), roles.date_form)[0].as_py()
    if table.form is not None:
        _lines(draft, table.form)
        for column, value, truth, rule in (
            (roles.registered, "#" * 8 if table.form.widths else "##/##/####", "", "dates:malformed"),
            (roles.registered, date(2000, 1, 31).strftime(roles.date_form).replace("01", "02", 1), "", "dates:impossible"),
            (roles.registered, date(1900, 1, 1).strftime(roles.date_form), "", "dates:placeholder"),
        ):  # fmt: skip
            rows = draft.rows()
            draft.put(column, rows, value, truth)
            draft.count(rule, column, rows)
    for column, code in roles.codes.items():
        rows = draft.rows()
        draft.put(column, rows, code, "(unseen)")
        draft.count("code:unseen", column, rows)
    for column, markers in roles.markers.items():
        for marker in ("", *markers):
            draft.put(column, draft.rows(), marker, "")
    rows = draft.rows()
    draft.put(roles.birth, rows, roles.placeholder, "(placeholder)")
    draft.count("birth_date:placeholder", roles.birth, rows)
    rows = draft.rows()
    draft.put(roles.birth, rows, roles.placeholder.replace("1900", "1910"), "(placeholder)")
    draft.count("age:impossible", "", rows)
    for column, value, rule in (
        (roles.status, roles.left_out, "status:left_out"), (roles.registered, after, "election:registered_after"),
        (roles.birth, roles.underage, "age:under_18"), (roles.id, "", "id:missing"),
    ):  # fmt: skip
        if column and (value or rule == "id:missing"):
            rows = draft.rows()
            draft.put(column, rows, value, value)
            draft.count(rule, column, rows, kept=False)
    draft.count("id:duplicate", "", np.flatnonzero(is_copy & draft.is_row), kept=False)
    _missing(draft)
    return draft


def history(table: Table, seed: int, is_touched: Mask, is_copy: Mask, is_known: Mask) -> tuple[Draft, Mask, Mask]:
    """Put faults into a table of history.

    Parameters
    ----------
    is_known
        Of each person, whether a line of the voters' file has him.

    Returns
    -------
    tuple
        The draft, and of each person whether a vote is found, and whether there is a ballot with an unseen code.
    """
    assert table.counts is not None
    roles, is_asked = table.roles, table.counts
    draft = Draft(table, seed, ~is_touched & ~_is_edge(table) & is_known[table.person])
    if table.form is not None:
        _lines(draft, table.form)
    if table.form is not None and table.form.widths is None:
        rows = draft.rows()
        draft.put(roles.election, rows, "##/##/####")
        draft.count("dates:malformed", roles.election, rows, kept=False)
    for code in roles.not_counted:
        rows = draft.rows(is_asked)
        draft.put(roles.vote, rows, code)
        draft.count("vote:not_counted", roles.vote, rows, kept=False)
    unseen = np.array([], np.int64)
    for column, code in roles.codes.items():
        unseen = draft.rows(is_asked)
        draft.put(column, unseen, code)
        draft.count("code:unseen", column, unseen, kept=False)
    rows = draft.rows(is_asked)
    ids = draft.values(roles.id, rows)
    draft.put(roles.id, rows, [text[:-7] + str(MOST_PEOPLE + 1 + i) for i, text in enumerate(ids)])
    draft.count("id:unknown", "", rows, kept=False)
    draft.count("election:other", "", np.flatnonzero(~is_asked & draft.is_row & draft.is_kept), kept=False)
    unknown = is_asked & draft.is_kept & ~is_known[table.person]
    draft.count("id:unknown", "", np.flatnonzero(unknown), kept=False)
    if roles.drifting:
        draft.put(roles.drifting, np.flatnonzero(is_copy), roles.older_label)
    draft.count("history:repeated", "", np.flatnonzero(is_copy & is_asked & draft.is_kept), kept=False)
    has_vote, is_unclear = np.zeros(len(is_known), bool), np.zeros(len(is_known), bool)
    has_vote[table.person[draft.is_kept]] = True
    is_unclear[table.person[unseen]] = True
    return draft, has_vote, is_unclear & ~has_vote


def _is_edge(table: Table) -> Mask:
    """Whether a row is the first or last of its file, which have faults of their own."""
    change = np.flatnonzero(np.diff(table.file_of_row)) + 1
    edge = np.zeros(table.num_rows, bool)
    edge[[0, -1, *change, *(change - 1)]] = True
    return edge


def _lines(draft: Draft, form: TextFormat) -> None:
    """Damage single lines; ``form`` says which damage is possible."""
    name, end = draft.table.roles.name, b"\r\n" if "\r" in form.line_end else b"\n"
    delimiter, quote = form.delimiter.encode(), form.quote
    is_fixed, is_bytes = form.widths is not None, form.encoding == "utf-8"

    def spoil(rule: str, change: Change, *, kept: bool) -> None:
        rows = draft.rows()
        draft.change(rows, change)
        draft.count(rule, "", rows, kept=kept)
        if not kept:
            draft.is_row[rows] = False

    def named(text: str, change: Change, rule: str = "") -> None:
        rows = draft.rows()
        draft.put(name, rows, text)
        draft.change(rows, change)
        if rule:
            draft.count(rule, "", rows)

    shorter: Change = (lambda line: line[:-20]) if is_fixed else (lambda line: delimiter.join(line.split(delimiter)[:-3]))
    longer: Change = (lambda line: line + b"X Y") if is_fixed else (lambda line: line + delimiter + delimiter)
    spoil("fields:too_few", shorter, kept=False)
    spoil("fields:too_many", longer, kept=False)
    if form.has_header:
        header = form.header(draft.table.names).encode()
        spoil("lines:repeated_header", lambda line: header, kept=False)
    spoil("lines:blank", lambda line: line + end + b"  ", kept=True)
    if name:
        stand_in = STAND_IN.encode()
        if not is_fixed:
            named("BO@LIX", lambda line: line.replace(stand_in, b"\0"), "bytes:nul")
        if is_bytes:
            named("ÑORBOR", lambda line: line)  # UTF-8 among ASCII: no fault
            named("MÜLVEL", lambda line: line.decode().encode("cp1252"), "encoding:cp1252")
            named("BO@DOL", lambda line: line.replace(stand_in, b"\x81"), "encoding:latin-1")
        if not is_fixed:
            named("BO@NIX", lambda line: line.replace(stand_in, b"\r"), "bytes:carriage_return")
        if quote:
            named('BO ""BIG"" LIX', lambda line: line)
            named('BO "BIG" LIX', lambda line: line, "quotes:stray")
        elif not is_fixed:
            named('BO "BIG LIX', lambda line: line, "" if form.quote_is_data else "quotes:stray")
        if not is_fixed and draft.table.roles.kept:
            rows = draft.rows()
            column = draft.table.roles.kept[-1]
            draft.put(column, rows, [value + "  " for value in draft.values(column, rows)])
            draft.count("spaces:trimmed", column, rows)
    cut = np.flatnonzero(np.bincount(draft.table.file_of_row) > 50)
    ends = np.searchsorted(draft.table.file_of_row, cut[:2], side="right") - 1
    draft.count("file:cut", "", ends, kept=False)
    draft.is_row[ends] = False


def _missing(draft: Draft) -> None:
    """Count what is missing in all columns, planted or usual."""
    roles = draft.table.roles
    for column in set(draft.table.names) - {roles.id}:
        draft.count("missing:blank", column, draft.where(column, ""))
        for marker in roles.markers.get(column, ()):
            draft.count("missing:marker", column, draft.where(column, marker))
