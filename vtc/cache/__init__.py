"""A cache on disk of what models compute for a video, for later questions about it."""
