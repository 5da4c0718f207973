"""Keyframes for other programs: chat messages, and a video loader of vLLM."""
