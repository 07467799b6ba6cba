"""Every family through the whole line, and a structured prior put on a finished run."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))
import line

CONFIG = """\
name: families
data: {{source: "voters/*", outcome: {outcome}, terms_of_use: synthetic{data}}}
model: {{formula: "{formula}", family: {family}{model}}}
shards: {{by: state, min_cells: 1}}
fit: {{draws: 250}}
audit: {{draws: 200}}
poststratify: {{by: [all, state]}}
publish: {{min_count: 1}}
run: {{directory: run, seed: 1, executor: serial}}
"""
STATES, AGES = ("AL", "AK", "OH", "WY", "NC"), ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
PARTIES = ("dem", "none", "rep")


def people(num_rows: int = 1200) -> dict[str, Any]:
    """Columns of people with outcomes of every kind; 100 of them have not answered."""
    rng = np.random.default_rng(5)
    state, age, female = (rng.integers(0, n, num_rows) for n in (len(STATES), len(AGES), 2))
    eta = -0.2 + 0.3 * (state - 2) + 0.15 * (age - 2.5) + 0.4 * female
    share = 1 / (1 + np.exp(-eta))
    trials = rng.integers(2, 12, num_rows)
    utility = np.stack([eta, 0.0 * eta, -eta], axis=1) + rng.gumbel(size=(num_rows, 3))
    outcomes: dict[str, Any] = {
        "voted": (rng.random(num_rows) < share).astype(float),
        "visits": rng.poisson(np.exp(eta)).astype(float),
        "calls": rng.negative_binomial(2.0, 2.0 / (2.0 + np.exp(eta))).astype(float),
        "kept": rng.binomial(trials, rng.beta(8 * share, 8 * (1 - share))).astype(float),
        "income": eta + 0.5 * rng.standard_t(5, num_rows),
        "agree": np.searchsorted([-1.0, 0.3, 1.5], eta + rng.logistic(size=num_rows)).astype(float),
    }
    for values in outcomes.values():
        values[:100] = np.nan
    party = np.array(PARTIES, dtype=object)[utility.argmax(axis=1)]
    party[:100] = None
    return {
        "state": np.array(STATES)[state].tolist(), "age": np.array(AGES)[age].tolist(), "female": female.tolist(),
        "party": party.tolist(), "trials": trials.tolist(),
        "level": [None if np.isnan(v) else ("no", "rather no", "rather yes", "yes")[int(v)] for v in outcomes["agree"]],
        **{name: [None if np.isnan(v) else float(v) for v in values] for name, values in outcomes.items()},
    }  # fmt: skip


CASES = {
    "probit": ("voted", "voted", "bernoulli, link: probit", ""),
    "cloglog": ("voted", "voted", "bernoulli, link: cloglog", ""),
    "poisson": ("visits", "visits", "poisson", ""),
    "negative_binomial": ("calls", "calls", "negative_binomial", ""),
    "beta_binomial": ("{successes: kept, trials: trials}", "kept", "beta_binomial", ""),
    "student_t": ("income", "income", "student_t", ""),
    "categorical": ("party", "party", "categorical", ""),
    "ordinal": ("level", "level", "ordinal", ', columns: {level: {levels: ["no", "rather no", "rather yes", "yes"]}}'),
}


def write(folder: Path, outcome: str, name: str, family: str, data: str, model: str = "") -> Path:
    formula = f"{name} ~ 1 + female + (1 | state) + (1 | age)"
    text = CONFIG.format(outcome=outcome, formula=formula, family=family, data=data, model=model)
    return line.make(folder, people(), text)


@pytest.mark.parametrize("case", CASES)
def test_a_family_runs_from_file_to_report(case: str, tmp_path: Path):
    outcome, name, family, data = CASES[case]
    said = line.caucus("run", write(tmp_path, outcome, name, family, data))
    assert said.code == 0, said.err
    estimates = pq.read_table(tmp_path / "run" / "estimates" / "state.parquet").to_pandas()
    num_categories = {"categorical": 3, "ordinal": 4}.get(case, 1)
    assert len(estimates) == len(STATES) * num_categories
    assert (estimates["num_rows"].to_numpy() > estimates["num_trials"].to_numpy()).any()
    if num_categories > 1:
        assert estimates.columns[1] == name
        np.testing.assert_allclose(estimates.groupby("state")["mean"].sum(), 1.0)
    # with 200 people in a state the estimate is near the raw mean, and is no constant
    raw = estimates["raw_mean"].to_numpy()
    assert np.corrcoef(raw, estimates["mean"])[0, 1] > 0.9
    assert np.abs(estimates["mean"] - raw).max() < 0.3 * max(1.0, raw.max())
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def forget_the_layout(run: Path) -> None:
    """As a version before structures wrote it: sites whose record has no layout."""
    rounds, manifest = (json.loads((run / name).read_text()) for name in ("sites/rounds.json", "manifest.json"))
    assert rounds.pop("layout") == []
    (run / "sites" / "rounds.json").write_text(json.dumps(rounds))
    digest = hashlib.sha256((run / "sites" / "rounds.json").read_bytes()).hexdigest()
    manifest["stages"]["fit"]["files"]["sites/rounds.json"] = digest
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_a_structured_prior_on_a_finished_run_is_a_merge_and_equals_a_fresh_run(tmp_path: Path):
    """False alarm 1e-6 over all parameters; another seed for the fresh run. States leave the tree for its root."""
    pairs = "\n".join(["a,b", "AL,NC", "NC,OH", "OH,WY", "WY,AK"])
    (tmp_path / "map.csv").write_text(pairs + "\n")
    config = write(tmp_path, "voted", "voted", "bernoulli", f", columns: {{age: {{levels: [{', '.join(AGES)}]}}}}")
    more = ("--set", "fit.draws=1000", "--set", "audit.max_extra_rounds=5")
    priors = (
        "--set",
        "model.priors={1|age: {structure: random_walk}, 1|state: {structure: icar, neighbours: map.csv}}",
    )
    assert line.caucus("run", config, *more).code == 0
    before = pq.read_table(tmp_path / "run" / "summary.parquet").to_pandas().set_index("parameter")
    sites = line.identities(tmp_path / "run" / "sites")
    forget_the_layout(tmp_path / "run")
    second = line.caucus("run", config, *more, *priors)
    assert second.code == 0, second.err
    assert second.redone == ["merge", "audit", "poststratify", "report"]
    kept = line.identities(tmp_path / "run" / "sites")
    assert all(kept[name] == identity for name, identity in sites.items() if name.endswith(".arrow"))
    fresh = line.caucus("run", config, *more, *priors, "--set", "run.directory=fresh", "--set", "run.seed=2")
    assert fresh.code == 0, fresh.err
    after, anew = (
        pq.read_table(tmp_path / d / "summary.parquet").to_pandas().set_index("parameter") for d in ("run", "fresh")
    )
    assert set(after.index) == set(anew.index)
    anew = anew.loc[after.index]
    limit = stats.norm.isf(1e-6 / (2 * len(after)))
    mcse = np.hypot(after["mcse_mean"], anew["mcse_mean"])
    assert np.all(limit * mcse <= 0.3 * anew["sd"]), "inconclusive: draw more"
    assert np.all(np.abs(after["mean"] - anew["mean"]) <= limit * mcse)
    moved = np.abs(before["mean"] - anew["mean"].reindex(before.index)) / before["sd"]
    assert moved.max() > 0.3, "the prior must matter, or this test shows nothing"
    again = line.caucus("run", config, *more, *priors)
    assert again.redone == []


def test_weights_make_a_pseudo_likelihood_with_a_corrected_spread(tmp_path: Path):
    """Weights that vary without meaning: the means stay, the uncorrected spread is too narrow, and the audit says what it is."""
    columns = people(3000)
    columns["w"] = np.random.default_rng(1).choice([0.2, 4.0], 3000, p=[0.8, 0.2]).tolist()
    formula = "voted ~ 1 + female + (1 | state)"
    config = line.make(tmp_path, columns, CONFIG.format(outcome="voted", formula=formula, family="bernoulli", data=", weight: w", model=""))
    tables = {}
    for name, settings in {"model": (), "sandwich": ("--set", "fit.spread=sandwich")}.items():
        said = line.caucus("run", config, "--set", "fit.draws=1000", *settings)
        assert said.code == 0, said.err
        tables[name] = pq.read_table(tmp_path / "run" / "summary.parquet").to_pandas().set_index("parameter")
        audit = (tmp_path / "run" / "audit.json").read_text()
        assert "pseudo-likelihood" in audit
        assert ("not corrected" in audit) == (name == "model")
    assert said.redone == ["merge", "audit", "poststratify", "report"]
    ratio = tables["sandwich"].loc["female", "sd"] / tables["model"].loc["female", "sd"]
    # squared weights sum to (1 + coefficient of variation ** 2) times those of equal ones, and sds to its root
    weights = np.array(columns["w"][100:])
    expected = np.sqrt(np.mean(weights**2) / np.mean(weights) ** 2)
    assert abs(ratio / expected - 1) < 0.15
