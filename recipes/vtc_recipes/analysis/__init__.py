"""Analyses of what a model does with a video."""
