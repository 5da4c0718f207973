"""Benchmarks through lmms-eval on a user's own copy of their data."""
