"""Levels that are one value written in several ways, or in another encoding: what they have in common, and what gives them away."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable

MAX_DIGITS = 1000
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2e3a\u2e3b"), "-")
_QUOTES = dict.fromkeys(map(ord, "`\u00b4\u2018\u2019\u201a\u201b\u02b9\u02bb\u02bc\u2032"), "'")
_LATIN = dict(zip(map(ord, "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458"), "ABEKMHOPCTXaeopcyxisj", strict=True))
_LATIN |= dict(zip(map(ord, "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf"), "ABEZHIKMNOPTYXo", strict=True))
"""Cyrillic and Greek letters that look like Latin ones."""
_ALIKE = _DASHES | _QUOTES | _LATIN
_MARKS = re.compile(r"(?<=[^\W\d_])\.|(?<=[^\W\d_])['-](?=[^\W\d_])")
"""Marks that people write or leave out: St. Louis, Winston-Salem, O'Brien."""
_NUMBER, _NUMBER_BEGINS = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"), frozenset("+-.0123456789")
_DATE = re.compile(r"(?=\d{4}\D|.*\D\d{4}(\D|$))(\d{4}|\d\d?)([-/.])(\d\d?|[a-z]{3,9})\3(\d{4}|\d\d?)(\D.*)?", re.IGNORECASE | re.DOTALL)
_WHOLE_DATE = re.compile(r"(19|20)\d{6}")
_WORDS = (("yes", "y", "true", "t", "1"), ("no", "n", "false", "f", "0"), ("male", "m"), ("female", "f"))


def folded(level: str) -> str:
    """Return what levels have in common that are one value: 1E+05 and 100000, 01 and 1, -0 and 0, Ada and ADA, St. Louis and St Louis,
    Doña and Dona, dashes, quotes, look-alikes and characters that cannot be seen."""
    plain = level
    if not level.isascii():
        plain = unicodedata.normalize("NFKD", level).translate(_ALIKE)
        plain = "".join(c for c in plain if unicodedata.category(c) not in ("Mn", "Cf", "Cc"))
    plain = "".join(plain.split()).casefold()
    if plain.isdecimal() and len(plain) < MAX_DIGITS:
        return str(int(plain))
    if plain[:1] in _NUMBER_BEGINS and _NUMBER.fullmatch(plain):
        number = float(plain)
        if abs(number) >= 2**53:
            return str(int(plain)) if plain[1:].isdecimal() and len(plain) < MAX_DIGITS else plain
        return str(int(number)) if number.is_integer() else repr(number)
    return plain if plain.isalnum() else _MARKS.sub("", plain)


def same_words(levels: Iterable[str]) -> list[list[str]]:
    """Return levels that are words for the same: yes and Y, true and 1, F and female."""
    by_word = {folded(level): level for level in levels}
    found = []
    for words in _WORDS:
        present = [word for word in words if word in by_word]
        same = [w for w in present if any(w != v and _is_same(*sorted((w, v), key=len)) for v in present)]
        if same:
            found.append([by_word[word] for word in same])
    return found


def _is_same(short: str, long: str) -> bool:
    return len(long) > 1 and (len(short) > 1 or short.isdigit() or long.startswith(short))


def date_forms(levels: Collection[str]) -> list[str]:
    """Return one level of each form that dates are written in: 2024-01-02, 01/02/2024, 1/2/2024, 20240102; or of each place of the month
    where days of more than 12 stand in both."""
    forms, whole, number = dict[tuple[bool, ...], str](), "", 0
    padded, bare, days = dict[int, str](), dict[int, str](), dict[int, str]()
    for level in levels:
        found = _DATE.fullmatch(level)
        if found is None:
            whole = level if _WHOLE_DATE.fullmatch(level) else whole
            continue
        first, mark, middle, last, rest = found.groups()[1:]
        number += 1
        forms.setdefault((len(first) == 4, mark == "-", mark == "/", middle.isdigit(), len(last) == 4, bool(rest) and rest[0] != " "), level)
        for place, part in enumerate((first, middle, last)):
            if part.startswith("0") and len(part) == 2:
                padded[place] = level
            elif len(part) == 1:
                bare[place] = level
            elif len(part) == 2 and place < 2 and len(first) < 4 and part.isdigit() and int(part) > 12:
                days[place] = level
    widths = next(([padded[place], bare[place]] for place in padded if place in bare), [])
    kinds = [*forms.values(), *([whole] if whole and forms else [])]
    return next((found for found in (kinds, widths, [*days.values()]) if len(found) > 1 and 2 * number >= len(levels)), [])


def is_garbled(level: str) -> bool:
    """Whether text was read in another encoding than it was written in: DoÃ±a, Do\\ufffda, or the control characters that cp1252 has letters for."""
    if level.isascii():
        return False
    if "\ufffd" in level or any("\x80" <= c < "\xa0" for c in level):
        return True
    for encoding in ("cp1252", "latin-1"):
        try:
            return level.encode(encoding).decode("utf-8") != level
        except UnicodeError:
            continue
    return False
