"""A layout in words, for people: `caucus layouts NAME`."""

from __future__ import annotations

from collections.abc import Iterator

from sharding.layouts import library
from sharding.layouts.files import ROLES, file_layout
from sharding.layouts.schema import ColumnLayout, FileLayout, Layout


def listing() -> list[str]:
    """Return a line for each layout that comes with Caucus."""
    return [f"{name:<13} {library.load(name).title}" for name in library.names()]


def explain(layout: Layout) -> list[str]:
    """Return the files, the columns, the outcome and who takes part, in lines."""
    return [f"{layout.name}: {layout.title}", *_files(layout), *_columns(layout), *_vote(layout), *_people(layout)]


def _files(layout: Layout) -> Iterator[str]:
    for role in ROLES:
        files = file_layout(layout, role)
        if files is not None:
            yield f"{role}: {', '.join(files.names)}: {_form(files)}"


def _form(files: FileLayout) -> str:
    if files.format == "parquet":
        return "Parquet"
    shape = (
        f"fixed width ({sum(files.widths)} characters)" if files.format == "fixed" else f"delimiter {files.delimiter!r}"
    )
    header = "names in the first line" if files.header else f"no header, {len(files.fields)} fields"
    quoting = "quotation marks around values" if files.quoting == "standard" else "a quotation mark is data"
    return f"{shape}, {header}, {quoting}, {' or '.join(files.encodings)}"


def _columns(layout: Layout) -> Iterator[str]:
    yield "columns:"
    for name, column in layout.columns.items():
        kind = layout.kind_of(name)
        yield f"  {name:<22} {_meaning(name, column)}{f' ({kind}: not for models)' if kind else ''}"
    if layout.party != "registered":
        yield f"  party is {layout.party.replace('_', ' ')}"


def _meaning(name: str, column: ColumnLayout) -> str:
    if column.value is not None:
        return f"always {column.value}"
    if column.of is not None:
        return f"age at the election, from {column.of}; {column.top} and older are one level"
    source = column.source or name
    codes = f", {len(column.codes)} codes" if column.codes is not None else ""
    return f"{source}{codes}" if column.type == "text" else f"{source}, {column.type}"


def _vote(layout: Layout) -> Iterator[str]:
    vote = layout.vote
    if vote is None:
        yield "voted: not in the files"
    elif vote.form == "long":
        yield f"voted: a row of history with the election in {vote.election!r}" + (
            f" and {vote.column!r} one of {', '.join(vote.counted)}" if vote.counted else ""
        )
    else:
        yield f"voted: the field {vote.column!r}" + (" has the election's day" if vote.form == "last" else "")


def _people(layout: Layout) -> Iterator[str]:
    people = layout.people
    left = f"status {', '.join(people.leave_out)}; " if people.leave_out else ""
    late = "registered after the election; " if people.registered is not None else ""
    yield f"left out: {left}{late}under {people.minimum_age} on election day"
    yield f"of one {people.id}: the row {'registered last' if people.keep == 'latest' else 'that comes first'}"
