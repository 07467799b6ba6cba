"""One thread per process, so that a result has the same bytes wherever it is computed.

Sums taken by two threads are rounded in another order than by one: a Cholesky factor from two-threaded OpenBLAS
differs in its last bits from a single-threaded one. So every worker, and the driver, computes on one thread; shards
are what runs in parallel. Environment variables do it if they are set before numpy and JAX start. ``PJRT_NPROC`` is
what XLA reads for the size of its thread pool (measured with jax 0.10.2 on two cores: 1.00 cores used with it, 1.72
with the BLAS variables alone, and the same bytes as a process pinned to one core, so no affinity is needed).
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "PJRT_NPROC": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
}


def set_environment() -> None:
    """Set `ENVIRONMENT` for this process and its children; call before numpy or JAX is imported."""
    os.environ.update(ENVIRONMENT)


def usable_cores(cgroup: str = "/sys/fs/cgroup") -> int:
    """Return how many cores this process may use: those it is bound to, or the quota of its container if that is less.

    A container with 4 cores of a machine with 64 may run on each of the 64, a sixteenth of the time: a thread for each would
    be slower and, where a thread has arrays of its own, take sixteen times the memory.
    """
    bound = len(os.sched_getaffinity(0))
    try:
        quota, period = Path(cgroup, "cpu.max").read_text().split()
    except FileNotFoundError:  # no container, or one of the first version of cgroups
        return bound
    return bound if quota == "max" else min(bound, max(1, math.ceil(int(quota) / int(period))))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold numpy's and scipy's BLAS to one thread, also where they were loaded before `set_environment`."""
    import scipy.linalg  # noqa: F401  # a BLAS that is loaded later would escape the limit
    import threadpoolctl

    with threadpoolctl.threadpool_limits(1):
        yield
