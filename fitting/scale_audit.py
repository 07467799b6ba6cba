r"""What the sites get wrong about the scales: the part of their likelihood that is no Gaussian, group by group.

A site is the same for every value of the hyperparameters psi, so the marginal that they are drawn from misses how far likelihoods are
from Gaussians where a scale says that effects may be. Exactly,

.. math:: p(\psi \mid y) \propto p(\psi \mid t)\; E_{\theta \mid \psi, t} \prod_s \frac{L_s(\theta)}{t_s(\theta)},

and the expectation is nearly the product, over the groups of a term, of expectations over the group's own effect, the other coefficients
at their mean given psi (Cseke & Heskes 2011, JMLR 12; Opper, Paquet & Winther 2013, JMLR 14). It is a sum over cells, so it is one
pass over the shards at a few points of psi; a cubic through the points reweights the draws of psi.

Approximate where terms cross: a group's own expectation is taken of the likelihood smoothed over the other effects, each linear predictor by itself;
a varying slope with two coefficients is integrated over both, one with more along one axis at a time. Of a term with more than
``MAX_GROUPS`` groups so many are looked at. Terms whose groups have data enough to be Gaussian anyway are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from fitting import scale_marginal, sites
from fitting import tree as tr
from fitting.cell_design import CellDesign
from fitting.families import Family, log_likelihood
from fitting.hierarchy import Hierarchy
from fitting.in_order import in_order
from fitting.scale_marginal import Natural
from fitting.sites import Site
from fitting.tree import Restriction

NODES = {1: 15, 2: 7}  # per coefficient of a group
MAX_GROUPS = 2000
WORTH_IT = 0.02  # posterior sds of a scale, roughly, that a term's groups could move it by
MIN_POINTS = 16
WIDTH = 1.3  # of the points of psi, in posterior sds
VALUES_AT_ONCE = 1 << 20
SMALL_VARIANCE = 1e-3
MAX_PASSES = 6
NEAR, FAR_SPREAD = 0.25, 0.7
WORTH_MORE = 0.06, 0.03  # shift and log sd of reweighted draws from which on they are integrated anew
NUM_INTEGRATION = 512
FARTHEST = 4.0


class Term(NamedTuple):
    """Groups of one term that are looked at: number of the term, their levels (n,), and how many groups each stands for."""

    number: int
    levels: np.ndarray
    factor: float


class Points(NamedTuple):
    """Points of psi (K, H), means of all coefficients there (D, K), and of each term's groups a root of their own covariance, (n, K, k, k).

    The first point is the one that the variance of the rest of a linear predictor is taken at.
    """

    psi: np.ndarray
    mean: np.ndarray
    terms: tuple[Term, ...]
    roots: tuple[np.ndarray, ...]


class PartOfTerm(NamedTuple):
    """What a shard needs of one term: places of its groups in its own numbering (n, k), roots (n, K, k, k), predictor."""

    places: np.ndarray
    roots: np.ndarray
    predictor: int


class Part(NamedTuple):
    """What a shard needs: means of its coefficients (D_s, K), and its groups of each term."""

    mean: np.ndarray
    terms: tuple[PartOfTerm, ...]


class ShardRatios(NamedTuple):
    """Log ratio at the means, (K,), and of every group at its nodes, (n, nodes, K): its cells' part, to be added up over shards."""

    at_mean: np.ndarray
    groups: tuple[np.ndarray, ...]


def terms_of(hierarchy: Hierarchy, natural: Natural, psi: np.ndarray) -> tuple[Term, ...]:
    """The terms worth a look at hyperparameters (H,): those whose groups have so few data that they are no Gaussians."""
    if hierarchy.family.has_residual_scale:
        return ()
    found = []
    precision = hierarchy.add_prior(psi, natural.precision, natural.shift)[0]
    prior = hierarchy.add_prior(psi, np.zeros_like(natural.precision), np.zeros_like(natural.shift))[0]
    diagonal = hierarchy.model.tree.diagonal
    for number, group in enumerate(hierarchy.model.groups):
        own = diagonal[group.coefficients]
        variance, share = 1.0 / precision[own], prior[own] / precision[own]
        informed = natural.precision[own] > 0
        size = 0.4 / np.sqrt(len(own)) * (variance * share * informed).sum(axis=0)  # skewness is at most about the sd
        if size.max() > WORTH_IT or not hierarchy.family.is_log_concave:
            levels = np.flatnonzero(informed.any(axis=1))
            if len(levels):
                some = levels[np.unique(np.linspace(0, len(levels) - 1, min(MAX_GROUPS, len(levels))).astype(int))]
                found.append(Term(number, some, len(levels) / len(some)))
    return tuple(found)


def num_points(hierarchy: Hierarchy, terms: Sequence[Term]) -> int:
    """Points of psi for the cubic: twice its coefficients."""
    return max(MIN_POINTS, 2 * (1 + hierarchy.size + 2 * len(_own_scales(hierarchy, terms))))


def design(hierarchy: Hierarchy, center: np.ndarray, root: np.ndarray, count: int) -> np.ndarray:
    """Quasi-random points of a Gaussian, (count, H), the first at its center."""
    from scipy.special import ndtri
    from scipy.stats import qmc  # slow to import

    size = 1 << int(np.ceil(np.log2(count)))
    uniforms = qmc.Sobol(len(center), scramble=True, rng=np.random.default_rng(0)).random(size)[:count]
    points = center + WIDTH * np.clip(ndtri(np.clip(uniforms, 1e-9, 1 - 1e-9)), -FARTHEST, FARTHEST) @ root.T
    points[0] = center
    return np.clip(points, *hierarchy.bounds)


def first_design(hierarchy: Hierarchy, terms: Sequence[Term], psi: np.ndarray) -> np.ndarray:
    """Points of psi for its draws (M, H)."""
    return design(hierarchy, psi.mean(axis=0), _root(psi, np.full(len(psi), 1.0 / len(psi))), num_points(hierarchy, terms))


def at(hierarchy: Hierarchy, natural: Natural, terms: tuple[Term, ...], psi: np.ndarray, threads: int = 1) -> Points:
    """Condition on every point of psi, (K, H)."""
    tree = hierarchy.model.tree
    places = [hierarchy.model.groups[term.number].coefficients[term.levels] for term in terms]
    entries = [tree.row_start[p][:, :, None] + tree.path_position[p][:, None, :] for p in places]

    def one(point: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        given = scale_marginal.condition(hierarchy, natural, point)
        precision = hierarchy.add_prior(point, natural.precision, natural.shift)[0]
        roots = []
        for block in entries:
            roots.append(np.linalg.cholesky(np.linalg.inv(precision[block])))
        return tr.backward(tree, given.factor, given.solved)[:, 0], roots

    results = list(in_order(one, psi, threads))
    roots = tuple(np.stack([r[1][t] for r in results], axis=1) for t in range(len(terms)))
    return Points(psi, np.stack([r[0] for r in results], axis=1), terms, roots)


def part_of(hierarchy: Hierarchy, points: Points, restriction: Restriction) -> Part:
    """What one shard needs of the points."""
    terms = []
    for term, roots, (groups, places) in zip(points.terms, points.roots, _here(hierarchy, points, restriction), strict=True):
        terms.append(PartOfTerm(places, roots[groups], hierarchy.model.groups[term.number].predictor))
    return Part(points.mean[restriction.coefficients], tuple(terms))


def _here(hierarchy: Hierarchy, points: Points, restriction: Restriction) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each term the groups that a shard may have, (n,), and their places in its numbering, (n, k)."""
    size, found = len(restriction.coefficients), []
    numbers = restriction.numbers(hierarchy.model.tree.num_coefficients).astype(np.int64)
    for term in points.terms:
        places = numbers[hierarchy.model.groups[term.number].coefficients[term.levels]]
        groups = np.flatnonzero((places < size).all(axis=1))
        found.append((groups, places[groups]))
    return found


def shard(
    tree: tr.Tree, cells: CellDesign, family: Family, site: Site, part: Part, covariance: np.ndarray
) -> ShardRatios:
    """One shard's part: log ratios at the means, and of its groups at the nodes. ``covariance`` are q's, on the shard's part."""
    variance = np.diagonal(sites.predictor_covariance(tree, cells, covariance)).T  # (P, n)
    eta = sites.linear_predictors(sites.matrices(cells, part.mean.shape[0]), part.mean)
    pull = site.shift[:, None] - tr.multiply(tree, site.precision, part.mean)
    of_site = 0.5 * np.sum(part.mean * (site.shift[:, None] + pull), axis=0)
    smooth = np.empty(eta.shape[1:])
    step = max(1, VALUES_AT_ONCE // (4 * eta.shape[2]))
    for begin in range(0, cells.num_cells, step):
        some = slice(begin, begin + step)
        smooth[some] = _smoothed(family, cells.some(some), eta[:, some], variance[:, some])
    ratios = tuple(_groups(tree, cells, family, site, term, eta, pull, smooth, variance) for term in part.terms)
    return ShardRatios(smooth.sum(axis=0) - of_site, ratios)


def _smoothed(family: Family, cells: CellDesign, eta: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Log likelihood of cells at predictors (P, n, M), averaged over a normal of this variance, (P, n), one predictor at a time."""
    value = np.asarray(log_likelihood(family, cells.statistics, eta))
    total = value.copy()
    for p in range(len(eta)):
        if variance[p].max(initial=0.0) <= SMALL_VARIANCE:
            continue
        away = np.zeros((len(eta), eta.shape[1], 1))
        away[p, :, 0] = np.sqrt(3.0 * variance[p])
        ends = [np.asarray(log_likelihood(family, cells.statistics, eta + sign * away)) for sign in (1.0, -1.0)]
        total += (ends[0] + ends[1] - 2.0 * value) / 6.0
    return total


def nodes_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal nodes (nodes, k) of a group with ``size`` coefficients and their weights; along each axis if there are many."""
    if size in NODES:
        points, weights = _gauss_hermite(NODES[size])
        grid = np.stack(np.meshgrid(*[points] * size, indexing="ij"), axis=-1).reshape(-1, size)
        return grid, np.prod(np.stack(np.meshgrid(*[weights] * size, indexing="ij")), axis=0).ravel()
    points, weights = _gauss_hermite(NODES[2])
    return np.concatenate([points[:, None] * axis for axis in np.eye(size)]), np.tile(weights, size)


def _gauss_hermite(count: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


def _groups(
    tree: tr.Tree, cells: CellDesign, family: Family, site: Site, term: PartOfTerm, eta: np.ndarray, pull: np.ndarray,
    smooth: np.ndarray, variance: np.ndarray,
) -> np.ndarray:  # fmt: skip
    num, k = term.places.shape
    nodes, _ = nodes_of(k)
    out = np.zeros((num, len(nodes), eta.shape[2]))
    if not num:
        return out
    group_of, position = np.full(len(site.shift), -1), np.zeros(len(site.shift), dtype=np.int64)
    group_of[term.places] = np.arange(num)[:, None]
    position[term.places] = np.arange(k)
    # the site's own log density along the group's effect, the others at their means
    entries = tree.row_start[term.places][:, :, None] + tree.path_position[term.places][:, None, :]
    steps = np.einsum("gmij,qj->gqmi", term.roots, nodes)
    out -= np.einsum("gqmi,gim->gqm", steps, pull[term.places])
    out += 0.5 * np.einsum("gqmi,gij,gqmj->gqm", steps, site.precision[entries], steps)
    for own in _columns(cells, group_of, position, term.predictor, k):
        rows, groups, values = own
        size = max(1, VALUES_AT_ONCE // (4 * len(nodes) * eta.shape[2]))
        for begin in range(0, len(rows), size):
            some, of = rows[begin : begin + size], groups[begin : begin + size]
            z = values[begin : begin + size]
            away = np.einsum("ni,nqmi->nqm", z, steps[of])
            at_nodes = np.repeat(eta[:, some, None, :], len(nodes), axis=2)
            at_nodes[term.predictor] += away
            first = np.einsum("ni,nij->nj", z, term.roots[of, 0])
            rest = variance[:, some].copy()
            rest[term.predictor] = np.maximum(rest[term.predictor] - np.square(first).sum(axis=1), 0.0)
            flat = at_nodes.reshape(len(eta), len(some), -1)
            ratio = _smoothed(family, cells.some(some), flat, rest).reshape(away.shape) - smooth[some, None, :]
            sums = sparse.csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape=(num, len(of)))
            out += (sums @ ratio.reshape(len(of), -1)).reshape(out.shape)
    return out


def _columns(
    cells: CellDesign, group_of: np.ndarray, position: np.ndarray, predictor: int, size: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cells, their groups and multipliers (n, k): once for all coefficients of a group, or once a membership."""
    own = [
        (place, value)
        for place, value, p in zip(cells.places, cells.values, cells.predictors, strict=True)
        if p == predictor and (group_of[place] >= 0).any()
    ]
    found = []
    for place, value in own:
        rows = np.flatnonzero(group_of[place] >= 0)
        z = np.zeros((len(rows), size))
        z[np.arange(len(rows)), position[place[rows]]] = 1.0 if value is None else value[rows]
        found.append((rows, group_of[place[rows]], z))
    if size > 1 and all(len(f[0]) == len(found[0][0]) and np.array_equal(f[1], found[0][1]) for f in found):
        return [(found[0][0], found[0][1], np.sum([f[2] for f in found], axis=0))]
    return found


def add_up(
    hierarchy: Hierarchy, points: Points, restrictions: Sequence[Restriction], reports: Sequence[ShardRatios]
) -> np.ndarray:
    """Log of the expectation at each point of psi, (K,), from what the shards on these restrictions report."""
    total = np.sum([report.at_mean for report in reports], axis=0)
    here = [_here(hierarchy, points, restriction) for restriction in restrictions]
    for t, term in enumerate(points.terms):
        size = points.roots[t].shape[-1]
        nodes, weights = nodes_of(size)
        sums = np.zeros((len(term.levels), len(nodes), len(points.psi)))
        for groups, report in zip(here, reports, strict=True):
            sums[groups[t][0]] += report.groups[t]
        for axis in np.split(np.arange(len(nodes)), 1 if size in NODES else size):
            values = sums[:, axis]
            top = values.max(axis=1, keepdims=True)
            mean = np.einsum("gqm,q->gm", np.exp(values - top), weights[axis])
            total = total + term.factor * (np.log(mean) + top[:, 0]).sum(axis=0)
    return total


# ---- from the points to moments ----


class ScaleErrors(NamedTuple):
    """Moments of every hyperparameter on its natural scale, as drawn and corrected: all (H,). ``is_covered`` (H,): its term was looked at.

    ``shift`` is corrected minus drawn mean in corrected sds, ``log_sd`` the log of the drawn sd over the corrected one.
    """

    is_covered: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    corrected_mean: np.ndarray
    corrected_sd: np.ndarray
    shift: np.ndarray
    log_sd: np.ndarray
    shift_mcse: np.ndarray
    log_sd_mcse: np.ndarray
    spread: float


Evaluate = Callable[[np.ndarray], np.ndarray]
"""The log of the expectation at points of psi, (K, H): one more pass over the shards."""


def errors(
    hierarchy: Hierarchy, natural: Natural, points: Points, log_ratio: np.ndarray, psi: np.ndarray,
    evaluate: Evaluate | None = None, threads: int = 1,
) -> ScaleErrors:  # fmt: skip
    """How far drawn hyperparameters, (M, H), are from the exact ones, by the log ratios (K,) at the points.

    Draws reweighted have too few in the tails that are missing, and so half of an error of the sd. Where there may be one, and
    ``evaluate`` is given, points follow the corrected marginal, and moments with and without the ratio are taken at the same points.
    """
    own = _own_scales(hierarchy, points.terms)
    values = hierarchy.natural(psi)
    center, root = psi.mean(axis=0), _root(psi, np.full(len(psi), 1.0 / len(psi)))
    before = np.full(len(psi), 1.0 / len(psi))
    after, spread = _weights(_cubic(points.psi, log_ratio, own, center, root)(psi))
    found = _compared(values, before, after)
    if evaluate is not None and (spread > FAR_SPREAD or _is_near_a_limit(found, own)):
        psi, before, after = _followed(hierarchy, natural, points.psi, log_ratio, own, psi, after, evaluate, threads)
        found = _compared(hierarchy.natural(psi), before, after)
    mean, sd = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-300)
    is_covered = np.zeros(hierarchy.size, dtype=bool)
    is_covered[own] = True
    new_sd = sd * np.exp(-found.log_sd)
    return ScaleErrors(is_covered, mean, sd, mean + found.shift * new_sd, new_sd, *found, spread)


class _Compared(NamedTuple):
    """As in `ScaleErrors`."""

    shift: np.ndarray
    log_sd: np.ndarray
    shift_mcse: np.ndarray
    log_sd_mcse: np.ndarray


def _compared(values: np.ndarray, before: np.ndarray, after: np.ndarray) -> _Compared:
    """What other weights, (M,), make of the moments of the same values, (M, H). Errors are those of random values."""
    old, new = before @ values, after @ values
    old_sd, new_sd = (np.sqrt(np.maximum(w @ np.square(values - m), 1e-300)) for w, m in ((before, old), (after, new)))
    unit, change = (values - new) / new_sd, np.square(after - before)
    noise_sd = 0.5 * np.sqrt(change @ np.square(np.square(unit) - 1.0))
    return _Compared((new - old) / new_sd, np.log(old_sd / new_sd), np.sqrt(change @ np.square(unit)), noise_sd)


def _is_near_a_limit(found: _Compared, own: list[int]) -> bool:
    return bool(np.max(np.abs(found.shift[own])) > WORTH_MORE[0] or np.max(np.abs(found.log_sd[own])) > WORTH_MORE[1])


def _own_scales(hierarchy: Hierarchy, terms: Sequence[Term]) -> list[int]:
    """Numbers of the hyperparameters that are sds of the terms."""
    found = []
    for term in terms:
        start = hierarchy.slices[term.number].start
        found += [start + j for j in range(len(hierarchy.model.groups[term.number].coefficient_names))]
    return found


def _cubic(
    psi: np.ndarray, log_ratio: np.ndarray, own: list[int], center: np.ndarray, root: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Least squares through the points: linear in all hyperparameters, cubic in those of the terms; constant beyond the points."""
    sd = np.maximum(np.sqrt(np.square(root).sum(axis=1)), 1e-9)
    z = (psi - center) / sd
    low, high = z.min(axis=0), z.max(axis=0)

    def basis(z: np.ndarray) -> np.ndarray:
        z = np.clip(z, low, high)
        return np.column_stack([np.ones(len(z)), z, z[:, own] ** 2, z[:, own] ** 3])

    known = np.isfinite(log_ratio)
    near = np.exp(-0.125 * np.square(z[known]).mean(axis=1))[:, None]
    design_of = basis(z[known])
    ridge = 1e-4 * np.eye(design_of.shape[1])
    ridge[0, 0] = 0.0
    left = (near * design_of).T @ design_of + ridge
    middle = np.median(log_ratio[known])
    beta = np.linalg.solve(left, (near * design_of).T @ (log_ratio[known] - middle))
    return lambda points: basis((points - center) / sd) @ beta


def _weights(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum(), float(log_weights.std())


def _root(psi: np.ndarray, weights: np.ndarray) -> np.ndarray:
    centred = psi - weights @ psi
    covariance = centred.T @ (weights[:, None] * centred)
    return np.linalg.cholesky(covariance + 1e-8 * np.eye(len(covariance)))


def _followed(
    hierarchy: Hierarchy, natural: Natural, known: np.ndarray, log_ratio: np.ndarray, own: list[int],
    psi: np.ndarray, weights: np.ndarray, evaluate: Evaluate, threads: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Points of psi, (n, H), with weights of the drawn and of the corrected marginal: new points of the ratio until it stands still."""
    center, root = weights @ psi, _root(psi, weights)
    for _ in range(MAX_PASSES):
        new = design(hierarchy, center, root, len(known) if len(known) <= 32 else 32)
        known, log_ratio = np.concatenate([known, new]), np.concatenate([log_ratio, evaluate(new)])
        z = np.linalg.solve(root, (known - center).T).T
        use = np.flatnonzero(np.abs(z).max(axis=1) < FARTHEST)
        cubic = _cubic(known[use], log_ratio[use], own, center, root)
        psi = design(hierarchy, center, root, NUM_INTEGRATION)
        standard = np.linalg.solve(root, (psi - center).T).T / WIDTH
        log_p = np.array(list(in_order(lambda p: scale_marginal.log_density(hierarchy, natural, p), psi, threads)))
        log_w = log_p + 0.5 * np.square(standard).sum(axis=1)
        weights, _ = _weights(log_w + cubic(psi))
        last, center, root = center, weights @ psi, _root(psi, weights)
        if np.max(np.abs(np.linalg.solve(root, center - last))) < NEAR:
            break
    return psi, _weights(log_w)[0], weights
