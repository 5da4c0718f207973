"""A lazy encoder loads at its first use, checks an object's embeddings, and keeps its device."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_files import LONG_QUERY, textured
from torch.nn import functional as F

import vtc
from vtc.encoders import lazy as lazy_module
from vtc.encoders.base import FrameEncoder
from vtc.encoders.lazy import LazyEncoder, load_encoder


class Own:
    """The least that an encoder may be."""

    def __init__(self, embeddings=None):
        self.embeddings = embeddings

    def encode_frames(self, frames):
        if self.embeddings is None:
            return F.normalize(torch.ones(len(frames), 4), dim=-1)
        return self.embeddings

    def encode_text(self, text):
        return torch.tensor([1.0, 0, 0, 0])


def test_an_object_is_used_as_it_is():
    own = Own()
    assert load_encoder(own) is own
    lazy = LazyEncoder(own).to("cpu", torch.float16)
    assert lazy.loaded and lazy.dim == 4 and lazy.text_notes("?") == [] and "Own" in lazy.name
    assert lazy.encode_frames(textured(3, 8, 8)).shape == (3, 4)


@pytest.mark.parametrize(
    ("embeddings", "error", "message"),
    [
        (np.ones((2, 4)), TypeError, r"expected a torch.Tensor \[2, d\], got ndarray"),
        (torch.ones(3, 4) / 2, ValueError, r"expected embeddings \[2, d\], got the shape \[3, 4\]"),
        (torch.ones(4) / 2, ValueError, r"expected embeddings \[2, d\], got the shape \[4\]"),
        (torch.full((2, 4), torch.nan), ValueError, "expected finite embeddings, got NaN"),
    ],
)
def test_what_an_object_returns_is_checked(embeddings, error, message):
    with pytest.raises(error, match=message):
        LazyEncoder(Own(embeddings)).encode_frames(textured(2, 8, 8))


def test_what_an_object_returns_is_scaled_to_length_one():
    rows = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    scaled = LazyEncoder(Own(rows)).encode_frames(textured(2, 8, 8))
    assert torch.allclose(scaled, torch.tensor([[0.6, 0.8, 0, 0], [0, 0, 0, 0]]))


def test_raw_text_of_an_object_is_what_it_gives():
    own = Own()
    own.encode_text = lambda text: torch.tensor([0.0, 3, 0, 4])
    assert LazyEncoder(own).encode_text_raw("?").tolist() == [0, 3, 0, 4]
    assert LazyEncoder(own).encode_text("?").tolist() == pytest.approx([0, 0.6, 0, 0.8])

    class Unit(FrameEncoder):
        name = "unit"
        encode_frames = encode_text = lambda self, x: torch.ones(1)

    with pytest.raises(ValueError, match="encoder unit has no text embeddings before norm"):
        LazyEncoder(Unit()).encode_text_raw("?")


def test_lazy_encoder_loads_at_first_use(clip_folder):
    lazy = LazyEncoder(clip_folder, batch_size=2)
    assert isinstance(lazy, FrameEncoder) and lazy.name == str(clip_folder)
    assert lazy.to(dtype=torch.bfloat16) is lazy
    assert not lazy.loaded
    frames = textured(3, 32, 32)
    as_bfloat16 = load_encoder(clip_folder, dtype=torch.bfloat16, batch_size=2)
    assert torch.equal(lazy.encode_frames(frames), as_bfloat16.encode_frames(frames))
    assert lazy.loaded and lazy.dim == 16
    assert "split into" in lazy.text_notes(LONG_QUERY)[0]
    lazy.to(dtype=torch.float32)
    assert not torch.equal(lazy.encode_frames(frames), as_bfloat16.encode_frames(frames))


LAZY = """
import sys
from vtc.encoders.lazy import LazyEncoder
encoder = LazyEncoder("open_clip:ViT-B-32/openai").to("cpu")
if {control}: import transformers
print(sorted({{"open_clip", "transformers", "torchvision"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("control", [False, True])
def test_lazy_encoder_imports_nothing_before_first_use(control):
    result = subprocess.run(
        [sys.executable, "-c", LAZY.format(control=control)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ("transformers" in result.stdout) == control
    assert control or result.stdout.strip() == "[]"


@pytest.mark.parametrize("load", [load_encoder, LazyEncoder])
@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("ViT-B-32", ValueError, r"none of the allowed forms(.|\n)*open_clip:ViT-B-32/openai"),
        ("open_clip:ViT-B-32", ValueError, "none of the allowed forms"),
        ("open_clip:ViT-B-32/", ValueError, "none of the allowed forms"),
        ("hf:", ValueError, "none of the allowed forms"),
        (
            "open/clip",
            ValueError,
            "no such folder: open/clip; for a model on the hub write 'hf:open/clip'",
        ),
        (Path("no/such/folder"), ValueError, "none of the allowed forms"),
        (3, TypeError, "encoder=3 has no encode_frames and encode_text"),
        (Own, TypeError, "is a class, not an object"),
    ],
)
def test_a_wrong_spec_is_refused_before_loading(load, spec, error, message):
    with pytest.raises(error, match=message):
        load(spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size to be a whole number of at least 1, got 0"),
        ({"dtype": torch.int8}, "dtype to be a floating-point torch.dtype, got torch.int8"),
        ({"long_text": "drop"}, "long_text to be 'split' or 'truncate', got 'drop'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LazyEncoder("hf:some/model", **options)


def test_an_encoder_without_a_device_follows_the_model(clip_folder):
    lazy = LazyEncoder(clip_folder)
    lazy.follow(torch.device("meta"))
    assert lazy.device == torch.device("meta") and not lazy.loaded
    lazy.follow(torch.device("cpu"))
    assert lazy.encode_text("a car").device.type == "cpu"


@pytest.mark.parametrize("how", ["argument", "to"])
def test_an_explicit_device_is_kept_in_a_wrapped_model(how, clip_folder, model, processor):
    if how == "argument":
        lazy = LazyEncoder(clip_folder, device="cpu")
    else:
        lazy = LazyEncoder(clip_folder).to("cpu")
    vtc.wrap(model.to("meta"), "dks", "drop", processor=processor, encoder=lazy)
    assert model.vtc.encoder is lazy and lazy.device == torch.device("cpu")
    lazy.follow(torch.device("meta"))
    assert lazy.encode_text("a car").device.type == "cpu"


def test_threads_that_use_an_encoder_at_once_load_it_once(clip_folder, monkeypatch):
    loads, load = [], lazy_module._load
    monkeypatch.setattr(
        lazy_module, "_load", lambda *arguments: loads.append(1) or load(*arguments)
    )
    lazy = LazyEncoder(clip_folder)
    texts = [f"question {number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        embeddings = list(pool.map(lazy.encode_text, texts))
    assert len(loads) == 1
    for text, embedding in zip(texts, embeddings, strict=True):
        # Equal but for rounding, which depends on where tensors lie in memory.
        torch.testing.assert_close(embedding, lazy.encode_text(text), rtol=0, atol=1e-6)


def test_an_encoder_is_copied_and_pickled_with_its_options(clip_folder):
    lazy = LazyEncoder(clip_folder, batch_size=3, long_text="truncate")
    for other in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))):
        assert other._options == lazy._options
        assert torch.equal(other.encode_text("a car"), lazy.encode_text("a car"))
