"""Invented people, as columns: no name, address or birth date of anyone.

Names are syllables put together by number, streets are trees that grow nowhere and every address is in a town called
*Nowhere*. People fall into the state's real counties by voting-age population (``sharding/data/README.md``), so the
largest county has hundreds of times the rows of the smallest, and rows are in the order of counties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharding.simulation_population import COUNTIES_PATH

Ints = npt.NDArray[np.int64]

MOST_PEOPLE = 8_999_999
"""Larger numbers of seven digits are nobody's."""

ELECTION_DAY = np.datetime64("2024-11-05")
FIRST_BIRTHDAY, LAST_BIRTHDAY = np.datetime64("1924-01-01"), np.datetime64("2006-11-05")
FIRST_REGISTRATION, LAST_REGISTRATION = np.datetime64("1988-01-02"), np.datetime64("2024-10-11")

_ONSETS = ("b", "br", "d", "f", "g", "gl", "h", "k", "l", "m", "n", "p", "qu", "r", "s", "st", "t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u", "ae", "ia", "oo")
_ENDS = ("nix", "bor", "mund", "vel", "quist", "zar", "dol", "thep", "rump", "lix")
_ACCENTED = ("Ñ", "É", "Ö", "Ü", "Á", "Ç")
_STREETS = ("PHANTOM", "UNICORN", "MIRAGE", "PIXEL", "GRIFFIN", "FABLE", "HYPOTHESIS", "LOREM", "IPSUM", "QUARK")
_TYPES = ("LN", "AVE", "ST", "CT", "WAY")


@dataclass(frozen=True)
class Counties:
    """The counties of one state in alphabetical order of their names."""

    names: tuple[str, ...]
    fips: tuple[str, ...]
    share: npt.NDArray[np.float64]
    """Of the state's adults; sums to 1."""


def counties_of(state: str) -> Counties:
    """Read the counties of a state ("NC"); of several ("*"): the ten largest of the nation."""
    table = pq.read_table(COUNTIES_PATH, columns=["fips", "state", "name", "vap_2022"])
    table = table.filter(pc.equal(table["state"], state)) if state != "*" else table.sort_by([("vap_2022", "descending")])[:10]
    names = [name.removesuffix(" County").removesuffix(" Parish").upper() for name in table["name"].to_pylist()]
    order = sorted(range(len(names)), key=lambda i: names[i].replace(" ", "").replace(".", ""))
    adults = table["vap_2022"].to_numpy()[order]
    fips = table["fips"].to_pylist()
    return Counties(tuple(names[i] for i in order), tuple(fips[i] for i in order), adults / adults.sum())


@dataclass(frozen=True)
class People:
    """What is true of each person; every array leads with the axis person, in the order of counties."""

    number: Ints
    """Unique, at most :data:`MOST_PEOPLE`, in no order."""
    county: npt.NDArray[np.int16]
    birthday: npt.NDArray[np.datetime64]
    registered: npt.NDArray[np.datetime64]
    voted: npt.NDArray[np.bool_]
    """In the election of :data:`ELECTION_DAY`."""
    seed: int

    def __len__(self) -> int:
        return len(self.number)

    def codes(self, purpose: str, weights: tuple[float, ...]) -> Ints:
        """Draw an index into ``weights`` for each person, the same each time for the same ``purpose``."""
        rng = np.random.default_rng([self.seed, *purpose.encode()])
        edges = np.cumsum(np.asarray(weights) / np.sum(weights))
        return np.searchsorted(edges[:-1], rng.random(len(self)), side="right")

    def choice(self, purpose: str, values: tuple[str, ...], weights: tuple[float, ...] | None = None) -> pa.Array:
        """Draw one of ``values`` for each person; by default all are as likely."""
        return take(values, self.codes(purpose, weights or (1.0,) * len(values)))


def draw(num_people: int, counties: Counties, seed: int) -> People:
    """Draw people, the same for the same arguments.

    The expected turnout rises from 0.45 at 18 to 0.8 at 75.
    """
    rng = np.random.default_rng([seed, 0])
    county = np.sort(rng.choice(len(counties.names), num_people, p=counties.share)).astype(np.int16)
    number = 1 + rng.permutation(MOST_PEOPLE)[:num_people]
    birthday = FIRST_BIRTHDAY + rng.integers(0, _days(FIRST_BIRTHDAY, LAST_BIRTHDAY) + 1, num_people)
    of_age = np.maximum(birthday + 18 * 366, FIRST_REGISTRATION)
    span = np.maximum((LAST_REGISTRATION - of_age).astype(np.int64), 1)
    registered = np.minimum(of_age + (rng.random(num_people) * span).astype(np.int64), LAST_REGISTRATION)
    age = (ELECTION_DAY - birthday).astype(np.int64) / 365.25
    voted = rng.random(num_people) < 0.45 + 0.35 * np.clip((age - 18) / 57, 0, 1)
    return People(number, county, birthday, registered, voted, seed)


def take(values: tuple[str, ...], codes: npt.NDArray[np.integer]) -> pa.Array:
    """Return the text ``values[codes]``."""
    return pa.array(values, pa.string()).take(pa.array(codes))


def dates(days: npt.NDArray[np.datetime64], form: str) -> pa.Array:
    """Return ``days`` as text in ``form`` (of strftime), each distinct day formatted once."""
    distinct, codes = np.unique(days, return_inverse=True)
    return take(tuple(day.item().strftime(form) for day in distinct.astype("datetime64[D]")), codes)


def padded(numbers: npt.NDArray[np.integer], width: int) -> pa.Array:
    """Return non-negative ``numbers`` as text with leading zeros."""
    return pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")


def surnames() -> tuple[str, ...]:
    """Return 1,600 invented names in ASCII capitals."""
    return tuple(
        f"{a}{v}{end}".upper() for a in _ONSETS for v in _VOWELS for end in _ENDS
    )  # fmt: skip


def accented_surnames() -> tuple[str, ...]:
    """Return 120 invented names with a letter that ASCII lacks and ISO 8859-1 has."""
    return tuple(f"{letter}{a}o{end}".upper() for letter in _ACCENTED for a in ("l", "r") for end in _ENDS)


def forenames() -> tuple[str, ...]:
    """Return 160 invented names in ASCII capitals."""
    return tuple(f"{a}{v}".upper() for a in _ONSETS for v in _VOWELS)


def addresses() -> tuple[str, ...]:
    """Return 5,000 streets with numbers, with runs of spaces between the parts."""
    return tuple(f"{n}  {street} {kind}" for n in range(1, 101) for street in _STREETS for kind in _TYPES)


def _days(first: np.datetime64, last: np.datetime64) -> int:
    return int((last - first).astype(np.int64))


def years(days: npt.NDArray[np.datetime64]) -> Ints:
    """Return the years of ``days``."""
    return days.astype("datetime64[Y]").astype(np.int64) + 1970


def prefixed(prefix: str, numbers: npt.NDArray[np.integer], width: int) -> pa.Array:
    """Return ``prefix`` and the number with leading zeros, such as ``AZ000123``."""
    return pc.binary_join_element_wise(prefix, padded(numbers, width), "")
