r"""Sites in, posterior out: the product of all sites under the exact hierarchical prior.

Given the hyperparameters psi the coefficients are one tree Gaussian, so they integrate out in closed form,

.. math:: p(\psi \mid t) \propto p(\psi)\, |Q_\psi|^{1/2}\, |Q_\psi + \Lambda|^{-1/2}
          \exp\{\tfrac12 h_\psi'(Q_\psi + \Lambda)^{-1} h_\psi\},

with :math:`\Lambda` the sites' precision, Q the prior's and h both shifts (Rasmussen & Williams 2006, ch. 5; the
marginal that INLA explores). psi is drawn from this marginal by importance resampling (Rubin 1988) of independent proposals, whose
density starts from a split Student t around the mode (axes as in Rue, Martino & Chopin 2009, sec. 6.5) and learns the shape
(`fitting.scale_sampler`), and each draw of the coefficients given psi is exact and independent. No funnel, no step size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fitting import mixing, sandwich, scale_hmc, scale_marginal, scale_proposal
from fitting import tree as tr
from fitting.errors import ImproperPosteriorError
from fitting.hierarchy import Hierarchy
from fitting.in_order import in_order
from fitting.scale_hmc import Point
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.scale_source import MANY_HYPERPARAMETERS, Source
from fitting.sites import Site, about
from fitting.tree import Restriction, Tree

CHAIN_POINTS = 100
MAX_IMPOSSIBLE = 200  # proposals of psi of which none is possible, after which there is no distribution


class Moments(NamedTuple):
    """Mean (D,) and path covariances (E,) of the coefficients, psi integrated out."""

    mean: np.ndarray
    covariance: np.ndarray


class Draws(NamedTuple):
    """``theta`` (chain, draw, D), ``psi`` (chain, draw, H), and the share of proposals accepted per chain."""

    theta: np.ndarray
    psi: np.ndarray
    acceptance: np.ndarray


class DrawsMatrix(Protocol):
    """Draws of coefficients, (M, D): an array, or what gives arrays when it is sliced, such as draws in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, D)."""

    def __getitem__(self, key: Any, /) -> np.ndarray:
        """``matrix[draws, coefficients]``."""


def product(tree: Tree, sites: Sequence[tuple[Restriction, Site]]) -> Natural:
    """Multiply sites: their natural parameters add up, in the given order, about the reference of the last ones.

    Raises
    ------
    ImproperPosteriorError
        A site holds something that is not a finite number.
    """
    precision, shift, constants = np.zeros(tree.num_entries), np.zeros(tree.num_coefficients), np.zeros(2)
    reference = np.zeros(tree.num_coefficients if any(len(site.reference) for _, site in sites) else 0)
    for restriction, site in sites if len(reference) else ():
        if len(site.reference):
            reference[restriction.coefficients] = site.reference
    for number, (restriction, site) in enumerate(sites):
        if not all(np.isfinite(part).all() for part in site):
            raise ImproperPosteriorError(f"site of shard number {number}", float("nan"))
        if len(reference):
            site = about(restriction.tree, site, reference[restriction.coefficients])
        precision[restriction.entries] += site.precision
        shift[restriction.coefficients] += site.shift
        constants += site.constants
    return Natural(precision, shift, constants, reference)


def start(hierarchy: Hierarchy, known: Mapping[str, float] | None = None) -> np.ndarray:
    """A first guess of psi: sds of 0.3 of their unit, no correlation; ``known`` ones, by name, as they are."""
    psi = hierarchy.origin.copy()
    for group, part in zip(hierarchy.model.groups, hierarchy.slices, strict=True):
        psi[part.start : part.start + len(group.coefficient_names)] += np.log(0.3)
    if hierarchy.shrinkage is not None:
        psi[hierarchy.shrinkage_slice] = hierarchy.shrinkage.start()
    return np.array([(known or {}).get(name, value) for name, value in zip(hierarchy.names(), psi.tolist(), strict=True)])


def conditional_moments(hierarchy: Hierarchy, sites: Natural, psi: np.ndarray) -> Moments:
    """Moments of the coefficients given hyperparameters, shape (H,)."""
    tree = hierarchy.model.tree
    given = scale_marginal.condition(hierarchy, sites, psi)
    return Moments(scale_marginal.coefficients(tree, given)[:, 0], tr.covariance(tree, given.factor))


def moments(
    hierarchy: Hierarchy, sites: Natural, proposal: Proposal, *, num_points: int = 32, threads: int = 1,
    points_of: Natural | None = None,
) -> Moments:  # fmt: skip
    """Moments of the coefficients with psi integrated out by quasi-random importance sampling (Sobol points, no noise).

    With many hyperparameters the points are a Hamiltonian chain's, always the same, of equal weight. With ``points_of`` the chain is
    that of other sites, and its points are weighted: moments of two products then differ by the sites, not by their chains.
    """
    tree = hierarchy.model.tree

    def at(psi: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        given = scale_marginal.condition(hierarchy, sites, psi)
        mean = scale_marginal.coefficients(tree, given)[:, 0]
        return given.log_density, mean, tr.covariance(tree, given.factor)

    if hierarchy.size == 0:
        try:
            return Moments(*at(np.zeros(0))[1:])
        except np.linalg.LinAlgError:
            raise ImproperPosteriorError("product of all sites and the prior", float("nan")) from None
    from scipy.stats import qmc  # slow to import

    if hierarchy.size > MANY_HYPERPARAMETERS:
        num_points = CHAIN_POINTS
        drawn_from = sites if points_of is None else points_of
        in_turn = _hamiltonian(hierarchy, drawn_from, proposal, np.random.default_rng(0), num_points)
        points = np.stack([point.position for point in in_turn])
        log_q = np.array([scale_marginal.log_density(hierarchy, drawn_from, psi) for psi in points])  # equal weights for these
    else:
        uniforms = qmc.Sobol(hierarchy.size, scramble=True, rng=np.random.default_rng(0)).random(num_points)
        points, log_q = scale_proposal.sample(proposal, uniforms)
    log_w, means = np.full(num_points, -np.inf), []
    highest, covariance = -np.inf, np.zeros(tree.num_entries)
    results = in_order(lambda i: _or_none(hierarchy, at, points[i]), range(num_points), threads)
    for i, result in enumerate(results):  # covariances are large: each is added in, and let go
        if result is None or not np.isfinite(result[0] - log_q[i]):
            continue
        log_w[i] = result[0] - log_q[i]
        if log_w[i] > highest:
            covariance *= np.exp(highest - log_w[i])
            highest = log_w[i]
        of_point = result[2]
        of_point *= np.exp(log_w[i] - highest)
        covariance += of_point
        means.append(result[1])
    if not means:
        raise ImproperPosteriorError("product of all sites and the prior", float("nan"))
    weights = np.exp(log_w[np.isfinite(log_w)] - highest)
    covariance /= weights.sum()
    weights /= weights.sum()
    between = np.stack(means, axis=1)
    mean = between @ weights
    between -= mean[:, None]
    between *= np.sqrt(weights)
    return Moments(mean, covariance + tr.outer(tree, between))


def _or_none(hierarchy: Hierarchy, fn: Callable[[np.ndarray], Any], psi: np.ndarray) -> Any:
    try:
        return fn(psi) if scale_marginal.is_within(hierarchy, psi) else None
    except np.linalg.LinAlgError:
        return None


def draw(
    hierarchy: Hierarchy,
    sites: Natural,
    proposal: Proposal,
    *,
    num_draws: int,
    num_chains: int,
    seed: int,
    threads: int = 1,
    warmup: int = 20,
    score_variance: np.ndarray | None = None,
    min_ess: float = 0.0,
) -> Draws:
    """Draw from the merged posterior, all draws at once in memory; :func:`draw_in_turn` explains the arguments.

    ``min_ess``: passes of draws, each better than the one before, until every hyperparameter has this bulk and tail ESS.
    """
    theta = np.empty((num_chains, num_draws, hierarchy.model.tree.num_coefficients))
    kept = np.empty((num_chains, num_draws, hierarchy.size))
    moved = np.empty((num_chains, num_draws), dtype=bool)
    source = Source(hierarchy, sites, proposal, num_draws=num_draws, num_chains=num_chains, seed=seed, threads=threads)
    options: dict[str, Any] = {"threads": threads, "warmup": warmup, "score_variance": score_variance}
    for chain, number, one in draw_until(hierarchy, sites, source, min_ess=min_ess, **options):
        theta[chain, number], kept[chain, number], moved[chain, number] = one
    return Draws(theta, kept, np.array([share_moved(row) for row in moved]))


def draw_until(
    hierarchy: Hierarchy, sites: Natural, source: Source, *, min_ess: float, say: Callable[[str], None] | None = None, **options: Any
) -> Iterator[tuple[int, int, OneDraw]]:
    """Yield the draws of every chain, with the numbers of chain and draw; of one that comes again the last is the draw.

    They come again, at most as often as the source can be improved, until every hyperparameter has this bulk and tail ESS.
    """
    scale_proposal.check_residual(hierarchy, source.mode)
    psi = np.empty((source.num_chains, source.num_draws, hierarchy.size))
    while True:
        for chain in range(source.num_chains):
            for number, one in enumerate(draw_in_turn(hierarchy, sites, source, chain=chain, **options)):
                psi[chain, number] = one.psi
                yield chain, number, one
        if not min_ess or not is_too_few(hierarchy, psi, min_ess):
            return
        if not source.improve(lambda found: not is_too_few(hierarchy, found, min_ess)):
            return
        if say is not None:
            say("a scale was drawn too seldom: drawn again, from a better proposal")


def is_too_few(hierarchy: Hierarchy, psi: np.ndarray, min_ess: float) -> bool:
    """Whether draws of psi, (chain, draw, H), miss ``min_ess`` although as many independent ones would have it."""
    return bool(hierarchy.size) and mixing.can_do_better(mixed(hierarchy, psi), min_ess, psi.shape[0] * psi.shape[1])


def mixed(hierarchy: Hierarchy, psi: np.ndarray) -> mixing.Mixing:
    """Effective sizes and R-hat of draws of psi, (chain, draw, H), on their natural scale."""
    return mixing.of(hierarchy.natural(psi.reshape(-1, hierarchy.size)).reshape(psi.shape))


def share_moved(moved: np.ndarray) -> float:
    """Share of the draws after a chain's first, shape (draw,), whose hyperparameters are new; 1 where there is no other."""
    return float(moved[1:].mean()) if len(moved) > 1 else 1.0


class OneDraw(NamedTuple):
    """``theta`` (D,), ``psi`` (H,), and whether psi is new or that of the draw before."""

    theta: np.ndarray
    psi: np.ndarray
    moved: bool


def draw_in_turn(
    hierarchy: Hierarchy,
    sites: Natural,
    source: Source,
    *,
    chain: int,
    threads: int = 1,
    warmup: int = 20,
    score_variance: np.ndarray | None = None,
) -> Iterator[OneDraw]:
    """Yield the draws of one chain from the merged posterior; no more of them are held than a few for each thread.

    A proposal of psi is kept as often as its weight says: ``floor(w / mean + u)`` times for a uniform u, which is its weight on
    average. The coefficients are drawn anew each time. The source is told the densities that were looked up.

    Parameters
    ----------
    chain
        Chain c uses the stream ``(seed, c)`` whatever the number of threads.
    warmup
        Proposals that the mean weight is taken from.
    score_variance
        Of all shards, shape (E,): draws then have the corrected spread of `fitting.sandwich`. Scales are drawn as without.

    Raises
    ------
    ImproperPosteriorError
        No proposal gives a distribution.
    """
    rng, num_draws = np.random.default_rng([source.seed, chain]), source.num_draws
    if hierarchy.size > MANY_HYPERPARAMETERS:
        assert isinstance(source.proposal, Proposal), "paths learn nothing beyond its axes"
        for point in _hamiltonian(hierarchy, sites, source.proposal, rng, num_draws, source.thinning):
            one = _draw_given(hierarchy, sites, point.position, int(rng.integers(0, 2**63)), score_variance, lambda _: 1)[1]
            yield OneDraw(one[0], point.position, point.moved)
        return
    if source.chosen is not None:
        points, copies = source.chosen[chain]
        seeds = rng.integers(0, 2**63, size=len(points))
        made = in_order(
            lambda i: _draw_given(hierarchy, sites, points[i], seeds[i], score_variance, lambda _: copies[i])[1], range(len(points)), threads
        )
        for psi, thetas in zip(points, made, strict=True):
            yield from (OneDraw(theta, psi, copy == 0) for copy, theta in enumerate(thetas))
        return
    least, found, tried = -np.inf, 0, 0
    while found < num_draws:
        count = num_draws if np.isfinite(least) else warmup
        points, log_q = source.sample(rng, count)
        seeds, uniforms = rng.integers(0, 2**63, size=count), rng.random(count)

        def attempt(i: int, points=points, log_q=log_q, seeds=seeds, uniforms=uniforms, least=least) -> tuple[float, np.ndarray] | None:
            def copies(log_p: float) -> int:
                weight = np.exp(min(log_p - log_q[i] - least, np.log(num_draws))) if np.isfinite(least) else 0.0
                return int(weight + uniforms[i]) if np.isfinite(weight) and np.isfinite(least) else 0

            return _or_none(hierarchy, lambda psi: _draw_given(hierarchy, sites, psi, seeds[i], score_variance, copies), points[i])

        log_density = np.full(count, -np.inf)
        for i, result in enumerate(in_order(attempt, range(count), threads)):
            if result is None:
                continue
            log_density[i] = result[0]
            for copy, theta in enumerate(result[1][: num_draws - found]):
                yield OneDraw(theta, points[i], copy == 0)
            found = min(found + len(result[1]), num_draws)
            if found == num_draws:
                source.note(chain, points[: i + 1], log_density[: i + 1])
                return
        tried += count
        source.note(chain, points, log_density)
        log_w = log_density - log_q
        if not np.isfinite(log_w).any() and tried >= MAX_IMPOSSIBLE:
            raise ImproperPosteriorError("product of all sites and the prior", float("nan"))
        if not np.isfinite(least) and np.isfinite(log_w).any():
            top = log_w.max()
            least = float(top + np.log(np.mean(np.exp(log_w - top))))


def _hamiltonian(
    hierarchy: Hierarchy, sites: Natural, proposal: Proposal, rng: np.random.Generator, num_draws: int, thinning: int = 1
) -> Iterator[Point]:
    def target(psi: np.ndarray) -> tuple[float, np.ndarray]:
        if not scale_marginal.is_within(hierarchy, psi):
            return -np.inf, psi
        return scale_marginal.value_and_gradient(hierarchy, sites, psi)

    axes = proposal.axes * proposal.widths.mean(axis=0)
    return scale_hmc.draw(target, proposal.mode, axes, rng, num_draws, thinning=thinning)


def _draw_given(
    hierarchy: Hierarchy, sites: Natural, psi: np.ndarray, seed: int, score_variance: np.ndarray | None,
    copies: Callable[[float], int],
) -> tuple[float, np.ndarray]:  # fmt: skip
    """Log density of psi, and draws of the coefficients given it, as many as ``copies`` of the log density says: (n, D)."""
    tree = hierarchy.model.tree
    given = scale_marginal.condition(hierarchy, sites, psi)
    count = copies(given.log_density)
    if not count:
        return given.log_density, np.zeros((0, tree.num_coefficients))
    noise = np.random.default_rng(seed).standard_normal((count, tree.num_coefficients)).T
    if score_variance is not None:
        scores, _, _ = hierarchy.add_prior(psi, score_variance, np.zeros(tree.num_coefficients))
        noise = tr.forward(tree, given.factor, sandwich.noise(tree, scores, tr.cholesky(tree, scores), noise))
    return given.log_density, scale_marginal.coefficients(tree, given, noise).T
