r"""A model that a user wrote in NumPyro, as log densities on the unconstrained line.

The author declares which sample sites are *global*; every other latent site is *local* to a shard. With g the
unconstrained globals, l the unconstrained locals of shard s, and T the transforms to the supports,

.. math:: p(g, l_1, \dots, l_S \mid y) \propto
   \underbrace{p(T g)\,|T'(g)|}_{\text{prior: once, at the combiner}}
   \prod_s \underbrace{p(T l_s \mid T g)\,|T'(l_s)|\; p(y_s \mid T l_s, T g)}_{\text{rest of shard } s} .

:func:`densities` gives the two factors apart. They are summed from a trace, site by site: no ``handlers.scale`` takes
part, which would scale a Jacobian in one engine and not in another.

Rows are padded to a few sizes, so that few programs are compiled. A padding row has no likelihood; whatever local site it
adds integrates to one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.primitives import Messenger

from fitting.user_errors import RowError

ROWS = "rows"  # the size that counts a shard's rows, padding included

Model = Callable[[dict[str, Any], dict[str, int]], None]


class ShardedModel(NamedTuple):
    """What a user's file declares under the name ``MODEL``.

    Parameters
    ----------
    model
        ``model(data, sizes)``. ``data`` holds one array of shape (rows,) per column; ``sizes`` holds ``rows`` and the
        number of levels of each factor. It must be pure: same arguments, same sites.
    global_sites
        Sample sites that all shards share. All other latent sites are local.
    factors
        Columns coded 0, 1, ... by their levels in all shards together.
    local_factors
        Columns whose levels each occur in one shard only, coded 0, 1, ... within the shard.
    local_sites
        Optional: the local sites by name, to be checked against the model.
    """

    model: Model
    global_sites: tuple[str, ...]
    factors: tuple[str, ...] = ()
    local_factors: tuple[str, ...] = ()
    local_sites: tuple[str, ...] | None = None


class Shard(NamedTuple):
    """One shard's rows, coded and padded. ``mask`` (rows,) is False at padding.

    ``sizes`` are static, local factors padded; ``levels`` are the real levels of the local factors, in the order of their codes.
    """

    shard_id: str
    data: dict[str, np.ndarray]
    mask: np.ndarray
    sizes: tuple[tuple[str, int], ...]
    levels: dict[str, tuple[str, ...]]

    @property
    def num_rows(self) -> int:
        """Real rows."""
        return int(self.mask.sum())


class Place(NamedTuple):
    """A site as coordinates: its name, the shape of its unconstrained value, and its labelled axes.

    ``axes`` pairs an axis of the constrained value with the plate it lies in. A deterministic site has its own shape.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[tuple[int, str], ...]

    @property
    def size(self) -> int:
        """Number of unconstrained coordinates."""
        return int(np.prod(self.shape, dtype=np.int64))


class Program(NamedTuple):
    """What a compiled program depends on, hashable: shards of equal sizes share theirs."""

    sharded: ShardedModel
    sizes: tuple[tuple[str, int], ...]
    global_places: tuple[Place, ...]
    local_places: tuple[Place, ...]
    derived_places: tuple[Place, ...]  # deterministic sites

    @property
    def num_globals(self) -> int:
        """Unconstrained global coordinates, d."""
        return sum(place.size for place in self.global_places)

    @property
    def num_locals(self) -> int:
        """Unconstrained local coordinates of a shard, L."""
        return sum(place.size for place in self.local_places)


class _LikelihoodOfRows(Messenger):
    """Leaves the likelihood of padding rows out, and refuses one that is not a term per row."""

    def __init__(self, fn: Model, mask: Any):
        super().__init__(fn)
        self.mask = mask

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or not msg["is_observed"]:
            return
        shape, num_rows = tuple(msg["fn"].batch_shape), len(self.mask)
        if not shape or shape[-1] != num_rows:
            raise RowError(
                f"observed site {msg['name']!r}", f"log densities of shape {shape}", f"(..., {num_rows}), one per row",
                "Observe rows inside `numpyro.plate('rows', sizes['rows'])`. A factor that concerns globals only belongs "
                "to their prior: it would count once per shard here.",
            )  # fmt: skip
        msg["fn"] = msg["fn"].mask(self.mask)


def densities(program: Program, data: Mapping[str, Any], mask: Any, g: jax.Array, l: jax.Array) -> tuple[Any, Any]:
    """Log prior of globals (d,), with its Jacobian, and the rest of a shard given locals (L,), with theirs."""
    trace, log_det = _traced(program, data, mask, g, l)
    names = set(program.sharded.global_sites)
    parts = {True: jnp.zeros(()), False: jnp.zeros(())}
    for name, site in trace.items():
        if site["type"] == "sample":
            log_prob = site["fn"].log_prob(site["value"])
            if (
                site["scale"] is not None
            ):  # weights of rows: latent sites with a scale are refused by `fitting.user_checks`
                log_prob = log_prob * site["scale"]
            parts[name in names] += jnp.sum(log_prob) + log_det.get(name, 0.0)
    return parts[True], parts[False]


def constrain(program: Program, data: Mapping[str, Any], mask: Any, g: jax.Array, l: jax.Array) -> dict[str, jax.Array]:
    """Values of all latent and deterministic sites in the model's own terms."""
    trace, log_det = _traced(program, data, mask, g, l)
    return {n: site["value"] for n, site in trace.items() if site["type"] == "deterministic" or n in log_det}


def unravel(flat: jax.Array, places: Sequence[Place]) -> dict[str, jax.Array]:
    """Split coordinates, (..., size), into sites."""
    out, start = {}, 0
    for place in places:
        out[place.name] = flat[..., start : start + place.size].reshape((*flat.shape[:-1], *place.shape))
        start += place.size
    return out


def prior_draw(program: Program, data: Mapping[str, Any], mask: Any, rng_key: jax.Array) -> jax.Array:
    """One draw of the globals from their prior, unconstrained, (d,)."""
    trace = trace_prior(program.sharded, data, mask, program.sizes, rng_key)
    return jnp.concatenate([jnp.ravel(unconstrained(trace[p.name])) for p in program.global_places])


def trace_prior(sharded: ShardedModel, data: Mapping[str, Any], mask: Any, sizes: Any, rng_key: jax.Array) -> Any:
    """Run the model with its latent sites drawn from the prior, and return the trace."""
    model = handlers.seed(_LikelihoodOfRows(sharded.model, mask), rng_key)
    return handlers.trace(model).get_trace(dict(data), dict(sizes))


def unconstrained(site: Any) -> jax.Array:
    """Value of a sample site on the unconstrained line."""
    return biject_to(site["fn"].support).inv(site["value"])


@lru_cache(maxsize=64)
def padded(size: int, smallest: int = 1) -> int:
    """Smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is neither less than ``size`` nor than ``smallest``."""
    power = smallest
    while power < size:
        power *= 2
    between = power * 3 // 4
    return between if power % 4 == 0 and power > smallest and size <= between else power


def _traced(program: Program, data: Mapping[str, Any], mask: Any, g: jax.Array, l: jax.Array) -> tuple[Any, Any]:
    values = unravel(g, program.global_places) | unravel(l, program.local_places)
    log_det: dict[str, jax.Array] = {}

    def place(site: Any) -> Any:
        if site["name"] not in values or site["type"] != "sample":
            return None
        transform = biject_to(site["fn"].support)
        at = values[site["name"]]
        value = transform(at)
        log_det[site["name"]] = jnp.sum(transform.log_abs_det_jacobian(at, value))
        return value

    model = handlers.substitute(_LikelihoodOfRows(program.sharded.model, mask), substitute_fn=place)
    with handlers.block():  # a guide's own handlers, around us, have no business with the user's sites
        return handlers.trace(model).get_trace(dict(data), dict(program.sizes)), log_det
