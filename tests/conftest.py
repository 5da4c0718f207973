"""Shared fixtures: a tiny stock model, inputs made by its own processor, the folder of clips."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import vtc

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _stock():
    return vtc.testing.tiny("llava_onevision")


@pytest.fixture
def model(_stock):
    """A stock LLaVA-OneVision with random weights, fresh for each test."""
    return copy.deepcopy(_stock[0])


@pytest.fixture(scope="session")
def processor(_stock):
    return _stock[1]


@pytest.fixture(scope="session")
def encoder():
    return vtc.testing.tiny_encoder()


@pytest.fixture(scope="session")
def clips() -> Path:
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip(f"needs the video clips of {folder}, which are not distributed")
    return folder


@pytest.fixture(scope="session")
def make_video():
    """Random frames that drift, so that neighbours resemble each other."""

    def make(frames: int, seed: int = 0, size: tuple[int, int] = (48, 56)) -> np.ndarray:
        rng = np.random.default_rng(seed)
        walk = rng.normal(0, 25, (frames, *size, 3)).cumsum(0) + rng.integers(0, 255, (*size, 3))
        return np.abs(walk % 510 - 255).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def make_inputs(processor):
    """What the stock processor makes of videos (of one length), images and questions."""

    def make(videos, questions, images=None, dtype=None):
        prompts = []
        for question in questions:
            content = [{"type": "image"}] if images else []
            content += [{"type": "video"}] if videos else []
            content += [{"type": "text", "text": question}]
            prompts.append(
                processor.apply_chat_template(
                    [{"role": "user", "content": content}],
                    add_generation_prompt=True,
                    tokenize=False,
                )
            )
        inputs = processor(
            text=prompts,
            videos=list(videos) or None,
            images=images,
            padding=True,
            return_tensors="pt",
            do_sample_frames=False,
        )
        return inputs if dtype is None else inputs.to(dtype)

    return make
