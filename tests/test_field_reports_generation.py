"""Reports from the field about ``generate``: what callables see, and what results hold."""

import pytest
import torch
from transformers import StoppingCriteria, TextIteratorStreamer

import vtc
from vtc.testing.inputs import drifting_video, stock_inputs

QUESTIONS = ["What is red?", "And what is green here?"]


@pytest.fixture(scope="module")
def wrapped():
    model, processor = vtc.testing.tiny("llava_onevision")
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), "mean_pool", processor=processor)
    return model, processor


def eager(processor, rows=2):
    videos = [drifting_video(8, seed) for seed in range(rows)]
    return stock_inputs(processor, videos, QUESTIONS[:rows])


def lazy(model, processor, rows=2):
    videos = [drifting_video(8, seed) for seed in range(rows)]
    return vtc.prepare_inputs(model, processor, videos, QUESTIONS[:rows])


class Recorder:
    """A callable that keeps what it saw."""

    def __init__(self):
        self.seen = []

    def keep(self, ids):
        self.seen.append(ids.clone())


class RecordingCriterion(Recorder, StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        self.keep(input_ids)
        return torch.zeros(len(input_ids), dtype=torch.bool)


class RecordingProcessor(Recorder):
    def __call__(self, input_ids, scores):
        self.keep(input_ids)
        return scores


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}])
@pytest.mark.parametrize("prompt", ["eager", "lazy"])
def test_criteria_and_processors_see_the_callers_prompt(wrapped, prompt, settings):
    """https://github.com/huggingface/transformers/issues/22436"""
    model, processor = wrapped
    rows = 1 if "prompt_lookup_num_tokens" in settings else 2
    inputs = eager(processor, rows) if prompt == "eager" else lazy(model, processor, rows)
    criterion, logits_processor = RecordingCriterion(), RecordingProcessor()
    model.generate(
        **inputs,
        max_new_tokens=4,
        do_sample=False,
        stopping_criteria=[criterion],
        logits_processor=[logits_processor],
        **settings,
    )
    length = inputs["input_ids"].shape[1]
    for recorder in (criterion, logits_processor):
        assert recorder.seen
        for ids in recorder.seen:
            copies = len(ids) // rows
            prompts = inputs["input_ids"].repeat_interleave(copies, dim=0)
            assert torch.equal(ids[:, :length], prompts)
    assert {ids.shape[1] - length for ids in logits_processor.seen} >= {0, 1}
    assert max(ids.shape[1] - length for ids in criterion.seen) == 4


@pytest.mark.parametrize("prompt", ["eager", "lazy"])
def test_a_criterion_that_counts_new_tokens_stops_in_time(wrapped, prompt):
    model, processor = wrapped
    inputs = eager(processor) if prompt == "eager" else lazy(model, processor)
    length = inputs["input_ids"].shape[1]

    class AfterThree(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] - length >= 3)

    written = model.generate(
        **inputs, max_new_tokens=8, min_new_tokens=8, stopping_criteria=[AfterThree()]
    )
    assert written.shape[1] == length + 3


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prompt", ["eager", "lazy"])
def test_allowed_tokens_depend_on_the_number_of_new_tokens(wrapped, prompt, beams):
    model, processor = wrapped
    inputs = eager(processor) if prompt == "eager" else lazy(model, processor)
    length = inputs["input_ids"].shape[1]
    script = [[65, 66], [67], [68], [69]]

    def allowed(row, ids):
        assert torch.equal(ids[:length], inputs["input_ids"][row])
        return script[len(ids) - length]

    written = model.generate(
        **inputs, max_new_tokens=4, num_beams=beams, prefix_allowed_tokens_fn=allowed
    )
    for row in written[:, length:].tolist():
        assert row[0] in (65, 66) and row[1:] == [67, 68, 69]


@pytest.mark.parametrize("prompt", ["eager", "lazy"])
def test_a_streamer_begins_with_the_callers_prompt(wrapped, prompt):
    model, processor = wrapped
    inputs = eager(processor, 1) if prompt == "eager" else lazy(model, processor, 1)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=False)
    written = model.generate(**inputs, max_new_tokens=3, do_sample=False, streamer=streamer)
    assert "".join(streamer) == processor.tokenizer.decode(written[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tokens_that_are_no_numbers_are_reported_and_refused_if_all_are(wrapped, value):
    model, processor = wrapped
    video = drifting_video(8)
    encode, spoiled = type(model.vtc.adapter).encode, [0]

    class Overflowing(type(model.vtc.adapter)):
        def encode(self, model, pixels):
            features = encode(self, model, pixels)
            features.tokens[spoiled] = value
            features.patches[spoiled] = value
            return features

    adapter, model.vtc.adapter = model.vtc.adapter, Overflowing()
    try:
        answer = vtc.ask(model, processor, video, "What?", max_new_tokens=2)
        assert any(
            "visual tokens are NaN or infinite" in text and "bfloat16" in text
            for text in answer.report.warnings
        )
        spoiled[:] = [slice(None)]
        with pytest.raises(ValueError, match=r"(\d+) of \1 visual tokens are NaN or infinite"):
            vtc.ask(model, processor, video, "What?", max_new_tokens=2)
    finally:
        model.vtc.adapter = adapter
