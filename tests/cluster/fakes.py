"""Stand-ins for the stages: they write what the real ones write, and count their calls."""

import importlib
import json
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

VOTERS = 1_000
DICTIONARY = {
    "factors": {name: {"levels": ["a"], "reference": "a"} for name in ("state", "county", "race", "age")},
    "numerics": {"female": {"center": 0.0, "scale": 1.0, "binary": True}},
    "groups": {"state": [[0]], "state:county": [[0, 0]], "race": [[0]]},
    "parents": {"county": {"state": [0]}},
    "outcome": {"kind": "binomial", "num_known": VOTERS, "mean": 0.5, "sd": 0.5},
}

ENTRY = {"shard_id": "ca", "path": "shards/ca.parquet", "num_cells": 200, "num_rows": 200, "num_trials": 200, "num_bytes": 1, "sha256": "0"}
"""What the manifest says of the only shard."""


class FakeStages:
    """Modules `cluster.inference`, `sharding.ingest` and `reporting.report`; ``calls`` counts their calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.verdict = "pass"
        self.fails: dict[str, BaseException] = {}
        self.contexts: dict[str, Any] = {}
        self.ingested: dict[str, Any] = {}
        inference = types.ModuleType("cluster.inference")
        for stage in ("fit", "merge", "audit", "poststratify"):
            setattr(inference, stage, self._stage(stage))
        inference.resolved_priors = lambda directory, config: {"sd(1|state)": "half_normal(1)"}  # type: ignore[attr-defined]
        ingest, report = types.ModuleType("sharding.ingest"), types.ModuleType("reporting.report")
        ingest.ingest, report.build = self._ingest, self._report  # type: ignore[attr-defined]
        self.modules = {"cluster.inference": inference, "sharding.ingest": ingest, "reporting.report": report}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the stand-ins in the place of the real modules until the test ends."""
        for name, module in self.modules.items():
            monkeypatch.setitem(sys.modules, name, module)
            package, _, attribute = name.rpartition(".")
            monkeypatch.setattr(importlib.import_module(package), attribute, module, raising=False)

    def _called(self, stage: str) -> None:
        self.calls[stage] += 1
        if stage in self.fails:
            raise self.fails[stage]

    def _stage(self, stage: str) -> Any:
        def run(context: Any) -> None:
            self._called(stage)
            self.contexts[stage] = context
            context.progress.update(round=1, rounds=3, done=1, total=2, score=0.2)
            judged = {"verdict": self.verdict, "gates": [{"name": "score", "value": 0.2}], "messages": []}
            text = json.dumps(judged) if stage == "audit" else f"{stage} {context.key}"
            names = {
                "fit": ("sites/ca.npz",),
                "merge": ("posterior.nc", "summary.parquet"),
                "audit": ("audit.json",),
                "poststratify": ("estimates/state.parquet",),
            }
            for name in names[stage]:
                _write(Path(context.directory, name), text)

        return run

    def _ingest(self, data: Any, shards: Any, *, directory: str, **options: Any) -> Any:
        self._called("ingest")
        self.ingested = options
        totals = {"rows_read": VOTERS, "rows_in_cells": VOTERS, "rows_quarantined": 0}
        manifest = {"schema_version": 2, "shards": [ENTRY], "totals": totals}
        _write(Path(directory, "dictionary.json"), json.dumps(DICTIONARY))
        _write(Path(directory, "shards", "manifest.json"), json.dumps(manifest))
        return types.SimpleNamespace(dictionary=types.SimpleNamespace(notes=()))

    def _report(self, directory: str) -> str:
        self._called("report")
        _write(Path(directory, "report.html"), "<p>")
        return f"{directory}/report.html"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
