"""Shipped mergers of vtc; see ``plugin.py``."""
