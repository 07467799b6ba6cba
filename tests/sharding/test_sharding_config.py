"""The configuration says what is wrong with it; every error of the layer crosses processes."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from sharding import errors
from sharding.config import ColumnConfig, DataConfig, ShardsConfig

DATA: dict[str, Any] = {"source": "x.parquet", "outcome": {"voted": "g2024"}, "terms_of_use": "synthetic"}


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (ColumnConfig, {"levels": [1, "02"]}, "quote it"),
        (ColumnConfig, {"levels": [True]}, "quote it"),
        (ColumnConfig, {"reference": 1}, "quote it"),
        (ColumnConfig, {"levels": ["a", "a"]}, "twice"),
        (ColumnConfig, {"levels": ["a"], "reference": "b"}, "not one of `levels`"),
        (ColumnConfig, {"type": "numeric", "levels": ["a"]}, "are for factors"),
        (ColumnConfig, {"type": "factor", "minimum": 0}, "numeric columns"),
        (ColumnConfig, {"minimum": 2, "maximum": 1}, "above"),
        (ColumnConfig, {"tpye": "factor"}, "tpye"),
        (DataConfig, {**DATA, "outcome": {"successes": "a"}}, "needs both"),
        (DataConfig, {**DATA, "outcome": {"a": "b", "c": "d"}}, "one column"),
        (DataConfig, {**DATA, "columns": {"num_rows": {}}}, "reserved"),
        (DataConfig, {**DATA, "duplicates": "error"}, "needs `id_column`"),
        (DataConfig, {**DATA, "encoding": "latin-42"}, "not known"),
        (DataConfig, {**DATA, "memory_limit": "lots"}, "memory_limit"),
        (DataConfig, {**DATA, "source": []}, "source"),
        (DataConfig, {**DATA, "terms_of_use": ""}, "terms_of_use"),
        (DataConfig, {k: v for k, v in DATA.items() if k != "terms_of_use"}, "terms_of_use"),
        (ShardsConfig, {"by": ["state", "state"]}, "twice"),
        (ShardsConfig, {"by": ["state", "random"]}, "list of columns"),
        (ShardsConfig, {"by": "hash"}, "needs it"),
        (ShardsConfig, {"by": "state", "column": "x"}, "by: hash"),
        (ShardsConfig, {"by": "state", "num_shards": 3}, "target_cells"),
        (ShardsConfig, {"target_cells": 5, "min_cells": 6}, "above"),
    ],
)
def test_bad_configuration(config: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**values)


def test_good_configuration_is_frozen_and_maps_names() -> None:
    data = DataConfig(**DATA, columns={"fips": {"source": "COUNTY_FIPS", "levels": ["01", "02"]}})
    assert data.outcome_columns == {"voted": "g2024"}
    assert (data.source_name("fips"), data.source_name("race")) == ("COUNTY_FIPS", "race")
    assert ShardsConfig(by="state").columns == ("state",)
    assert ShardsConfig(by="random", target_cells=10).smallest_shard == 10
    with pytest.raises(ValidationError, match="frozen"):
        data.format = "csv"  # type: ignore[misc]


def test_every_error_pickles() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.DetailedError)]
    assert len(kinds) >= 6
    for kind in kinds:
        error = kind("there", "this", "that", "Do it.")
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert type(copy) is kind
        assert str(copy) == str(error) == "there: found this; expected that. Do it."
