"""Settings of columns that nothing would heed: refused, where they are of a column that makes the outcome, and else told."""

from __future__ import annotations

from collections.abc import Collection

from sharding.config import DataConfig
from sharding.dictionary import Note
from sharding.errors import ContractError
from sharding.outcome import OutcomeKind

_OF_OUTCOME = {"type", "missing_values", "unexpected"}
_NOT_HEEDED = "Take it out."


def check(data: DataConfig, kind: OutcomeKind, names: Collection[str]) -> None:
    """Refuse settings of the outcome's columns that have no effect; ``names`` are the columns of the model.

    Raises
    ------
    ContractError
        With what has the effect instead.
    """
    columns = data.outcome_columns
    for name, config in data.columns.items():
        if name in names or name == data.weight:
            continue
        if name in columns:
            known = _OF_OUTCOME | ({"missing"} if name == "trials" else set())
            known |= {"levels"} if kind == "category" or (kind == "binomial" and len(columns) == 1) else set()
            unheeded = sorted(config.model_fields_set - known - ({"source"} if config.source in (None, columns[name]) else set()))
            do = "People without an outcome stay in the population and not in the fit, in any case." if unheeded == ["missing"] else _NOT_HEEDED
            do = f"Say `data.outcome: {{{name}: {config.source}}}`." if "source" in unheeded else do
        elif name in columns.values() and config.model_fields_set:
            right = next(part for part, source in columns.items() if source == name)
            unheeded, do = sorted(config.model_fields_set), f"Write it under data.columns.{right}."
        else:
            continue
        if unheeded:
            raise ContractError(
                f"data.columns.{name}", f"settings that have no effect on a column of the outcome: {', '.join(unheeded)}",
                "settings that have one", do,
            )  # fmt: skip


def unused(data: DataConfig, names: Collection[str], others: Collection[str]) -> list[Note]:
    """Return a note of each column that has settings and no use: neither in the model (``names``) nor among the ``others`` of the run."""
    known = {*names, *others, *data.outcome_columns, data.weight, data.id_column}
    return [
        Note(name, "unused", 0, 0.0, "what is said of it has no effect: nothing in the run uses the column", "Take it out, or correct its name.")
        for name in data.columns
        if name not in known
    ]
