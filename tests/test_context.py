"""A prompt beyond the model's context is reported and logged, with numbers and the remedy."""

from __future__ import annotations

import logging

import pytest
import torch

import vtc
from vtc.plugins.registry import adapter_for


@pytest.fixture
def wrapped(model, processor):
    return vtc.wrap(model, vtc.selector("uniform", keyframes=2), "drop", processor=processor)


def beyond(report):
    return [warning for warning in report.warnings if "the model's context" in warning]


def test_a_prompt_with_its_answer_beyond_the_context_is_reported_and_logged(
    wrapped, processor, make_video, caplog
):
    inputs = vtc.prepare_inputs(wrapped, processor, make_video(4), "What?")
    wrapped.generate(**inputs, max_new_tokens=2, min_new_tokens=2)
    assert not beyond(vtc.last_report(wrapped))
    length = inputs["input_ids"].shape[1] + vtc.last_report(wrapped).tokens_after - 1
    config = wrapped.config.text_config
    config.max_position_embeddings = length + 2
    wrapped.generate(**inputs, max_new_tokens=2)
    assert not beyond(vtc.last_report(wrapped)) and not caplog.records
    with caplog.at_level(logging.WARNING, logger="vtc"):
        wrapped.generate(**inputs, max_new_tokens=3)
    (warning,) = beyond(vtc.last_report(wrapped))
    assert f"a prompt of {length} tokens and an answer of up to 3 is more" in warning
    assert f"context of {length + 2}" in warning and "fewer keyframes" in warning
    assert warning in caplog.text
    config.max_position_embeddings = length - 1
    with torch.no_grad():
        wrapped(**inputs)
    assert len(beyond(vtc.last_report(wrapped))) == 1


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({"rope_type": "default"}, 1000),
        ({"rope_type": "linear", "factor": 2.0}, 2000),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1000}, 4000),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 100}, 1000),
        ({"full_attention": {"rope_type": "linear", "factor": 8.0}}, 1000),
    ],
)
def test_the_context_is_what_rope_scaling_makes_of_it(model, rope, length):
    config = model.config.text_config
    config.max_position_embeddings, config.rope_parameters = 1000, rope
    assert adapter_for("llava_onevision").context_length(model) == length


def test_positions_count_where_they_differ_from_tokens(caplog):
    model, processor = vtc.testing.tiny("qwen2_vl")
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), "drop", processor=processor)
    video = vtc.testing.drifting_video(4, size=(56, 84))
    inputs = vtc.prepare_inputs(model, processor, video, "What?")
    length = inputs["input_ids"].shape[1] - 1 + 2 * 6
    model.config.text_config.max_position_embeddings = length
    model.generate(**inputs, max_new_tokens=1)  # a slice of 2 x 3 tokens takes 3 positions
    assert not beyond(vtc.last_report(model)) and not caplog.records
    model.config.text_config.max_position_embeddings = length - 9
    model.generate(**inputs, max_new_tokens=1)
    (warning,) = beyond(vtc.last_report(model))
    assert f"of {length} tokens and an answer of up to 1, which take {length - 8} pos" in warning
