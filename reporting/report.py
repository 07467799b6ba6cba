"""Build ``report.html``: one file that opens offline, without scripts and without a single outside reference."""

from __future__ import annotations

from pathlib import Path

from reporting import audit_sections, dirt, pages, sections
from reporting.run_directory import RunDirectory, read
from reporting.verdict import judge, worst_score

REPORT = "report.html"


def build(directory: str | Path) -> Path:
    """Write the report of a finished run directory into it, and return its path.

    Parts whose files are absent are left out; ``run.yaml``, ``manifest.json`` and ``audit.json`` are needed. The same
    directory gives the same bytes.

    Raises
    ------
    RunDirectoryError
        A needed file is missing, or one that is there cannot be read.
    TableError
        A table lacks a column.
    """
    run = read(directory)
    return pages.publish(render(run), run.path / REPORT)


def render(run: RunDirectory) -> str:
    """Return the page of a run."""
    score = worst_score(run.audit)
    shards = run.shards["shards"] if run.shards else []
    num_trials = sum(int(shard["num_trials"]) for shard in shards) or None
    return pages.environment().get_template("report.html").render(
        name=str(run.config.get("name", run.path.name)),
        outcome=run.outcome,
        is_share=run.is_share,
        interval=sections.interval_text(run),
        verdict=judge(run.audit, num_trials, run.checks, sections.calibration_note(run)),
        score=score,
        gates=audit_sections.gates(run),
        totals=audit_sections.totals(run),
        sizes=_sizes(run),
        headline=sections.headline(run),
        margins=sections.margins(run),
        effects=sections.effects(run),
        scales=sections.scales(run),
        calibration=sections.calibration(run),
        sensitivity=audit_sections.sensitivity(run),
        shards=audit_sections.shards(run),
        blocks=audit_sections.blocks(run),
        rounds=audit_sections.rounds(run),
        shard_map=audit_sections.shard_map(run),
        ingest=audit_sections.ingest(run),
        dirt=dirt.read(run.path),
        facts=audit_sections.facts(run),
        priors=audit_sections.priors(run),
        versions=audit_sections.versions(run),
        stages=audit_sections.stages(run),
        config_text=run.config_text,
    )


def _sizes(run: RunDirectory) -> str:
    if not run.shards:
        return ""
    rows, cells, trials = (sum(int(shard[key]) for shard in run.shards["shards"])
                           for key in ("num_rows", "num_cells", "num_trials"))
    return f"{rows:,} people in {cells:,} cells and {len(run.shards['shards']):,} shards; {trials:,} known outcomes"
