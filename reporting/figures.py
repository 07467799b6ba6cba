"""The report's figures: dots with intervals, histograms, densities, calibration, shards and rounds, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from reporting.svg import Axis, Canvas, fixed, padded, percent, plain, shortened, tick_labels, x_axis

WIDTH = 944
ROW = 17
CHARACTER = 7.3  # width of an average character at the labels' size


class Interval(NamedTuple):
    """One row of a dot plot. ``raw`` and ``truth`` are drawn where given; ``css`` is a class for the row."""

    label: str
    mean: float
    low: float
    high: float
    raw: float | None = None
    truth: float | None = None
    css: str = ""


class Bar(NamedTuple):
    """One row of a bar plot: ``status`` is pass, warn or fail."""

    label: str
    value: float
    status: str
    title: str


def intervals(rows: Sequence[Interval], text: Callable[[float], str], label: str, zero: bool = False,
              gap_after: int | None = None) -> Markup:
    """Dots with their intervals, one row each, in the given order.

    ``zero`` draws the line at 0; ``gap_after`` leaves a gap after that many rows, where levels are left out.
    """
    labels = [shortened(row.label) for row in rows]
    left = max(60.0, 14 + CHARACTER * max(len(name) for name in labels))
    gap = 0 if gap_after is None else 22
    bottom = 12 + ROW * len(rows) + gap
    canvas = Canvas(WIDTH, bottom + 38, label)
    shown = [value for row in rows for value in (row.low, row.high, row.truth) if value is not None]
    axis = Axis(*padded([*shown, 0.0] if zero else shown), left, WIDTH - 24)
    x_axis(canvas, axis, 4, bottom, text, label, 9)
    if gap_after is not None:
        canvas.text(left - 8, 12 + ROW * gap_after + 14, "⋮", "tick", "end")
    if zero:
        canvas.line(axis(0), 4, axis(0), bottom, "zero")
    for i, (row, name) in enumerate(zip(rows, labels, strict=True)):
        y = 12 + ROW * (i + 0.5) + (gap if gap_after is not None and i >= gap_after else 0)
        title = f"{row.label}: {text(row.mean)} ({text(row.low)} to {text(row.high)})"
        if row.raw is not None:
            title += f", raw mean {text(row.raw)}" + ("" if axis.low <= row.raw <= axis.high else " (off the axis)")
        if row.truth is not None:
            title += f", truth {text(row.truth)}"
        canvas.text(left - 8, y + 4, name, f"label {row.css}", "end")
        if row.raw is not None:
            canvas.circle(axis(row.raw), y, 3, "raw")
        canvas.line(axis(row.low), y, axis(row.high), y, f"interval {row.css}")
        canvas.circle(axis(row.mean), y, 3.6, f"dot {row.css}", title)
        if row.truth is not None:
            canvas.line(axis(row.truth), y - 6, axis(row.truth), y + 6, "truth")
    return canvas.render()


def histogram(values: Sequence[float], text: Callable[[float], str], label: str) -> Markup:
    """Distribution of the means of many levels."""
    counts, edges = np.histogram(np.asarray(values, dtype=float), bins=min(48, max(10, len(values) // 40)))
    canvas = Canvas(WIDTH, 150, label)
    axis = Axis(float(edges[0]), float(edges[-1]), 24, WIDTH - 24)
    x_axis(canvas, axis, 6, 110, text, label, 9)
    tallest = max(int(counts.max()), 1)
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        height = 100 * count / tallest
        title = f"{count:,} levels from {text(float(low))} to {text(float(high))}"
        canvas.rect(axis(low) + 0.5, 110 - height, axis(high) - axis(low) - 1, height, "bar", title)
    return canvas.render()


def prior_to_posterior(name: str, draws: np.ndarray, prior: Callable[[np.ndarray], np.ndarray] | None,
                       support: tuple[float, float]) -> Markup:
    """Histogram of posterior draws with the density of the prior over it, on the posterior's own range."""
    width, base = 236.0, 92.0
    flat = np.asarray(draws, dtype=float).ravel()
    counts, edges = np.histogram(flat, bins=int(np.clip(np.sqrt(flat.size), 8, 28)), density=True)
    spread = float(edges[-1] - edges[0]) or 0.1
    low = max(support[0], float(edges[0]) - spread)
    high = min(support[1], float(edges[-1]) + spread)
    axis = Axis(low, high, 10, width - 10)
    canvas = Canvas(width, 128, f"prior and posterior of {name}")
    canvas.text(10, 14, shortened(name, 34), "label")
    tops = [float(counts.max())]
    grid = np.linspace(axis.low, axis.high, 60)
    density = prior(grid) if prior else None
    scale = 66 / max(tops)
    for height, left, right in zip(counts, edges, edges[1:], strict=False):
        canvas.rect(axis(left), base - scale * height, axis(right) - axis(left), scale * height, "bar")
    if density is not None:
        points = [(axis(x), base - min(scale * float(y), 70)) for x, y in zip(grid, density, strict=True)]
        canvas.path(points, "prior")
    canvas.line(10, base, width - 10, base, "zero")
    for tick in axis.ticks(4):
        canvas.text(axis(tick), base + 14, plain(tick), "tick", "middle")
    return canvas.render()


def calibration(bins: Sequence[tuple[float, float, float]], text: Callable[[float], str]) -> Markup:
    """Observed against expected mean by decile of the prediction; ``bins`` holds (expected, observed, half width)."""
    values = [v for expected, observed, half in bins for v in (expected, observed - half, observed + half)]
    low, high = padded(values)
    size = 360.0
    x, y = Axis(low, high, 60, size - 16), Axis(low, high, size - 60, 12)
    canvas = Canvas(size, size, "observed against expected by decile")
    x_axis(canvas, x, 12, size - 60, text, "expected by the model")
    for tick, number in zip(y.ticks(), tick_labels(y.ticks(), text), strict=True):
        canvas.line(60, y(tick), size - 16, y(tick), "grid")
        canvas.text(54, y(tick) + 4, number, "tick", "end")
    canvas.text(4, 10, "observed", "axis")
    canvas.line(x(low), y(low), x(high), y(high), "zero")
    for expected, observed, half in bins:
        canvas.line(x(expected), y(observed - half), x(expected), y(observed + half), "interval")
        canvas.circle(x(expected), y(observed), 3.6, "dot", f"expected {text(expected)}, observed {text(observed)}")
    return canvas.render()


def bars(rows: Sequence[Bar], limits: Sequence[tuple[str, float]], label: str) -> Markup:
    """Horizontal bars from 0 in the given order; ``limits`` are vertical lines (class, value)."""
    left = max(60.0, 14 + CHARACTER * max(len(shortened(row.label, 18)) for row in rows))
    width, bottom = 370.0, 10 + 15.0 * len(rows)
    largest = max(row.value for row in rows)
    near = [value for _, value in limits if value <= 4 * largest]
    canvas = Canvas(width, bottom + 38, label)
    axis = Axis(0, max([largest, *near]) * 1.04 or 1.0, left, width - 40)
    x_axis(canvas, axis, 4, bottom, plain, label)
    for css, value in limits:
        if value in near:
            canvas.line(axis(value), 4, axis(value), bottom, f"limit {css}")
    for i, row in enumerate(rows):
        y = 10 + 15 * i
        canvas.text(left - 8, y + 10.5, shortened(row.label, 18), "label", "end")
        canvas.rect(left, y + 2, max(axis(row.value) - left, 1), 10, f"bar {row.status}", row.title)
        said = plain(row.value, 2) if 0 < row.value < 0.01 else fixed(row.value)
        canvas.text(axis(row.value) + 5, y + 10.5, said, "tick")
    return canvas.render()


def rounds(moves: Sequence[tuple[int, float]], label: str) -> Markup:
    """Largest move per round on a logarithmic scale."""
    positive = [(number, move) for number, move in moves if move > 0]
    logs = [math.log10(move) for _, move in positive]
    canvas = Canvas(WIDTH / 2, 200, label)
    y = Axis(math.floor(min(logs)), max(math.ceil(max(logs)), math.floor(min(logs)) + 1), 158, 12)
    x = Axis(positive[0][0], max(positive[-1][0], positive[0][0] + 1), 62, WIDTH / 2 - 20)
    for power in range(int(y.low), int(y.high) + 1):
        canvas.line(52, y(power), WIDTH / 2 - 12, y(power), "grid")
        canvas.text(46, y(power) + 4, f"{10.0**power:g}", "tick", "end")
    points = [(x(number), y(log)) for (number, _), log in zip(positive, logs, strict=True)]
    canvas.path(points, "trend")
    every = max(1, len(points) // 12)
    for i, ((number, move), (px, py)) in enumerate(zip(positive, points, strict=True)):
        canvas.circle(px, py, 3.6, "dot", f"round {number}: {plain(move)}")
        if i % every == 0:
            canvas.text(px, 174, str(number), "tick", "middle")
    canvas.text(WIDTH / 4 + 20, 192, label, "axis", "middle")
    return canvas.render()


class Tile(NamedTuple):
    """One shard on the map: ``size`` sets its area, ``shade`` in [0, 1] how dark it is."""

    label: str
    size: float
    shade: float
    status: str
    title: str


def shard_map(tiles: Sequence[Tile], label: str) -> Markup:
    """Treemap: one rectangle per shard, largest first (squarified: Bruls, Huizing & van Wijk 2000)."""
    height = 300.0
    canvas = Canvas(WIDTH, height, label)
    ordered = sorted((tile for tile in tiles if tile.size > 0), key=lambda tile: (-tile.size, tile.label))
    areas = [tile.size * WIDTH * height / sum(tile.size for tile in ordered) for tile in ordered]
    for tile, (x, y, w, h) in zip(ordered, _squarify(areas, 0.0, 0.0, float(WIDTH), height), strict=True):
        canvas.rect(x + 1, y + 1, w - 2, h - 2, f"tile {tile.status}", tile.title, 0.25 + 0.65 * tile.shade)
        if w > CHARACTER * len(tile.label) + 8 and h > 16:
            canvas.text(x + w / 2, y + h / 2 + 4, tile.label, "tile-label", "middle")
    return canvas.render()


def _squarify(areas: list[float], x: float, y: float, w: float, h: float) -> list[tuple[float, float, float, float]]:
    placed: list[tuple[float, float, float, float]] = []
    start = 0
    while start < len(areas):
        side, stop = min(w, h), start + 1
        while stop < len(areas) and _worst(areas[start : stop + 1], side) <= _worst(areas[start:stop], side):
            stop += 1
        strip = sum(areas[start:stop]) / side
        along = 0.0
        for area in areas[start:stop]:
            length = area / strip
            placed.append((x, y + along, strip, length) if w >= h else (x + along, y, length, strip))
            along += length
        x, y, w, h = (x + strip, y, w - strip, h) if w >= h else (x, y + strip, w, h - strip)
        start = stop
    return placed


def _worst(areas: list[float], side: float) -> float:
    """Largest ratio of sides if ``areas`` fill one strip along ``side``."""
    strip = sum(areas) / side
    return max(max(area / strip**2, strip**2 / area) for area in areas)


def stages(parts: Sequence[tuple[str, float]], label: str) -> Markup:
    """One bar split by the seconds of each stage, with the names below."""
    total = sum(seconds for _, seconds in parts) or 1.0
    canvas = Canvas(WIDTH, 40 + 18 * ((len(parts) + 2) // 3), label)
    x = 4.0
    for i, (name, seconds) in enumerate(parts):
        width = (WIDTH - 8) * seconds / total
        canvas.rect(x, 4, width - 1, 20, f"part part-{i % 6}", f"{name}: {plain(seconds)} s")
        x += width
        column, row = i % 3, i // 3
        left, base = 4 + column * (WIDTH / 3), 46 + 18 * row
        canvas.rect(left, base - 9, 10, 10, f"part part-{i % 6}")
        canvas.text(left + 16, base, f"{name}: {plain(seconds)} s ({percent(seconds / total, 0)})", "label")
    return canvas.render()
