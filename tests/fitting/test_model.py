"""Coefficients, their places, and designs against sums written out by hand."""

import numpy as np
import pytest

from fitting import coding, families, formula, in_memory, model, sites
from fitting.errors import ModelError

STATES = ["AL", "OH", "WY"]


def rows(seed=0, size=300):
    """Counties belong to states (ragged), precincts to counties; the rest is crossed."""
    rng = np.random.default_rng(seed)
    state = rng.choice(3, size, p=[0.2, 0.6, 0.2])
    county = np.array([f"{STATES[s]}-{rng.integers(0, (2, 5, 1)[s])}" for s in state])
    precinct = np.array([f"{c}/{rng.integers(0, 3)}" for c in county])
    return {
        "state": np.array(STATES)[state],
        "county": county,
        "precinct": precinct,
        "race": rng.choice(["a", "b", "c"], size),
        "educ": rng.choice(["high", "low", "mid"], size),
        "sex": rng.choice(["f", "m"], size),
        "x": rng.normal(3.0, 2.0, size),
        "z": rng.integers(0, 2, size).astype(float),
    }


def build(text, columns):
    parsed = formula.parse(text)
    statistics = {name: np.ones(len(columns["state"])) for name in ("num_trials", "num_successes")}
    coding, coded = in_memory.code(columns, parsed, statistics)
    built = model.build(parsed, coding, families.BINOMIAL)
    return built, coded, built.design(coded, statistics)


def by_name(built, seed=1):
    """Random coefficients, as a vector and by name; padding is given a value that would show."""
    values = np.random.default_rng(seed).normal(size=built.tree.num_coefficients)
    values[built.is_padding] = 1e6
    return values, dict(zip(built.coefficient_names(), values, strict=True))


@pytest.mark.parametrize("table_size", [0, coding._TABLE_SIZE], ids=["searched", "by table"])
def test_combinations_are_located_one_by_one(table_size, monkeypatch):
    monkeypatch.setattr(coding, "_TABLE_SIZE", table_size)
    built, _, _ = build("y ~ 1 + (1 | state/county) + (1 | educ:race)", rows(size=40))
    for columns in (("educ",), ("state", "county"), ("educ", "race")):
        known = [tuple(row) for row in built.coding.group_levels(columns).tolist()]
        sizes = [len(built.coding.factors[c]) for c in columns]
        asked = np.stack([grid.ravel() for grid in np.meshgrid(*(np.arange(-1, size) for size in sizes))], axis=1)
        expected = [known.index(row) if (row := tuple(codes)) in known else -1 for codes in asked.tolist()]
        assert -1 in expected
        assert built.coding.locate(columns, asked.T).tolist() == expected


@pytest.mark.parametrize("table_size", [0, coding._TABLE_SIZE], ids=["searched", "by table"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_code_that_its_factor_does_not_have_is_refused(table_size, number, monkeypatch):
    monkeypatch.setattr(coding, "_TABLE_SIZE", table_size)
    built, coded, _ = build("y ~ 1 + (1 | educ:race)", rows(size=40))
    columns = ("educ", "race")
    codes, size = np.stack([coded[c] for c in columns], axis=1), len(built.coding.factors[columns[number]])
    codes[7, number] = size
    with pytest.raises(ModelError, match=f"column '{columns[number]}': found code {size}; expected codes below {size}"):
        built.coding.locate(columns, codes.T)


def test_linear_predictor_is_the_sum_that_the_formula_says():
    columns = rows()
    built, _, design = build(
        "y ~ 1 + x + z + educ + x:educ + educ:sex + (1 + x | state/county) + (1 | race) + (0 + educ | race) + (1 | race:sex)",
        columns,
    )
    theta, b = by_name(built)
    scaled = (columns["x"] - columns["x"].mean()) / columns["x"].std()
    expected = np.zeros(len(scaled))
    for i in range(len(scaled)):
        row = {name: values[i] for name, values in columns.items()}
        educ, place = row["educ"], f"{row['state']}:{row['county']}"
        expected[i] = b["Intercept"] + b["x"] * scaled[i] + b["z"] * row["z"]
        if educ != "high":  # the reference: first of the sorted levels
            expected[i] += b[f"educ[{educ}]"] + b[f"x:educ[{educ}]"] * scaled[i]
        if row["sex"] != "f":  # sex is in no other term, so educ is coded in full here
            expected[i] += b[f"educ[{educ}]:sex[{row['sex']}]"]
        expected[i] += b[f"1|state[{row['state']}]"] + b[f"x|state[{row['state']}]"] * scaled[i]
        expected[i] += b[f"1|state:county[{place}]"] + b[f"x|state:county[{place}]"] * scaled[i]
        expected[i] += b[f"1|race[{row['race']}]"] + b[f"educ[{educ}]|race[{row['race']}]"]
        expected[i] += b[f"1|race:sex[{row['race']}:{row['sex']}]"]
    np.testing.assert_allclose(sites.predictor_mean(design, theta)[0], expected)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("y ~ 1 + educ", ["Intercept", "educ[low]", "educ[mid]"]),
        ("y ~ 0 + educ", ["educ[high]", "educ[low]", "educ[mid]"]),
        ("y ~ 0 + z + educ + sex", ["z", "educ[high]", "educ[low]", "educ[mid]", "sex[m]"]),
        ("y ~ 1 + z:educ", ["Intercept", "z:educ[high]", "z:educ[low]", "z:educ[mid]"]),
        ("y ~ 1 + z + z:educ", ["Intercept", "z", "z:educ[low]", "z:educ[mid]"]),
        (
            "y ~ 0 + sex + sex:educ",
            ["sex[f]", "sex[m]"] + [f"sex[{s}]:educ[{e}]" for s in "fm" for e in ("low", "mid")],
        ),
        ("y ~ 0 + sex:educ", [f"sex[{s}]:educ[{e}]" for s in "fm" for e in ("high", "low", "mid")]),
        (
            "y ~ 1 + sex * educ",
            ["Intercept", "sex[m]", "educ[low]", "educ[mid]", "sex[m]:educ[low]", "sex[m]:educ[mid]"],
        ),
    ],
)
def test_factors_leave_their_reference_out_where_an_intercept_is(text, names):
    built, _, design = build(text, rows())
    assert [n for block in built.fixed for n in block.names] == names
    theta, b = by_name(built)
    expected = np.zeros(300)
    for name, value in b.items():
        columns, part = rows(), np.full(300, value)
        for word in name.split(":") if name != "Intercept" else []:
            column, _, level = word.partition("[")
            part = part * (columns[column] == level[:-1] if level else columns[column])
        expected += part
    np.testing.assert_allclose(sites.predictor_mean(design, theta)[0], expected)


def test_every_coefficient_has_a_place_of_its_own():
    columns = rows()
    keep = ~((columns["state"] == "WY") & (columns["race"] != "a"))
    text = "y ~ 1 + x + (1 + x | state/county) + (1 | state:race) + (1 | race) + (1 | precinct)"
    built, _, _ = build(text, {name: values[keep] for name, values in columns.items()})
    used = np.concatenate([*(b.coefficients for b in built.fixed), *(g.coefficients.ravel() for g in built.groups)])
    assert len(np.unique(used)) == len(used)
    assert len(used) + built.is_padding.sum() == built.tree.num_coefficients
    names = built.coefficient_names()
    assert len(set(names[~built.is_padding])) == len(used)
    assert set(names[built.is_padding]) == {""}
    for group in built.groups:  # the places of each level's own block, each once
        assert len(np.unique(group.entries)) == group.entries.size


def test_nesting_is_found_through_parents():
    """`(1 | county)` and `(1 | precinct)` name no state, but every county lies in one."""
    built, _, _ = build("y ~ 1 + (1 | state) + (1 | county) + (1 | precinct) + (1 | race)", rows(size=2000))
    assert built.chain == (("state",), ("county",), ("precinct",))
    assert built.tree.num_nodes == (1, 3, 8, 24)
    level = {g.name: g.level for g in built.groups}
    assert level == {"state": 1, "county": 2, "precinct": 3, "race": 0}


def test_crossed_factors_go_to_the_root_and_the_larger_is_eliminated():
    built, _, _ = build("y ~ 1 + (1 | race) + (1 | precinct)", rows(size=2000))
    assert built.chain == (("precinct",),)
    assert {g.name: g.level for g in built.groups} == {"race": 0, "precinct": 1}


def test_ragged_blocks_are_padded():
    """Interactions with the state live in the state's block, as many as were observed there."""
    columns = rows()
    keep = ~((columns["state"] == "WY") & (columns["race"] != "a"))
    built, _, _ = build(
        "y ~ 1 + (1 | state/county) + (1 | state:race)", {name: values[keep] for name, values in columns.items()}
    )
    assert built.chain[0] == ("state",)
    assert built.tree.block_sizes[1] == 4  # its own level and three races
    assert built.is_padding.sum() == 2  # WY has one


def test_a_shard_has_the_same_predictors_on_its_own_part():
    columns = rows()
    built, coded, design = build("y ~ 1 + x + (1 + x | state/county) + (1 | race)", columns)
    theta, _ = by_name(built)
    chosen = np.flatnonzero(columns["state"] == "OH")
    part = {name: values[chosen] for name, values in coded.items()}
    restriction = built.restriction(part)
    local = built.design(part, {"num_trials": np.ones(len(chosen))}, within=restriction)
    assert restriction.tree.num_nodes == (1, 1, 5)
    assert {place.dtype for place in local.places} == {np.dtype(np.uint8)}  # a worker keeps many shards
    np.testing.assert_allclose(
        sites.predictor_mean(local, theta[restriction.coefficients]), sites.predictor_mean(design, theta)[:, chosen]
    )


def test_cells_outside_of_a_part_are_nobody_elses():
    columns = rows()
    built, coded, _ = build("y ~ 1 + (1 | state/county)", columns)
    ohio = columns["state"] == "OH"
    restriction = built.restriction({name: values[ohio] for name, values in coded.items()})
    local = built.design(coded, {"num_trials": np.ones(len(ohio))}, within=restriction)
    with pytest.raises(IndexError):
        sites.predictor_mean(local, np.ones(restriction.tree.num_coefficients))


def test_levels_never_seen_are_an_error_or_new():
    columns = rows()
    columns["race"][columns["state"] == "WY"] = "a"
    built, coded, _ = build("y ~ 1 + (1 | state:race)", columns)
    unseen = {name: values[:2].copy() for name, values in coded.items()}
    unseen["state"][:], unseen["race"][:] = 2, [1, 2]
    statistics = {"num_trials": np.ones(2)}
    with pytest.raises(ModelError, match="2 cells with a combination of levels"):
        built.design(unseen, statistics)
    noted = []
    design = built.design(unseen, statistics, noted)
    size = built.tree.num_coefficients
    assert [(new.group, new.start, new.num_levels) for new in noted] == [(0, size, 2)]
    assert sorted(np.concatenate(design.places).tolist())[-2:] == [size, size + 1]


def test_models_that_do_not_fit_their_data_are_refused():
    columns = rows()
    parsed = formula.parse("y ~ 1 + educ + (1 | state)")
    statistics = {name: np.ones(len(columns["state"])) for name in ("num_trials", "num_successes")}
    coding, _ = in_memory.code(columns, parsed, statistics)
    with pytest.raises(ModelError, match="grouping column 'race'"):
        model.build(formula.parse("y ~ 1 + (1 | race)"), coding, families.BINOMIAL)
    with pytest.raises(ModelError, match="predictor 'income'"):
        model.build(formula.parse("y ~ 1 + income"), coding, families.BINOMIAL)
    with pytest.raises(ModelError, match="a single level"):
        build("y ~ 1 + educ", columns | {"educ": np.full(300, "low")})


def test_groups_are_sorted_combinations_with_readable_labels():
    built, _, _ = build("y ~ 1 + (1 | state:race)", rows())
    labels = built.coding.group_labels(("state", "race"))
    assert labels == sorted(labels)
    assert labels[0] == "AL:a"
    assert built.coding.project(("race",), ("state",)) is None
