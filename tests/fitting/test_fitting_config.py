"""Configs of the fitting layer, and the pickling of its errors."""

import inspect
import pickle

import pytest
from pydantic import TypeAdapter, ValidationError

from fitting import errors
from fitting.config import AuditConfig, ExactConfig, FitConfig, LaplaceConfig, ModelConfig, NUTSConfig, VIConfig

FORMULA = "voted ~ 1 + female + race:age + (1 + female | state) + (1 | state:county)"
fit = TypeAdapter(FitConfig)


def model(**changes):
    return ModelConfig(**({"formula": FORMULA, "family": "binomial"} | changes))


def test_priors_are_by_class_and_by_term():
    written = {
        "intercept": "normal(0, 1.5)",
        "b": "normal(0,1)",
        "sd": "half_normal(1)",
        "cor": "lkj(2)",
        "female": "normal(1, 0.5)",
        "race:age": "normal(0, 0.5)",
        "1|state": "exponential(1)",
        "female|state": "half_student_t(3, 1)",
        "1|state:county": "half_cauchy(1)",
    }
    parsed = model(priors=written).parsed_priors()
    assert {key: str(prior) for key, prior in parsed.items()} == written | {"b": "normal(0, 1)"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"priors": {"1|stat": "exponential(1)"}}, "'1|state', perhaps"),
        ({"priors": {"femal": "normal(0, 1)"}}, "'female', perhaps"),
        ({"priors": {"1|race": "exponential(1)"}}, "neither a class nor a term"),
        ({"priors": {"1": "normal(0, 1)"}}, "neither a class nor a term"),
        ({"priors": {"sigma": "exponential(1)"}}, "'sigma' is neither"),
        ({"priors": {"sd": "normal(0, 1)"}}, "a prior for a coefficient; expected one for a scale"),
        ({"priors": {"1|state": "lkj(1)"}}, "a prior for a correlation; expected one for a scale"),
        ({"priors": {"b": "half_normal(1)"}}, "expected one for a coefficient"),
        ({"formula": "voted ~ log(age)"}, "character 9: found a call of the function log()"),
        ({"family": "binomal"}, "'bernoulli', 'binomial', 'beta_binomial'"),
        ({"prior": {}}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_model_is_one_clear_error(changes, message):
    with pytest.raises(ValidationError) as caught:
        model(**changes)
    assert message in str(caught.value)


def test_sigma_has_a_prior_if_gaussian():
    assert (
        str(model(family="gaussian", priors={"sigma": "exponential(2)"}).parsed_priors()["sigma"]) == "exponential(2)"
    )


def test_configs_are_frozen_and_survive_json():
    config = model(priors={"b": "normal(0, 1)"})
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.family = "gaussian"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, VIConfig()),
        ({"rounds": 8}, VIConfig(rounds=8)),
        ({"method": "laplace"}, LaplaceConfig()),
        ({"method": "nuts", "shard_chains": 2}, NUTSConfig(shard_chains=2)),
        ({"method": "exact", "warmup": 50}, ExactConfig(warmup=50)),
    ],
)
def test_method_chooses_the_config(value, expected):
    config = fit.validate_python(value)
    assert (type(config), config) == (type(expected), expected)
    assert fit.validate_json(fit.dump_json(config)) == config


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"method": "nutz"}, "'vi', 'laplace', 'nuts', 'exact'"),
        ({"method": "laplace", "quadrature_nodes": 5}, "Extra inputs"),
        ({"shard_draws": 10}, "Extra inputs"),
        ({"rounds": 0}, "greater than 0"),
        ({"damping": 1.5}, "less than or equal to 1"),
        ({"method": "nuts", "shard_chains": 1}, "greater than or equal to 2"),
    ],
)
def test_fields_of_another_method_are_refused(value, message):
    with pytest.raises(ValidationError) as caught:
        fit.validate_python(value)
    assert message in str(caught.value)


def test_gates_keep_their_other_defaults_and_their_order():
    audit = AuditConfig.model_validate({"fail_above": {"score": 0.5}})
    assert (audit.fail_above.score, audit.fail_above.k_hat, audit.warn_above.score) == (0.5, 0.7, 0.1)
    with pytest.raises(ValidationError, match=r"score: warn_above 0\.1 is higher than fail_above 0\.05"):
        AuditConfig.model_validate({"fail_above": {"score": 0.05}})


@pytest.mark.parametrize("error", [cls for _, cls in inspect.getmembers(errors, inspect.isclass)])
def test_every_error_pickles(error):
    sample = {"str": "somewhere", "int": 3, "float": -0.5}
    parameters = list(inspect.signature(error.__init__).parameters.values())[1:]
    arguments = [
        sample[getattr(p.annotation, "__name__", p.annotation)] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    first = error(*arguments) if arguments else error("something")
    second = pickle.loads(pickle.dumps(first))  # noqa: S301
    assert (type(second), str(second), vars(second)) == (error, str(first), vars(first))
