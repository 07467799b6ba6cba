"""The example runs that come with the repository: their configs are valid, their data are what their README says."""

import hashlib
import importlib.util
import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from cluster import config
from sharding.simulate import COLUMNS

ROOT = Path(__file__).parents[2]
CCES = ROOT / "examples" / "cces2018"
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_valid_and_its_columns_exist(name: str) -> None:
    run = config.load(ROOT / "configs" / name).config
    formula = run.model.parsed_formula()
    used = {column for group in formula.groups for column in group.columns}
    margins = {column for margin in run.poststratify.by if margin != "all" for column in margin.split(":")}
    simulated = {*COLUMNS, "precinct"} if "precincts" in name else set(COLUMNS)
    here = simulated if name.startswith("nation") else set(pq.read_schema(run.data.source[0]).names)
    assert used | margins | set(run.data.columns) <= here
    if run.poststratify.count is not None:
        frame = set(pq.read_schema(run.poststratify.frame).names)
        assert used | margins | {run.poststratify.count} <= frame


@pytest.mark.parametrize("directory", [CCES, ROOT / "sharding" / "data"], ids=["cces2018", "counties"])
def test_files_are_those_of_the_readme(directory: Path) -> None:
    checksums = re.findall(r"`([\w.]+\.parquet)`.*`([0-9a-f]{64})`", (directory / "README.md").read_text())
    assert checksums
    for name, expected in checksums:
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == expected, name


def test_prepared_tables_come_from_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("survey", "poststrat", "state_predictors"):
        shutil.copy(CCES / f"{name}.parquet", tmp_path)
    spec = importlib.util.spec_from_file_location("prepare", CCES / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    monkeypatch.setattr(prepare, "HERE", tmp_path)
    prepare.main()
    for name in ("respondents", "frame"):
        made, kept = (pd.read_parquet(folder / f"{name}.parquet") for folder in (tmp_path, CCES))
        pd.testing.assert_frame_equal(made, kept)
    frame, survey = pd.read_parquet(CCES / "frame.parquet"), pd.read_parquet(CCES / "respondents.parquet")
    assert frame["n"].sum() == 228_443_347
    assert len(survey) == 29_905
    for column in ("state", "region", "eth", "sex", "age", "educ"):
        assert set(survey[column]) == set(frame[column]), column


def test_reference_is_accurate_enough_to_compare_with() -> None:
    reference = pd.read_parquet(CCES / "reference.parquet")
    assert reference["ess_bulk"].min() >= 1_000
    assert reference["r_hat"].max() < 1.01
    assert reference["kind"].value_counts().to_dict() == {"coefficient": 130, "scale": 8, "estimate": 51}
