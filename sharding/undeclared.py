"""Missing values of which the config says nothing: nobody but a person knows what they mean, so the run ends and asks.

Left out without a word they would take people from the fit and from the population, most of them from some groups.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from sharding.contract import ModelColumn, all_missing
from sharding.errors import ContractError

_CHOICES = {
    "level": "they stay in fit and population, as a level of their own",
    "quarantine": "they leave the fit, and the population where that is the file; counted by reason",
    "error": "the run ends here as long as there are any",
}
MAX_SETTINGS = 1200
"""Characters of what a column says already, to be shown beside the choice."""


def check(columns: Mapping[str, tuple[ModelColumn | None, int]], num_rows: int) -> None:
    """Refuse missing values of columns that do not say `missing`.

    Parameters
    ----------
    columns
        By name, the column (None: the weight) and its number of rows without a value, among ``num_rows``.

    Raises
    ------
    ContractError
        With the lines to paste, for each column and each choice that it has.
    """
    found = {name: pair for name, pair in columns.items() if pair[1] > 0}
    if not found:
        return
    empty = next((column for column, count in found.values() if column is not None and count == num_rows), None)
    if empty is not None:
        raise all_missing(empty)
    lines = []
    for name, (column, count) in found.items():
        lines.append(f"  {name}: {count:,} of {num_rows:,} rows ({_share(count, num_rows)}) have no value. One of:")
        for settings, why in _settings(column):
            paste = f"{_key(name)}: {{{', '.join(f'{key}: {value}' for key, value in settings.items())}}}"
            lines.append(f"    {paste:<44}  # {why}")
    raise ContractError(
        "data.columns", f"missing values in {len(found)} column(s) that do not say what becomes of such rows",
        "`missing` for " + ", ".join(found), "Paste a line for each under `data.columns`:\n" + "\n".join(lines)
    )  # fmt: skip


def _settings(column: ModelColumn | None) -> list[tuple[dict[str, str], str]]:
    """What can be written for a column, beside what is there already, with what it does."""
    said: dict[str, str] = {}
    if column is not None:
        dumped = column.config.model_dump(mode="json", exclude_unset=True)
        said = {key: json.dumps(value, ensure_ascii=False) for key, value in dumped.items() if value is not None}
        said = said if sum(map(len, said.values())) <= MAX_SETTINGS else {"...": "what is there already"}
    choices = dict(_CHOICES)
    if column is None or column.role == "numeric":
        del choices["level"]
    found = [({**said, "missing": choice}, why) for choice, why in choices.items()]
    if column is not None and column.role == "numeric" and column.config.type is None and not said.keys() & {"minimum", "maximum"}:
        whole = ({**said, "type": "factor", "missing": "level"}, "for a number of few values: each is a level, and so is none")
        found.insert(0, whole)
    return found


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and not name[0].isdigit() else json.dumps(name, ensure_ascii=False)


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if count >= 0.0005 * total else "under 0.1%"
