"""Small counts of people are not published: 1 to 10 become ``<11``, with whatever would give them away.

The rule is the one of the US health agencies (CMS cell size suppression policy): no count from 1 to 10, and no number
from which one can be derived. Zero may be shown.
"""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 11
SUPPRESSED = f"<{THRESHOLD}"
HIDDEN = "hidden"


def is_small(count: float | None) -> bool:
    """Whether ``count`` people are too few to publish."""
    return count is not None and 0 < count < THRESHOLD


def count_text(count: int | None) -> str:
    """Return a count of people as it may be published."""
    if count is None:
        return "–"
    return SUPPRESSED if is_small(count) else f"{count:,}"


def count_texts(counts: Sequence[int | None]) -> list[str]:
    """Return the counts of one table as they may be published together.

    A single small count could be found by subtracting the others from the total, so the smallest other one is hidden
    with it (as ``hidden``). None is a count that the table itself hides.
    """
    texts = [HIDDEN if count is None else count_text(count) for count in counts]
    if sum(map(is_small, counts)) == 1 and None not in counts:
        others = [(count, i) for i, count in enumerate(counts) if count and not is_small(count)]
        if others:
            texts[min(others)[1]] = HIDDEN
    return texts


def hides_raw_mean(raw_mean: float | None, num_trials: int | None, is_share: bool) -> bool:
    """Whether a raw mean is absent, is of too few people, or gives away 1 to 10 who did or did not."""
    if raw_mean is None or raw_mean != raw_mean or num_trials is None or num_trials < THRESHOLD:
        return True
    return is_share and (is_small(round(raw_mean * num_trials)) or is_small(round((1 - raw_mean) * num_trials)))
