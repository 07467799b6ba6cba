"""Simulate voters of a few regions whose states differ in turnout and choice, and write them as Parquet.

python examples/turnout_and_choice/simulate.py examples/turnout_and_choice/voters.parquet
"""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

AGES = ("18-29", "30-44", "45-64", "65+")
TRUTH = {
    "intercept": (0.3, -0.1),
    "female": (0.2, 0.3),
    "age_effect": ((-0.6, 0.3), (-0.1, 0.1), (0.3, -0.1), (0.5, -0.2)),
    "sd": (0.5, 0.8),
    "correlation": 0.6,
}


def simulate(*, num_regions: int = 6, states_per_region: int = 6, num_rows: int = 6000, seed: int = 1) -> pa.Table:
    """Voters with ``region``, ``state``, ``age``, ``is_female``, ``voted``, and ``chose`` (0 where nobody voted)."""
    rng = np.random.default_rng(seed)
    num_states = num_regions * states_per_region
    sd, correlation = np.array(TRUTH["sd"]), TRUTH["correlation"]
    covariance = np.outer(sd, sd) * np.array([[1.0, correlation], [correlation, 1.0]])
    state_effect = rng.multivariate_normal(np.zeros(2), covariance, size=num_states)
    state = rng.integers(num_states, size=num_rows)
    age = rng.integers(len(AGES), size=num_rows)
    is_female = rng.integers(2, size=num_rows)
    eta = (
        np.array(TRUTH["intercept"])
        + np.outer(is_female, TRUTH["female"])
        + np.array(TRUTH["age_effect"])[age]
        + state_effect[state]
    )
    voted, chose = (rng.random((num_rows, 2)) < 1 / (1 + np.exp(-eta))).T.astype(np.int64)
    return pa.table(
        {
            "region": [f"R{s // states_per_region + 1}" for s in state],
            "state": [f"S{s + 1:02d}" for s in state],
            "age": [AGES[a] for a in age],
            "is_female": is_female,
            "voted": voted,
            "chose": chose * voted,
        }
    )


if __name__ == "__main__":
    pq.write_table(simulate(), sys.argv[1])
