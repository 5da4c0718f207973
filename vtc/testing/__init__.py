"""Helpers for tests of vtc and of plug-ins: tiny models and encoders that need no download."""

from vtc.testing.encoders import save_tiny_clip, save_tiny_siglip, tiny_encoder
from vtc.testing.models import byte_tokenizer, redraw, tiny
from vtc.testing.videos import moving_squares, write_video

__all__ = [
    "byte_tokenizer",
    "moving_squares",
    "redraw",
    "save_tiny_clip",
    "save_tiny_siglip",
    "tiny",
    "tiny_encoder",
    "write_video",
]
