"""Posterior draws between arrays and files: named variables for people and ArviZ, flat coefficients for arithmetic."""

from __future__ import annotations

import numpy as np

from fitting.combiner import Draws
from fitting.hierarchy import Hierarchy
from fitting.verdict import Sampler
from reporting import posterior, summary, tables
from reporting.posterior import Variable
from sharding import storage

POSTERIOR = "posterior.nc"
SUMMARY = "summary.parquet"
UNCONSTRAINED = "hyperparameter"


def write(directory: str, hierarchy: Hierarchy, draws: Draws, name: str) -> None:
    """Write ``posterior.nc`` and ``summary.parquet``. The same draws give the same bytes."""
    variables, coords, units = named(hierarchy, draws)
    coords_all = {**coords, UNCONSTRAINED: hierarchy.names(), "sampler": ["combiner"]}
    stats = {
        "unconstrained": Variable((UNCONSTRAINED,), draws.psi),
        "acceptance": Variable((), np.repeat(draws.acceptance[:, None], draws.theta.shape[1], axis=1)),
    }
    attrs = {"run": name, "formula": str(hierarchy.model.formula), "family": hierarchy.model.family}
    content = posterior.write_posterior(variables, coords_all, attrs, stats if hierarchy.size else None)
    storage.publish_bytes(storage.join(directory, POSTERIOR), content)
    table = summary.summarise(variables, coords, units)
    storage.publish_bytes(storage.join(directory, SUMMARY), tables.to_parquet(table))


def named(hierarchy: Hierarchy, draws: Draws) -> tuple[dict[str, Variable], dict[str, list[str]], dict[str, str]]:
    """Variables by name, labels of their dimensions, and units: fixed effects, group effects, then hyperparameters."""
    model = hierarchy.model
    variables: dict[str, Variable] = {}
    coords: dict[str, list[str]] = {}
    units: dict[str, str] = {}
    for block in model.fixed:
        for coefficient, unit, place in zip(block.names, block.units, block.coefficients, strict=True):
            variables[coefficient] = Variable((), draws.theta[:, :, place])
            units[coefficient] = f"per {unit}" if unit else ""
    for group in model.groups:
        coords[group.name] = model.coding.group_labels(group.columns)
        for j, coefficient in enumerate(group.coefficient_names):
            variables[f"{coefficient}|{group.name}"] = Variable(
                (group.name,), draws.theta[:, :, group.coefficients[:, j]]
            )
    shape = draws.psi.shape
    natural = hierarchy.natural(draws.psi.reshape(-1, shape[-1])).reshape(shape)
    for h, parameter in enumerate(hierarchy.names()):
        variables[parameter] = Variable((), natural[:, :, h])
    return variables, coords, units


def read(directory: str, hierarchy: Hierarchy) -> Draws:
    """Read the draws back as arrays."""
    tree = posterior.read_posterior(storage.read_bytes(storage.join(directory, POSTERIOR)))
    found, _ = posterior.variables(tree)
    model = hierarchy.model
    first = next(iter(found.values())).values
    num_chains, num_draws = first.shape[:2]
    theta = np.zeros((num_chains, num_draws, model.tree.num_coefficients))
    for block in model.fixed:
        for coefficient, place in zip(block.names, block.coefficients, strict=True):
            theta[:, :, place] = found[coefficient].values
    for group in model.groups:
        for j, coefficient in enumerate(group.coefficient_names):
            theta[:, :, group.coefficients[:, j]] = found[f"{coefficient}|{group.name}"].values
    if not hierarchy.size:
        return Draws(theta, np.zeros((num_chains, num_draws, 0)), np.ones(num_chains))
    stats, _ = posterior.variables(tree, "sample_stats")
    return Draws(theta, stats["unconstrained"].values, stats["acceptance"].values[:, 0])


def sampler(directory: str) -> Sampler:
    """Worst R-hat and effective size in ``summary.parquet``."""
    table = tables.read_table(storage.join(directory, SUMMARY))
    r_hat, ess = (table[name].to_numpy(zero_copy_only=False).astype(float) for name in ("r_hat", "ess_bulk"))
    return Sampler(float(np.nanmax(r_hat)), float(np.nanmin(ess)))
