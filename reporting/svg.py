"""Small SVG drawings: a canvas, axes and numbers on them.

Colours are classes that the page's style sheet sets, so a drawing follows light and dark; text is escaped here, and
level names may hold anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape


class Canvas:
    """Elements in the order they are drawn; x to the right, y downwards, in pixels."""

    def __init__(self, width: float, height: float, label: str):
        self.width, self.height, self.label = width, height, label
        self._elements: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """Draw a straight line."""
        self._add(f'<path class="{escape(css)}" d="M{_f(x1)} {_f(y1)}L{_f(x2)} {_f(y2)}"/>')

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """Draw a line through ``points``."""
        self._add(f'<path class="{escape(css)}" d="M{"L".join(f"{_f(x)} {_f(y)}" for x, y in points)}"/>')

    def circle(self, x: float, y: float, radius: float, css: str, title: str = "") -> None:
        """Draw a dot; ``title`` shows on hovering."""
        self._add(f'<circle class="{escape(css)}" cx="{_f(x)}" cy="{_f(y)}" r="{_f(radius)}"{_titled("circle", title)}')

    def rect(self, x: float, y: float, width: float, height: float, css: str, title: str = "",
             opacity: float = 1.0) -> None:
        """Draw a filled rectangle; ``title`` shows on hovering."""
        shade = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
        self._add(f'<rect class="{escape(css)}" x="{_f(x)}" y="{_f(y)}" width="{_f(max(width, 0))}" '
                  f'height="{_f(max(height, 0))}"{shade}{_titled("rect", title)}')

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "start") -> None:
        """Write ``text`` with its baseline at ``y``."""
        self._add(f'<text class="{escape(css)}" x="{_f(x)}" y="{_f(y)}" text-anchor="{anchor}">{escape(text)}</text>')

    def render(self) -> Markup:
        """Return the ``<svg>`` element, no wider than it was drawn."""
        body = "".join(self._elements)
        return Markup(f'<svg role="img" aria-label="{escape(self.label)}" viewBox="0 0 {_f(self.width)} {_f(self.height)}"'
                      f' style="max-width:{_f(self.width)}px">{body}</svg>')

    def _add(self, element: str) -> None:
        self._elements.append(element)


class Axis:
    """A linear scale from values to pixels, with round ticks."""

    def __init__(self, low: float, high: float, start: float, stop: float):
        if not high > low:
            margin = abs(low) * 0.05 or 0.5
            low, high = low - margin, high + margin
        self.low, self.high, self.start, self.stop = low, high, start, stop

    def __call__(self, value: float) -> float:
        clipped = min(max(value, self.low), self.high)
        return self.start + (clipped - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return round values inside the range, about ``count``."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) + 0.0 for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def padded(values: Sequence[float], fraction: float = 0.04) -> tuple[float, float]:
    """Return the range of ``values`` with a little room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * fraction
    return low - room, high + room


def x_axis(canvas: Canvas, axis: Axis, top: float, bottom: float, text: Callable[[float], str], label: str = "",
           count: int = 5) -> None:
    """Draw about ``count`` grid lines from ``top`` to ``bottom``, numbers below, and ``label`` under the numbers."""
    ticks = axis.ticks(count)
    for tick, number in zip(ticks, tick_labels(ticks, text), strict=True):
        canvas.line(axis(tick), top, axis(tick), bottom, "grid")
        canvas.text(axis(tick), bottom + 14, number, "tick", "middle")
    if label:
        canvas.text((axis.start + axis.stop) / 2, bottom + 30, label, "axis", "middle")


def tick_labels(ticks: Sequence[float], text: Callable[[float], str]) -> list[str]:
    """Return the ticks' numbers, without decimals where all are whole percentages."""
    labels = [text(tick) for tick in ticks]
    return [label.replace(".0%", "%") for label in labels] if all(x.endswith(".0%") for x in labels) else labels


def shortened(text: str, length: int = 26) -> str:
    """Return ``text``, cut in the middle where it is long (both ends of a level's name tell it apart)."""
    return text if len(text) <= length else f"{text[: length - 12]}…{text[-11:]}"


def plain(value: float | None, digits: int = 3) -> str:
    """Return a number for reading, to ``digits`` significant digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def fixed(value: float | None, decimals: int = 2) -> str:
    """Return a number with ``decimals`` places; a dash for none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{decimals}f}"


def percent(value: float | None, decimals: int = 1) -> str:
    """Return a share as a percentage; a dash for none."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{decimals}f}%"


def _titled(tag: str, title: str) -> str:
    return f"><title>{escape(title)}</title></{tag}>" if title else "/>"


def _f(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
