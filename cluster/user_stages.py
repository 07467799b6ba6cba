"""Fit, merge and audit of a user's model over the shards of a run. The mathematics is in ``fitting.user_*``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from cluster import compile_cache, user_code, user_site_files, user_tasks
from cluster.execution import Executor
from cluster.progress import Progress
from cluster.threads import one_blas_thread
from cluster.user_config import UserNUTSConfig, UserRunConfig
from cluster.user_tasks import UserLastTask, UserModelRef, UserSiteTask
from fitting import user_checks, user_combiner, user_draws, user_in_memory, user_rounds
from fitting import user_gaussian as gaussian
from fitting.user_combiner import Prior, Sampling
from fitting.user_gaussian import Gaussian, Moments
from fitting.user_locals import LastPass
from fitting.user_rounds import RoundsState, Schedule
from fitting.user_tilted import NUTS, VI, SiteFit
from reporting import posterior, summary, tables
from sharding import storage, store

ROUNDS_FILE = "sites/rounds.json"
POSTERIOR, SUMMARY, AUDIT = "posterior.nc", "summary.parquet", "audit.json"
COORDINATE = "coordinate"


@dataclass(frozen=True)
class UserWork:
    """A run at work: its model, its shards in the order of the manifest, its prior, and where tasks go."""

    config: UserRunConfig
    directory: str
    executor: Executor
    progress: Progress
    ref: UserModelRef
    entries: tuple[dict[str, Any], ...]
    prior: Prior

    @property
    def method(self) -> NUTS | VI:
        """How shards are fitted."""
        fit = self.config.fit
        if isinstance(fit, UserNUTSConfig):
            return NUTS(fit.shard_warmup, fit.shard_draws, fit.shard_chains)
        return VI(fit.guide, fit.steps, fit.particles)

    @property
    def sampling(self) -> Sampling:
        """Draws of every merge."""
        return Sampling(self.config.fit.draws, self.config.fit.chains)

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.run.seed

    def fit_sites(self, number: int, under: Moments, sites: Sequence[Gaussian]) -> list[SiteFit]:
        """One round's tasks; sites that are there with their key are not fitted again."""

        def items() -> Iterable[UserSiteTask]:
            for s in self.longest_first():
                entry = self.entries[s]
                depends_on = {
                    "shard": entry["sha256"], "model": self.ref.sha256, "levels": self.ref.levels, "round": number,
                    "place": s, "seed": self.seed, "method": [type(self.method).__name__, *self.method],
                    "posterior": _digest(under), "site": _digest(sites[s]),
                }  # fmt: skip
                key = storage.sha256_bytes(storage.canonical_json(depends_on))
                url = storage.join(self.directory, f"sites/{entry['shard_id']}.round-{number:02d}.arrow")
                yield UserSiteTask(self.ref, entry, s, number, self.seed, key, url, under, sites[s], self.method)

        return self.map(user_tasks.fit_site, items(), round=number + 1, rounds=self.config.fit.rounds)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any], **shown: Any) -> list[Any]:
        """Results in the order of the shards; the first error of a shard is raised once the others are done."""
        results: list[Any] = [None] * len(self.entries)
        error = None
        outcomes = self.executor.map_unordered(
            fn, items, num_tasks=len(self.entries), max_in_flight=self.config.run.max_in_flight
        )
        self.progress.update(done=0, total=len(self.entries), **shown)
        for done, outcome in enumerate(outcomes, start=1):
            self.progress.task(is_good=outcome.error is None, attempt=outcome.attempt)
            self.progress.update(done=done, total=len(self.entries), **shown)
            if outcome.error is not None:
                error = error or outcome.error
            else:
                results[outcome.task.number] = outcome.value
        if error is not None:
            raise error
        return results

    def longest_first(self) -> list[int]:
        """Shards with the most rows first, so that no worker is left with a long one at the end."""
        return sorted(range(len(self.entries)), key=lambda s: (-self.entries[s]["num_rows"], s))


def open_work(config: UserRunConfig, path: str, sha256: str, executor: Executor, progress: Progress) -> UserWork:
    """Read what a stage needs from the run directory, and check the declaration on the first and last shard."""
    compile_cache.use()
    directory = config.run.directory
    entries = tuple(store.read_manifest(directory)["shards"])
    factors = storage.read_json(storage.join(directory, store.DICTIONARY))["factors"]
    levels = tuple(sorted((name, tuple(found["levels"])) for name, found in factors.items()))
    ref = UserModelRef(directory, path, sha256, levels)
    sharded = user_code.load(path, sha256)
    ends = [user_tasks.load_shard(ref, entry) for entry in (entries[0], entries[-1])]
    user_checks.check(sharded, ends)
    return UserWork(config, directory, executor, progress, ref, entries, user_combiner.prior_of(sharded, ends[0]))


def fit(work: UserWork) -> None:
    """Rounds of sites until the posterior stops moving; the sites in use are written as ``sites/<shard>.arrow``."""
    config = work.config.fit
    schedule = Schedule(config.rounds, config.tolerance, config.damping)
    with one_blas_thread():
        state, history = user_rounds.run(
            work.prior, len(work.entries), work.fit_sites, schedule, work.sampling, work.seed,
            lambda done: work.progress.update(move=done.move),
        )  # fmt: skip
    for entry, site, fitted in zip(work.entries, state.sites, history[-1].fits, strict=True):
        user_site_files.write(_site_url(work, entry), fitted._replace(site=site), "in use")
    storage.publish_json(
        storage.join(work.directory, ROUNDS_FILE),
        {
            "schema_version": 1,
            "last_round": len(history) - 1,
            "coordinates": user_draws.names(work.prior.made),
            "mean": state.posterior.mean.tolist(),
            "covariance": state.posterior.covariance.tolist(),
            "rounds": [user_in_memory.record(work.prior, done, work.method) for done in history],
        },
    )


def merge(work: UserWork) -> None:
    """Draws of the globals from prior times sites, locals given them, and ``summary.parquet``."""
    state, _ = _read_state(work)
    with one_blas_thread():
        found, draws = user_combiner.sample(
            work.prior, gaussian.product(state.sites), state.posterior.mean,
            user_rounds.combiner_key(work.seed, user_in_memory.DRAW_ROUND), work.sampling,
        )  # fmt: skip
        flat = draws.g.reshape(-1, draws.g.shape[-1])
        tasks = (
            UserLastTask(work.ref, work.entries[s], s, user_in_memory.LAST_PASS_ROUND, work.seed, flat)
            for s in work.longest_first()
        )
        passes: list[LastPass] = work.map(user_tasks.last_pass, tasks)
    shards = [user_tasks.load_shard(work.ref, entry) for entry in work.entries]
    with jax.enable_x64(True):
        programs = [user_checks.program(work.prior.made.sharded, shard) for shard in shards]
    variables, coords = user_draws.assemble(
        shards, programs, [p.values for p in passes], dict(work.ref.levels), work.config.fit.chains
    )
    named = {name: posterior.Variable(*variable) for name, variable in variables.items()}
    labels = {**coords, COORDINATE: user_draws.names(work.prior.made)}
    stats = {"unconstrained": posterior.Variable((COORDINATE,), draws.g)} | {
        name: posterior.Variable((user_draws.SHARD,), _by_shard(passes, name, work.config.fit.chains))
        for name in ("log_likelihood", "log_likelihood_mcse", "acceptance", "ess_share")
    }
    attrs: dict[str, str | int | float] = {
        "run": work.config.name, "model": work.config.model.file, "model_sha256": work.ref.sha256,
        "r_hat": found.r_hat, "ess": found.ess, "divergent": float(draws.diverging.mean()),
    }  # fmt: skip
    storage.publish_bytes(
        storage.join(work.directory, POSTERIOR), posterior.write_posterior(named, labels, attrs, stats)
    )  # fmt: skip
    used = {dim for variable in named.values() for dim in variable.dims}
    table = summary.summarise(named, {dim: found for dim, found in coords.items() if dim in used})
    storage.publish_bytes(storage.join(work.directory, SUMMARY), tables.to_parquet(table))


def audit(work: UserWork) -> str:
    """One round more, log ratios, and the verdict; returns it."""
    state, history = _read_state(work)
    tree = posterior.read_posterior(storage.read_bytes(storage.join(work.directory, POSTERIOR)))
    stats, _ = posterior.variables(tree, "sample_stats")
    flat = {name: variable.values.reshape(-1, variable.values.shape[-1]) for name, variable in stats.items()}
    passes = [
        LastPass(flat["log_likelihood"][:, s], flat["log_likelihood_mcse"][:, s], {}, flat["acceptance"][:, s],
                 flat["ess_share"][:, s])
        for s in range(len(work.entries))
    ]  # fmt: skip
    entries = [{name: entry[name] for name in ("shard_id", "num_rows")} for entry in work.entries]
    combined = user_in_memory.Combined(
        flat["unconstrained"], float(tree.attrs["r_hat"]), float(tree.attrs["ess"]), float(tree.attrs["divergent"])
    )
    with one_blas_thread():
        fresh = work.fit_sites(len(history), state.posterior, state.sites)
        result = user_in_memory.judge(
            work.prior, work.config.audit, state, history, fresh, passes, entries, combined, work.sampling, work.seed
        )
    storage.publish_json(storage.join(work.directory, AUDIT), result)
    return str(result["verdict"])


def _read_state(work: UserWork) -> tuple[RoundsState, list[dict[str, Any]]]:
    stored = storage.read_json(storage.join(work.directory, ROUNDS_FILE))
    sites = tuple(user_site_files.read(_site_url(work, entry))[0].site for entry in work.entries)
    moments = Moments(np.array(stored["mean"]), np.array(stored["covariance"]))
    return RoundsState(moments, sites), stored["rounds"]


def _site_url(work: UserWork, entry: dict[str, Any]) -> str:
    return storage.join(work.directory, f"sites/{entry['shard_id']}.arrow")


def _by_shard(passes: Sequence[LastPass], name: str, num_chains: int) -> np.ndarray:
    values = np.stack([getattr(report, name) for report in passes], axis=1)
    return values.reshape(num_chains, -1, len(passes))


def _digest(arrays: Any) -> str:
    return storage.sha256_bytes(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
