"""Axes and densities: the parts of the report with a rule of their own."""

import numpy as np
import pytest
from scipy import integrate

from reporting import sections
from reporting.figures import Tile, shard_map
from reporting.sections import density
from reporting.svg import Axis, Canvas, plain, tick_labels


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.013, 0.0021), (1e-7, 3e-7), (12345, 99999), (3, 3), (0, 0)])
def test_ticks_are_round_and_inside(low, high):
    axis = Axis(low, high, 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(axis.low - 1e-12 <= tick <= axis.high + 1e-12 for tick in ticks)
    assert all(len(f"{tick:.6g}") <= 8 for tick in ticks)


def test_whole_percentages_have_no_decimals():
    assert tick_labels([0.5, 0.6], lambda x: f"{100 * x:.1f}%") == ["50%", "60%"]
    assert tick_labels([0.5, 0.525], lambda x: f"{100 * x:.1f}%") == ["50.0%", "52.5%"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (1234.5, "1,234"), (0.00001, "1.0e-05"), (None, "–"), (float("inf"), "–"), (0, "0")]
)
def test_numbers_for_reading(value, text):
    assert plain(value) == text


def test_text_and_titles_are_escaped():
    canvas = Canvas(10, 10, '"><b>')
    canvas.text(0, 0, "<i>")
    canvas.circle(0, 0, 1, '"><u>', "</title><s>")
    drawn = str(canvas.render())
    assert not any(tag in drawn for tag in ("<b>", "<i>", "<u>", "<s>"))


def test_the_map_has_areas_in_proportion():
    drawn = str(shard_map([Tile(str(i), float(size), 0.5, "pass", "t") for i, size in enumerate([6, 3, 2, 1, 0])], "map"))
    sizes = [float(part.split('"')[0]) for part in drawn.replace("height=", "width=").split('width="')[1:]]
    areas = np.array([(w + 2) * (h + 2) for w, h in zip(sizes[::2], sizes[1::2], strict=True)])
    np.testing.assert_allclose(areas / areas.sum(), np.array([6, 3, 2, 1]) / 12, rtol=0.01)


@pytest.mark.parametrize(
    ("prior", "low"),
    [("half_normal(0.5)", 0), ("exponential(2)", 0), ("half_student_t(3, 2.5)", 0), ("half_cauchy(1)", 0), ("lkj(2)", -1)],
)
def test_prior_densities_integrate_to_one(prior, low):
    curve = density(prior)
    total, _ = integrate.quad(lambda x: float(curve(np.array([x]))[0]), low, 1 if low else np.inf)
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("prior", [None, "", "half_normal", "half_normal(x)", "mystery(1)"])
def test_a_prior_that_cannot_be_drawn_is_none(prior):
    assert density(prior) is None


def test_the_page_says_what_each_coefficient_is_per_and_where_numbers_stand():
    def record(name, unit):
        return {"variable": name, "level": None, "parameter": name, "mean": 1.0, "q05": 0.5, "q95": 1.5, "unit": unit}

    found = sections._effects("", [record("Intercept", "where x = 5"), record("x", "per 2 of x"), record("f[b]", "")])
    assert found.note == "Intercept: where x = 5; x: per 2 of x."
    assert "effect on the linear predictor" in found.figure
    assert sections._effects("", [record("a", "log odds"), record("b", "log odds")]).note == ""
