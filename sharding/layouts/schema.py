"""What a layout says: its files, their columns, where the outcome is, and who takes part. A layout is data, not code."""

from __future__ import annotations

import codecs
import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from sharding.config import Frozen, Name, Text, _require_list

Names = Annotated[tuple[Name, ...], BeforeValidator(_require_list)]
Kind = Literal["name", "address", "phone", "email", "birth_date", "id"]
MISSING, UNSEEN, PLACEHOLDER = "(missing)", "(unseen)", "(placeholder)"
"""Levels that every text column may have beside its own."""


class FileLayout(Frozen):
    """How files of one role (voters, history) are written."""

    names: Annotated[Names, Field(min_length=1)] = Field(
        description="Globs of base names, case ignored and without `.gz`; of the members of a zip file likewise."
    )
    format: Literal["delimited", "fixed", "parquet"] = "delimited"
    delimiter: Annotated[Text, Field(min_length=1, max_length=1)] = "\t"
    header: bool = Field(default=True, description="Whether the first line has the names; otherwise `fields` has them.")
    fields: Names = Field(default=(), description="Names of all fields in order, where no header tells them.")
    widths: tuple[PositiveInt, ...] = Field(default=(), description="Of a fixed-width file, in characters, in order.")
    quoting: Literal["none", "standard"] = Field(
        default="none", description="`none`: a quotation mark is data. `standard`: around values, doubled inside them."
    )
    encodings: Names = Field(
        default=("utf-8", "cp1252", "latin-1"),
        description="Tried in order, line by line; or utf-16 (with a mark) or utf-16-le alone, for the whole file.",
    )

    @field_validator("encodings")
    @classmethod
    def _known(cls, encodings: tuple[str, ...]) -> tuple[str, ...]:
        normal = []
        for encoding in encodings:
            try:
                normal.append({"iso8859-1": "latin-1"}.get(name := codecs.lookup(encoding).name, name))
            except LookupError as error:
                raise ValueError(f"encoding {encoding!r} is not known to Python") from error
        if len(normal) > 1 and any(name.startswith("utf-16") for name in normal):
            raise ValueError("utf-16 stands alone: it is told from other encodings by the file, not by the line")
        return tuple(normal)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.delimiter in '"\r\n\0' or not self.delimiter.isascii():
            raise ValueError("`delimiter` is one ASCII character, and neither a quotation mark nor a line end")
        if len(set(self.fields)) < len(self.fields):
            raise ValueError("`fields` names a field twice")
        if self.format == "fixed" and (self.header or len(self.widths) != len(self.fields) or not self.fields):
            raise ValueError("a fixed-width file has `header: false`, `fields`, and as many `widths`")
        if self.format == "delimited" and (self.widths or (not self.header and not self.fields)):
            raise ValueError("`widths` is for `format: fixed`, and a file without a header needs `fields`")
        return self

    @property
    def is_utf16(self) -> bool:
        """Whether the whole file is UTF-16."""
        return self.encodings[0].startswith("utf-16")


class ColumnLayout(Frozen):
    """One column that a model can use: where it is, what its values mean, and what becomes of those that mean nothing."""

    source: Name | None = Field(default=None, description="Its name in the files; default: the same.")
    aliases: Names = Field(default=(), description="Other names that the files have had for it.")
    type: Literal["text", "date", "year", "number", "age"] = "text"
    formats: Names = Field(default=("%Y-%m-%d",), description="Of dates, by strptime; all digits are required.")
    codes: dict[Text, Name] | None = Field(
        default=None, description="Code to level. Without: the values are the levels."
    )
    digits: PositiveInt | None = Field(
        default=None, description="Numbers of fewer digits get their leading zeros back, which a spreadsheet took."
    )
    leading_zeros: bool = Field(default=True, description="false: codes are compared without them, `01` is `1`.")
    missing: Names = Field(default=(), description="Markers of a missing value, besides those of the layout.")
    unseen: Literal["level", "keep", "quarantine"] = Field(
        default="level", description="A code that is not in `codes`: the level `(unseen)`, kept as it is, or the row is left out."
    )  # fmt: skip
    placeholders: tuple[date | int, ...] = Field(default=(), description="Dates or years that mean: not known.")
    earliest_year: int | None = Field(default=None, description="Earlier years are placeholders too.")
    of: Name | None = Field(default=None, description="Of an age: the column with the date or year of birth.")
    top: PositiveInt = Field(default=90, description="Of an age: this and older are one level.")
    maximum: PositiveInt = Field(default=110, description="Of an age: above it, nobody's.")
    value: Text | None = Field(default=None, description="A value that all rows have, for what no file says.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.type == "age") != (self.of is not None):
            raise ValueError("`type: age` goes with `of`, the column with the date or year of birth")
        if self.codes is not None and self.type != "text":
            raise ValueError("`codes` are for `type: text`")
        if self.value is not None and (self.source or self.type != "text" or self.codes is not None):
            raise ValueError("a column with a `value` is in no file: it has neither `source` nor `codes`")
        if self.type == "date":
            for written in self.formats:
                if not {"%Y", "%m", "%d"} <= {written[i : i + 2] for i in range(len(written))}:
                    raise ValueError(f"the format {written!r} has not each of %Y, %m and %d")
        return self


class PeopleLayout(Frozen):
    """Who a row is, and which rows take no part."""

    id: Name = Field(description="The column that identifies a person, and joins the history.")
    keep: Literal["first", "latest"] = Field(
        default="first", description="Of rows with one id: the first, by file and line, or the one registered last."
    )
    registered: Name | None = Field(default=None, description="Column with the date of registration.")
    born: Name | None = Field(default=None, description="Column with the date or year of birth.")
    minimum_age: PositiveInt = 18
    status: Name | None = None
    leave_out: Names = Field(default=(), description="Codes of `status`, as in the file, whose rows take no part.")


class VoteLayout(Frozen):
    """Where the outcome of an election is: a row of the history, a column of its own, or in a list in one field."""

    form: Literal["long", "wide", "packed", "last"] = Field(
        description="long: rows of the history. wide: a column for each election. packed: a list in one field. last: the date of "
        "the last election voted in, which tells nothing of earlier ones."
    )
    id: Name | None = Field(default=None, description="long: the field of the history with the id.")
    election: Name | None = Field(default=None, description="long: the field with the election's date or label.")
    formats: Names = ("%m/%d/%Y",)
    labels: dict[date, Text] = Field(
        default_factory=dict, description="long: the label of an election, where it has no date."
    )
    where: dict[Name, Names] = Field(
        default_factory=dict, description="long: values of other fields that the election's rows have."
    )
    column: Name | None = Field(
        default=None, description="Of the field; not long: the date is put in as in `{date:%Y}`. long: of the code."
    )
    entry: Name | None = Field(
        default=None, description="packed: what an entry begins with, with the date as in `{date:%Y}`."
    )
    separator: Text = ";"
    counted: Names = Field(
        default=(), description="Values that are a vote; none given: any (long: the row is the vote)."
    )
    not_counted: Names = Field(default=(), description="Values that are none: ballots rejected, did not vote.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.form == "long" and (self.id is None or self.election is None):
            raise ValueError("`form: long` needs `id` and `election`")
        if self.form != "long" and self.column is None:
            raise ValueError(f"`form: {self.form}` needs `column`")
        if self.form == "packed" and self.entry is None:
            raise ValueError("`form: packed` needs `entry`")
        if self.form in ("packed", "last") and (self.counted or self.not_counted):
            raise ValueError(f"`form: {self.form}` has no `counted` and `not_counted`")
        if (self.counted or self.not_counted) and self.column is None:
            raise ValueError("`counted` and `not_counted` need `column`, the field of the code")
        if self.not_counted and not self.counted and self.form == "long":
            raise ValueError("`not_counted` needs `counted`: other codes would be neither")
        return self

    def name_at(self, template: str, election: date) -> str:
        """Return ``template`` with the date put in where it says ``{date:...}``, by strftime."""
        return re.sub(r"\{date:([^{}]*)\}", lambda found: election.strftime(found[1]), template)


class Layout(Frozen):
    """A whole layout."""

    schema_version: Literal[1]
    name: Annotated[Text, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Text
    based_on: Text = Field(description="Where the facts in it are from, and their terms.")
    voters: FileLayout
    history: FileLayout | None = None
    people: PeopleLayout
    vote: VoteLayout | None = None
    party: Literal["registered", "last_primary", "modelled", "absent"] = Field(
        description="What the column `party` means; the states differ."
    )
    missing: Names = Field(default=(), description="Markers of a missing value in any column, besides blank.")
    columns: dict[Name, ColumnLayout]
    kinds: dict[Kind, Names] = Field(
        default_factory=dict, description="Fields of the files that tell who somebody is, by what they are."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        people, columns = self.people, self.columns
        for use, name in (
            ("id", people.id),
            ("registered", people.registered),
            ("born", people.born),
            ("status", people.status),
        ):
            if name is not None and name not in columns:
                raise ValueError(f"`people.{use}` {name!r} is not one of `columns`")
        for name, column in columns.items():
            if column.of is not None and (column.of not in columns or columns[column.of].type not in ("date", "year")):
                raise ValueError(f"columns.{name}: `of` {column.of!r} is not a column of type date or year")
        if people.keep == "latest" and people.registered is None:
            raise ValueError("`people.keep: latest` needs `people.registered`")
        if people.registered is not None and columns[people.registered].type != "date":
            raise ValueError("`people.registered` is not of type date")
        if people.born is not None and columns[people.born].type not in ("date", "year"):
            raise ValueError("`people.born` is not of type date or year")
        if (self.history is not None) != (self.vote is not None and self.vote.form == "long"):
            raise ValueError("`history` goes with `vote: {form: long}`")
        if self.party == "absent" and "party" in columns:
            raise ValueError("`party: absent`, and a column `party`")
        if "voted" in columns:
            raise ValueError("`voted` is the outcome that `vote` makes; name the column otherwise")
        files = self.voters
        if files.fields:
            known = {*files.fields}
            for name, column in columns.items():
                if column.value is None and column.type != "age" and not known & {*self.sources_of(name)}:
                    raise ValueError(f"columns.{name}: {column.source or name!r} is not one of `voters.fields`")
        return self

    def sources_of(self, name: str) -> tuple[str, ...]:
        """Names that the files may have for column ``name``, the present one first."""
        column = self.columns[name]
        return (column.source or name, *column.aliases)

    @property
    def kind_by_field(self) -> dict[str, Kind]:
        """What kind of personal data a field of the files is, of those that are any."""
        return {field: kind for kind, fields in self.kinds.items() for field in fields}

    def kind_of(self, name: str) -> Kind | None:
        """What kind of personal data a column of the layout, or a field of the files, is; None if it is none."""
        by_field = self.kind_by_field
        sources = self.sources_of(name) if name in self.columns else (name,)
        return next((by_field[source] for source in sources if source in by_field), None)
