"""Readers and damaged files: ingested with every line accounted for, or refused; and the fuzzer finds what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from benchmarks.fuzzing import child, drills, targets
from benchmarks.fuzzing.child import FAULTS, Case
from sharding import sources, unreadable
from sharding.errors import SourceError
from sharding.text_lines import LineCounter

NUM_INPUTS = 300


def test_damaged_inputs_are_ingested_or_refused() -> None:
    cases = fuzz.cases(list(targets.TARGETS), NUM_INPUTS, seed=20241105)
    results = list(child.run(cases))
    assert len(results) == NUM_INPUTS
    assert [(r.case.target, r.case.mutation, r.outcome, r.error) for r in results if r.outcome in FAULTS] == []
    assert {r.outcome for r in results} == {"ingested", "refused"}


@pytest.mark.parametrize("name", list(targets.TARGETS))
def test_undamaged_inputs_are_ingested(name: str, tmp_path: Path) -> None:
    target = targets.TARGETS[name]
    if target.is_damaged:
        data = target.pack(target.good(np.random.default_rng(1)))
        assert targets.run(name, data, tmp_path / "input") == ("ingested", "")


@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(["odd csv", "odd parquet", "csv", "parquet"]))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_odd_contents_are_ingested_or_refused(seed: int, name: str, tmp_path: Path) -> None:
    _, data = targets.make(name, np.random.default_rng(seed))
    outcome, error = targets.run(name, data, tmp_path / "input")
    assert outcome not in FAULTS, error


def test_the_fuzzer_finds_rows_that_are_lost_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreadable, "check_lines", lambda *_: None)
    monkeypatch.setattr(sources, "LineCounter", _Blind)
    lines = [f"V,Bo,0{i % 2},White,0.{i % 7 + 1},{i % 2}\n" for i in range(2000)]
    lines[9] = lines[9].replace("Bo", '"Bo')
    stray = ("voter_id,name,state,race,dem,voted\n" + "".join(lines)).encode()
    assert targets.run("csv", stray, tmp_path / "input")[0] == "silent loss"


class _Blind(LineCounter):
    """Sees no quotation mark."""

    has_open_quotes = property(lambda self: False, lambda self, value: None)


def _leak(path: Path, directory: Path) -> dict[str, int]:
    raise SourceError("file", f"the row of {targets.CANARY}", "nothing of it", "Mend.")


def _break(path: Path, directory: Path) -> dict[str, int]:
    raise KeyError("x")


@pytest.mark.parametrize(("read", "outcome"), [(_leak, "leak"), (_break, "traceback")])
def test_a_fault_of_a_reader_is_told(read: Any, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.TARGETS, "broken", targets.Target("broken", "x", lambda rng: b"", read))
    assert targets.run("broken", b"", tmp_path / "input")[0] == outcome


def test_a_crash_and_a_hang_end_the_child_and_not_the_fuzzer() -> None:
    cases = [Case(name, "", b"") for name in ("crash", "good", "hang", "good")]
    outcomes = [result.outcome for result in child.run(cases, seconds_per_input=5.0, answer=drills.answer)]
    assert outcomes == ["crash", "ingested", "hang", "ingested"]
