"""What a person says about the data (`data:`) and about how they are cut (`shards:`)."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from sharding.labels import label

RESERVED_NAMES = (
    "num_rows", "num_trials", "num_successes", "sum_y", "squared_deviations", "sum_exposure", "num_known",
    "sum_weight_squared", "sum_weight_squared_successes",
)  # fmt: skip
"""Columns of the cells' own; a column of the model cannot have one of these names."""
OUTCOME_PAIRS = (("successes", "trials"), ("count", "exposure"))
"""Names under which `outcome` takes two columns."""


def _require_text(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        raise ValueError(
            f"found the {type(value).__name__} {value!r}, expected text; "
            f"quote it in YAML (levels keep leading zeros: '01' is not 1)"
        )
    return value


def _require_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_require_text)]
Name = Annotated[Text, Field(min_length=1)]
Label = Annotated[Text, AfterValidator(label)]
"""As the values of the rows are read: :mod:`sharding.labels`."""


class Frozen(BaseModel):
    """Base of the configurations: immutable, strict about keys, values not converted from other types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnConfig(Frozen):
    """The contract of one column. What is not said is decided from the data, once, globally."""

    type: Literal["factor", "numeric"] | None = Field(
        default=None, description="Default: grouping columns, text and booleans are factors, numbers numeric; a number that groups is "
        "a number where the formula has it before a bar. In CSV a column "
        "is numeric if every value is a number without leading zeros, a factor if none is, and otherwise an error."
    )  # fmt: skip
    source: Name | None = Field(default=None, description="Name of the column in the files, where it differs.")
    levels: tuple[Label, ...] | None = Field(
        default=None, min_length=1, description="Allowed levels, in order. Of an outcome of two values: the failure, then the success."
    )  # fmt: skip
    reference: Label | None = Field(default=None, description="Reference level; default: the first.")
    missing: Literal["quarantine", "error", "level"] | None = Field(
        default=None, description="Rows with a missing value: left out of fit and population and counted (R's na.omit, with a "
        "report), an error, or kept as a level of their own (factors only). Not said, a run ends where there are any and prints "
        "the lines to choose from; in a column that no term of the model has, such as a margin, they are a level."
    )  # fmt: skip
    missing_level: Annotated[Label, Field(min_length=1)] = Field(default="(missing)", description="Name of the level that `missing: level` makes.")
    missing_values: tuple[Label, ...] = Field(
        default=("",), description="Values that mean missing, besides null and NaN."
    )
    unexpected: Literal["error", "quarantine"] = Field(
        default="error", description="Rows with a value outside the contract: level not in `levels`, not a number, infinite, "
        "outside `minimum` and `maximum`."
    )  # fmt: skip
    minimum: float | None = Field(default=None, allow_inf_nan=False)
    maximum: float | None = Field(default=None, allow_inf_nan=False)
    center: bool = Field(
        default=True, description="Whether the model may work with a number from its mean on, where that changes no model. `false`: the "
        "intercept, and its prior, are where this column is 0."
    )  # fmt: skip
    scale: bool = Field(
        default=True, description="Whether coefficients of a number, and their priors, are per sd of it. `false`: per 1, as in the files."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        levels = self.levels
        if levels is not None and len(set(levels)) < len(levels):
            raise ValueError("`levels` names a level twice")
        known = None if levels is None else {*levels, *([self.missing_level] if self.missing == "level" else [])}
        if known is not None and self.reference is not None and self.reference not in known:
            raise ValueError(f"`reference` {self.reference!r} is not one of `levels`")
        if self.type == "numeric" and (levels is not None or self.reference is not None or self.missing == "level"):
            raise ValueError("`levels`, `reference` and `missing: level` are for factors, not for `type: numeric`")
        bounded = self.minimum is not None or self.maximum is not None
        if bounded and (self.type == "factor" or levels is not None):
            raise ValueError("`minimum` and `maximum` are for numeric columns")
        if (self.type == "factor" or levels is not None) and not (self.center and self.scale):
            raise ValueError("`center` and `scale` are for numeric columns")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"`minimum` {self.minimum} is above `maximum` {self.maximum}")
        return self

    @property
    def kept(self) -> tuple[bool | None, bool | None]:
        """Whether the column keeps its zero and its unit in the model; None where not said."""
        return (None if self.center else True), (None if self.scale else True)


_PLAIN_HASHES = ("md5", "sha1", "sha256", "sha-256", "sha512", "sha-512", "blake2b", "hash", "none", "plain")


class PrivacyConfig(Frozen):
    """Which columns may be used although they look personal, and how ids are written: docs/design/privacy.md."""

    allow: tuple[Name, ...] = Field(
        default=(), description="Columns that may be used although their names, or their levels, look like those of persons."
    )
    id_method: Literal["hmac-sha256"] = Field(default="hmac-sha256", description="What an id is where one is written.")
    id_key_env: Annotated[Text, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] = Field(
        default="CAUCUS_ID_KEY", description="Environment variable with the key of the pseudonyms, at least 32 random bytes."
    )

    @field_validator("id_method", mode="before")
    @classmethod
    def _keyed(cls, method: Any) -> Any:
        if isinstance(method, str) and method.lower() in _PLAIN_HASHES:
            raise ValueError(
                f"{method!r} hides no id: there are at most some 10^8 of them, and all their hashes are computed in seconds. "
                "Use `hmac-sha256`, whose key only you have"
            )
        return method


class DataConfig(Frozen):
    """Where the rows are, and the contract that they keep."""

    source: Annotated[tuple[Name, ...], BeforeValidator(_require_list), Field(min_length=1)] = Field(
        description="Path, fsspec URL, directory or glob, or a list of these."
    )
    layout: Name | None = Field(
        default=None, description="Of raw files of a state or vendor: a layout that comes with Caucus (`caucus layouts`), or the "
        "path of a YAML file; docs/layouts.md. Columns then have the layout's names."
    )  # fmt: skip
    election: date | None = Field(
        default=None, description="With a layout: the election whose outcome is the column `voted`, and on whose day ages are meant."
    )
    keep_cleaned: bool = Field(
        default=False, description="With a layout: leave the cleaned rows (personal data) in the run, in `cleaned/`."
    )
    format: Literal["auto", "parquet", "csv", "tsv"] = "auto"
    delimiter: Annotated[Text, Field(min_length=1, max_length=1)] | None = Field(
        default=None, description="Default: a comma in CSV, a tab in TSV."
    )
    encoding: Text = Field(
        default="utf-8", description="Of CSV and TSV files, by Python's names: utf-8, latin-1, cp1252."
    )
    max_unreadable: float = Field(
        default=0.001, ge=0, le=1, description="Share of the lines of text files that may be unreadable (bytes that are not of the "
        "encoding, quotation marks, number of fields) and are left out and counted; above it, and above one line, the run ends."
    )  # fmt: skip
    allow_equal_files: bool = Field(
        default=False, description="Whether several source files with rows may have the same bytes, so that their rows count twice."
    )
    outcome: Text | dict[Name, Name] = Field(
        description="A column, `{name in the model: column}`, `{successes: column, trials: column}` or `{count: column, "
        "exposure: column}`. Rows without an outcome take no part in the fit and stay in the frame."
    )
    weight: Name | None = Field(
        default=None, description="Column of survey weights, scaled to average 1 over the rows with an outcome. Rows with an "
        "outcome and no weight above 0 are left out and counted (an error if the column says `missing: error` and it is missing)."
    )  # fmt: skip
    columns: dict[Name, ColumnConfig] = Field(default_factory=dict)
    id_column: Name | None = Field(
        default=None, description="Identifies a person; read only if `duplicates` is not `allow`."
    )
    duplicates: Literal["allow", "quarantine", "error"] = Field(
        "allow", description="Rows that repeat an id: kept, an error, or all but one of them left out and counted."
    )
    terms_of_use: Name = Field(description="Under which terms the data may be used; copied into every report.")
    keep_quarantined_rows: bool = Field(
        default=False, description="Also write the rejected rows to the run (personal data): the columns of the model, the id "
        "as a pseudonym; of lines that cannot be read, where they stand."
    )  # fmt: skip
    privacy: PrivacyConfig = PrivacyConfig()
    memory_limit: Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?([KMGT]i?B)$")] = Field(
        "4GB", description="Above it, aggregation spills to disk."
    )
    threads: Annotated[PositiveInt, Field(le=4096)] | None = Field(default=None, description="Default: all cores.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.outcome, dict):
            names = set(self.outcome)
            if names & {"successes", "trials"} and names != {"successes", "trials"}:
                raise ValueError("`outcome` needs both `successes` and `trials`")
            if len(names) != 1 and names not in map(set, OUTCOME_PAIRS):
                raise ValueError(
                    "`outcome` is one column, `{successes: column, trials: column}` or `{count: column, exposure: column}`"
                )
        reserved = [name for name in (*self.columns, *self.outcome_columns) if name in RESERVED_NAMES]
        if reserved:
            raise ValueError(f"the names {reserved} are reserved; name the columns otherwise, with `source:`")
        if self.duplicates != "allow" and self.id_column is None:
            raise ValueError("`duplicates` needs `id_column`")
        if self.layout is None and (self.election is not None or self.keep_cleaned):
            raise ValueError("`election` and `keep_cleaned` go with `layout`")
        said = (self.format, self.delimiter, self.encoding, self.id_column)
        if self.layout is not None and said != ("auto", None, "utf-8", None):
            raise ValueError("a `layout` says what `format`, `delimiter`, `encoding` and `id_column` would; leave these out")
        try:
            "".encode(self.encoding)
        except LookupError as error:
            raise ValueError(f"`encoding` {self.encoding!r} is not known to Python") from error
        return self

    @property
    def outcome_columns(self) -> dict[str, str]:
        """Outcome by its name in the model (or the two names of a pair), with the column of the files."""
        return {self.outcome: self.outcome} if isinstance(self.outcome, str) else self.outcome

    def column(self, name: str) -> ColumnConfig:
        """Return the contract of a column, the default one if nothing is said."""
        return self.columns.get(name, ColumnConfig())

    def source_name(self, name: str) -> str:
        """Return the name in the files of the model's column ``name``."""
        return self.column(name).source or name


class ShardsConfig(Frozen):
    """How the cells are cut into shards.

    ``by`` a column: neighbouring levels with few cells share a shard; a level with many is cut at the next column of
    the list (or at the factor nested in it), and last in canonical order, so that no shard exceeds ``target_cells``.
    ``by: hash`` keeps rows with an equal value of ``column`` together. ``by: random`` deals cells, not rows: a cell
    goes to the shard that a seeded hash of its content names.
    """

    by: Annotated[tuple[Name, ...], BeforeValidator(_require_list), Field(min_length=1)] = ("random",)
    column: Name | None = Field(default=None, description="For `by: hash`.")
    target_cells: PositiveInt = Field(default=200_000, description="The most cells of a shard.")
    min_cells: PositiveInt | None = Field(
        default=None,
        description="Levels with fewer are merged with their neighbours. Default: 1,000, or target_cells if smaller.",
    )
    num_shards: PositiveInt | None = Field(
        default=None, description="For `by: random` and `hash`; default: by target_cells."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"`by` names a column twice: {list(self.by)}")
        if len(self.by) > 1 and {"random", "hash"} & set(self.by):
            raise ValueError("`by` is `random`, `hash` or a list of columns")
        if (self.method == "hash") != (self.column is not None):
            raise ValueError("`column` goes with `by: hash`, which needs it")
        if self.num_shards is not None and self.method == "columns":
            raise ValueError("`num_shards` is for `by: random` and `by: hash`; use `target_cells`")
        if self.min_cells is not None and self.min_cells > self.target_cells:
            raise ValueError(f"`min_cells` {self.min_cells} is above `target_cells` {self.target_cells}")
        return self

    @property
    def method(self) -> Literal["columns", "hash", "random"]:
        """Which of the three ways of cutting this is."""
        return self.by[0] if self.by[0] in ("hash", "random") else "columns"  # type: ignore[return-value]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to cut by; empty for ``hash`` and ``random``."""
        return self.by if self.method == "columns" else ()

    @property
    def smallest_shard(self) -> int:
        """``min_cells`` or its default."""
        return self.min_cells if self.min_cells is not None else min(1_000, self.target_cells)
