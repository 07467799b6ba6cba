"""Rows of the files in the terms of the model, as one SELECT for the group-by to aggregate."""

from __future__ import annotations

from dataclasses import dataclass

from sharding.contract import ModelColumn
from sharding.labels import Kind, label_sql
from sharding.outcome import Outcome, outcome_sql, people_sql
from sharding.sources import Sources
from sharding.sql import Bind, quoted


@dataclass(frozen=True)
class RowIdentity:
    """A column whose repeated values mark repeated people; of each, one row is kept, drawn by a hash of its content."""

    source: str
    kind: Kind
    missing_values: tuple[str, ...]
    reason: int

    @property
    def sql(self) -> str:
        """SQL of the label of an id, so that blanks at its ends and the type of a file make no other person."""
        return label_sql(quoted(self.source), self.kind)


@dataclass(frozen=True)
class RowSource:
    """What a row gives: keys ``k0, k1, ...`` (raw values), ``bucket``, ``flag`` (0 or a reason), ``people`` and the outcome's
    values ``y0, y1, w`` (see :func:`sharding.outcome.outcome_sql`).

    ``bucket`` is (source column, number of shards, seed) where rows are dealt to shards by a column outside the model.
    """

    sources: Sources
    columns: tuple[ModelColumn, ...]
    outcome: Outcome
    bucket: tuple[str, int, int] | None
    identity: RowIdentity | None

    def sql(
        self, bind: Bind, *, with_file: bool = False, with_id: bool = False, store_rejects: bool = False
    ) -> str:
        """Return the SELECT; ``with_file`` adds the path of the file, ``with_id`` the id of the person (``id``, where there
        is an identity), ``store_rejects`` keeps unreadable text rows."""
        values, flag = outcome_sql(self.outcome, bind)
        keys = [f"k{i}" for i in range(len(self.columns))]
        raw = [f"v{i}" for i in range(len(values))]  # not named like the values: those of a row with a reason are null
        fields = [f"{self._key(column)} AS {key}" for column, key in zip(self.columns, keys, strict=True)]
        fields += [f"{value} AS {name}" for value, name in zip(values.values(), raw, strict=True)]
        fields += [f"{flag} AS flag", f"{people_sql(self.outcome, bind)} AS people", *self._bucket(bind)]
        if with_file:
            fields.append(f"{quoted(self.sources.file_column)} AS file")
        if self.identity is not None:
            fields.append(f"{self.identity.sql} AS id")
        scan = self.sources.scan(bind, self._needed(), store_rejects=store_rejects)
        rows = f"SELECT {', '.join(fields)} FROM ({scan})"
        if self.identity is not None:
            content = [*keys, *raw]
            drawn = f"md5(concat_ws('|', {', '.join(content)}))"  # as good as at random: no value is preferred
            order = ", ".join(["flag", drawn, *content, *(["file"] if with_file else [])])
            is_repeat = f"row_number() OVER (PARTITION BY id ORDER BY {order}) > 1"
            rows = (
                f"SELECT *{'' if with_id else ' EXCLUDE (id)'} FROM (WITH everyone AS ({rows}) "
                "SELECT * FROM everyone ANTI JOIN repeated USING (id) UNION ALL BY NAME "
                f"SELECT * REPLACE (CASE WHEN {is_repeat} THEN {self.identity.reason} ELSE flag END AS flag) "
                "FROM (SELECT * FROM everyone SEMI JOIN repeated USING (id)))"
            )
        known = ", ".join(f"CASE WHEN flag = 0 THEN {name} END AS {y}" for name, y in zip(raw, values, strict=True))
        return f"SELECT * EXCLUDE ({', '.join(raw)}), {known} FROM ({rows})"

    def _needed(self) -> list[str]:
        names = [column.source for column in self.columns] + self.outcome.sources
        if self.bucket is not None:
            names.append(self.bucket[0])
        if self.identity is not None:
            names.append(self.identity.source)
        return list(dict.fromkeys(names))

    def _key(self, column: ModelColumn) -> str:
        is_number = column.role == "numeric" and column.kind != "text"
        return f"CAST({quoted(column.source)} AS DOUBLE)" if is_number else quoted(column.source)

    def _bucket(self, bind: Bind) -> list[str]:
        if self.bucket is None:
            return []
        source, num_shards, seed = self.bucket
        text = f"concat({bind(f'{seed}|')}::VARCHAR, CAST({quoted(source)} AS VARCHAR))"
        return [f"CAST(md5_number_lower({text}) % {bind(num_shards)} AS INTEGER) AS bucket"]
