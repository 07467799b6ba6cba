"""Where work runs: configuration, executors, coordinator, stages and the command line."""
