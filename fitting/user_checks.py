"""Whether what a user declared about a model is so: found by tracing it on shards, before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitting.errors import FittingError
from fitting.user_errors import (
    DiscreteLatentError,
    GlobalSiteError,
    RowError,
    UnknownSiteError,
    UserCodeError,
    UserModelError,
)
from fitting.user_model import ROWS, Place, Program, Shard, ShardedModel, densities, trace_prior, unconstrained

MAX_LOCALS = 400  # coordinates of one shard: the last pass takes a dense Hessian of them
NUM_POINTS = 2
CLOSE = 1e-8

_programs: dict[tuple[Any, ...], Program] = {}


def program(sharded: ShardedModel, shard: Shard) -> Program:
    """The program of a shard: its sites as coordinates. Shards of equal sizes and types get the same one.

    Raises
    ------
    UserModelError
        One of its kinds, where the declaration and the model differ or the model is outside what can be sharded.
    """
    types = tuple((name, str(values.dtype)) for name, values in shard.data.items())
    key = (sharded, shard.sizes, types)
    if key not in _programs:
        _programs[key] = _make(sharded, shard)
    return _programs[key]


def check(sharded: ShardedModel, shards: Sequence[Shard]) -> None:
    """Check the declaration on the first and the last shard, by values at a few random points.

    Raises
    ------
    UserModelError
        As :func:`program`; ``GlobalSiteError`` where a global depends on a shard's data, size or locals; ``RowError`` where
        a row's likelihood depends on other rows.
    """
    with jax.enable_x64(True):
        programs = [program(sharded, shard) for shard in (shards[0], shards[-1])]
        for other, shard in zip(programs[1:], shards[-1:], strict=True):
            _compare_shapes(programs[0], other, shard)
        values = [_values(p, s) for p, s in zip(programs, (shards[0], shards[-1]), strict=True)]
        for (prior, _), shard in zip(values, (shards[0], shards[-1]), strict=True):
            if not np.allclose(prior, values[0][0], rtol=CLOSE, atol=CLOSE):
                raise _uses_data(shard)


def _make(sharded: ShardedModel, shard: Shard) -> Program:
    trace = _first_trace(sharded, shard)
    latent = {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
    observed = [n for n, s in trace.items() if s["type"] == "sample" and s["is_observed"]]
    _check_names(sharded, latent, observed)
    for name, site in trace.items():
        _check_site(name, site, name in latent)
    for name in sharded.global_sites:
        inside = {plate for _, plate in _axes(latent[name])} & {ROWS, *sharded.local_factors}
        if inside:
            raise GlobalSiteError(
                f"global site {name!r}", f"it lies in the plate {min(inside)!r}, whose size is the shard's own",
                "plates of sizes that all shards share", "Take the site out of `global_sites`: it is local.",
            )  # fmt: skip
    places = {
        name: Place(name, tuple(unconstrained(site).shape), _axes(site))
        for name, site in latent.items()
    }  # fmt: skip
    for name, place in places.items():
        _check_local(name, place, sharded)
    made = Program(
        sharded, shard.sizes,
        tuple(places[name] for name in sharded.global_sites),
        tuple(place for name, place in places.items() if name not in sharded.global_sites),
        tuple(_derived(n, s) for n, s in trace.items() if s["type"] == "deterministic"),
    )  # fmt: skip
    if made.num_locals > MAX_LOCALS:
        raise UserModelError(
            f"shard {shard.shard_id!r}", f"{made.num_locals:,} local coordinates", f"at most {MAX_LOCALS}",
            "Cut smaller shards, or integrate locals of single rows out in the likelihood.",
        )  # fmt: skip
    return made


def _first_trace(sharded: ShardedModel, shard: Shard) -> Any:
    where = f"model {getattr(sharded.model, '__name__', 'model')!r} on shard {shard.shard_id!r}"
    try:
        data = {name: jnp.asarray(values) for name, values in shard.data.items()}
        return trace_prior(sharded, data, jnp.asarray(shard.mask), shard.sizes, jax.random.key(0))
    except FittingError:
        raise
    except KeyError as error:
        known = {"columns": sorted(shard.data), "sizes": sorted(dict(shard.sizes))}
        raise UserCodeError(
            where, f"it asked for {error.args[0]!r}", f"columns and sizes among {known}",
            "Add the column to the data, or the factor to the declaration.",
        ) from error  # fmt: skip
    except NotImplementedError as error:  # what NumPyro's distributions without a sampler raise
        raise UserCodeError(
            where, f"NotImplementedError: {error}", "priors that can be drawn from",
            "An improper or unnormalised prior has no draws to start from: use a proper one.",
        ) from error  # fmt: skip
    except Exception as error:  # whatever the user's code raises
        raise UserCodeError(
            where, f"{type(error).__name__}: {error}", "a model that runs with its latent sites drawn from their priors",
            "Call it yourself under `numpyro.handlers.seed` to see the traceback.",
        ) from error  # fmt: skip


def _check_names(sharded: ShardedModel, latent: dict[str, Any], observed: list[str]) -> None:
    for name in sharded.global_sites:
        if name not in latent:
            near = get_close_matches(name, latent, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "Correct `global_sites`."
            found = "an observed site" if name in observed else "no sample site of that name"
            raise UnknownSiteError(f"global site {name!r}", found, f"one of {sorted(latent)}", hint)
    local = set(latent) - set(sharded.global_sites)
    if sharded.local_sites is not None and local != set(sharded.local_sites):
        odd = sorted(local ^ set(sharded.local_sites))
        raise UnknownSiteError(
            "local sites", f"{sorted(local)} in the model", f"{sorted(sharded.local_sites)} as declared",
            f"Correct `local_sites` or `global_sites`; they differ in {odd}.",
        )  # fmt: skip
    if not sharded.global_sites:
        raise UnknownSiteError("global sites", "none", "at least one", "With nothing to share, fit each shard alone.")
    if not observed:
        raise UserModelError("the model", "no observed site", "at least one", "Pass `obs=data[...]` to a sample site.")


def _check_site(name: str, site: Any, is_latent: bool) -> None:
    if site["type"] == "param":
        raise UserModelError(f"site {name!r}", "numpyro.param", "sample sites", "Give the parameter a prior.")
    if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
        raise UserModelError(
            f"plate {name!r}", f"a subsample of {site['args'][1]} out of {site['args'][0]}", "a whole plate",
            "Leave `subsample_size` out: sharding takes its place.",
        )  # fmt: skip
    if not is_latent:
        return
    if site["fn"].support.is_discrete:
        raise DiscreteLatentError(
            f"latent site {name!r}", f"the discrete distribution {type(site['fn']).__name__}", "a continuous one",
            "Sum it out in the likelihood, for example with `numpyro.distributions.MixtureSameFamily`.",
        )  # fmt: skip
    if site["scale"] is not None:
        raise UserModelError(
            f"latent site {name!r}", "a scale on its density", "none",
            "Scale the prior's own parameters instead; weights belong on observed sites.",
        )  # fmt: skip


def _uses_data(shard: Shard) -> GlobalSiteError:
    return GlobalSiteError(
        "the prior of the global sites", f"another density with other rows (seen in shard {shard.shard_id!r})",
        "the same in every shard", "A global's distribution may not use `data`, nor the number of rows.",
    )  # fmt: skip


def _check_local(name: str, place: Place, sharded: ShardedModel) -> None:
    factors = sorted({plate for _, plate in place.axes} & set(sharded.local_factors))
    if len(factors) > 1:
        raise UserModelError(
            f"local site {name!r}", f"plates of the local factors {factors}", "at most one of them",
            "Make one local factor of their combinations.",
        )  # fmt: skip


def _derived(name: str, site: Any) -> Place:
    """A deterministic site; which of its axes is a plate's is told by the size, since it has no event shape."""
    shape = tuple(jnp.shape(site["value"]))
    axes = []
    for frame in site["cond_indep_stack"]:
        likely = [len(shape) + frame.dim, *range(len(shape))]
        axes += [(axis, frame.name) for axis in likely if 0 <= axis < len(shape) and shape[axis] == frame.size][:1]
    return Place(name, shape, tuple(sorted(axes)))


def _axes(site: Any) -> tuple[tuple[int, str], ...]:
    """Axes of a site's value that lie in plates, with the plates' names."""
    batch = len(site["fn"].batch_shape)
    return tuple(sorted((batch + frame.dim, frame.name) for frame in site["cond_indep_stack"]))


def _compare_shapes(first: Program, other: Program, shard: Shard) -> None:
    for a, b in zip(first.global_places, other.global_places, strict=True):
        if a.shape != b.shape:
            raise GlobalSiteError(
                f"global site {a.name!r}", f"shape {b.shape} in shard {shard.shard_id!r} and {a.shape} in another",
                "one shape in all shards", "A site that grows with the shard is local: take it out of `global_sites`.",
            )  # fmt: skip


def _values(made: Program, shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    """Log prior and rest at random points, after checks of what they depend on."""
    data = {name: jnp.asarray(values) for name, values in shard.data.items()}
    mask = jnp.asarray(shard.mask)
    rng = np.random.default_rng(0)
    g = jnp.asarray(0.3 * rng.standard_normal((NUM_POINTS, made.num_globals)))
    l = jnp.asarray(0.3 * np.random.default_rng(1).standard_normal((NUM_POINTS, made.num_locals)))

    def evaluate(data: dict[str, jax.Array], l: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        pairs = [densities(made, data, mask, *point) for point in zip(g, l, strict=True)]
        return np.array([float(p) for p, _ in pairs]), np.array([float(r) for _, r in pairs])

    prior, rest = evaluate(data, l)
    if not np.allclose(evaluate(data, l + 0.1)[0], prior, rtol=CLOSE, atol=CLOSE):
        raise GlobalSiteError(
            "the prior of the global sites", "a density that changes with local sites", "globals that no local governs",
            "Sample the globals first; what depends on a local site is local itself.",
        )  # fmt: skip
    spare = np.flatnonzero(shard.mask)[-1]
    moved = {name: jnp.where(mask, values, values[spare]) for name, values in data.items()}
    other_prior, other = evaluate(moved, l)
    if not np.allclose(other_prior, prior, rtol=CLOSE, atol=CLOSE):
        raise _uses_data(shard)
    if not np.allclose(other, rest, rtol=CLOSE, atol=CLOSE):
        raise RowError(
            f"the likelihood of shard {shard.shard_id!r}", "a value that changes with the content of padding rows",
            "rows that count one by one", "Do not sum, average or rank `data` over rows inside the model; "
            "compute such columns beforehand.",
        )  # fmt: skip
    return prior, rest
