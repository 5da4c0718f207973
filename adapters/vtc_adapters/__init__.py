"""Shipped adapters of vtc; see ``plugin.py``."""
