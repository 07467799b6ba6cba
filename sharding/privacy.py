"""What of a person may be used, and what an id becomes where one is written.

Columns are refused by what they are called (:func:`personal_kind`), by what a layout declares them to be, by what their
levels look like, and for having nearly as many levels as there are people. `data.privacy.allow` is how a person says that
a column is meant. Ids are written as keyed pseudonyms only (:class:`Pseudonyms`): docs/design/privacy.md says why a plain
hash is none.
"""

from __future__ import annotations

import hmac
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from sharding.config import DataConfig
from sharding.dictionary import FactorCoding
from sharding.errors import PrivacyError

KINDS = {
    "name": "the name of a person", "address": "an address", "phone": "a phone number", "email": "an e-mail address",
    "birth_date": "a full date of birth", "id": "an identifier of a person",
}  # fmt: skip
"""Kinds of columns that tell who somebody is; the same words are the `kind` of a layout's columns."""
MIN_KEY_BYTES = 32
MIN_KEY_BITS = 100.0
MIN_LEVELS = 100
"""A factor of so few levels identifies nobody for having one per row: such a file is a toy."""

_AREAS = {
    "county", "precinct", "pct", "district", "dist", "ward", "city", "town", "township", "municipality", "state", "country",
    "village", "school", "court", "jurisdiction", "region", "party", "election", "library", "vtd",
}  # fmt: skip
_SAYS_WHETHER = {"has", "is", "flag", "ind", "indicator", "available", "count", "confidence"}
_PATTERNS = {
    "email": r"\be ?mails?\b|\bemail ?addr",
    "phone": r"phones?\b",
    "birth_date": r"\bdob\b|birth ?(date|day|dt)\b|date ?of ?birth",
    "id": r"\bssn\d?\b|social ?security|drivers? ?lic|passport|\bncid\b|\bsboe ?id\b|\blal ?voter ?id\b|\bvan ?id\b|\bdwid\b"
    r"|(voter|voterbase|person|individual|registrant|respondent|household|family|families|elector|member) ?"
    r"(reg |registration )?(id|num|number|no|ref|key|uuid)\b|\bvr ?number\b|countyvrnumber|\bunique ?id\b|\blegacy ?id\b"
    r"|\breg(istration)? ?num(ber)?\b",
    "name": r"^name$|\b(first|last|middle|midl|full|given|family|maiden|previous|prev|prior|voter|person|legal|preferred|sur|"
    r"fore|nick) ?names?\b|\bname (first|last|middle|prefi?x|suffix|sufx|title)\b|\b[flm] ?name\b|\bnamesuffix\b|\bmid init\b",
    "address": r"\baddr|addr(ess)?(es)?( ?\d)?\b|\b(mail|radd)(str|street|add)?(\d|number)?$|street|\b(apt|apartment)s?\b"
    r"|\brapartment\b|\b(house|bldg|building) ?(num|number|no|suffix)\b|\b(home|mail) (no|apt|str|dev)\b|\bunit (num|number)\b"
    r"|\b(reg )?st (num|name|frac)\b|zip ?(plus ?)?4\b|\bzip ?plus\b|\blatitude\b|\blongitude\b|\bp ?o ?box\b",
}  # fmt: skip
_CODED = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")
_LEVELS = {
    "email": re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}"),
    "phone": re.compile(r"(\+?1[-. ])?(\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}"),
    "id": re.compile(r"\d{3}-\d{2}-\d{4}"),
}
"""What one level is enough of: e-mail addresses, phone numbers and social security numbers, each as a whole."""
_MOSTLY = {
    "address": re.compile(r"\d+[A-Z]?\s.*\b(st|street|ave|avenue|rd|road|dr|drive|ln|lane|blvd|ct|way|pl|hwy)\b.*", re.I),
    "birth_date": re.compile(r"\d{4}-\d{2}-\d{2}([ T].*)?|\d{1,2}/\d{1,2}/\d{4}"),
}
"""What half of many levels is needed of: a precinct may be called after a street, and dates need not be of birth."""


def personal_kind(name: str) -> str | None:
    """Return which of `KINDS` a column of this name is likely to hold; None if it may be used.

    Parts of addresses that are areas (city, county, state, ZIP code of five digits), the year of birth, and whether there is
    a phone number are not personal.
    """
    words = [word.lower() for word in _CODED.split(name) if word]
    text = " ".join(words)
    if _SAYS_WHETHER & set(words):
        return None
    for kind, pattern in _PATTERNS.items():
        if re.search(pattern, text):
            is_area = kind in ("name", "address") and words[-1] in _AREAS | {"zip", "zipcode"}
            is_of_area = kind == "name" and _AREAS & set(words) and "voter" not in words
            if not (is_area or is_of_area):
                return kind
    return None


def check_columns(
    used: Mapping[str, str],
    allow: Collection[str],
    *,
    source_name: Callable[[str], str] = str,
    declared: Mapping[str, str] | None = None,
) -> None:
    """Refuse columns that tell who somebody is, unless ``allow`` names them (by their name in the model or in the files).

    Parameters
    ----------
    used
        Columns whose values a run keeps, each with the place in the configuration that asks for it.
    source_name
        The name in the files of a column of the model.
    declared
        Kinds that a layout declares, by source column; they decide where they are given.

    Raises
    ------
    PrivacyError
        Names the first such column, and never a value.
    """
    for name, where in used.items():
        source = source_name(name)
        if name in allow or source in allow:
            continue
        kinds = [(declared or {}).get(source) or personal_kind(source), personal_kind(name)]
        kind = next((kind for kind in kinds if kind in KINDS), None)
        if kind is not None:
            called = repr(name) if name == source else f"{name!r} (column {source!r})"
            raise PrivacyError(
                where, f"{called}, which looks like {KINDS[kind]}", "columns that tell nobody's identity",
                f"Leave it out, derive what the model needs (an age group, an area); or, if it is none, say "
                f"`data.privacy: {{allow: [{source}]}}`."
            )  # fmt: skip


def check_levels(data: DataConfig, codings: Mapping[str, FactorCoding], num_people: int | None) -> None:
    """Refuse factors whose levels look like people: e-mails, phones, addresses, dates; or nearly one level per person.

    Declared levels, and columns of `data.privacy.allow`, are taken as they are. ``num_people`` is None where a row is not a
    person (outcomes that are totals).

    Raises
    ------
    PrivacyError
        Tells the number of such levels, and none of them.
    """
    for name, coding in codings.items():
        if {name, data.source_name(name)} & {*data.privacy.allow} or data.column(name).levels is not None:
            continue
        check_looks(name, coding.levels, remedy="Correct the column or the file, declare `levels`")
        total = len(coding.levels)
        allow = f"`data.privacy: {{allow: [{name}]}}`"
        if num_people is not None and total >= MIN_LEVELS and 2 * total > num_people:
            raise PrivacyError(
                f"data.columns.{name}", f"{total:,} levels in {num_people:,} rows, nearly one per person",
                "levels that people share", f"Group it more coarsely; or, if a level is no person, say {allow}."
            )  # fmt: skip


def check_looks(name: str, levels: Sequence[str], *, remedy: str = "Correct the column or the file") -> None:
    """Refuse levels of the column ``name`` that look like e-mails, phones, addresses or dates.

    Raises
    ------
    PrivacyError
        Tells the number of such levels, and none of them.
    """
    kind, count = _kind_of_levels(levels)
    if kind is not None:
        raise PrivacyError(
            f"data.columns.{name}", f"{count:,} of {len(levels):,} levels that look like {KINDS[kind]}", "levels of a group",
            f"{remedy}; or, if they are none, say `data.privacy: {{allow: [{name}]}}`."
        )  # fmt: skip


def _kind_of_levels(levels: Sequence[str]) -> tuple[str | None, int]:
    for kind, pattern in _LEVELS.items():
        count = sum(pattern.fullmatch(level.strip()) is not None for level in levels)
        if count:
            return kind, count
    if len(levels) > 366:
        for kind, pattern in _MOSTLY.items():
            count = sum(pattern.fullmatch(level.strip()) is not None for level in levels)
            if 2 * count > len(levels):
                return kind, count
    return None, 0


class Pseudonyms:
    """Ids as HMAC-SHA-256 under the key of a project: without the key nobody finds an id, or tells two projects' rows apart.

    They are pseudonyms, not anonymous: whoever has the key and the file can find the person.
    """

    def __init__(self, key: bytes, where: str = "the key"):
        """Raises :class:`PrivacyError` for a key that is short or could be guessed."""
        self._key = _checked(key, where)

    @classmethod
    def from_environment(cls, variable: str) -> Pseudonyms:
        """Take the key from the environment variable ``variable``; it is never written or told.

        Raises
        ------
        PrivacyError
            It is not set, too short, or too regular.
        """
        value = os.environ.get(variable)
        if not value:
            raise _no_key(f"environment variable {variable}", "no key")
        return cls(value.encode(), f"environment variable {variable}")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits by which two runs of one key know each other; keyed itself, so it tells nothing of the key."""
        return self._mac(b"fingerprint of a key of Caucus, version 1")[:16]

    def of(self, ids: Iterable[str | None]) -> list[str | None]:
        """Return a pseudonym of 32 hexadecimal digits for every id; None, and the empty text, stay None."""
        return [self._mac(b"id\0" + value.encode())[:32] if value else None for value in ids]

    def _mac(self, message: bytes) -> str:
        return hmac.new(self._key, message, "sha256").hexdigest()


def _checked(key: bytes, where: str) -> bytes:
    if len(key) < MIN_KEY_BYTES:
        raise _no_key(where, f"a key of {len(key)} bytes")
    if key in (key + key)[1:-1] or _entropy_bits(key) < MIN_KEY_BITS or _is_sequence(key):
        raise _no_key(where, "a key that repeats itself or is a sequence")
    return key


def _is_sequence(key: bytes) -> bool:
    steps = Counter(later - earlier for earlier, later in pairwise(key))
    return 2 * max(steps.values()) > len(key)


def _entropy_bits(key: bytes) -> float:
    shares = [count / len(key) for count in Counter(key).values()]
    return -len(key) * sum(share * math.log2(share) for share in shares)


def _no_key(where: str, found: str) -> PrivacyError:
    return PrivacyError(
        where, found, f"at least {MIN_KEY_BYTES} random bytes",
        "Make one with `python -c 'import secrets; print(secrets.token_hex(32))'`, keep it where secrets are kept, and never "
        "in a config."
    )  # fmt: skip
