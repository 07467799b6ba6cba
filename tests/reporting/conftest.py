"""A made-up but realistic run directory: what the stages leave behind, without running them."""

import json

import numpy as np
import pyarrow as pa
import pytest

from reporting.estimates import aggregate, summarise_groups
from reporting.posterior import Variable, write_posterior
from reporting.summary import summarise
from reporting.tables import to_parquet

STATE_CODES = ("AK AL AR AZ CA CO CT DC DE FL GA HI IA ID IL IN KS KY LA MA MD ME MI MN MO MS MT NC ND NE NH NJ NM NV NY OH OK "
          "OR PA RI SC SD TN TX UT VA VT WA WI WV WY")
STATES = STATE_CODES.split()
RUN_YAML = """name: {name}
data:
  source: voters/*.parquet
  outcome: {{voted: g2024}}
  terms_of_use: synthetic
model:
  formula: voted ~ 1 + female + dem_share + (1 | state/county) + (1 | race) + (1 | age) + (1 + female | race)
  family: binomial
  priors: {{b: "normal(0, 1)", sd: half_normal(1)}}
shards: {{by: state, target_cells: 200000}}
fit: {{method: vi, rounds: 8}}
run: {{seed: 1, executor: local}}
"""
PRIORS = {"intercept": "normal(0, 1.5)", "b": "normal(0, 1)", "sd": "half_normal(1)", "cor": "lkj(2)"}


class FakeRun:
    """Writes a run directory; ``counties`` per state sets its size."""

    def __init__(self, path, counties=6, verdict="pass", states=STATES, seed=0):
        self.path, self.verdict, self.states = path, verdict, list(states)
        self.rng = np.random.default_rng(seed)
        self.county_state = np.repeat(np.arange(len(self.states)), counties)
        self.counties = [f"{self.states[s]}:{i:05d}" for i, s in enumerate(self.county_state)]
        self.num_rows = np.round(np.exp(self.rng.normal(6.2, 1.2, size=len(self.counties)))).astype(int) + 1

    def write(self):
        for folder in ("", "shards", "estimates", "truth"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        (self.path / "run.yaml").write_text(RUN_YAML.format(name="turnout-2024"))
        self.json("manifest.json", self.manifest())
        self.json("dictionary.json", {"schema_version": 1, "factors": {}, "outcome": {"kind": "binomial"}})
        self.json("shards/manifest.json", self.shard_manifest())
        self.json("audit.json", self.audit())
        self.write_draws()
        self.write_estimates()
        return self.path

    def json(self, name, value):
        (self.path / name).write_text(json.dumps(value))

    def manifest(self):
        stages = {"ingest": 21.3, "fit": 48.2, "merge": 12.9, "audit": 7.1, "poststratify": 4.4}
        return {"schema_version": 1, "seed": 1, "executor": "ray (2 workers)", "priors": PRIORS, "is_share": True,
                "truth": str(self.path / "truth"), "versions": {"caucus": "0.1.0", "numpy": "2.4.6", "jax": "0.10.2"},
                "stages": {k: {"seconds": v, "peak_memory_bytes": int(v * 3e7)} for k, v in stages.items()}}

    def shard_manifest(self):
        rows = np.bincount(self.county_state, self.num_rows).astype(int)
        shards = [{"shard_id": s.lower(), "path": f"shards/{s}.parquet", "num_cells": int(r**0.8), "num_rows": int(r),
                   "num_trials": int(r), "num_bytes": int(r), "sha256": "0"} for s, r in zip(self.states, rows, strict=True)]
        total = int(rows.sum())
        return {"schema_version": 1, "shards": shards,
                "totals": {"rows_read": total + 45, "rows_in_cells": total, "rows_quarantined": 45},
                "quarantine": {"age missing": 41, "state not in the contract": 4},
                "sources": [{"url": "voters/part-0.parquet", "num_bytes": 31_000_000, "sha256": "0"}]}

    def audit(self):
        size = {"pass": 0.04, "warn": 0.19, "fail": 1.7}[self.verdict]
        status = self.verdict
        shards = []
        for i, s in enumerate(self.states):
            bad = i == 5 % len(self.states)
            shards.append({"shard_id": s.lower(), "num_cells": 100 + i, "num_rows": 1000 + i, "num_trials": 1000 + i,
                           "log_ratio_sd": size * 2 if bad else float(self.rng.uniform(0.01, 0.05)), "k_hat": 0.2,
                           "score": size if bad else float(self.rng.uniform(0, 0.04)), "score_where": f"1|state[{s}]",
                           "heterogeneity": {"statistic": 5.0, "df": 4, "p_adjusted": 0.8},
                           "status": status if bad else "pass"})
        where = shards[5 % len(shards)]
        gates = [
            {"name": "score", "value": size, "warn_above": 0.1, "fail_above": 0.3, "status": status,
             "where": where["score_where"], "meaning": "largest error of a coefficient's mean, in posterior sds",
             "do": "Run more rounds: `--set fit.rounds=20`."},
            {"name": "log_ratio_sd", "value": 0.12, "warn_above": 0.5, "fail_above": 1.5, "status": "pass", "where": "",
             "meaning": "how far the merge is from the exact posterior", "do": ""},
            {"name": "k_hat", "value": 0.31, "warn_above": 0.5, "fail_above": 0.7, "status": "pass", "where": "",
             "meaning": "tail of the importance ratios", "do": ""}]
        blocks = [{"block": b, "num_coefficients": n, "score": size * f, "score_where": w, "shift": 0.01, "shift_mcse": 0.004,
                   "shift_where": w, "sd_ratio_min": 0.97, "sd_ratio_max": 1.02}
                  for b, n, f, w in (("global", 3, 0.3, "female"), ("1|state", 51, 1, where["score_where"]))]
        moves = [4.1, 0.9, 0.21, 0.05, 0.012, 0.004]
        return {"schema_version": 1, "verdict": self.verdict, "gates": gates, "shards": shards, "blocks": blocks,
                "total": {"num_draws": 1000, "log_ratio_sd": 0.12, "kl_nats": 0.007, "efficiency": 0.98, "k_hat": 0.31,
                          "k_hat_mcse": 0.08},
                "coefficients": [{"name": where["score_where"], "score": size, "shift": 0.01, "shift_mcse": 0.004}],
                "rounds": [{"round": i, "move": m, "damping": 1.0, "method": "vi", "seconds": 3.2}
                           for i, m in enumerate(moves)],
                "levels": [], "prior_sensitivity": [{"parameter": "sd(1|race)", "prior": 0.2, "likelihood": 0.1,
                                                     "flag": "prior-data conflict"}] if self.verdict != "pass" else [],
                "messages": []}

    def draws(self):
        shape, rng = (2, 100), self.rng

        def normal(mean, sd):
            return np.asarray(mean) + np.asarray(sd) * rng.normal(size=(*shape, *np.shape(mean)))

        ages, races = ["18-29", "30-44", "45-64", "65+"], ["asian", "black", "hispanic", "other", "white"]
        coords = {"state": self.states, "state:county": self.counties, "race": races, "age": ages}
        draws = {
            "Intercept": Variable((), normal(0.6, 0.05)), "female": Variable((), normal(0.12, 0.01)),
            "dem_share": Variable((), normal(-0.02, 0.03)),
            "1|state": Variable(("state",), normal(rng.normal(0, 0.3, len(self.states)), 0.06)),
            "1|state:county": Variable(("state:county",), normal(rng.normal(0, 0.2, len(self.counties)), 0.12)),
            "1|age": Variable(("age",), normal([-0.6, -0.1, 0.2, 0.5], 0.03)),
            "1|race": Variable(("race",), normal([-0.3, 0.0, -0.4, 0.1, 0.3], 0.05)),
            "female|race": Variable(("race",), normal([0.0, 0.1, 0.05, 0.0, -0.02], 0.05)),
            "sd(1|state)": Variable((), np.abs(normal(0.29, 0.03))), "sd(1|age)": Variable((), np.abs(normal(0.5, 0.2))),
            "sd(1|state:county)": Variable((), np.abs(normal(0.2, 0.01))),
            "sd(1|race)": Variable((), np.abs(normal(0.33, 0.12))),
            "cor(1,female|race)": Variable((), np.clip(normal(0.2, 0.3), -0.95, 0.95)),
        }
        return draws, coords

    def write_draws(self):
        draws, coords = self.draws()
        units = {name: "log odds" for name in draws if not name.startswith(("sd(", "cor("))}
        (self.path / "posterior.nc").write_bytes(write_posterior(draws, coords, {"seed": 1}))
        self.table("summary.parquet", summarise(draws, coords, units))

    def table(self, name, table):
        (self.path / name).write_bytes(to_parquet(table))

    def write_estimates(self):
        rng = self.rng
        centre = 0.62 + 0.07 * rng.normal(size=len(self.states))[self.county_state] + 0.04 * rng.normal(
            size=len(self.counties))
        truth = centre + 0.02 * rng.normal(size=len(self.counties))
        draws = centre + 0.02 * rng.normal(size=(2, 100, len(self.counties)))
        state, everybody = self.county_state, np.zeros(len(self.counties), int)
        county_of = [name.split(":")[1] for name in self.counties]
        truths = []
        for margin, groups, labels in (
            ("state:county", np.arange(len(self.counties)), {"state": [self.states[s] for s in state], "county": county_of}),
            ("state", state, {"state": self.states}), ("all", everybody, {"all": ["all"]})):
            total = np.bincount(groups, self.num_rows).astype(int)
            expected = np.bincount(groups, self.num_rows * truth) / total
            raw = rng.binomial(total, expected.clip(0.01, 0.99)) / total
            table = summarise_groups(labels, aggregate(draws, self.num_rows, groups, len(total)), total, total, raw)
            self.table(f"estimates/{margin.replace(':', '-')}.parquet", table)
            levels = [":".join(parts) for parts in zip(*labels.values(), strict=True)]
            truths += [("voted", margin, level, float(value)) for level, value in zip(levels, expected, strict=True)]
        names = ("outcome", "margin", "level", "expected_mean")
        self.table("truth/expected.parquet", pa.table(dict(zip(names, zip(*truths, strict=True), strict=True))))
        expected = np.linspace(0.3, 0.85, 10)
        self.table("estimates/calibration.parquet", pa.table({
            "bin": [f"{i}" for i in range(1, 11)], "num_trials": [5000] * 10,
            "observed": expected + 0.006 * rng.normal(size=10), "expected": expected}))


@pytest.fixture
def fake_run(tmp_path):
    """Return the class of a made-up run, with its directory filled in."""

    def make(**options):
        return FakeRun(tmp_path / "run", **options)

    return make
