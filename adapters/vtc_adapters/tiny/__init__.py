"""Tiny random models of the supported families, built offline: ``tiny:FAMILY``.

`vtc.testing.tiny` and ``vtc.open_model("tiny:FAMILY")`` open them.
"""
