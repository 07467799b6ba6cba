"""Pages of `docs/` whose tables the commands write, `docs/families.md` unless another is named."""

from __future__ import annotations

from pathlib import Path

from benchmarks.problems import REPOSITORY

PAGE = REPOSITORY / "docs" / "families.md"


def write(marker: str, lines: list[str], page: Path = PAGE) -> None:
    """Put a table into the page, between its two markers."""
    begin, end = f"<!-- {marker}:begin -->\n", f"<!-- {marker}:end -->"
    head, found, rest = page.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no markers {marker}:begin and {marker}:end; expected both, on lines of their own")
    page.write_text(head + begin + "\n".join(lines) + "\n" + end + tail)
