"""Likelihoods of cells, a module each. `fitting.families` says which there are; every module has the same functions.

``log_likelihood(family, statistics, eta, xp)``
    Log likelihood of each cell without constants of the data, for linear predictors ``eta`` of shape (P, n) or (P, n, M).
``expected_derivatives(family, statistics, eta, weights)``
    ``E[d log L / d eta]``, shape (P, n), and ``E[- d2 log L / d eta2]``, shape (P, P, n), over quadrature points ``eta`` of
    shape (P, n, Q) with ``weights`` (Q,).
``expected_outcome(family, eta)``
    Expected outcome of one person, shape (C, n, M); C is 1, or the number of categories.
``start(family, outcome)``
    A first value of every linear predictor, shape (P,), from the outcome's totals (`fitting.coding.OutcomeSummary`).

``statistics`` are columns of shape (n,), or (n, 1) beside draws. The last linear predictors of a family can be its own
parameters (log dispersion, cutpoints): the same for every cell, on the unconstrained line.
"""
