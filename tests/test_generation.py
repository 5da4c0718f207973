"""`generate` of a wrapped model: prompts, lengths, beams, caches, turns."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

import vtc
from vtc.pipeline.kv_cache import CACHE_NAME, given_cache, returned_cache

QUESTIONS = ["What is red?", "And a longer question: who enters the room before the dog?"]


@pytest.fixture
def wrapped(model, processor, encoder):
    return vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)


ALLOWED = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
NAMES = {"past_key_values": pytest.param("past_key_values", marks=ALLOWED), CACHE_NAME: CACHE_NAME}


@pytest.fixture(params=NAMES.values())
def cache_name(request):
    """Each name under which this transformers takes a cache; the old one may warn the caller."""
    return request.param


@pytest.fixture
def ragged(make_inputs, make_video):
    """Two rows of different text, whose videos compress to different lengths."""
    moving, still = make_video(9, 1), make_video(1, 2).repeat(9, axis=0)
    return make_inputs([moving, still], QUESTIONS)


def rows_alone(inputs):
    """Each row as a batch of one, without its padding."""
    for row in range(len(inputs["input_ids"])):
        keep = inputs["attention_mask"][row].bool()
        yield {
            "input_ids": inputs["input_ids"][row, keep][None],
            "attention_mask": inputs["attention_mask"][row, keep][None],
            "pixel_values_videos": inputs["pixel_values_videos"][row : row + 1],
        }


def new_tokens(result, inputs, row=slice(None)):
    return result[row, inputs["input_ids"].shape[1] :].tolist()


def test_the_result_starts_with_the_callers_prompt(wrapped, ragged):
    result = wrapped.generate(**ragged, max_new_tokens=6, do_sample=False)
    length = ragged["input_ids"].shape[1]
    assert torch.equal(result[:, :length], ragged["input_ids"])
    assert result.shape[1] == length + 6
    as_object = wrapped.generate(
        **ragged, max_new_tokens=6, do_sample=False, return_dict_in_generate=True
    )
    assert torch.equal(as_object.sequences, result)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False},
        {"num_beams": 3, "do_sample": False},
        {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
        {"cache_implementation": "static", "do_sample": False, "disable_compile": True},
        {"prefill_chunk_size": 5, "do_sample": False},
        {"prompt_lookup_num_tokens": 3, "do_sample": False},
    ],
    ids=["greedy", "beams", "beams-returned", "static", "chunked-prefill", "prompt-lookup"],
)
def test_a_ragged_batch_writes_what_its_rows_write_alone(wrapped, ragged, settings):
    settings = {"max_new_tokens": 6, "pad_token_id": 0, **settings}
    alone = [[new_tokens(wrapped.generate(**row, **settings), row)] for row in rows_alone(ragged)]
    if "prompt_lookup_num_tokens" in settings:  # transformers: batches of one only
        greedy = {"max_new_tokens": 6, "do_sample": False}
        for row, (written,) in zip(rows_alone(ragged), alone, strict=True):
            assert written == new_tokens(wrapped.generate(**row, **greedy), row)
        return
    together = new_tokens(wrapped.generate(**ragged, **settings), ragged)
    lengths = [len(video.keyframes) for video in vtc.last_report(wrapped).videos]
    assert lengths == [3, 1]
    assert together == [tokens for (rows,) in alone for tokens in rows]


def test_sampling_returns_several_answers_of_one_video(wrapped, make_inputs, make_video):
    inputs = make_inputs([make_video(6)], ["What?"])
    torch.manual_seed(0)
    result = wrapped.generate(
        **inputs, do_sample=True, num_return_sequences=4, max_new_tokens=5, top_k=0
    )
    assert result.shape == (4, inputs["input_ids"].shape[1] + 5)
    assert len({tuple(row.tolist()) for row in result}) > 1


def test_beams_of_rows_with_images_and_ragged_videos(wrapped, make_inputs, make_video):
    videos = [make_video(9, 1), make_video(1, 2).repeat(9, axis=0)]
    images = [make_video(1, 7)[0], make_video(1, 8)[0]]
    settings = {"num_beams": 3, "do_sample": False, "max_new_tokens": 5}
    together = make_inputs(videos, QUESTIONS, images=[[image] for image in images])
    alone = [
        make_inputs([video], [question], images=[image])
        for video, question, image in zip(videos, QUESTIONS, images, strict=True)
    ]
    written = new_tokens(wrapped.generate(**together, **settings), together)
    assert written == [new_tokens(wrapped.generate(**row, **settings), row)[0] for row in alone]


@pytest.mark.parametrize("where", ["argument", "config", "model"])
def test_max_length_counts_from_the_callers_prompt(wrapped, make_inputs, make_video, where):
    inputs = make_inputs([make_video(9)], ["What?"])
    length = inputs["input_ids"].shape[1]
    limits = {"max_length": length + 7, "min_length": length + 7}
    arguments = {}
    if where == "argument":
        arguments = limits
    elif where == "config":
        arguments = {"generation_config": GenerationConfig(**limits, pad_token_id=0)}
    else:
        wrapped.generation_config.max_length = limits["max_length"]
        wrapped.generation_config.min_length = limits["min_length"]
    before = copy.deepcopy(arguments)
    result = wrapped.generate(**inputs, do_sample=False, **arguments)
    assert result.shape[1] == length + 7
    if where == "config":
        assert arguments["generation_config"].max_length == before["generation_config"].max_length


def test_ids_may_come_first_without_a_name(wrapped, make_inputs, make_video):
    inputs = make_inputs([make_video(5)], ["What?"])
    by_name = wrapped.generate(**inputs, max_new_tokens=3, do_sample=False)
    ids = inputs.pop("input_ids")
    assert torch.equal(wrapped.generate(ids, **inputs, max_new_tokens=3, do_sample=False), by_name)


def test_several_turns_on_one_cache(wrapped, processor, make_inputs, make_video, cache_name):
    """A second question on the cache of the first gives what the whole talk gives at once."""
    inputs = make_inputs([make_video(8)], ["What is it?"])
    cache = DynamicCache(config=wrapped.config.get_text_config())
    first = wrapped.generate(
        **inputs,
        **{cache_name: cache},
        max_new_tokens=4,
        do_sample=False,
        vtc_restore_prompt=False,
    )
    more = processor.tokenizer(
        "<|im_end|><|im_start|>user \nAnd then?<|im_end|><|im_start|>assistant\n",
        return_tensors="pt",
    )["input_ids"]
    talk = torch.cat([first, more], dim=1)
    second = wrapped.generate(
        input_ids=talk, **{cache_name: cache}, max_new_tokens=4, do_sample=False
    )

    written = first[:, -4:]
    whole = torch.cat([inputs["input_ids"], written, more], dim=1)
    at_once = wrapped.generate(
        input_ids=whole,
        pixel_values_videos=inputs["pixel_values_videos"],
        vtc_query="What is it?",
        max_new_tokens=4,
        do_sample=False,
    )
    assert new_tokens(at_once, {"input_ids": whole}) == second[:, talk.shape[1] :].tolist()


def test_a_second_video_on_the_same_cache(wrapped, processor, make_video, cache_name):
    """A later turn brings a video of its own; the first one's tokens stay in the cache."""
    settings = {"max_new_tokens": 3, "do_sample": False, "vtc_restore_prompt": False}
    cache = DynamicCache(config=wrapped.config.get_text_config())
    inputs = vtc.prepare_inputs(wrapped, processor, make_video(8, 1), "What is it?")
    first = wrapped.generate(**inputs, **{cache_name: cache}, **settings)
    later = vtc.prepare_inputs(wrapped, processor, make_video(6, 2), "And this?")
    talk = torch.cat([first, later["input_ids"]], dim=1)
    second = wrapped.generate(
        input_ids=talk,
        vtc_videos=later["vtc_videos"],
        vtc_query="And this?",
        **{cache_name: cache},
        **settings,
    )
    assert vtc.last_report(wrapped).frames == 6

    whole = torch.cat([inputs["input_ids"], first[:, -3:], later["input_ids"]], dim=1)
    at_once = wrapped.generate(
        input_ids=whole,
        vtc_videos=inputs["vtc_videos"] + later["vtc_videos"],
        vtc_query="And this?",
        **settings,
    )
    # The first video was compressed for another question there, so only its length is the same.
    assert second.shape == at_once.shape
    videos = wrapped.vtc.report.videos
    assert [video.frames for video in videos] == [8, 6]


def test_a_manual_loop_writes_what_generate_writes(wrapped, make_inputs, make_video, cache_name):
    inputs = make_inputs([make_video(8)], ["What is it?"])
    expected = new_tokens(wrapped.generate(**inputs, max_new_tokens=4, do_sample=False), inputs)
    with torch.no_grad():
        step = wrapped(**inputs, use_cache=True)
        written = []
        for _ in range(4):
            token = step.logits[:, -1].argmax(-1, keepdim=True)
            written.append(token.item())
            step = wrapped(input_ids=token, **{cache_name: returned_cache(step)})
    assert [written] == expected


def test_the_prepared_inputs_fit_the_stock_model(
    model, processor, encoder, make_inputs, make_video
):
    """What `prepare` returns runs through an unwrapped model as well, once it is packed."""
    from vtc.pipeline.call import Call
    from vtc.pipeline.prepare import packed, prepare

    inputs = make_inputs([make_video(8)], ["What is it?"])
    vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)
    with torch.no_grad():
        wrapped_logits = model(**inputs).logits
        prepared = prepare(Call(model, model.vtc, inputs)).inputs
        encoded = packed(model, model.vtc.adapter, prepared["mm_encoder_outputs"])
        prepared = {**prepared, "mm_encoder_outputs": encoded}
        vtc.unwrap(model)
        assert torch.equal(model(**prepared).logits, wrapped_logits)


def test_a_second_turn_from_the_restored_prompt_is_refused(
    wrapped, make_inputs, make_video, cache_name
):
    """The cache holds the shortened prompt, so the caller's own would be read from raw ids."""
    inputs = make_inputs([make_video(8)], ["What is it?"])
    cache = DynamicCache(config=wrapped.config.get_text_config())
    settings = {cache_name: cache, "max_new_tokens": 3, "do_sample": False}
    first = wrapped.generate(**inputs, **settings)
    with pytest.raises(ValueError, match="vtc_restore_prompt=False in the earlier turn"):
        wrapped.generate(input_ids=torch.cat([first, first[:, -3:]], dim=1), **settings)


def test_placeholders_without_a_video_are_refused(wrapped, make_inputs, make_video):
    inputs = make_inputs([make_video(8)], ["What is it?"])
    for call in (wrapped, wrapped.generate):
        with pytest.raises(ValueError, match="but the call has no video"):
            call(input_ids=inputs["input_ids"])
    with vtc.disabled(wrapped):
        wrapped(input_ids=inputs["input_ids"])


def test_the_mask_of_the_unshortened_prompt_is_refused_on_a_cache(
    wrapped, make_inputs, make_video, cache_name
):
    inputs = make_inputs([make_video(8)], ["What is it?"])
    with torch.no_grad():
        step = wrapped(**inputs, use_cache=True)
        longer = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        with pytest.raises(ValueError, match="the cache holds the shortened prompt"):
            wrapped(
                input_ids=torch.tensor([[5]]),
                attention_mask=longer,
                **{cache_name: returned_cache(step)},
            )


def test_padding_is_guessed_as_the_stock_generate_does(model, processor, make_inputs, make_video):
    inputs = make_inputs([make_video(5, 1), make_video(5, 2)], QUESTIONS)
    del inputs["attention_mask"]
    settings = {"max_new_tokens": 3, "do_sample": False, "output_scores": True}
    settings["return_dict_in_generate"] = True
    stock = model.generate(**inputs, **settings)
    vtc.wrap(model, vtc.selector("uniform", keyframes=5), processor=processor)
    wrapped = model.generate(**inputs, **settings)
    assert torch.equal(wrapped.sequences, stock.sequences)
    assert (wrapped.scores[0] - stock.scores[0]).abs().max() < 1e-5


def test_encoded_videos_from_outside_are_refused(wrapped, make_inputs, make_video):
    inputs = make_inputs([make_video(5)], ["What?"])
    features = wrapped.get_video_features(inputs.pop("pixel_values_videos"), return_dict=True)
    for call in (wrapped, wrapped.generate):
        with pytest.raises(RuntimeError, match="an already encoded video"):
            call(**inputs, mm_encoder_outputs={"video": features})


def test_several_videos_in_one_row_with_beams(wrapped, processor, make_video):
    content = [{"type": "video"}, {"type": "video"}, {"type": "text", "text": "Which?"}]
    turn = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    wrapped.vtc.selector = vtc.selector("uniform", keyframes=3)
    inputs = processor(
        text=prompt,
        videos=[make_video(5, 1), make_video(5, 2)],
        return_tensors="pt",
        do_sample_frames=False,
    )
    settings = {"max_new_tokens": 4, "do_sample": False}
    several = wrapped.generate(**inputs, num_beams=2, num_return_sequences=2, **settings)
    assert several.shape[0] == 2
    # Two copies with one beam each are the greedy answer twice.
    greedy = wrapped.generate(**inputs, **settings)
    with torch.no_grad():
        best = wrapped(**{**inputs, "input_ids": inputs["input_ids"]}).logits[0, -1].argmax()
    assert greedy[0, -4] == best
    torch.manual_seed(0)
    sampled = wrapped.generate(
        **inputs, num_return_sequences=2, max_new_tokens=4, do_sample=True, top_k=1
    )
    assert torch.equal(sampled, greedy.repeat(2, 1))


def test_what_cannot_be_shortened_is_refused(wrapped, make_inputs, make_video):
    inputs = make_inputs([make_video(5)], ["What?"])
    with pytest.raises(ValueError, match="logits_to_keep as a tensor"):
        wrapped(**inputs, logits_to_keep=torch.tensor([3]))
    with pytest.raises(ValueError, match="set model.config.vision_feature_layer"):
        wrapped(**inputs, vision_feature_layer=-2)
    with pytest.raises(ValueError, match="max_length=7 leaves no room after the prompt of"):
        wrapped.generate(**inputs, max_length=7)
    with pytest.raises(ValueError, match="holds no video"):
        wrapped(input_ids=inputs["input_ids"], vtc_videos=[])


def test_a_new_video_in_forward_on_a_cache(model, processor, make_inputs, make_video, cache_name):
    """All frames kept, so the stock model says what is right."""
    first = make_inputs([make_video(5, 1)], ["What is it?"])
    later = make_inputs([make_video(4, 2)], ["And this?"])
    calls = []
    for wrap in (False, True):
        if wrap:
            vtc.wrap(model, vtc.selector("uniform", keyframes=5), processor=processor)
        for with_mask in (False, True):
            with torch.no_grad():
                cache = returned_cache(model(**first, use_cache=True))
                new = dict(later)
                new["attention_mask"] = torch.ones(
                    1, cache.get_seq_length() + later["input_ids"].shape[1], dtype=torch.int64
                )
                if not with_mask:
                    del new["attention_mask"]
                calls.append(model(**new, **{cache_name: cache}).logits)
    for other in calls[1:]:
        assert (other - calls[0]).abs().max() < 1e-4


def test_an_unshortened_talk_goes_on_as_the_stock_one(
    model, processor, make_inputs, make_video, cache_name
):
    inputs = make_inputs([make_video(5)], ["What is it?"])
    vtc.wrap(model, vtc.selector("uniform", keyframes=5), processor=processor)
    cache = DynamicCache(config=model.config.get_text_config())
    settings = {cache_name: cache, "max_new_tokens": 3, "do_sample": False}
    first = model.generate(**inputs, **settings)
    second = model.generate(input_ids=torch.cat([first, first[:, -3:]], dim=1), **settings)
    assert second.shape[1] == first.shape[1] + 6


def test_another_call_between_does_not_hide_a_restored_prompt(
    wrapped, make_inputs, make_video, cache_name
):
    inputs = make_inputs([make_video(8)], ["What is it?"])
    cache = DynamicCache(config=wrapped.config.get_text_config())
    settings = {cache_name: cache, "max_new_tokens": 3, "do_sample": False}
    first = wrapped.generate(**inputs, **settings)
    wrapped.generate(**make_inputs([make_video(4)], ["Else?"]), max_new_tokens=2)
    with pytest.raises(ValueError, match="vtc_restore_prompt=False in the earlier turn"):
        wrapped.generate(input_ids=torch.cat([first, first[:, -3:]], dim=1), **settings)


def test_an_inner_model_alone_is_not_guarded(wrapped, make_inputs):
    inputs = make_inputs([], ["Hello?"])
    inner = copy.deepcopy(wrapped.model)
    with torch.no_grad():
        assert torch.equal(inner(**inputs)[0], wrapped.model(**inputs)[0])


def test_the_cache_is_the_one_that_the_stock_model_takes():
    old, new = object(), object()
    assert given_cache({}) is None
    assert given_cache({"past_key_values": old}) is old
    known = CACHE_NAME == "cache"  # before transformers 5.24 the stock forward passes it over
    assert given_cache({"cache": new}) is (new if known else None)
    assert given_cache({"cache": new, "past_key_values": old}) is (new if known else old)
    assert given_cache({"cache": None, "past_key_values": old}) is (None if known else old)


def test_a_compiled_model_is_still_a_wrapped_one(wrapped):
    compiled = torch.compile(wrapped)
    assert vtc.is_wrapped(compiled)
    vtc.unwrap(compiled)
    assert not vtc.is_wrapped(wrapped)
