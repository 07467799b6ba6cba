"""Put a finished run of `configs/cces-abortion.yaml` next to the reference by NUTS.

``python examples/cces2018/compare.py runs/cces-abortion``. Differences are in posterior sds of the reference; what Monte
Carlo error alone would give is printed beside them.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent


def of_run(directory: Path) -> pd.DataFrame:
    """Coefficients, scales and estimates of a run: variable, level, mean, sd, mcse."""
    summary = pd.read_parquet(directory / "summary.parquet").rename(columns={"mcse_mean": "mcse"})
    tables = [summary.assign(level=summary["level"].fillna(""))]
    tables += [
        pd.read_parquet(directory / "estimates" / f"{margin}.parquet").assign(variable=margin).rename(
            columns={margin: "level"}
        )
        for margin in ("all", "state")
    ]  # fmt: skip
    return pd.concat(tables)[["variable", "level", "mean", "sd", "mcse"]]


def main() -> None:
    """Print the comparison."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python examples/cces2018/compare.py RUN_DIRECTORY")
    reference = pd.read_parquet(HERE / "reference.parquet")
    both = reference.merge(
        of_run(Path(sys.argv[1])), on=["variable", "level"], suffixes=("", "_run"), validate="one_to_one"
    )
    if len(both) < len(reference):
        raise SystemExit(f"{sys.argv[1]} has {len(both)} of the {len(reference)} quantities of the reference")
    both["shift"] = (both["mean_run"] - both["mean"]) / both["sd"]
    both["noise"] = np.hypot(both["mcse"], both["mcse_run"]) / both["sd"]
    both["sd_ratio"] = both["sd_run"] / both["sd"]
    print(
        f"{'':14}{'number':>8}{'rms shift':>11}{'expected':>10}{'largest':>9}{'in MC se':>10}{'sd ratio 5%, 50%, 95%':>24}"
    )
    for kind, rows in both.groupby("kind"):
        low, middle, high = rows["sd_ratio"].quantile([0.05, 0.5, 0.95])
        rms, noise = np.sqrt((rows["shift"] ** 2).mean()), np.sqrt((rows["noise"] ** 2).mean())
        largest, in_se = rows["shift"].abs().max(), (rows["shift"] / rows["noise"]).abs().max()
        ratios = f"{low:.2f}, {middle:.2f}, {high:.2f}"
        print(f"{kind:14}{len(rows):8}{rms:11.3f}{noise:10.3f}{largest:9.3f}{in_se:10.1f}{ratios:>24}")
    states = both[both["variable"].isin(["all", "state"])].sort_values("mean")
    print(f"\n{'':6}{'NUTS':>8}{'sd':>8}{'run':>9}{'sd':>8}")
    for place in [*range(3), *range(len(states) - 3, len(states))]:
        row = states.iloc[place]
        print(f"{row['level']:6}{row['mean']:8.4f}{row['sd']:8.4f}{row['mean_run']:9.4f}{row['sd_run']:8.4f}")
    nation = states[states["variable"] == "all"].iloc[0]
    print(f"nation{nation['mean']:8.4f}{nation['sd']:8.4f}{nation['mean_run']:9.4f}{nation['sd_run']:8.4f}")


if __name__ == "__main__":
    main()
