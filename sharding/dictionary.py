"""Every coding decision, taken once for all shards: levels, references, centres, scales, observed groups.

A shard never fits an encoder of its own, so a coefficient means the same thing everywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sharding import storage
from sharding.errors import ShardCorruptError
from sharding.units import Scale

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FactorCoding:
    """``levels[code]`` is the name of a level; ``reference`` is one of them.

    ``ordered``: the levels are in an order of their own, not just the alphabet's (:mod:`sharding.level_order`).
    """

    levels: tuple[str, ...]
    reference: str
    ordered: bool = False


@dataclass(frozen=True)
class NumericCoding:
    """Mean and sd of a number, which the model is in units of; a ``binary`` column (0 and 1 only) enters as it is.

    ``keep_zero``: it is never centred, ``keep_unit``: nor scaled, because a person said so; None otherwise. ``minimum`` and ``maximum`` are the smallest and largest raw value; None in dictionaries of before they were kept.
    """

    center: float
    scale: float
    binary: bool
    minimum: float | None = None
    maximum: float | None = None
    keep_zero: bool | None = None
    keep_unit: bool | None = None


@dataclass(frozen=True)
class OutcomeCoding:
    """``mean`` and ``sd`` (divisor n, weighted where rows have weights) over the ``num_known`` outcomes.

    An outcome is a trial (binomial) or a row (all other kinds). The mean of counts is per unit of exposure and their sd is
    that of count / exposure, with exposure as weight; the mean of ``keyed_trials`` is per trial. Both are 0 for categories,
    which have their names in order (``categories``, ``ordered`` as the levels of a factor) and their shares of the known outcomes
    (``proportions``) instead.
    ``weight_factor`` is what the weights of the files are multiplied by to average 1.
    """

    kind: str
    num_known: int
    mean: float
    sd: float
    categories: tuple[str, ...] | None = None
    proportions: tuple[float, ...] | None = None
    weight_factor: float | None = None
    ordered: bool | None = None


@dataclass(frozen=True)
class Note:
    """Something odd in a column (:mod:`sharding.notes`): its ``kind``, how many rows it concerns, in words, and what to do."""

    column: str
    kind: str
    count: int
    share: float
    what: str
    do: str


@dataclass(frozen=True)
class Dictionary:
    """The codings of a run.

    ``groups["state:county"]`` are the observed combinations of codes, sorted. ``parents["county"]["state"][code]`` is
    the state of a county, where every county lies in one state; -1 for a declared level that no row has. ``notes`` are of
    oddities, for a person to look at; nothing is decided by them. ``scales`` are of the numbers that were fitted: predictors, and by
    their names the columns that make the outcome and the weight.
    """

    factors: dict[str, FactorCoding]
    numerics: dict[str, NumericCoding]
    groups: dict[str, tuple[tuple[int, ...], ...]]
    parents: dict[str, dict[str, tuple[int, ...]]]
    outcome: OutcomeCoding
    notes: tuple[Note, ...] = ()
    scales: dict[str, Scale] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, dicts and numbers with a ``schema_version``; what does not apply is left out."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self, dict_factory=_given)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Dictionary:
        """Return the dictionary that :meth:`to_json` wrote."""
        if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
            found = value.get("schema_version") if isinstance(value, dict) else type(value).__name__
            raise ShardCorruptError(
                "dictionary", f"schema_version {found!r}", str(SCHEMA_VERSION), "Run ingest again with this version."
            )
        try:
            outcome: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value["outcome"].items()}
            return cls(
                factors={k: FactorCoding(**v | {"levels": tuple(v["levels"])}) for k, v in value["factors"].items()},
                numerics={k: NumericCoding(**v) for k, v in value["numerics"].items()},
                groups={k: tuple(map(tuple, v)) for k, v in value["groups"].items()},
                parents={k: {p: tuple(c) for p, c in v.items()} for k, v in value["parents"].items()},
                outcome=OutcomeCoding(**outcome),
                notes=tuple(Note(**note) for note in value.get("notes", ())),
                scales={k: Scale(*v) for k, v in value.get("scales", {}).items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ShardCorruptError(
                "dictionary", "missing or unknown entries", "what ingest writes", "Run ingest again."
            ) from error

    def sha256(self) -> str:
        """Return the digest of the canonical JSON, which is what `dictionary.json` holds."""
        return storage.sha256_bytes(storage.canonical_json(self.to_json()))


def _given(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value is not None}
