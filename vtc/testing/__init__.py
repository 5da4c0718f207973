"""Helpers for tests of vtc and of plug-ins: tiny models and encoders that need no download."""

from vtc.testing.encoders import save_tiny_clip, save_tiny_siglip, tiny_encoder
from vtc.testing.models import byte_tokenizer, redraw, tiny

__all__ = [
    "byte_tokenizer",
    "redraw",
    "save_tiny_clip",
    "save_tiny_siglip",
    "tiny",
    "tiny_encoder",
]
