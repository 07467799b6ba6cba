"""Calibration of a family with an own parameter through shard, fit and merge, small; all of them by `python -m benchmarks.calibrate sbc_families`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks import sbc, sbc_families

NUM_REPLICATES, NUM_BINS = 15, 5


@pytest.mark.calibration
def test_the_merge_is_calibrated_and_its_twins_are_not():
    """False alarm 1e-3 over all quantities of a merge."""
    for merge, by_name in sbc_families.ranks("negative_binomial", NUM_REPLICATES).items():
        p_values = sbc.uniformity(by_name, NUM_BINS)
        assert sbc.is_uniform(p_values) == (merge == "correct"), f"{merge}: {p_values}"
