"""Join the state predictors to the survey and to the population: `respondents.parquet` and `frame.parquet`.

Run it from anywhere: ``python examples/cces2018/prepare.py``. The same inputs give the same tables. What it changes:

* `region` and `repvote` (state predictors) become columns of both tables;
* `male` (-0.5, +0.5) becomes 0/1, and `sex` ("F", "M") is the same thing as text, to group by;
* columns the model does not use (`respondent`, `party`) and population cells with nobody in them are left out.
"""

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
KEYS = ["state", "region", "repvote", "eth", "sex", "male", "age", "educ"]


def with_predictors(table: pd.DataFrame, states: pd.DataFrame) -> pd.DataFrame:
    """Add region, repvote and sex, and recode male; every row must find its state."""
    joined = table.merge(states, on="state", how="left", validate="many_to_one")
    missing = sorted(joined.loc[joined["repvote"].isna(), "state"].unique())
    if missing:
        raise SystemExit(f"state_predictors.parquet has no row for {', '.join(missing)}; expected all states in use")
    is_male = joined["male"] > 0
    return joined.assign(male=is_male.astype("int8"), sex=is_male.map({False: "F", True: "M"}))


def main() -> None:
    """Write both tables beside this script."""
    states = pd.read_parquet(HERE / "state_predictors.parquet")
    survey = with_predictors(pd.read_parquet(HERE / "survey.parquet"), states)
    frame = with_predictors(pd.read_parquet(HERE / "poststrat.parquet"), states)
    respondents = survey[[*KEYS, "support"]].astype({"support": "int8"})
    people = frame.loc[frame["n"] > 0, [*KEYS, "n"]].reset_index(drop=True)
    for name, table in {"respondents": respondents, "frame": people}.items():
        table.to_parquet(HERE / f"{name}.parquet", index=False, compression="zstd")
        print(f"{name}.parquet: {len(table):,} rows")


if __name__ == "__main__":
    main()
