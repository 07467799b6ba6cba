"""Build ``report.html``: one file that opens offline, without scripts and without a single outside reference."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from reporting import audit_sections, sections
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
    page = render(run).encode()
    with tempfile.NamedTemporaryFile(dir=run.path, prefix=f".{REPORT}.", delete=False) as file:
        file.write(page)
        file.flush()
        os.fsync(file.fileno())
    target = run.path / REPORT
    os.replace(file.name, target)
    return target


def render(run: RunDirectory) -> str:
    """Return the page of a run."""
    environment = Environment(
        loader=PackageLoader("reporting", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters["code_spans"] = code_spans
    score = worst_score(run.audit)
    shards = run.shards["shards"] if run.shards else []
    num_trials = sum(int(shard["num_trials"]) for shard in shards) or None
    style = Markup(environment.loader.get_source(environment, "report.css")[0])  # type: ignore[union-attr]
    return environment.get_template("report.html").render(
        style=style,
        name=str(run.config.get("name", run.path.name)),
        outcome=run.outcome,
        is_share=run.is_share,
        interval=sections.interval_text(run),
        verdict=judge(run.audit, num_trials),
        score=score,
        gates=audit_sections.gates(run),
        totals=audit_sections.totals(run),
        sizes=_sizes(run),
        headline=sections.headline(run),
        margins=sections.margins(run),
        effects=sections.effects(run),
        scales=sections.scales(run),
        calibration=sections.calibration(run),
        shards=audit_sections.shards(run),
        blocks=audit_sections.blocks(run),
        rounds=audit_sections.rounds(run),
        shard_map=audit_sections.shard_map(run),
        ingest=audit_sections.ingest(run),
        facts=audit_sections.facts(run),
        priors=audit_sections.priors(run),
        versions=audit_sections.versions(run),
        stages=audit_sections.stages(run),
        config_text=run.config_text,
    )


def code_spans(text: str) -> Markup:
    """Return ``text``, escaped, with what stands between backticks as ``<code>``."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _sizes(run: RunDirectory) -> str:
    if not run.shards:
        return ""
    rows, cells, trials = (sum(int(shard[key]) for shard in run.shards["shards"])
                           for key in ("num_rows", "num_cells", "num_trials"))
    return f"{rows:,} rows in {cells:,} cells and {len(run.shards['shards']):,} shards; {trials:,} known outcomes"
