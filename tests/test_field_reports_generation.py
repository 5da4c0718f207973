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


def test_a_callback_may_call_the_model_itself(wrapped):
    """As a verifier does: its call is compressed as any other."""
    model, processor = wrapped
    inputs = eager(processor, 1)
    with torch.no_grad():
        expected = model(**inputs).logits.shape
        text = model.generate(input_ids=inputs["input_ids"][:, -4:], max_new_tokens=2)
    shapes, texts = [], []

    def criterion(ids, scores, **kwargs):
        shapes.append(model(**inputs).logits.shape)
        texts.append(model.generate(input_ids=inputs["input_ids"][:, -4:], max_new_tokens=2))
        return torch.zeros(len(ids), dtype=torch.bool)

    for prompt in (lazy(model, processor, 1), {"input_ids": inputs["input_ids"][:, -4:]}):
        model.generate(**prompt, max_new_tokens=2, stopping_criteria=[criterion])
    assert shapes == [expected] * len(shapes) and len(shapes) == 4
    assert all(torch.equal(written, text) for written in texts)


def test_a_custom_processor_replaces_the_default_of_its_type(wrapped):
    from transformers import RepetitionPenaltyLogitsProcessor

    model, processor = wrapped
    inputs = eager(processor, 1)
    own = [RepetitionPenaltyLogitsProcessor(1.5)]
    settings = {"max_new_tokens": 6, "do_sample": False, "logits_processor": own}
    alone = model.generate(**inputs, **settings)
    assert torch.equal(model.generate(**inputs, **settings, repetition_penalty=8.0), alone)


def test_a_failed_forward_leaves_no_report_of_an_earlier_call(wrapped):
    model, processor = wrapped
    inputs = eager(processor, 1)
    with torch.no_grad():
        model(**inputs)
        with pytest.raises(ValueError, match="placeholders"):
            model(**{**inputs, "input_ids": inputs["input_ids"].clone().fill_(5)})
    with pytest.raises(ValueError, match="there is no report"):
        vtc.last_report(model)


def test_new_videos_of_a_batched_second_turn_keep_the_cache_in_place(wrapped):
    """The rows shorten to different lengths, so padding goes between the cache and the new turn."""
    from vtc.pipeline.kv_cache import returned_cache

    model, processor = wrapped
    settings = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}

    def talk(videos, later, questions):
        first = stock_inputs(processor, videos, questions)
        turn = model.generate(**first, **settings, vtc_restore_prompt=False)
        second = stock_inputs(processor, later, questions)
        ids = torch.cat([turn.sequences, second["input_ids"]], dim=1)
        used = torch.ones(len(ids), turn.sequences.shape[1], dtype=torch.long)
        mask = torch.cat([used, second["attention_mask"]], dim=1)
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values_videos=second["pixel_values_videos"],
            **vtc.testing.cache_argument(returned_cache(turn)),
            **settings,
        ).sequences[:, -3:]

    one, two = drifting_video(8, 1), drifting_video(8, 2)
    still, question = drifting_video(1, 4).repeat(8, axis=0), "What is red?"
    model.vtc.selector = vtc.selector("dks", keyframes=4, similarity_threshold=0.999999)
    model.vtc.merger = vtc.merger("drop")
    encoder = model.vtc.encoder
    model.vtc.encoder = vtc.LazyEncoder(vtc.testing.tiny_encoder())
    try:
        together = talk([one, one], [still, two], [question] * 2)
        reports = vtc.last_report(model).videos
        assert reports[0].tokens_after != reports[1].tokens_after  # or nothing is tested
        assert together[0].tolist() == talk([one], [still], [question])[0].tolist()
        assert together[1].tolist() == talk([one], [two], [question])[0].tolist()
    finally:
        model.vtc.selector = vtc.selector("uniform", keyframes=2)
        model.vtc.merger, model.vtc.encoder = vtc.merger("mean_pool"), encoder
