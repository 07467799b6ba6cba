"""Rounds of sites: every shard's site under the merged posterior, until the posterior stops moving.

With variational sites this is natural-gradient variational inference over all coefficients as a map-reduce (Khan & Lin
2017); with a mode it is Newton's method; with NUTS on each tilted distribution it is expectation propagation (Vehtari et
al. 2020, JMLR 21). One round is the classic one-shot merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fitting import combiner, families, scale_proposal
from fitting import hierarchy as hierarchies
from fitting.combiner import Moments
from fitting.errors import ImproperPosteriorError
from fitting.families import Family
from fitting.hierarchy import Hierarchy
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.sites import Site
from fitting.tree import Restriction, Tree

ANCHOR_SD = 0.05  # of the outcome's spread, if it is a number; of own parameters as it is
MIN_DAMPING = 1 / 16
LARGEST_STEP = 1.0  # on the log line, of an own parameter
NEAR = 0.5  # posterior sds: nearer than this the curvature of all cells together is positive
FAR = 1.0  # posterior sds: a round that moves further is not worth integrating over the scales after it
LOST_DIGITS = 1e4  # posterior sds: this far from a reference a sum of squares has lost half of its digits
STALLING = 0.9  # four rounds of which the shortest moves more than this share of the longest come no nearer
TURNING = -0.5  # cosine of two steps, in posterior sds, below which the second one goes back
LONGEST_LOG = 2.0  # step of a log mean: from far below a whole Newton step lands at the exponential of where it should
NUTS_ROUNDS = 3
NUTS_TOLERANCE = 0.05


class RoundsState(NamedTuple):
    """What the next round needs. ``moments`` are those of prior times all ``sites`` (or of the anchor, before any).

    Only where an own parameter of the likelihood moved far is their mean between the last round's and that.
    ``is_integrated``: the hyperparameters are integrated out of them, and will be from now on. ``step``: of the means in the last round,
    in posterior sds, (D,); ``along``: cosine of that with the one before.
    """

    moments: Moments
    psi: np.ndarray
    sites: tuple[Site, ...]
    move: float
    is_integrated: bool = True
    step: np.ndarray = np.empty(0)
    along: float = 1.0


class RoundInfo(NamedTuple):
    """What a person needs to judge a round: largest move of a mean, in posterior sds, where, and the damping used."""

    move: float
    where: int
    damping: float
    psi: np.ndarray


def init(hierarchy: Hierarchy) -> RoundsState:
    """The state that round 0 starts from: the anchor."""
    psi = combiner.start(hierarchy)
    return RoundsState(_anchor_on(hierarchy, hierarchy.model.tree, slice(None)), psi, (), np.inf, is_integrated=False)


def anchor(hierarchy: Hierarchy, restriction: Restriction) -> Moments:
    """The anchor on the coefficients of one shard, without the covariances of all others."""
    return _anchor_on(hierarchy, restriction.tree, restriction.coefficients)


def _anchor_on(hierarchy: Hierarchy, tree: Tree, coefficients: np.ndarray | slice) -> Moments:
    """The overall outcome at the intercepts and own parameters, zero elsewhere, narrow."""
    mean = np.zeros(hierarchy.model.tree.num_coefficients)
    first = families.start(hierarchy.family, hierarchy.model.coding.outcome)
    constant = hierarchies.constant_of(hierarchy.model)
    for block in hierarchy.model.fixed:
        if block.is_intercept or block.is_own or block is constant:
            mean[block.coefficients] = first[block.predictor]
    sd = np.full(len(mean), ANCHOR_SD * min(1.0, hierarchy.spread))  # outliers may have made the spread large
    sd[[place for block in hierarchy.model.fixed if block.is_own for place in block.coefficients]] = ANCHOR_SD
    covariance = np.zeros(tree.num_entries)
    covariance[tree.diagonal] = sd[coefficients] ** 2
    return Moments(mean[coefficients], covariance)


def moments_for(hierarchy: Hierarchy, state: RoundsState, restrictions: Sequence[Restriction], method: str) -> Moments:
    """What a round fits its sites under: the posterior, hyperparameters integrated out; for NUTS given their mode.

    With hyperparameters integrated out the Gaussian that matches the posterior can be wider than a site, so that dividing
    the site out leaves no distribution (always so with one shard and weak scales). Given hyperparameters the cavity is
    prior times the other sites, and proper.
    """
    if method != "nuts":
        return state.moments
    natural = combiner.product(hierarchy.model.tree, list(zip(restrictions, state.sites, strict=True)))
    return combiner.conditional_moments(hierarchy, natural, state.psi)


def part_of(moments: Moments, restriction: Restriction) -> Moments:
    """Moments on the coefficients of one shard: what its worker is given."""
    return Moments(moments.mean[restriction.coefficients], moments.covariance[restriction.entries])


def merge(
    hierarchy: Hierarchy, restrictions: Sequence[Restriction], sites: Sequence[Site], psi: np.ndarray, threads: int = 1
) -> tuple[Natural, Proposal, Moments]:
    """Product of the sites, the proposal for psi, and the posterior's moments."""
    natural = combiner.product(hierarchy.model.tree, list(zip(restrictions, sites, strict=True)))
    proposal = scale_proposal.propose(hierarchy, natural, psi, threads)
    return natural, proposal, combiner.moments(hierarchy, natural, proposal, threads=threads)


def step(
    hierarchy: Hierarchy,
    state: RoundsState,
    restrictions: Sequence[Restriction],
    new_sites: Sequence[Site],
    *,
    damping: float = 1.0,
    threads: int = 1,
) -> tuple[RoundsState, RoundInfo]:
    """Move every site towards its new value and merge. The first round is never damped.

    Where the whole step leaves no distribution, which can happen if the likelihood is not log-concave, it is halved.
    """
    damping = damping if state.sites else 1.0
    while True:
        sites = tuple(new_sites)
        if state.sites:
            sites = tuple(blend(old, new, damping) for old, new in zip(state.sites, new_sites, strict=True))
        try:
            mode, moments, is_integrated = _merge_for_next(hierarchy, restrictions, sites, state, threads)
            break
        except ImproperPosteriorError:
            if not state.sites or hierarchy.family.is_log_concave or damping <= MIN_DAMPING:
                raise
            damping /= 2
    steps = _steps(hierarchy, state.moments, moments)
    where = int(np.argmax(np.abs(steps)))
    info = RoundInfo(float(np.abs(steps[where])), where, damping, mode)
    reached = _within_reach(hierarchy, state.moments, moments)
    return RoundsState(reached, mode, sites, info.move, is_integrated, steps, _cosine(state.step, steps)), info


def _cosine(before: np.ndarray, after: np.ndarray) -> float:
    """Of two steps; 1 where there is no other to compare with."""
    length = float(np.linalg.norm(before) * np.linalg.norm(after)) if len(before) else 0.0
    return float(before @ after) / length if length > 0 else 1.0


def _merge_for_next(
    hierarchy: Hierarchy, restrictions: Sequence[Restriction], sites: Sequence[Site], state: RoundsState, threads: int
) -> tuple[np.ndarray, Moments, bool]:
    """Mode of psi, what the next round fits under, and whether psi is integrated out of that.

    It is not, but given at its mode, while each round moves the means far and less far than the one before. Both can be more than
    ``FAR`` apart, so there is no way back: rounds would go to and fro.
    """
    natural = combiner.product(hierarchy.model.tree, list(zip(restrictions, sites, strict=True)))
    mode = scale_proposal.find_mode(hierarchy, natural, state.psi)
    if not state.is_integrated:
        moments = combiner.conditional_moments(hierarchy, natural, mode)
        if FAR < np.abs(_steps(hierarchy, state.moments, moments)).max() < state.move:
            return mode, moments, False
    proposal = scale_proposal.around(hierarchy, natural, mode, threads)
    return mode, combiner.moments(hierarchy, natural, proposal, threads=threads), True


def _steps(hierarchy: Hierarchy, before: Moments, after: Moments) -> np.ndarray:
    """How far every mean moved, in posterior sds, shape (D,)."""
    steps = (after.mean - before.mean) / np.sqrt(after.covariance[hierarchy.model.tree.diagonal])
    steps[hierarchy.model.is_padding] = 0.0
    return np.asarray(steps)


def _within_reach(hierarchy: Hierarchy, before: Moments, after: Moments) -> Moments:
    """The new moments, their mean no further away than ``LARGEST_STEP`` in any own parameter of the likelihood, ``LONGEST_LOG`` in a log mean.

    From far away a Newton step in a log dispersion can land where the likelihood has no digits left, and one in a log rate at rates of e^20.
    """
    step = after.mean - before.mean
    longest = 1.0
    for block in hierarchy.model.fixed:
        limit = LARGEST_STEP if block.is_own else LONGEST_LOG if hierarchy.family.link == "log" else np.inf
        longest = max(longest, float(np.abs(step[block.coefficients]).max(initial=0.0)) / limit)
    return after if longest == 1.0 else after._replace(mean=before.mean + step / longest)


class Schedule(NamedTuple):
    """Which rounds a method runs, for a family."""

    method: str
    max_rounds: int
    tolerance: float
    damping: float
    family: Family


class Round(NamedTuple):
    """How a round fits its sites (``vi``, ``laplace`` or ``nuts``), its damping, and, once it is over, its move and ``RoundsState.along``.

    ``convex``: with positive curvatures only, towards the posterior of a likelihood that is not log-concave.
    """

    method: str
    damping: float
    move: float = np.inf
    convex: bool = False
    along: float = 1.0


def next_round(schedule: Schedule, history: Sequence[Round]) -> Round | None:
    """The round to run after those in ``history``; None when the posterior has stopped moving or rounds are used up.

    A round that moved further than the one before halves the step of the next, and so do four that hardly come nearer and of which the last
    went back where the one before came from (to and fro; slow progress in one direction is left alone). Where the likelihood is not log-concave
    rounds are convex until one has moved less than ``NEAR``. NUTS starts where variational rounds have settled, so that
    every shard has a cavity, and runs a few rounds, which move the means by little but noise.
    """
    base = "laplace" if schedule.method == "laplace" else "vi"
    exact_sites, has_modes = schedule.family.has_residual_scale, not schedule.family.is_log_concave
    if not history:
        return Round(base, schedule.damping, convex=has_modes)
    last, sampled = history[-1], [r for r in history if r.method == "nuts"]
    if sampled:
        settled = last.move < NUTS_TOLERANCE or len(sampled) == NUTS_ROUNDS
        return None if settled else Round("nuts", schedule.damping)
    if exact_sites and len(history) == 1 and last.move > LOST_DIGITS:
        return Round(base, schedule.damping)  # about where the first one ended
    damped = min(1.0, last.damping / schedule.damping)  # a round of half a step moves half as far
    unsettled = last.move >= schedule.tolerance * damped or last.convex
    if unsettled and not exact_sites and len(history) < schedule.max_rounds:
        diverging = len(history) > 1 and last.move > 1.0 and last.move > history[-2].move
        moves = [r.move for r in history[-4:]]
        stalls = len(moves) == 4 and all(r.damping == last.damping for r in history[-4:]) and min(moves) > STALLING * max(moves)
        to_and_fro = stalls and last.along < TURNING
        damping = max(last.damping / 2, MIN_DAMPING) if diverging or to_and_fro else last.damping
        return Round(base, damping, convex=has_modes and last.move > NEAR)
    return Round("nuts", schedule.damping) if schedule.method == "nuts" and not exact_sites else None


def blend(old: Site, new: Site, damping: float) -> Site:
    """``old^(1 - damping) * new^damping``, in natural parameters."""
    if damping == 1.0 or new is old or len(new.reference):
        return new  # a Gaussian likelihood is its site: there is nothing to damp
    return Site(*((1 - damping) * a + damping * b for a, b in zip(old, new, strict=True)))
