"""Templates to pages: one environment for all, and a page that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


def environment() -> Environment:
    """Return an environment that escapes everything, with the style sheet as ``style``."""
    made = Environment(
        loader=PackageLoader("reporting", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    made.filters["code_spans"] = code_spans
    made.globals["style"] = Markup(made.loader.get_source(made, "report.css")[0])  # type: ignore[union-attr]
    return made


def code_spans(text: str) -> Markup:
    """Return ``text``, escaped, with what stands between backticks as ``<code>``."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def publish(page: str, target: Path) -> Path:
    """Write ``page`` at ``target``, at once, and return the path; where that fails, nothing is left."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            file.write(page.encode())
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise
    return target
