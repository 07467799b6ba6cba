"""One thread per process, so that a result has the same bytes wherever it is computed.

Sums taken by two threads are rounded in another order than by one: a Cholesky factor from two-threaded OpenBLAS
differs in its last bits from a single-threaded one. So every worker, and the driver, computes on one thread; shards
are what runs in parallel. Environment variables do it if they are set before numpy and JAX start. ``PJRT_NPROC`` is
what XLA reads for the size of its thread pool (measured with jax 0.10.2 on two cores: 1.00 cores used with it, 1.72
with the BLAS variables alone, and the same bytes as a process pinned to one core, so no affinity is needed).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold numpy's and scipy's BLAS to one thread, also where they were loaded before `set_environment`."""
    import scipy.linalg  # noqa: F401  # a BLAS that is loaded later would escape the limit
    import threadpoolctl

    with threadpoolctl.threadpool_limits(1):
        yield
