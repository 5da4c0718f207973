"""Keyframes for other programs: chat messages, and a video loader for vLLM."""
