"""Who is in the estimates and who is not, in words: of `population` in `audit.json`, for the report and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reporting.svg import percent, plain

MAX_REASONS = 4


@dataclass(frozen=True)
class People:
    """``title`` says whom the estimate of all is of; ``lines`` say who is not in it, and of whom the data say little."""

    title: str
    lines: list[str]


def told(population: Mapping[str, Any] | None) -> People:
    """Say who is in the numbers. Nobody is called everybody where people were left out, or nobody knows."""
    if not population:
        return People("People in the cells", [])
    total, counted = float(population["people"]), float(population["counted"])
    title = f"{count(counted)} of {count(total)} people"
    if not population["left_out"]:
        title = "Everybody" if population["frame"] == "file" else f"All {count(total)} people of the frame"
    return People(title, [*_left_out(population, total, counted), *_little_known(population, counted)])


def _left_out(population: Mapping[str, Any], total: float, counted: float) -> list[str]:
    files, lines = population["files"], []
    if population["left_out"]:
        reasons = [(people, reason) for reason, people in population["left_out"].items()]
        lines.append(f"left out of the estimates: {_of(total - counted, total)} people: {_listed(reasons)}")
    if population["frame"] != "file" and files["left_out"]:
        reasons = [(row["people"], row["reason"]) for row in files["left_out"]]
        lines.append(f"rows left out of the fit: {_of(sum(n for n, _ in reasons), files['people'])} people in the files: {_listed(reasons)}")
    lost = files["outcomes"] - population["fitted"]
    if lost:
        reasons = [(row["outcomes"], row["reason"]) for row in files["left_out"] if row["outcomes"]]
        lines.append(f"known outcomes that were not fitted: {_of(lost, files['outcomes'])}: {_listed(reasons)}")
    return lines


def _little_known(population: Mapping[str, Any], counted: float) -> list[str]:
    are_new = {row["column"] for row in population["new"]}
    lines = [
        f"without a value in {row['column']}: {_of(row['people'], counted)} people, a level of their own"
        for row in population["missing"] if row["column"] not in are_new  # else it is one of the new levels
    ]  # fmt: skip
    for row in population["new"]:
        shown = ", ".join(map(str, row["levels"][:MAX_REASONS])) + (", ..." if row["num_levels"] > MAX_REASONS else "")
        lines.append(f"on levels of {row['column']} that the data did not have ({shown}): {_of(row['people'], counted)} people, drawn from the prior")
    for row in population["combinations"]:
        if row["contradicts"]:
            lines.append(f"in combinations of {' and '.join(row['columns'])} that contradict the data: {_of(row['people'], counted)} people")
    for row in population["outside"]:
        of = counted if row["of"] == "frame" else population["files"]["people"]
        lines.append(
            f"with {row['column']} outside of what was fitted, or in other units: {_of(row['people'], of)} people "
            f"(from {plain(row['found_minimum'])} to {plain(row['found_maximum'])}, fitted {plain(row['minimum'])} to {plain(row['maximum'])})"
        )
    return lines


def count(people: float) -> str:
    """Return a number of people; frames may count parts of one."""
    return f"{people:,.0f}" if people >= 100 or people == round(people) else f"{people:,.1f}"


def _of(people: float, total: float) -> str:
    share = people / total if total else 0.0
    return f"{count(people)} of {count(total)} ({percent(share, 1 if share >= 0.001 or not share else 3)})"


def _listed(reasons: Iterable[tuple[float, str]]) -> str:
    found = sorted(reasons, key=lambda row: (-row[0], row[1]))
    text = ", ".join(f"{reason} {count(people)}" for people, reason in found[:MAX_REASONS])
    return text + (f" and {len(found) - MAX_REASONS} more reasons" if len(found) > MAX_REASONS else "")
