"""Gates: numbers with limits, what each means, and what to do where it is above; what every audit is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

About = Literal["computation", "data", "model"]
"""What a gate or a message is about: whether the posterior is the model's, what became of the data, whether the model is right."""


def gate(
    name: str, value: float, limits: tuple[float, float | None], where: str, meaning: str, do: str,
    about: About = "computation",
) -> dict[str, Any]:  # fmt: skip
    """One gate as in ``audit.json``. ``limits``: warn above the first, fail above the second (None: never). NaN and infinity fail."""
    warn, fail = limits
    status = "pass" if value <= warn else "warn" if fail is None or value <= fail else "fail"
    if not np.isfinite(value):
        status = "pass" if value < 0 else "fail"
    return {
        "name": name, "value": number(value), "warn_above": warn, "fail_above": fail, "status": status,
        "where": where, "meaning": meaning, "do": do, "about": about,
    }  # fmt: skip


def messages(gates: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the gates that were not passed say."""
    return [
        {"severity": g["status"], "where": g["where"], "what": f"{g['meaning']}: {_plain(g['value'])}", "do": g["do"],
         "about": g["about"]}
        for g in gates
        if g["status"] != "pass"
    ]  # fmt: skip


def verdict(said: Sequence[dict[str, Any]]) -> str:
    """``pass``, ``warn`` or ``fail``: the worst severity of the messages."""
    severities = {m["severity"] for m in said}
    return "fail" if "fail" in severities else "warn" if "warn" in severities else "pass"


def verdicts(said: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The verdict on each of data, computation and model, from the messages about it."""
    return {about: verdict([m for m in said if m.get("about", "computation") == about]) for about in ("data", "computation", "model")}


def number(value: float | None) -> float | None:
    """A number for JSON, six digits behind the point; None if it is not finite."""
    return round(float(value), 6) if value is not None and np.isfinite(value) else None


def _plain(value: float | None) -> str:
    return "beyond measure" if value is None else f"{value:.3g}"
