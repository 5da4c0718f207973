"""The costs of each stage of reading a long video, counted without weights or measured with them.

Nothing heavy is imported here: `vtc.profiler.setup` has the functions.
"""

SHAPE_NAMES = ("llava-onevision-7b", "llava-onevision-0.5b", "qwen2-vl-7b")
"""Short names of ``shape:NAME``, the full-size models that the shipped adapters register."""
