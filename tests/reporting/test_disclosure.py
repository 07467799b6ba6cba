"""What is published: which groups, how coarsely, and what a second publication may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from reporting import disclosure, publication
from reporting.disclosure import LEDGER, Rule
from reporting.publication import Publication

RULE = Rule(11, True, b"k" * 32, True)
ABOUT = {
    "name": "n", "outcome": "voted", "formula": "voted ~ 1 + (1 | state)", "family": "bernoulli", "interval": "90%", "min_count": 11, "is_share": True,
    "categories": None, "left_out": "all of the people of the files.",
    "terms_of_use": "synthetic", "caucus": "1", "number": 1, "id": "x",
}  # fmt: skip


def group_table(people: Sequence[int], yes: Sequence[int], known: Sequence[int] | None = None, column: str = "state") -> pa.Table:
    """Estimates of groups from a flat prior of their own: mean and sd of a beta distribution."""
    n, y, k = (np.asarray(v, dtype=float) for v in (people, yes, people if known is None else known))
    mean = (y + 0.5) / (k + 1)
    sd = np.sqrt(mean * (1 - mean) / (k + 2))
    with np.errstate(invalid="ignore"):
        raw = y / k
    return pa.table({
        column: [f"g{i}" for i in range(len(n))], "num_rows": n.astype(int), "num_trials": k.astype(int),
        "raw_mean": pa.array(raw, mask=k == 0), "mean": mean, "sd": sd, "mcse": sd / 30,
        "q05": np.clip(mean - 1.645 * sd, 0, 1), "q50": mean, "q95": np.clip(mean + 1.645 * sd, 0, 1),
    })  # fmt: skip


def rows(table: pa.Table, rule: Rule = RULE, name: str = "state", data: str = "a", number: int = 1) -> pa.Table:
    return disclosure.publishable({name: table}, rule, data, number)


def published(table: pa.Table, rule: Rule = RULE) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = disclosure.shown(rows(table, rule), ["state"], None)["state"].to_pylist()
    return found


def test_only_groups_of_enough_people_and_known_outcomes_are_there():
    table = group_table([5000, 10, 5000, 5000, 5000, 12], [2500, 5, 5, 6, 0, 6], [5000, 10, 10, 11, 0, 12])
    assert [row["state"] for row in published(table)] == ["g0"]
    wide = table.set_column(table.column_names.index("sd"), "sd", pa.array([0.01] * 6))  # as if much were learnt from others
    assert [row["state"] for row in published(wide)] == ["g0", "g3"], "the last would be rounded to more than a fifth"


def test_counts_and_estimates_are_multiples_and_right_on_average():
    table = group_table([1234] * 4000, [617] * 4000)
    found = disclosure.shown(rows(table), ["state"], None)["state"]
    people, estimate, steps = (found[name].to_numpy() for name in ("people", "estimate", "step"))
    assert set(people) == {1230, 1240}
    assert found["known_outcomes"].to_numpy().tolist() == people.tolist(), "equal counts stay equal"
    assert len(set(steps)) == 1
    assert set(np.round(estimate / steps[0], 9) % 1) == {0}
    error = np.abs(estimate.mean() - table["mean"][0].as_py())
    assert error < 5 * steps[0] / np.sqrt(12 * 4000)
    assert abs(people.mean() - 1234) < 5 * 10 / np.sqrt(4 * 4000)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
@pytest.mark.parametrize("num_known", [60, 250, 1000, 30_000])
def test_one_outcome_changes_a_published_row_with_a_probability_of_one_in_min_count(share: float, num_known: int):
    """Also to whoever knows all other outcomes, and computes both estimates; the twin with a step of half an sd fails."""
    num, yes = 3000, round(share * num_known)
    either = [group_table([num_known] * num, [y] * num) for y in (yes, yes + 1)]
    a, b = (rows(table) for table in either)
    assert a.num_rows == num
    if a["estimate"].null_count:
        assert a["estimate"].null_count == b["estimate"].null_count == num, "whether it is withheld does not depend on one outcome"
        return
    changed = np.mean([x != y for x, y in zip(a["estimate"].to_pylist(), b["estimate"].to_pylist(), strict=True)])
    limit = 1 / RULE.min_count
    assert changed < limit + 4 * np.sqrt(limit / num)
    mean, sd = (either[0][name].to_numpy()[:1] for name in ("mean", "sd"))
    move = either[1]["mean"][0].as_py() - mean[0]
    if num_known <= 250:
        assert move / (sd[0] / 2) > 1.2 * limit, "with the twin's step more is told"


def test_shares_never_leave_the_unit_interval_and_intervals_hold_what_rounding_adds():
    found = published(group_table([20_000] * 300, [19_990] * 300))
    assert all(0 <= row["low"] <= row["estimate"] <= row["high"] <= 1 for row in found)
    table = group_table([400] * 500, [200] * 500)
    for row in published(table):
        assert row["low"] <= table["q50"][0].as_py() <= row["high"]
        assert row["high"] - row["low"] > table["q95"][0].as_py() - table["q05"][0].as_py()


def test_rounding_depends_on_the_key_alone():
    table = group_table([1234] * 50, [617] * 50)
    assert rows(table).equals(rows(table))
    assert not rows(table).equals(rows(table, RULE._replace(key=b"x" * 32)))
    pair = group_table([1234] * 50, [617] * 50).rename_columns(["race", *table.column_names[1:]]).add_column(0, "state", table["state"])
    turned = disclosure.publishable({"state:race": pair}, RULE, "a", 1)
    assert turned.equals(disclosure.publishable({"race:state": pair}, RULE, "a", 1)), "the order of columns is none of it"


def test_a_mean_of_no_share_is_rounded_by_how_many_are_known():
    table = group_table([5000, 5000], [1000, 8], [2000, 20])
    found = published(table, replace_share(RULE))
    assert [row["state"] for row in found] == ["g0"], "of twenty outcomes one could be half of the mean"
    assert found[0]["step"] >= 11 * 2 * table["sd"][0].as_py() / np.sqrt(2000)


def replace_share(rule: Rule) -> Rule:
    return rule._replace(is_share=False, totals_are_counts=False)


def test_categories_of_a_group_share_a_step_and_are_withheld_together():
    tables = [group_table([5000, 60], yes) for yes in ([100, 1], [4900, 59])]
    both = pa.concat_tables(tables).take(pa.array([0, 2, 1, 3])).add_column(1, "party", pa.array(["d", "r"] * 2))
    rule = RULE._replace(categories="party")
    found = disclosure.shown(rows(both, rule), ["state"], "party")["state"].to_pylist()
    assert [(row["state"], row["party"]) for row in found if row["state"] == "g0"] == [("g0", "d"), ("g0", "r")]
    assert len({row["step"] for row in found if row["state"] == "g0"}) == 1
    assert len(found) in (2, 4)


# ---- a second publication ----


def after(first: pa.Table, second: pa.Table, data: str = "b") -> disclosure.Merged:
    return disclosure.merge(rows(second, data=data, number=2), rows(first), RULE)


def test_a_row_stays_until_enough_outcomes_are_others():
    first = group_table([5000] * 4, [2500, 2500, 2500, 2500])
    second = group_table([5001, 5011, 5000, 5000], [2501, 2505, 2510, 2511])
    merged = after(first, second)
    assert merged.num_kept == 2
    changed = [a != b for a, b in zip(merged.rows["exact_total"].to_pylist(), rows(first)["exact_total"].to_pylist(), strict=True)]
    assert changed == [False, True, False, True], "one more, eleven more, ten others, eleven others"


def test_changes_are_counted_from_what_is_published_and_not_from_the_last_try():
    """Eleven updates of one person each: the row changes at the eleventh, and no earlier publication is told from the one before it."""
    ledger, seen = rows(group_table([5000], [2500])), []
    for i in range(1, 12):
        merged = disclosure.merge(rows(group_table([5000 + i], [2500 + i]), data=str(i), number=1 + i), ledger, RULE)
        ledger = merged.ledger
        seen.append(merged.rows["exact_known"][0].as_py())
    assert seen == [5000] * 10 + [5011]


def test_another_model_of_the_same_data_replaces_all_and_the_same_numbers_are_as_of_before():
    first = group_table([5000] * 3, [2500] * 3)
    shifted = first.set_column(first.column_names.index("mean"), "mean", pc.add(first["mean"], pa.array([0.2, 0.0, 0.0])))
    merged = after(first, shifted, data="a")
    assert (merged.num_kept, merged.rows["as_of"].to_pylist()) == (0, [2, 1, 1])
    assert after(first, shifted, data="b").num_kept == 3, "of other data it could be one person's doing"


def test_a_group_that_comes_or_goes_by_one_person_does_not():
    first, second = (group_table([n, 5000], [n // 2, 2500], [n, 5000]) for n in (54, 56))
    assert [row["state"] for row in published(first)] == ["g1"]
    assert [row["state"] for row in published(second)] == ["g0", "g1"]
    for a, b in ((first, second), (second, first)):
        assert after(a, b).rows["estimate"].equals(rows(a)["estimate"])


def test_what_is_no_longer_asked_for_stays_in_the_ledger():
    ledger = disclosure.publishable({"state": group_table([5000], [2500]), "county": group_table([900], [400], column="county")}, RULE, "a", 1)
    merged = disclosure.merge(rows(group_table([5001], [2501]), data="b", number=2), ledger, RULE)
    assert (len(merged.rows), len(merged.ledger)) == (1, 2)
    again = disclosure.merge(disclosure.publishable({"county": group_table([901], [401], column="county")}, RULE, "c", 3), merged.ledger, RULE)
    assert again.rows["exact_known"].to_pylist() == [900]
    assert ledger.schema == LEDGER


# ---- the folder ----


def test_files_have_nothing_but_what_is_published():
    table = group_table([5000, 7], [2512, 3])
    made = Publication(disclosure.shown(rows(table), ["state"], None), ABOUT)
    assert set(made.files) == {"README.md", "report.html", "estimates/state.parquet", "estimates/state.csv"}
    for name, data in made.files.items():
        assert b"g1" not in data, name
        assert str(table["mean"][0].as_py()).encode() not in data, name
    assert set(publication.COLUMNS) <= set(made.tables["state"].column_names)


def test_a_spreadsheet_does_not_take_a_name_for_a_formula():
    table = group_table([5000] * 2, [2500] * 2)
    names = table.set_column(0, "state", pa.array(["=1+1", "Ohio"]))
    made = Publication(disclosure.shown(rows(names), ["state"], None), ABOUT)
    assert [line.split(",")[0] for line in made.files["estimates/state.csv"].decode().splitlines()] == ['"state"', '"\'=1+1"', '"Ohio"']
    assert "=1+1" in made.files["report.html"].decode()
    assert replace(made, about=ABOUT).files == made.files
