"""Helpers for tests of vtc and of plug-ins: tiny models and encoders that need no download."""

from vtc.testing.embeddings import LargestTensor, scene_embeddings
from vtc.testing.encoders import save_tiny_clip, save_tiny_siglip, save_tiny_timm, tiny_encoder
from vtc.testing.inputs import drifting_video, stock_inputs
from vtc.testing.models import redraw, tiny
from vtc.testing.tokenizer import byte_tokenizer
from vtc.testing.videos import moving_squares, write_video

__all__ = [
    "LargestTensor",
    "byte_tokenizer",
    "drifting_video",
    "moving_squares",
    "redraw",
    "save_tiny_clip",
    "save_tiny_siglip",
    "save_tiny_timm",
    "scene_embeddings",
    "stock_inputs",
    "tiny",
    "tiny_encoder",
    "write_video",
]
