"""Other people's tools, each fitting the model of a `benchmarks.problems.Problem` on the same cells."""
