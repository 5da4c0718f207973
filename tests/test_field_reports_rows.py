"""Rows that transformers' own tests make by hand: missing marks, masked and generated placeholders.

The stock model reads all of them, so a wrapped one does.
"""

from __future__ import annotations

import copy

import pytest
import torch

import vtc
from vtc.pipeline.kv_cache import returned_cache
from vtc.testing.adapter_case import relative_error


def both(family, keyframes=64):
    """A stock tiny model in float64, the same one wrapped, and the processor."""
    model, processor = vtc.testing.tiny(family)
    selector = vtc.selector("uniform", keyframes=keyframes)
    wrapped = vtc.wrap(copy.deepcopy(model), selector, "mean_pool", processor=processor)
    return model.double(), wrapped.double(), processor


@pytest.mark.parametrize("between", [0, 3])
@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
@torch.no_grad()
def test_a_prompt_without_marks_before_its_frames_is_read(family, between):
    """It ended in "upper bound and lower bound inconsistent"."""
    bare, wrapped, _ = both(family)
    token = bare.config.image_token_id
    text, frame = [5] * between, [token] * 4
    inputs = {
        "input_ids": torch.tensor([frame + text + frame + text + frame + [7, 8]]),
        "pixel_values": torch.rand(1, 3, 3, 56, 56).double(),
    }
    logits = wrapped(**inputs, vtc_frames=3, vtc_query="What?").logits
    assert relative_error(logits, bare(**inputs).logits) < 1e-6
    wrapped.vtc.selector = vtc.selector("uniform", keyframes=1)
    short = wrapped(**inputs, vtc_frames=3, vtc_query="What?").logits
    assert short.isfinite().all()
    assert vtc.last_report(wrapped).tokens_after == 4 + 2


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_masked_placeholder_at_the_end_of_a_row_is_no_padding(side):
    """It was cut off as padding: "tokens: 3, features: 128"."""
    bare, wrapped, processor = both("llava_onevision")
    video = vtc.testing.drifting_video(3, size=(42, 42))
    inputs = dict(vtc.testing.stock_inputs(processor, [video], ["What?"]))
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].double()
    places = (inputs["input_ids"][0] == bare.config.video_token_id).nonzero().flatten()
    cut = slice(None, int(places[-1]) + 1) if side == "right" else slice(int(places[0]), None)
    for name in ("input_ids", "attention_mask"):
        inputs[name] = inputs[name][:, cut]
    inputs["attention_mask"][0, -2 if side == "right" else 0 :][:2] = 0
    stock = bare(**inputs).logits
    visible = inputs["attention_mask"].bool()
    logits = wrapped(**inputs).logits
    assert relative_error(logits[visible], stock[visible]) < 1e-6
    wrapped.vtc.selector = vtc.selector("uniform", keyframes=1)
    assert wrapped(**inputs).logits.isfinite().all()


@torch.no_grad()
def test_a_placeholder_that_the_model_generated_is_no_video():
    """The next turn on its cache was refused, though the stock model goes on."""
    bare, wrapped, processor = both("llava_onevision")
    ids = processor.tokenizer("Hello?", return_tensors="pt")["input_ids"]
    generated = torch.tensor([[bare.config.video_token_id]])
    more = processor.tokenizer("And?", return_tensors="pt")["input_ids"]
    talk = torch.cat([ids, generated, more], dim=1)
    written = []
    for model in (bare, wrapped):
        cache = vtc.testing.cache_argument(returned_cache(model(input_ids=ids, use_cache=True)))
        written.append(model.generate(input_ids=talk, **cache, max_new_tokens=4, do_sample=False))
    assert torch.equal(*written)
    with pytest.raises(ValueError, match="has video placeholders, but the call has no video"):
        cache = vtc.testing.cache_argument(returned_cache(bare(input_ids=ids, use_cache=True)))
        again = torch.cat([ids, more, generated], dim=1)
        wrapped.generate(input_ids=again, **cache, max_new_tokens=4)
