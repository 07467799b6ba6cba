"""What hyperparameters are drawn from, and all that was learned of their marginal on the way.

The first draws come straight from independent proposals. Where these fall short, every density that was looked up for them teaches a
better proposal, more points come from that, and the draws are chosen among all points so far, weighted by the mixture of all
proposals (Owen & Zhou 2000, JASA 95; its normalising constants as in Shirts & Chodera 2008, J. Chem. Phys. 129).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from fitting import scale_marginal, scale_proposal, scale_sampler
from fitting.hierarchy import Hierarchy
from fitting.in_order import in_order
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.scale_sampler import Learned

MANY_HYPERPARAMETERS = 12  # with more of them an independence sampler hardly accepts: Hamiltonian paths instead
BATCHES = 4  # of points for each draw at most, and so long are paths at most, in doublings
MAX_SWEEPS = 50  # for the normalising constants


class LookedUp(NamedTuple):
    """Points (n, H) of one chain from proposal number ``source``, and the log density of the marginal at them, (n,)."""

    source: int
    chain: int
    points: np.ndarray
    log_density: np.ndarray


class Chosen(NamedTuple):
    """Points (n, H) of one chain, and how many draws each of them has, (n,): at least one, as many as the chain has in all."""

    points: np.ndarray
    copies: np.ndarray


class Source:
    """Independent proposals for psi of known density; better ones, and draws chosen among all points, where they fall short.

    Learns before the first draw, unless the draws are fewer than the pilots it learns from. With many hyperparameters nothing is
    learned: Hamiltonian paths become longer.

    Parameters
    ----------
    num_draws
        Of each chain. Chain c uses the streams ``(seed, c, ...)``.

    Attributes
    ----------
    proposal
        Where draws start from, or what was learned from it.
    mode
        Of the marginal, (H,).
    thinning
        Steps of a Hamiltonian path for each draw, in units of the usual.
    chosen
        What the draws of each chain are made for, once the first fell short; else None.
    """

    def __init__(
        self, hierarchy: Hierarchy, sites: Natural, proposal: Proposal, *, num_draws: int, num_chains: int = 1, seed: int = 0,
        threads: int = 1,
    ):  # fmt: skip
        self.proposal: Proposal | Learned = proposal
        self.mode = proposal.mode
        self.num_draws, self.num_chains, self.seed = num_draws, num_chains, seed
        self.thinning = 1
        self.chosen: list[Chosen] | None = None
        self._model = hierarchy, sites, threads
        self._used: list[Proposal | Learned] = []
        self._looked_up: list[LookedUp] = []
        self._can_learn = 0 < hierarchy.size <= MANY_HYPERPARAMETERS
        if self._can_learn and num_draws * num_chains > 2 * scale_sampler.num_pilots(hierarchy.size):
            self.proposal = scale_sampler.learn(hierarchy, sites, proposal, threads)

    def sample(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Points, (count, H), and their log densities up to one constant, (count,)."""
        if isinstance(self.proposal, Learned):
            return scale_sampler.sample(self.proposal, rng, count)
        return scale_proposal.sample(self.proposal, rng.random((count, len(self.proposal.mode))))

    def note(self, chain: int, points: np.ndarray, log_density: np.ndarray) -> None:
        """Keep what was looked up at points from the present proposal; minus infinity where there is no density."""
        if not self._used or self._used[-1] is not self.proposal:
            self._used.append(self.proposal)
        self._looked_up.append(LookedUp(len(self._used) - 1, chain, points, log_density))

    def improve(self, is_enough: Callable[[np.ndarray], bool]) -> bool:
        """Prepare better draws than the last ones, until ``is_enough`` of psi, (chain, draw, H); False if nothing better can be had."""
        hierarchy, _, _ = self._model
        if not self._can_learn:
            self.thinning *= 2
            return hierarchy.size > 0 and self.thinning < 2**BATCHES
        if self.chosen is not None:
            return False
        for batch in range(1, BATCHES):
            self._learn_more()
            streams = [np.random.default_rng([self.seed, chain, batch]) for chain in range(self.num_chains)]
            for chain, rng in enumerate(streams):
                points, _ = self.sample(rng, self.num_draws)
                self.note(chain, points, self._log_densities(points))
            self.chosen = self._choose(streams)
            if is_enough(np.stack([np.repeat(points, copies, axis=0) for points, copies in self.chosen])):
                break
        return True

    def _log_densities(self, points: np.ndarray) -> np.ndarray:
        hierarchy, sites, threads = self._model
        return np.array(list(in_order(lambda psi: scale_marginal.log_density(hierarchy, sites, psi), points, threads)))

    def _learn_more(self) -> None:
        hierarchy, sites, threads = self._model
        if not isinstance(self.proposal, Learned):
            self.proposal = scale_sampler.learn(hierarchy, sites, self.proposal, threads)
        last = [found for found in self._looked_up if found.source == len(self._used) - 1]
        points = np.concatenate([found.points for found in last])
        self.proposal = scale_sampler.learn_more(
            self.proposal, points, np.concatenate([found.log_density for found in last])
        )

    def _choose(self, streams: list[np.random.Generator]) -> list[Chosen]:
        """Systematic resampling of each chain's own points, in random order."""
        log_w, chosen = self._log_weights(), []
        chains = np.concatenate([np.full(len(found.points), found.chain) for found in self._looked_up])
        points = np.concatenate([found.points for found in self._looked_up])
        for chain, rng in enumerate(streams):
            own = rng.permutation(np.flatnonzero(chains == chain))
            ends = np.cumsum(np.exp(log_w[own] - log_w[own].max()))
            copies = np.diff(np.floor(ends / ends[-1] * self.num_draws + rng.random()).astype(int), prepend=0)
            chosen.append(Chosen(points[own[copies > 0]], copies[copies > 0]))
        return chosen

    def _log_weights(self) -> np.ndarray:
        """Of all points over the mixture of the proposals that they come from, (P,)."""
        points = np.concatenate([found.points for found in self._looked_up])
        log_q = np.array([_log_density(proposal, points) for proposal in self._used])
        sources = np.concatenate([np.full(len(found.points), found.source) for found in self._looked_up])
        log_counts = np.log(np.bincount(sources, minlength=len(self._used)))
        constants = np.zeros(len(self._used))
        for _ in range(MAX_SWEEPS):
            mixture = logsumexp((log_counts - constants)[:, None] + log_q, axis=0)
            before, constants = constants, logsumexp(log_q - mixture, axis=1)
            if np.abs(constants - before).max() < 1e-6:
                break
        log_density = np.concatenate([found.log_density for found in self._looked_up])
        return np.asarray(log_density - logsumexp((log_counts - constants)[:, None] + log_q, axis=0))


def _log_density(proposal: Proposal | Learned, points: np.ndarray) -> np.ndarray:
    if isinstance(proposal, Learned):
        return scale_sampler.log_density(proposal, points)
    return scale_proposal.log_density(proposal, np.linalg.solve(proposal.axes, (points - proposal.mode).T).T)
