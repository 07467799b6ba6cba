"""The verdict in plain words, and the list of what to do about it.

``audit.json`` decides what passes; here its gates, shards, levels and messages become one list of actions, worst
first: where, which level, how many posterior sds, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reporting import people
from reporting.svg import percent, plain

RANK = {"fail": 0, "warn": 1, "info": 2, "pass": 3}
HEADLINE = {"pass": "Computed as asked", "warn": "Usable with care", "fail": "Do not use these numbers yet"}
OF_MODEL = {
    "pass": ", and nothing that was checked speaks against the model", "warn": "; look at the model",
    "unchecked": "; whether the model fits is not checked yet",
}  # fmt: skip
"""What the headline of a run that passed says of its model."""
CHANCE = 0.01
"""Probability of so many groups outside of their intervals below which chance does not explain them."""


@dataclass(frozen=True)
class Aspect:
    """What was checked of the computation, the data or the model: ``status`` is pass, warn, fail or unchecked."""

    name: str
    status: str
    text: str


@dataclass(frozen=True)
class Action:
    """One thing that wants attention. ``size`` says how far off, in words with its unit; empty where not a distance."""

    severity: str
    what: str
    where: str
    level: str
    size: str
    do: str


@dataclass(frozen=True)
class Verdict:
    """``status`` is pass, warn or fail; ``aspects`` are what a person should know first."""

    status: str
    headline: str
    aspects: list[Aspect]
    actions: list[Action]


def judge(
    audit: dict[str, Any], num_trials: int | None, checks: dict[str, Any] | None = None, calibration: str = ""
) -> Verdict:
    """Return the verdict of an ``audit.json``; ``num_trials`` is the number of known outcomes, ``checks`` a ``checks.json``.

    ``calibration`` says in words how observed and expected outcomes differ.
    """
    status = str(audit.get("verdict", "fail"))
    status = status if status in HEADLINE else "fail"
    actions = sorted(_actions(audit), key=lambda action: RANK.get(action.severity, 2))
    aspects = [_computation(audit, num_trials), _data(audit), _model(audit, checks, calibration)]
    headline = HEADLINE[status] + (OF_MODEL[aspects[2].status] if status == "pass" else "")
    return Verdict(status, headline, aspects, actions)


def about(row: dict[str, Any]) -> str:
    """What a gate or a message is about: computation, data or model."""
    return str(row.get("about", "computation"))


def _severity(row: dict[str, Any]) -> str:
    return {"error": "fail", "warning": "warn"}.get(str(row.get("severity")), str(row.get("severity", "info")))


def worst_score(audit: dict[str, Any]) -> tuple[float, str] | None:
    """Return the largest score in posterior sds and where it is, over the gate, blocks and shards that are there."""
    rows = [(block.get("score"), str(block.get("score_where") or block.get("block") or ""))
            for block in audit.get("blocks", [])]
    rows = rows or [(gate.get("value"), str(gate.get("where") or ""))
                    for gate in audit.get("gates", []) if gate.get("name") == "score"]
    known = [(abs(float(score)), where) for score, where in rows if score is not None]
    return max(known) if known else None


def _status_of(audit: dict[str, Any], subject: str) -> tuple[str, list[dict[str, Any]]]:
    """The worst status of the gates and messages about a subject, and the gates that did not pass."""
    bad = [gate for gate in audit.get("gates", []) if about(gate) == subject and gate.get("status") in ("warn", "fail")]
    found = [str(gate["status"]) for gate in bad]
    found += [_severity(row) for row in audit.get("messages", []) if about(row) == subject and _severity(row) in ("warn", "fail")]
    return min(found, key=RANK.__getitem__, default="pass"), bad


def _computation(audit: dict[str, Any], num_trials: int | None) -> Aspect:
    """How far the merged posterior is from that of the model; a verdict without a reason is about it, too."""
    status, bad = _status_of(audit, "computation")
    verdict = str(audit.get("verdict", "fail"))
    if verdict != "pass" and all(_status_of(audit, subject)[0] == "pass" for subject in ("computation", "data", "model")):
        status = verdict if verdict in HEADLINE else "fail"
    data = f"all {num_trials:,} known outcomes" if num_trials else "all of the data"
    score = worst_score(audit)
    distance = f"the furthest coefficient is {plain(score[0], 2)} posterior sds off" if score else ""
    named = ", ".join(str(gate.get("name")) for gate in bad if gate["status"] == status)
    if status == "pass":
        found = f": {distance}, too little to matter" if distance else ""
        return Aspect("Computation", status, f"The merged posterior was checked against {data} and agrees with it{found}.")
    passed = f" ({distance})" if distance else ""
    where, failed = (f" about {named}", f" on {named}") if named else ("", "")
    text = (f"The merged posterior was checked against {data}{passed}. Nothing failed, but the audit warns{where}: "
            "read the list below before using what it names.")
    if status == "fail":
        text = (f"The merged posterior was checked against {data}{passed}, and the audit fails{failed}. "
                "The numbers below are marked and kept for finding the cause, not for use.")
    return Aspect("Computation", status, text)


def _data(audit: dict[str, Any]) -> Aspect:
    """Who is in the numbers."""
    population = audit.get("population")
    if population is None:
        return Aspect("Data", "unchecked", "Who was left out was not recorded.")
    status, _ = _status_of(audit, "data")
    who = people.told(population)
    title = f"all {people.count(population['people'])} people of the files" if who.title == "Everybody" else who.title
    first = f"The estimates are of {title[0].lower()}{title[1:]}"
    return Aspect("Data", status, "; ".join([first, *who.lines]) + ".")


def _model(audit: dict[str, Any], checks: dict[str, Any] | None, calibration: str) -> Aspect:
    """What was looked at of the model: replicated outcomes by group. The audit itself takes the model as given."""
    status, bad = _status_of(audit, "model")
    told = [f"{gate.get('meaning', gate.get('name'))}: {gate.get('where')}." for gate in bad]
    if status != "pass" and not bad:
        told.append("The list below has what speaks against it.")
    told += [*([calibration] if calibration else []), *_on_the_prior(audit)]
    if checks is None:
        text = "Whether the model describes these people is not checked yet: run `caucus check`."
        return Aspect("Model", "unchecked" if status == "pass" else status, " ".join([text, *told]))
    found = checks.get("ppc") or {}
    if not found:
        text = "Outcomes with categories are not replicated: see the leave-one-out densities in `checks/`."
        return Aspect("Model", "unchecked" if status == "pass" else status, " ".join([text, *told]))
    odd = []
    for margin, row in found.items():
        for what, said in (("totals", row["p_value"]), ("spread within", row["p_discrepancy"])):
            if said["num_outside"] and said["chance"] < CHANCE:
                odd.append(f"{what} by {margin}: {said['num_outside']:,} of {row['num_groups']:,} groups (worst {said['worst']})")
    margins = ", ".join(found)
    if odd:
        text = f"Replicated outcomes lie outside of their 95% intervals more often than by chance: {'; '.join(odd)}."
        return Aspect("Model", "warn" if status == "pass" else status, " ".join([text, *told]))
    text = f"Replicated outcomes by {margins} are as far from what was observed as chance has it."
    return Aspect("Model", status, " ".join([text, *told]))


def _on_the_prior(audit: dict[str, Any]) -> list[str]:
    """How much of the estimates the data say nothing of."""
    population, told = audit.get("population") or {}, []
    new = max((row["people"] / population["counted"] for row in population.get("new", [])), default=0.0)
    if new:
        told.append(f"{percent(new, 1)} of the people are on levels that the data did not have, and rest on the prior.")
    silent = sum(row.get("issue") == "no_trials" for row in audit.get("levels", []))
    if silent:
        told.append(f"{silent:,} level{'' if silent == 1 else 's'} without a known outcome rest{'s' if silent == 1 else ''} on the prior.")
    return told


def _actions(audit: dict[str, Any]) -> list[Action]:
    actions = [_gate(gate) for gate in audit.get("gates", []) if gate.get("status") in ("warn", "fail")]
    limit = next((gate.get("warn_above") or 0.0 for gate in audit.get("gates", []) if gate.get("name") == "score"), 0.0)
    for shard in audit.get("shards", []):
        if abs(shard.get("score") or 0.0) > limit:
            actions += _shard(shard)
    actions += _levels(audit.get("levels", []))
    told = tuple(str(gate["meaning"]) for gate in audit.get("gates", []) if gate.get("meaning"))
    for row in audit.get("messages", []):
        if str(row.get("what", "")).startswith(told):
            continue  # the gate has its own row
        actions.append(Action(_severity(row), str(row.get("what", "")), str(row.get("where", "")), "", "",
                              str(row.get("do", ""))))
    return actions


def _gate(gate: dict[str, Any]) -> Action:
    status, name = str(gate["status"]), str(gate.get("name", ""))
    limit = gate.get("fail_above" if status == "fail" else "warn_above")
    unit = " sds" if name == "score" else ""
    size = f"{plain(gate.get('value'), 2)}{unit}, limit {plain(limit, 2)}"
    where, level = _split(str(gate.get("where") or ""))
    return Action(status, f"{name}: {gate.get('meaning', '')}".removesuffix(": "), where or "the whole merge", level,
                  size, str(gate.get("do") or "Run more rounds (`fit.rounds`), then audit again."))


def _split(parameter: str) -> tuple[str, str]:
    """Split ``1|state[OH]`` into its term and its level."""
    term, bracket, level = parameter.partition("[")
    return (term, level.removesuffix("]")) if bracket else (parameter, "")


LEVEL_ISSUES = {
    "few_trials": "hardly any known outcomes",
    "no_trials": "no known outcome",
    "separated": "every outcome is the same",
}


def _levels(rows: list[dict[str, Any]]) -> list[Action]:
    """One action per term and issue: a big factor has thousands of levels without data."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found.setdefault((str(row.get("term", "")), str(row.get("issue", ""))), []).append(str(row.get("level", "")))
    do = "These estimates lean on the prior and on neighbours; do not report them on their own."
    actions = []
    for (term, issue), levels in found.items():
        shown = ", ".join(levels[:4]) + (", ..." if len(levels) > 4 else "")
        number = f"{len(levels):,} level{'' if len(levels) == 1 else 's'}"
        actions.append(Action("info", f"{number} with {LEVEL_ISSUES.get(issue, issue)}", term, shown, "", do))
    return actions


def _shard(shard: dict[str, Any]) -> list[Action]:
    name, out = f"shard {shard.get('shard_id', '')}", []
    if shard.get("status") in ("warn", "fail"):
        sds = f"{plain(shard.get('score'), 2)} sds; " if shard.get("score") is not None else ""
        out.append(Action(str(shard["status"]), "the merge does not fit this shard", name,
                          str(shard.get("score_where") or ""),
                          f"{sds}log-ratio sd {plain(shard.get('log_ratio_sd'), 2)}",
                          "Run more rounds, or fit it with `fit.method: nuts`; if it stays, look at how its data are coded."))
    return out
