"""Run lmms-eval's benchmarks on a user's own copy of the data."""
