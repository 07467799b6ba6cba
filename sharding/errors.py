"""Errors of the sharding layer. Every message says where, what was found, what was expected and what to do.

Messages hold counts, column names, file names and ids, never a value from a person's row.
"""

from __future__ import annotations


class ShardingError(Exception):
    """Base of every error raised by `sharding`."""


class DetailedError(ShardingError):
    """An error with its four parts; the message is ``where: found ...; expected .... do``."""

    def __init__(self, where: str, found: str, expected: str, do: str):
        self.where, self.found, self.expected, self.do = where, found, expected, do
        super().__init__(f"{where}: found {found}; expected {expected}. {do}")

    def __reduce__(self) -> tuple[type[DetailedError], tuple[str, str, str, str]]:
        return type(self), (self.where, self.found, self.expected, self.do)


class StorageError(DetailedError):
    """A path or URL cannot be used: missing, outside its directory, or unreadable."""


class StoreRefusedError(DetailedError):
    """An object store that lets this process not in, or has no such bucket; never to be taken for a missing file."""


class SourceError(DetailedError):
    """A source file cannot be read as what it is said to be."""


class ContractError(DetailedError):
    """The data break the contract of `data:` (columns, types, levels, missing rule, outcome)."""


class PlanError(DetailedError):
    """The cells cannot be cut into shards as `shards:` asks."""


class ShardCorruptError(DetailedError):
    """A shard, manifest or dictionary is not the file that ingest wrote."""


class PrivacyError(DetailedError):
    """A column, a level or a key that would tell who somebody is."""


class LayoutError(DetailedError):
    """A layout is not what the schema asks, or cannot give what a run asks of it."""
