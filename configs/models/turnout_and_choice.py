"""Turnout and choice together: who votes, and for whom, with state effects that may go together.

Everybody has an outcome ``voted``; ``chose`` counts only where ``voted`` is 1. A state's two effects, on turnout and on choice,
are drawn from one bivariate normal: its correlation says whether states that turn out more also choose differently.
"""

import jax.numpy as jnp
import numpyro
from numpyro import distributions as dist
from numpyro import handlers

from fitting.user_model import ShardedModel


def turnout_and_choice(data, sizes):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.5).expand([2]).to_event(1))
    female = numpyro.sample("female", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("age", sizes["age"]):
        age = numpyro.sample("age_effect", dist.Normal(0.0, 0.5).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0).expand([2]).to_event(1))
    factor = numpyro.sample("correlation_factor", dist.LKJCholesky(2, 2.0))
    numpyro.deterministic("correlation", factor[1, 0])

    with numpyro.plate("state", sizes["state"]):
        covariance_factor = sd[:, None] * factor
        state = numpyro.sample("state_effect", dist.MultivariateNormal(jnp.zeros(2), scale_tril=covariance_factor))

    with numpyro.plate("rows", sizes["rows"]):
        eta = intercept + female * data["is_female"][:, None] + age[data["age"]] + state[data["state"]]
        numpyro.sample("voted", dist.Bernoulli(logits=eta[:, 0]), obs=data["voted"])
        with handlers.mask(mask=data["voted"] == 1):
            numpyro.sample("chose", dist.Bernoulli(logits=eta[:, 1]), obs=data["chose"])


MODEL = ShardedModel(
    turnout_and_choice,
    global_sites=("intercept", "female", "age_effect", "sd", "correlation_factor"),
    local_sites=("state_effect",),
    factors=("age",),
    local_factors=("state",),
)
