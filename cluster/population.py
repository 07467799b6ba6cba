"""Who is in the numbers and who is not: people left out of fit and of population, and people the data say little of.

    left out      rows that were not read, or that broke the contract, by reason; of a frame, rows without a value
    declared      the config says of the reason what is to happen to its rows; the rest is what the gate `rows` judges
    new levels    people of a frame on levels that the data did not have: their effects are drawn from their groups' distributions
    outside       people with numbers outside of the range that was fitted
    weights       how many outcomes of equal weights the weighted ones are worth

`audit.json` has all of it as `population`, and a gate of each, about the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster import frames
from cluster.config import RunConfig
from fitting import gates
from fitting.coding import Coding
from sharding import notes as oddities
from sharding import storage, store
from sharding.config import DataConfig
from sharding.dictionary import Dictionary

MAX_REASONS = 3
WEIGHTS_DO = "look for weights of other units and for single rows that outweigh all others; trim them, or weight by post-stratifying instead"


def add(result: dict[str, Any], config: RunConfig, coding: Coding) -> None:
    """Put the population and its gates into the content of ``audit.json``, and judge anew."""
    manifest = store.read_manifest(config.run.directory)
    facts = None if config.poststratify.frame == "file" else frames.read(config, coding).facts
    result["population"] = describe(config, manifest, facts)
    found = judge(result["population"], config)
    result["gates"] += found
    dictionary = Dictionary.from_json(storage.read_json(storage.join(config.run.directory, store.DICTIONARY)))
    odd = oddities.messages(dictionary)
    result["messages"] = [*gates.messages(found), *result["messages"], *notes(result["population"], config), *odd]
    result["verdict"], result["verdicts"] = gates.verdict(result["messages"]), gates.verdicts(result["messages"])


def check_frame(directory: str, config: RunConfig) -> None:
    """Raise a `FrameError` if a frame of one's own is not of the population that the data are of."""
    if config.poststratify.frame != "file":
        dictionary = storage.read_json(storage.join(directory, store.DICTIONARY))
        frames.read(config, Coding.from_dictionary(dictionary))


def describe(config: RunConfig, manifest: Mapping[str, Any], facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Who was left out, from the manifest of the shards and, with a frame of one's own, from its ``facts``."""
    people = manifest["people"]
    lost = [
        {"reason": reason, "declared": is_declared(reason, config.data), **counts}
        for reason, counts in people["left_out"].items()
    ]
    files = {
        "people": people["people"] + sum(row["people"] for row in lost),
        "outcomes": people["outcomes"] + sum(row["outcomes"] for row in lost),
        "left_out": sorted(lost, key=lambda row: (-row["people"], row["reason"])),
    }
    if facts is None:
        estimated = {"people": files["people"], "counted": people["people"], "left_out": {r["reason"]: r["people"] for r in files["left_out"]}}
        facts = {"missing": [], "new": [], "combinations": [], "absent": [], "alike": []}
    else:
        gone = sum(facts["left_out"].values())
        estimated = {"people": facts["people"], "counted": facts["people"] - gone, "left_out": facts["left_out"]}
    return {
        "frame": config.poststratify.frame, "files": files, "fitted": people["outcomes"], **estimated,
        **{name: facts[name] for name in ("missing", "new", "combinations", "absent", "alike")},
        "outside": [{"of": "frame", **row} for row in facts.get("outside", ())]
        + [{"of": "files", **row} for row in manifest.get("outside", ())],
        "weights": manifest.get("weights"),
    }  # fmt: skip


def is_declared(reason: str, data: DataConfig) -> bool:
    """Whether the config says what is to happen to rows like these. Other values than expected are an error if it does not."""
    name, _, rule = reason.rpartition(":")
    if name == "id":
        return True
    column = data.column(str(data.weight) if name == "weight" else name)
    if rule == "missing":
        return column.missing is not None
    if name == "weight":  # left out by default
        return column.unexpected == "quarantine"
    return name in {*data.columns, *data.outcome_columns, "outcome"}


def judge(population: Mapping[str, Any], config: RunConfig) -> list[dict[str, Any]]:
    """The gates `rows`, and of a frame `new_levels`; `outside` where there is a number outside of what was fitted; `weights` where there are any."""
    files, found = population["files"], []

    def gate(name: str, value: float, where: str, meaning: str, do: str) -> None:
        limits = getattr(config.audit.warn_above, name), getattr(config.audit.fail_above, name)
        found.append(gates.gate(name, value, limits, where, meaning, do, "data"))

    undeclared = [row for row in files["left_out"] if not row["declared"]]
    shares = [sum(row[of] for row in undeclared) / files[of] for of in ("people", "outcomes") if files[of]]
    gate(
        "rows", max(shares, default=0.0), _reasons(population),
        "share of known outcomes, or of people, that was left out without having been declared",
        "mend the files, or say in `data` what is to happen to these rows (`data.columns.NAME: {missing: quarantine, unexpected: quarantine}`)",
    )  # fmt: skip
    if population["frame"] != "file":
        rows = [(row["people"], _new(row)) for row in population["new"]]
        rows += [(row["people"], f"{':'.join(row['columns'])}, one within another in the data") for row in population["combinations"]
                 if row["contradicts"]]  # fmt: skip
        rows = [(people / population["counted"], where) for people, where in rows]
        gate(
            "new_levels", max((share for share, _ in rows), default=0.0),
            "; ".join(f"{where}: {share:.1%}" for share, where in sorted(rows, reverse=True)[:MAX_REASONS]),
            "share of the frame's people on levels that the data did not have, drawn from the distribution of their group",
            "write these levels as the data do; if they are new, their estimates rest on the prior and on fixed effects",
        )  # fmt: skip
    if population["outside"]:
        of = {"frame": population["counted"], "files": files["people"]}
        outside = sorted(((row["people"] / of[row["of"]], _outside(row)) for row in population["outside"]), reverse=True)
        gate(
            "outside", outside[0][0], "; ".join(f"{where}: {share:.1%}" for share, where in outside[:MAX_REASONS]),
            "share of people with a number outside of what was fitted, or in other units",
            "write the column in the units of the data; if it is right, the model extrapolates for these people",
        )  # fmt: skip
    if (weights := population["weights"]) is not None:
        gate(
            "weights", weights["outcomes"] / weights["effective"],
            f"{weights['column']}: {weights['outcomes']:,} outcomes tell as much as {weights['effective']:,.0f} of equal weights",
            "design effect of the weights: known outcomes over effective ones", WEIGHTS_DO,
        )  # fmt: skip
    return found


def notes(population: Mapping[str, Any], config: RunConfig) -> list[dict[str, str]]:
    """What no gate judges, for people to read."""
    found = []
    weights = population["weights"] or {"levels": ()}
    for row in weights["levels"]:
        if row["design_effect"] > config.audit.warn_above.weights:
            found.append({
                "severity": "warn", "about": "data", "where": f"{weights['column']}, {row['column']} {row['level']}",
                "what": f"few rows have most of the weight here: the design effect of the weights is {row['design_effect']:.3g}", "do": WEIGHTS_DO,
            })  # fmt: skip
    for row in population["combinations"]:
        if not row["contradicts"]:
            found.append({
                "severity": "info", "about": "data", "where": ":".join(row["columns"]),
                "what": f"{row['people'] / population['counted']:.1%} of the people are in combinations that no row of the data had",
                "do": "nothing: their effects are drawn from the distribution of the group",
            })  # fmt: skip
    for row in population["alike"]:
        told = "; ".join(f"{new!r} for {known!r}" for new, known in row["pairs"][:MAX_REASONS])
        found.append({
            "severity": "warn", "about": "data", "where": row["column"],
            "what": f"{row['people'] / population['counted']:.2%} of the people are on new levels that differ from the data's only in how they are written ({told})",
            "do": "write them as the data do; now they are drawn from the distribution of the group",
        })  # fmt: skip
    for row in population["absent"]:
        found.append({
            "severity": "info", "about": "data", "where": row["column"],
            "what": f"{row['num_absent']:,} of the {row['num_levels']:,} levels that the data have are those of nobody in the frame",
            "do": "nothing, if the frame is of a part of the population; else see whether it is complete",
        })  # fmt: skip
    if "exposure" in config.data.outcome_columns:
        found.append({
            "severity": "info", "about": "data", "where": "all estimates", "what": "a row counts as one whatever its exposure, which is not people",
            "do": "poststratify to a frame of counts if rows stand for different numbers of people",
        })  # fmt: skip
    return found


def _reasons(population: Mapping[str, Any]) -> str:
    files, told = population["files"], []
    for row in files["left_out"][:MAX_REASONS]:
        shares = [f"{row[of] / files[of]:.1%} of {name}" for of, name in (("people", "people"), ("outcomes", "known outcomes")) if row[of]]
        told.append(f"{row['reason']}{' (declared)' if row['declared'] else ''}: {', '.join(shares)}")
    return "; ".join(told)


def _new(row: Mapping[str, Any]) -> str:
    more = ", ..." if row["num_levels"] > len(row["levels"]) else ""
    return f"{row['column']} ({', '.join(map(str, row['levels'][:MAX_REASONS]))}{more})"


def _outside(row: Mapping[str, Any]) -> str:
    text = f"{row['column']} from {row['found_minimum']:g} to {row['found_maximum']:g}, fitted {row['minimum']:g} to {row['maximum']:g}"
    if row["of"] == "files":
        return text
    return text + f" (mean {row['shift']:+.1f} sds away, spread {row['spread']:.2g} of the data's)"
