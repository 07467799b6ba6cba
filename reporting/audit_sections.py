"""What the report says about the work: gates, shards, blocks, rounds, ingest, and what was run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reporting import figures
from reporting.figures import Bar, Tile
from reporting.run_directory import RunDirectory
from reporting.svg import fixed, plain
from reporting.verdict import RANK

MAX_BARS = 30
MAX_TABLE_ROWS = 200
STAGES = ("ingest", "fit", "merge", "audit", "poststratify", "report")
"""In the order in which they are run; a manifest has its keys by the alphabet."""


@dataclass(frozen=True)
class Gate:
    """One check with its limits."""

    name: str
    status: str
    value: str
    warn_above: str
    fail_above: str
    where: str
    meaning: str


@dataclass(frozen=True)
class Shards:
    """The audit by shard, worst first."""

    figures: list[Markup]
    rows: list[list[str]]
    statuses: list[str]
    note: str


@dataclass(frozen=True)
class Ingest:
    """Rows read, and where each went; ``reconciles`` is whether nothing is missing."""

    rows_read: str
    rows_in_cells: str
    rows_quarantined: str
    reasons: list[tuple[str, str]]
    reconciles: bool
    sources: list[tuple[str, str]]


def gates(run: RunDirectory) -> list[Gate]:
    """Return the gates, failed ones first."""
    found = sorted(run.audit.get("gates", []), key=lambda gate: RANK.get(str(gate.get("status")), 2))
    return [Gate(str(g.get("name", "")), str(g.get("status", "")), plain(g.get("value")), plain(g.get("warn_above")),
                 plain(g.get("fail_above")), str(g.get("where") or ""), str(g.get("meaning") or "")) for g in found]


def totals(run: RunDirectory) -> list[tuple[str, str, str]]:
    """Return (name, value, how to read it) of the whole merge."""
    total = run.audit.get("total", {})
    efficiency = total.get("efficiency")
    k_hat = plain(total.get("k_hat"), 2)
    if total.get("k_hat_mcse") is not None:
        k_hat += f" ± {plain(total['k_hat_mcse'], 1)}"
    rows = [
        ("log_ratio_sd", "Log-ratio sd", plain(total.get("log_ratio_sd"), 2), "0 is an exact merge"),
        ("kl_nats", "KL divergence", f"{plain(total.get('kl_nats'), 2)} nats", "of the merge from the exact posterior"),
        ("efficiency", "Importance efficiency", "–" if efficiency is None else f"{100 * efficiency:.0f}%",
         "100% is an exact merge"),
        ("k_hat", "Pareto k-hat", k_hat, "read with the log-ratio sd"),
    ]
    return [(name, value, note) for key, name, value, note in rows if total.get(key) is not None]


def shards(run: RunDirectory) -> Shards | None:
    """Return the audit by shard; None if the audit has none."""
    found = [shard for shard in run.audit.get("shards", []) if shard.get("shard_id") is not None]
    if not found:
        return None
    found.sort(key=lambda s: (RANK.get(str(s.get("status")), 2), -(s.get("log_ratio_sd") or 0), str(s["shard_id"])))
    pictures = []
    for key, label, gate in (("log_ratio_sd", "log-ratio sd of the shard", ""),
                             ("score", "largest score, posterior sds", "score")):
        rows = [Bar(str(s["shard_id"]), abs(float(s[key])), str(s.get("status", "pass")),
                    f"{s['shard_id']}: {plain(s[key])} {s.get('score_where') or ''}")
                for s in found if s.get(key) is not None]
        rows = sorted(rows, key=lambda row: (-row.value, row.label))[:MAX_BARS]
        if rows:
            pictures.append(figures.bars(rows, _limits(run, gate), label))
    people = [[f"{int(s.get(key) or 0):,}" for s in found] for key in ("num_rows", "num_trials")]
    lines = [[str(s["shard_id"]), str(s.get("status", "")), plain(s.get("log_ratio_sd")), plain(s.get("k_hat"), 2),
              plain(s.get("score")), str(s.get("score_where") or ""),
              plain((s.get("heterogeneity") or {}).get("p_adjusted"), 2), f"{int(s.get('num_cells') or 0):,}",
              num_rows, num_trials]
             for s, num_rows, num_trials in zip(found[:MAX_TABLE_ROWS], *people, strict=False)]
    note = f"The bars show the {MAX_BARS} largest of {len(found):,}. " if len(found) > MAX_BARS else ""
    note += f"The table shows the {MAX_TABLE_ROWS} worst; all are in audit.json." if len(found) > MAX_TABLE_ROWS else ""
    return Shards(pictures, lines, [str(s.get("status", "pass")) for s in found[:MAX_TABLE_ROWS]], note)


def _limits(run: RunDirectory, name: str) -> list[tuple[str, float]]:
    for gate in run.audit.get("gates", []):
        if name and gate.get("name") == name:
            limits = [("warn", gate.get("warn_above")), ("fail", gate.get("fail_above"))]
            return [(css, float(value)) for css, value in limits if value is not None]
    return []


def blocks(run: RunDirectory) -> list[list[str]]:
    """Return the audit by block of coefficients."""
    return [[str(b.get("block", "")), plain(b.get("num_coefficients")), plain(b.get("score")),
             str(b.get("score_where") or ""), f"{plain(b.get('shift'), 2)} ± {plain(b.get('shift_mcse'), 1)}",
             str(b.get("shift_where") or ""), f"{fixed(b.get('sd_ratio_min'))} to {fixed(b.get('sd_ratio_max'))}"]
            for b in run.audit.get("blocks", [])]


def sensitivity(run: RunDirectory) -> list[list[str]]:
    """Return how much each scale and coefficient follows its prior, those with a flag; of healthy data, too, some have one."""
    flagged = [row for row in run.audit.get("prior_sensitivity", []) if row.get("flag") not in (None, "", "ok", "-")]
    return [[str(row.get("parameter", "")), plain(row.get("prior"), 2), plain(row.get("likelihood"), 2), str(row["flag"])]
            for row in flagged]  # fmt: skip


@dataclass(frozen=True)
class Rounds:
    """The rounds of the fit."""

    figure: Markup | None
    rows: list[list[str]]


def rounds(run: RunDirectory) -> Rounds | None:
    """Return the rounds; None if the audit has none."""
    found = run.audit.get("rounds", [])
    if not found:
        return None
    moves = [(int(r["round"]), float(r["move"])) for r in found if r.get("move") is not None and r["move"] > 0]
    rows = [[str(r.get("round")), str(r.get("method", "")), plain(r.get("move")), fixed(r.get("damping")),
             fixed(r.get("seconds"), 1)] for r in found]
    picture = figures.rounds(moves, "round: largest move, posterior sds") if len(moves) > 1 else None
    return Rounds(picture, rows)


def shard_map(run: RunDirectory) -> Markup | None:
    """Return the map of shards: area is rows, darkness is cells."""
    found = (run.shards or {}).get("shards", [])
    if not found:
        return None
    status = {str(s.get("shard_id")): str(s.get("status", "pass")) for s in run.audit.get("shards", [])}
    most = max(int(s["num_cells"]) for s in found) or 1
    people = [[f"{int(s[key]):,}" for s in found] for key in ("num_rows", "num_trials")]
    tiles = [Tile(str(s["shard_id"]), float(s["num_rows"]), (int(s["num_cells"]) / most) ** 0.5,
                  status.get(str(s["shard_id"]), "pass"),
                  f"{s['shard_id']}: {rows} people in {s['num_cells']:,} cells, {trials} known outcomes")
             for s, rows, trials in zip(found, *people, strict=True)]
    return figures.shard_map(tiles, "rows and cells by shard")


def ingest(run: RunDirectory) -> Ingest | None:
    """Return the accounting of rows; None without a shard manifest."""
    if run.shards is None or "totals" not in run.shards:
        return None
    total = run.shards["totals"]
    read, kept, dropped = (int(total[key]) for key in ("rows_read", "rows_in_cells", "rows_quarantined"))
    reasons = sorted(run.shards.get("quarantine", {}).items(), key=lambda item: -item[1])
    sources = [(str(s.get("url", "")), size_text(s.get("num_bytes"))) for s in run.shards.get("sources", [])]
    return Ingest(f"{read:,}", f"{kept:,}", f"{dropped:,}", [(str(reason), f"{count:,}") for reason, count in reasons],
                  read == kept + dropped and dropped == sum(count for _, count in reasons), sources)


def size_text(num_bytes: float | None) -> str:
    """Return a number of bytes for reading."""
    if num_bytes is None:
        return "–"
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{plain(num_bytes)} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.2f} GiB"


def facts(run: RunDirectory) -> list[tuple[str, str]]:
    """Return what was run: model, priors, method, seed, sizes."""
    model, fit, config = run.config.get("model", {}), run.config.get("fit", {}), run.config
    by = config.get("shards", {}).get("by")
    seed = run.manifest.get("seed", config.get("run", {}).get("seed"))
    rows = [
        ("Formula", model.get("formula")),
        ("Family", model.get("family")),
        ("Method", fit.get("method")),
        ("Draws", _draws(run)),
        ("Shards", ", ".join(by) if isinstance(by, list) else by),
        ("Executor", run.manifest.get("executor", config.get("run", {}).get("executor"))),
        ("Seed", seed),
        ("Terms of use", config.get("data", {}).get("terms_of_use")),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def priors(run: RunDirectory) -> list[tuple[str, str]]:
    """Return (parameter or class, prior) as stored in the manifest, else as written in the config."""
    found = run.manifest.get("priors") or run.config.get("model", {}).get("priors") or {}
    return [(str(name), str(text)) for name, text in found.items()]


def versions(run: RunDirectory) -> list[tuple[str, str]]:
    """Return (package, version)."""
    return [(str(name), str(version)) for name, version in run.manifest.get("versions", {}).items()]


def _draws(run: RunDirectory) -> str | None:
    if run.posterior is None:
        return None
    sizes = run.posterior["posterior"].sizes
    return f"{sizes['chain']} chains of {sizes['draw']:,}"


@dataclass(frozen=True)
class Stages:
    """Time and memory of the stages."""

    figure: Markup
    rows: list[list[str]]


def stages(run: RunDirectory) -> Stages | None:
    """Return the stages with their seconds; None if the manifest has none."""
    found = run.manifest.get("stages")
    if not isinstance(found, Mapping):
        return None
    timed: list[tuple[str, float, Any]] = [
        (str(name), float(stage["seconds"]), stage.get("peak_memory_bytes"))
        for name, stage in found.items() if isinstance(stage, Mapping) and stage.get("seconds") is not None
    ]
    if not timed:
        return None
    timed.sort(key=lambda stage: STAGES.index(stage[0]) if stage[0] in STAGES else len(STAGES))
    rows = [[name, fixed(seconds, 1), size_text(memory)] for name, seconds, memory in timed]
    return Stages(figures.stages([(name, seconds) for name, seconds, _ in timed], "seconds by stage"), rows)
