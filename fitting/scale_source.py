"""What hyperparameters are drawn from, pass after pass: each pass of draws that falls short teaches the next."""

from __future__ import annotations

import numpy as np

from fitting import scale_proposal, scale_sampler
from fitting.hierarchy import Hierarchy
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.scale_sampler import Learned

MANY_HYPERPARAMETERS = 12  # with more of them an independence sampler hardly accepts: Hamiltonian paths instead
PASSES = 4


class Source:
    """Independent proposals for psi of known density, and how many of them there are for each draw.

    Learns before the first draw, unless the draws are fewer than the pilots it learns from. Learns again, from every density that was
    looked up for a draw, when these are not enough; from the third pass on there are more proposals for each draw as well. With many
    hyperparameters nothing is learned: a pass has longer Hamiltonian paths than the one before.

    Attributes
    ----------
    proposal
        Where draws start from, or what was learned from it.
    thinning
        Proposals for each draw.
    """

    def __init__(self, hierarchy: Hierarchy, sites: Natural, proposal: Proposal, num_draws: int, threads: int = 1):
        self.proposal: Proposal | Learned = proposal
        self.thinning = 1
        self._passes = 1
        self._can_learn = 0 < hierarchy.size <= MANY_HYPERPARAMETERS
        self._looked_up: list[tuple[np.ndarray, np.ndarray]] = []
        self._model = hierarchy, sites, threads
        if self._can_learn and num_draws > 2 * scale_sampler.num_pilots(hierarchy.size):
            self._learn()

    def sample(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Points, (count, H), and their log densities up to one constant, (count,)."""
        if isinstance(self.proposal, Learned):
            return scale_sampler.sample(self.proposal, rng, count)
        return scale_proposal.sample(self.proposal, rng.random((count, len(self.proposal.mode))))

    def note(self, points: np.ndarray, log_density: np.ndarray) -> None:
        """Keep log densities of the marginal, (N,), at points (N, H), to learn from; minus infinity where it is none."""
        self._looked_up.append((points, log_density))

    def improve(self) -> bool:
        """Make the next pass better than the one before; False where all passes are used up."""
        if self._passes == PASSES:
            return False
        if not self._can_learn or self._passes > 1:
            self.thinning *= 2
        self._passes += 1
        if self._can_learn:
            self._learn()
        return True

    def _learn(self) -> None:
        hierarchy, sites, threads = self._model
        if not isinstance(self.proposal, Learned):
            self.proposal = scale_sampler.learn(hierarchy, sites, self.proposal, threads)
        if self._looked_up:
            points, log_density = (np.concatenate(parts) for parts in zip(*self._looked_up, strict=True))
            self.proposal = scale_sampler.learn_more(self.proposal, points, log_density)
            self._looked_up = []
