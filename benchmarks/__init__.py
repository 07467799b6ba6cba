"""Races against neighbours (`python -m benchmarks`) and the full statistical lane (`python -m benchmarks.calibrate`)."""
