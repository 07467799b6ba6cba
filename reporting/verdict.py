"""The verdict in plain words, and the list of what to do about it.

``audit.json`` decides what passes; here its gates, shards, levels and messages become one list of actions, worst
first: where, which level, how many posterior sds, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reporting.svg import plain

RANK = {"fail": 0, "warn": 1, "info": 2, "pass": 3}
HEADLINE = {"pass": "Ready to use", "warn": "Usable with care", "fail": "Do not use these numbers yet"}


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
    """``status`` is pass, warn or fail; ``sentence`` is what a person should know first."""

    status: str
    headline: str
    sentence: str
    actions: list[Action]


def judge(audit: dict[str, Any], num_trials: int | None) -> Verdict:
    """Return the verdict of an ``audit.json``; ``num_trials`` is the number of known outcomes."""
    status = str(audit.get("verdict", "fail"))
    status = status if status in HEADLINE else "fail"
    actions = sorted(_actions(audit), key=lambda action: RANK.get(action.severity, 2))
    return Verdict(status, HEADLINE[status], _sentence(status, audit, actions, num_trials), actions)


def worst_score(audit: dict[str, Any]) -> tuple[float, str] | None:
    """Return the largest score in posterior sds and where it is, over the gate, blocks and shards that are there."""
    rows = [(block.get("score"), str(block.get("score_where") or block.get("block") or ""))
            for block in audit.get("blocks", [])]
    rows = rows or [(gate.get("value"), str(gate.get("where") or ""))
                    for gate in audit.get("gates", []) if gate.get("name") == "score"]
    known = [(abs(float(score)), where) for score, where in rows if score is not None]
    return max(known) if known else None


def _sentence(status: str, audit: dict[str, Any], actions: list[Action], num_trials: int | None) -> str:
    data = f"all {num_trials:,} known outcomes" if num_trials else "all of the data"
    score = worst_score(audit)
    distance = f"the furthest coefficient is {plain(score[0], 2)} posterior sds off" if score else ""
    gates = {name: [g for g in audit.get("gates", []) if g.get("status") == name] for name in ("warn", "fail")}
    named = ", ".join(str(gate.get("name")) for gate in gates[status]) if status in gates else ""
    if status == "pass":
        found = f": {distance}, too little to matter" if distance else ""
        return f"The merged posterior was checked against {data} and agrees with it{found}."
    passed = f" ({distance})" if distance else ""
    where, failed = (f" about {named}", f" on {named}") if named else ("", "")
    if status == "warn":
        return (f"The merged posterior was checked against {data}{passed}. Nothing failed, but the audit warns{where}: "
                "read the list below before using what it names.")
    return (f"The merged posterior was checked against {data}{passed}, and the audit fails{failed}. "
            "The numbers below are marked and kept for finding the cause, not for use.")


def _actions(audit: dict[str, Any]) -> list[Action]:
    actions = [_gate(gate) for gate in audit.get("gates", []) if gate.get("status") in ("warn", "fail")]
    limit = next((gate.get("warn_above") or 0.0 for gate in audit.get("gates", []) if gate.get("name") == "score"), 0.0)
    for shard in audit.get("shards", []):
        if abs(shard.get("score") or 0.0) > limit:
            actions += _shard(shard)
    actions += _levels(audit.get("levels", []))
    for row in audit.get("prior_sensitivity", []):
        if row.get("flag") not in (None, "", "ok", "-"):
            size = f"prior {plain(row.get('prior'), 2)}, likelihood {plain(row.get('likelihood'), 2)}"
            actions.append(Action("info", f"prior sensitivity: {row['flag']}", str(row.get("parameter", "")), "", size,
                                  "Compare with another prior: `--set model.priors...` redoes only the merge."))
    told = tuple(str(gate["meaning"]) for gate in audit.get("gates", []) if gate.get("meaning"))
    for row in audit.get("messages", []):
        if str(row.get("what", "")).startswith(told):
            continue  # the gate has its own row
        severity = {"error": "fail", "warning": "warn"}.get(str(row.get("severity")), str(row.get("severity", "info")))
        actions.append(Action(severity, str(row.get("what", "")), str(row.get("where", "")), "", "",
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
