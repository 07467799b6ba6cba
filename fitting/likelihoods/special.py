"""Special functions by array module: SciPy's for NumPy, JAX's own for JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import gammaln


def log_gamma(x: Any, xp: Any = np) -> Any:
    """Logarithm of the gamma function."""
    if xp is np:
        return gammaln(x)
    from jax.scipy.special import gammaln as of_jax  # JAX takes a second to import

    return of_jax(x)
