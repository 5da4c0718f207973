"""Plug-in hooks, discovery, options and the registry of parts."""
