"""Neighbours of a structured prior: a CSV file of pairs, named in the config, is read into the config.

So the pairs are part of the resolved config and of the hash that a stage is keyed by, and workers need no file.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError, Problem
from cluster.yaml_source import Source
from sharding import storage
from sharding.errors import StorageError

MAX_BYTES = 16 << 20
HEADERS = 1  # lines


def read_into(source: Source, folder: Path) -> None:
    """Replace every ``neighbours: file.csv`` of ``model.priors`` by the pairs in the file.

    Raises
    ------
    ConfigError
        The file is missing, too large, or not two columns of names below a header.
    """
    for key, prior in _structures(source.values):
        value = prior.get("neighbours")
        if isinstance(value, str):
            prior["neighbours"] = _read(value, folder, source, key)


def _structures(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    model = values.get("model")
    priors = model.get("priors") if isinstance(model, dict) else None
    if isinstance(priors, dict):
        yield from ((str(key), prior) for key, prior in priors.items() if isinstance(prior, dict))


def _read(value: str, folder: Path, source: Source, key: str) -> list[list[str]]:
    url = value if "://" in value else os.path.normpath(folder / os.path.expanduser(value))
    try:
        data = storage.read_bytes(url)
        if len(data) > MAX_BYTES:
            raise _wrong(source, key, value, f"{len(data):,} bytes", f"at most {MAX_BYTES:,}")
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"))) if row]
    except StorageError:
        raise _wrong(
            source, key, value, "no readable file", "a CSV file with a pair of neighbours in each row"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise _wrong(source, key, value, type(error).__name__, "CSV in UTF-8") from None
    pairs = rows[HEADERS:]
    if not pairs or any(len(row) != 2 or not all(cell.strip() for cell in row) for row in rows):
        raise _wrong(source, key, value, "rows that are not two names", "a header and two columns, a pair in each row")
    return [[cell.strip() for cell in row] for row in pairs]


def _wrong(source: Source, key: str, value: str, found: str, expected: str) -> ConfigError:
    place = source.place(("model", "priors", key, "neighbours"))
    return ConfigError((Problem(place.where, f"model.priors.{key}.neighbours", f"{value!r}: {found}", expected),))
