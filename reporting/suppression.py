"""Small counts of people are not published: below `publish.min_count` they become ``<11``, with whatever would give them away.

The rule is the one of the US health agencies (CMS cell size suppression policy): no count from 1 to one less than the
smallest that is shown, and no number from which one can be derived. Zero may be shown.
"""

from __future__ import annotations

from collections.abc import Sequence

HIDDEN = "hidden"


def is_small(count: float | None, min_count: int) -> bool:
    """Whether ``count`` people are too few to publish."""
    return count is not None and 0 < count < min_count


def count_text(count: int | None, min_count: int) -> str:
    """Return a count of people as it may be published."""
    if count is None:
        return "–"
    return f"<{min_count}" if is_small(count, min_count) else f"{count:,}"


def count_texts(counts: Sequence[int | None], min_count: int) -> list[str]:
    """Return the counts of one table as they may be published together.

    A single small count could be found by subtracting the others from the total, so the smallest other one is hidden
    with it (as ``hidden``). None is a count that the table itself hides.
    """
    texts = [HIDDEN if count is None else count_text(count, min_count) for count in counts]
    if sum(is_small(count, min_count) for count in counts) == 1 and None not in counts:
        others = [(count, i) for i, count in enumerate(counts) if count and not is_small(count, min_count)]
        if others:
            texts[min(others)[1]] = HIDDEN
    return texts


def hides_raw_mean(raw_mean: float | None, num_trials: int | None, min_count: int, *, is_share: bool) -> bool:
    """Whether a raw mean is absent, is of too few people, or gives away how few did or did not."""
    if raw_mean is None or raw_mean != raw_mean or num_trials is None or num_trials < min_count:
        return True
    did = round(raw_mean * num_trials), round((1 - raw_mean) * num_trials)
    return is_share and any(is_small(count, min_count) for count in did)
