"""Mathematics on arrays: models, sites, the combiner, the audit. Knows neither files nor Ray."""
