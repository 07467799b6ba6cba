"""Large arrays that are freed stay with the process, for the next ones.

By default glibc gives every array above 32 MiB back to the system as soon as it is freed, and takes a new one page by page, which the system has to
clear: a third of the driver's time where the merged posterior is large (`python docs/design/measure.py freed_memory`).
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_NEVER = 2**31 - 1


def keep() -> bool:
    """Return whether it could be had: glibc only. Threads share one heap then; theirs would give arrays back all the same."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_M_ARENA_MAX, 1), mallopt(_M_MMAP_THRESHOLD, _NEVER), mallopt(_M_TRIM_THRESHOLD, _NEVER)])
