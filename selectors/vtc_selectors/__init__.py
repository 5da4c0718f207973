"""Shipped selectors of vtc; see ``plugin.py``."""
