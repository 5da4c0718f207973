"""The ``video_outputs`` or ``image_outputs`` of a result have the form of the stock model's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_models import CONTRACTS
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

import vtc

FAMILIES = sorted(CONTRACTS)


def run(model: Any, inputs: Any, **options: Any) -> Any:
    with torch.no_grad():
        return model(**inputs, **options)


def encoder_outputs(result: Any) -> Any:
    for name in ("video_outputs", "image_outputs"):
        if getattr(result, name, None) is not None:
            return result[name]
    return None


def shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return [type(value), *map(shapes, value)]


def tensors(value: Any) -> list[Tensor]:
    return (
        [value] if isinstance(value, Tensor) else [one for part in value for one in tensors(part)]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_video_kept_whole_returns_the_encoder_outputs_of_the_stock_model(family):
    contract = CONTRACTS[family]
    model, processor = vtc.testing.tiny(family)
    videos = [contract.video(6, seed) for seed in (1, 2)]
    inputs = contract.inputs(processor, videos, ["What is red?", "Where?"])
    stock = encoder_outputs(run(model, inputs))
    if stock is None:
        pytest.skip("this version of transformers returns no encoder outputs")
    vtc.wrap(model, vtc.selector("uniform", keyframes=64), "mean_pool", processor=processor)
    ours = encoder_outputs(run(model, inputs))
    assert isinstance(ours, BaseModelOutputWithPooling)
    for name in set(stock) - {"hidden_states", "attentions"}:
        assert shapes(ours[name]) == shapes(stock[name]), name
        for one, other in zip(tensors(ours[name]), tensors(stock[name]), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    expected = [ours[name] for name in ours]
    outputs = [one for one in run(model, inputs, return_dict=False) if isinstance(one, tuple)]
    assert [shapes(one) for one in outputs[-1]] == [shapes(one) for one in expected]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compressed_video_returns_the_features_that_the_language_model_read(family):
    contract = CONTRACTS[family]
    model, processor = vtc.testing.tiny(family)
    vtc.wrap(model, vtc.selector("uniform", keyframes=1), "mean_pool", processor=processor)
    inputs = contract.inputs(processor, [contract.video(6)], ["What is red?"])
    with vtc.disabled(model):
        whole = encoder_outputs(run(model, inputs))
    if whole is None:
        pytest.skip("this version of transformers returns no encoder outputs")
    result = run(model, inputs)
    ours, (video,) = encoder_outputs(result), vtc.last_report(model).videos
    assert sum(one.numel() // one.shape[-1] for one in tensors(ours.pooler_output)) == (
        video.tokens_after
    )
    slices = -(-video.frames // video.frames_per_slice)
    share = ours.last_hidden_state.numel() / whole.last_hidden_state.numel()
    assert share == pytest.approx(1 / slices)  # the keyframe's alone


def test_a_picture_beside_a_video_is_among_the_outputs():
    contract = CONTRACTS["gemma3"]
    model, processor = vtc.testing.tiny("gemma3")
    inputs = contract.inputs(processor, [contract.video(6)], ["What is red?"])
    stock = encoder_outputs(run(model, {k: v for k, v in inputs.items() if k != "vtc_frames"}))
    vtc.wrap(model, vtc.selector("uniform", keyframes=8), "mean_pool", processor=processor)
    outputs = encoder_outputs(run(model, {**inputs, "vtc_frames": [[(1, 5)]]}))
    torch.testing.assert_close(outputs.pooler_output, stock.pooler_output)
    assert outputs.last_hidden_state is None  # that of the picture is not kept
