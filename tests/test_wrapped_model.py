"""What must always hold of a wrapped model's forward pass."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import slow_dfm_token, slow_dks

import vtc
from vtc.testing.adapter_case import in_float64, relative_error, shift_rounding

QUESTIONS = ["What is red?", "How many people walk by, and when do they leave the room?"]


def logits_by_hand(model, processor, encoder, inputs, row, question, k, tau) -> torch.Tensor:
    """The logits of one compressed row, put together from the stock model's own modules."""
    inner = model.model
    pixels = inputs["pixel_values_videos"][row]
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.video_processor.image_mean, processor.video_processor.image_std)
    )
    frames = ((pixels.float() * std + mean) * 255).round().clamp(0, 255).byte()
    embeddings = encoder.encode_frames(frames.permute(0, 2, 3, 1)).tolist()
    keys = slow_dks(embeddings, encoder.encode_text(question).tolist(), k, tau)

    question_ids = processor.tokenizer(question, add_special_tokens=False)["input_ids"]
    query = model.get_input_embeddings()(torch.tensor(question_ids)).mean(0)
    pieces, reference = [], None
    for n, frame in enumerate(pixels):
        states = inner.vision_tower(frame[None], output_hidden_states=True).hidden_states[-1]
        dense = inner.multi_modal_projector(states)[0]
        if n in keys:
            side = math.isqrt(len(dense))
            grid = dense.T.reshape(1, -1, side, side)
            half = math.ceil(side / 2)
            pieces.append(F.interpolate(grid, (half, half), mode="bilinear").flatten(2)[0].T)
            reference = dense
        else:
            pieces.append(slow_dfm_token(dense, reference, query).to(dense))
    pieces.append(inner.image_newline[None])

    ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
    places = (ids == model.config.video_token_id).nonzero().flatten()
    table = model.get_input_embeddings()
    before, after = table(ids[: places[0]]), table(ids[places[-1] + 1 :])
    sequence = torch.cat([before, *pieces, after])[None]
    return model.lm_head(inner.language_model(inputs_embeds=sequence).last_hidden_state)[0]


def test_merged_videos_equal_a_reference_made_by_hand(
    model, processor, encoder, make_video, make_inputs
):
    model.double()
    inputs = in_float64(make_inputs([make_video(11, 1), make_video(11, 2)], QUESTIONS))
    tau = 0.999
    with torch.no_grad():
        expected = [
            logits_by_hand(model, processor, encoder, inputs, row, question, 4, tau)
            for row, question in enumerate(QUESTIONS)
        ]
        selector = vtc.selector("dks", keyframes=4, similarity_threshold=tau)
        vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder)
        logits = model(**inputs).logits
    counts = [len(video.keyframes) for video in vtc.last_report(model).videos]
    assert all(1 < count < 11 for count in counts), counts
    for row, reference in enumerate(expected):
        bound = 1e-6 + shift_rounding(logits.shape[1], len(reference))
        assert relative_error(logits[row, -len(reference) :], reference) < bound


def test_rows_of_different_length_are_padded_on_the_left(
    model, processor, encoder, make_video, make_inputs
):
    videos = [make_video(9, 1), np.repeat(make_video(1, 2), 9, axis=0)]  # the second never moves
    vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)
    model.double()
    questions = ["Why?", "What is the long text about, after all?"]
    together = in_float64(make_inputs(videos, questions))
    with torch.no_grad():
        logits = model(**together).logits
        counts = [len(video.keyframes) for video in vtc.last_report(model).videos]
        assert counts == [3, 1]
        for row, video in enumerate(videos):
            alone = model(**in_float64(make_inputs([video], [questions[row]]))).logits[0]
            bound = 1e-6 + shift_rounding(logits.shape[1], len(alone))
            assert relative_error(logits[row, -len(alone) :], alone) < bound


@pytest.mark.parametrize("merger", ["dfm", "mean_pool", "drop"])
@pytest.mark.parametrize("selector", ["dks", "query_guided", "uniform"])
def test_all_frames_as_keyframes_give_the_stock_logits(
    model, processor, encoder, make_video, make_inputs, selector, merger
):
    inputs = in_float64(make_inputs([make_video(6, 1), make_video(6, 2)], QUESTIONS))
    model.double()
    with torch.no_grad():
        stock = model(**inputs).logits
        options = {"similarity_threshold": 1.0} if selector == "dks" else {}
        chosen = vtc.selector(selector, keyframes=6, **options)
        vtc.wrap(model, chosen, merger, processor=processor, encoder=encoder)
        wrapped = model(**inputs).logits
    assert vtc.last_report(model).tokens_after == vtc.last_report(model).tokens_before
    assert relative_error(wrapped, stock) < 1e-6


@pytest.mark.parametrize("merger", ["dfm", "mean_pool", "q_former", "drop"])
@pytest.mark.filterwarnings("ignore:merger 'q_former'")
def test_the_chunk_size_never_changes_the_result(
    model, processor, encoder, make_video, make_inputs, merger
):
    vtc.wrap(model, vtc.selector("dks", keyframes=3), merger, processor=processor, encoder=encoder)
    inputs = in_float64(make_inputs([make_video(10)], ["Where?"]))
    model.double()
    with torch.no_grad():
        logits = []
        for model.vtc.chunk_slices in (1, 3, 10):
            logits.append(model(**inputs).logits)
    assert 1 < len(vtc.last_report(model).keyframes) < 10
    for other in logits[1:]:
        assert relative_error(other, logits[0]) < 1e-6


def test_text_and_images_alone_are_bit_equal(model, processor, encoder, make_video, make_inputs):
    picture = make_video(1)[0]
    text_only = make_inputs([], ["Hello?"])
    with_image = make_inputs([], ["What is this?"], images=[picture])
    with torch.no_grad():
        stock = [model(**inputs).logits for inputs in (text_only, with_image)]
        written = [
            model.generate(**inputs, max_new_tokens=5, do_sample=False)
            for inputs in (text_only, with_image)
        ]
        vtc.wrap(model, processor=processor, encoder=encoder)
        for inputs, logits, ids in zip((text_only, with_image), stock, written, strict=True):
            assert torch.equal(model(**inputs).logits, logits)
            assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), ids)


def test_an_image_beside_a_video_stays_as_it_is(model, processor, encoder, make_video, make_inputs):
    inputs = make_inputs([make_video(6)], ["Compare."], images=[make_video(1, 7)[0]])
    inputs = in_float64(inputs)
    model.double()
    with torch.no_grad():
        stock = model(**inputs).logits
        written = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        vtc.wrap(model, vtc.selector("uniform", keyframes=6), processor=processor, encoder=encoder)
        assert relative_error(model(**inputs).logits, stock) < 1e-6
        again = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        assert torch.equal(again, written)


def test_unwrap_restores_class_weights_and_outputs(
    model, processor, encoder, make_video, make_inputs
):
    stock_class, names = type(model), list(model.state_dict())
    inputs = make_inputs([make_video(5)], ["What?"])
    with torch.no_grad():
        stock = model(**inputs).logits
        same = vtc.wrap(model, processor=processor, encoder=encoder)
        assert same is model and isinstance(model, stock_class) and vtc.is_wrapped(model)
        model(**inputs)
        assert vtc.unwrap(model) is model
        assert type(model) is stock_class and not vtc.is_wrapped(model)
        assert list(model.state_dict()) == names
        assert torch.equal(model(**inputs).logits, stock)
    with pytest.raises(ValueError, match="is not wrapped"):
        vtc.unwrap(model)


def test_disabled_is_the_stock_model_for_a_while(
    model, processor, encoder, make_video, make_inputs
):
    inputs = make_inputs([make_video(8)], ["What?"])
    with torch.no_grad():
        stock = model(**inputs).logits
        vtc.wrap(model, vtc.selector("dks", keyframes=2), processor=processor, encoder=encoder)
        short = model(**inputs).logits
        with vtc.disabled(model):
            assert torch.equal(model(**inputs).logits, stock)
        assert model(**inputs).logits.shape == short.shape != stock.shape


def test_wrapping_twice_is_refused_and_changes_nothing(model, processor, encoder):
    vtc.wrap(model, processor=processor, encoder=encoder)
    toolkit = model.vtc
    with pytest.raises(ValueError, match="wrapped already; call vtc.unwrap"):
        vtc.wrap(model, "uniform")
    assert model.vtc is toolkit


def test_a_bad_argument_leaves_the_model_as_it_was(model):
    before = dict(vars(model))
    with pytest.raises(ValueError, match="unknown merger 'dmf'"):
        vtc.wrap(model, merger="dmf")
    with pytest.raises(ValueError, match="expected keyframes to be .* got 0"):
        vtc.wrap(model, {"name": "dks", "keyframes": 0})
    with pytest.raises(ValueError, match="encoder="):
        vtc.wrap(model, encoder="no/such/encoder")
    assert vars(model).keys() == before.keys() and not vtc.is_wrapped(model)


def test_video_past_the_wrapper_is_compressed_or_raises(
    model, processor, encoder, make_video, make_inputs
):
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), processor=processor, encoder=encoder)
    inputs = make_inputs([make_video(5)], ["What?"])
    stock_class = type(model).__mro__[1]
    with torch.no_grad():
        expected = model(**inputs).logits[:, -1]
        videos = vtc.last_report(model).videos
        for forward in (model.model.__call__, partial(stock_class.forward, model)):
            model(input_ids=inputs["input_ids"][:, -3:])  # clears the report
            output = forward(**inputs)
            assert vtc.last_report(model).videos == videos
            states = output.last_hidden_state if "logits" not in output else None
            logits = output.logits if states is None else model.lm_head(states)
            assert logits.shape[1] == inputs["input_ids"].shape[1]
            torch.testing.assert_close(logits[:, -1], expected)
    with pytest.raises(RuntimeError, match="an already encoded video"):
        stock_class.generate(model, **inputs, max_new_tokens=2)
    with vtc.disabled(model):
        stock_class.forward(model, **inputs)


def test_a_query_is_needed_and_may_be_given(model, encoder, processor, make_video, make_inputs):
    inputs = make_inputs([make_video(6)], ["What is red?"])
    vtc.wrap(model, vtc.selector("dks", keyframes=2), "mean_pool", encoder=encoder)
    with pytest.raises(ValueError, match="pass processor=... to vtc.wrap"):
        model(**inputs)
    model.vtc.processor = processor
    read = model(**inputs).logits
    assert vtc.last_report(model).videos[0].query == "What is red?"
    given = model(**inputs, vtc_query="What is red?").logits
    assert torch.equal(read, given)
    model(**inputs, vtc_query=["something else"])
    assert vtc.last_report(model).videos[0].query == "something else"
    with pytest.raises(ValueError, match="one for each of 1 rows"):
        model(**inputs, vtc_query=["a", "b"])


def test_padding_is_no_part_of_the_query(model, processor, encoder, make_video, make_inputs):
    inputs = make_inputs([make_video(6)], ["What is red?"])
    letters = torch.full((1, 4), 65)  # padding need not be a special token
    ids = inputs["input_ids"]
    plain = ids[ids != processor.tokenizer.convert_tokens_to_ids("<|im_start|>")][None]
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), processor=processor, encoder=encoder)
    model(
        input_ids=torch.cat([letters, plain], dim=1),
        attention_mask=torch.cat([torch.zeros_like(letters), torch.ones_like(plain)], dim=1),
        pixel_values_videos=inputs["pixel_values_videos"],
    )
    assert vtc.last_report(model).videos[0].query.startswith("user")


def test_the_query_is_the_last_user_turn(processor):
    from vtc.pipeline.query import last_user_turn

    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "First?"}]},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": [{"type": "text", "text": "And then\nwhat?"}]},
    ]
    for tail in ([], [{"role": "assistant", "content": "A cat."}]):
        text = processor.apply_chat_template(
            turns + tail, tokenize=False, add_generation_prompt=not tail
        )
        ids = processor.tokenizer(text, return_tensors="pt")["input_ids"][0]
        assert last_user_turn(processor, ids, ids) == "And then\nwhat?"
    plain = processor.tokenizer("just a prompt", return_tensors="pt")["input_ids"][0]
    assert last_user_turn(processor, plain, plain) == "just a prompt"


def test_placeholders_that_do_not_fit_are_named(model, processor, encoder, make_video, make_inputs):
    vtc.wrap(model, "uniform", processor=processor, encoder=encoder)
    inputs = make_inputs([make_video(5)], ["What?"])
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"][:, :4]
    with pytest.raises(ValueError, match="row 0 of input_ids has 21 video placeholders"):
        model(**inputs)


def test_the_uniform_selector_never_loads_the_encoder(model, processor, make_video, make_inputs):
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), processor=processor)
    model(**make_inputs([make_video(5)], ["What?"]))
    assert not model.vtc.encoder.loaded


def test_two_videos_in_one_row(model, processor, encoder, make_video):
    content = [{"type": "video"}, {"type": "video"}, {"type": "text", "text": "Which?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(
        text=prompt,
        videos=[make_video(5, 1), make_video(5, 2)],
        return_tensors="pt",
        do_sample_frames=False,
    )
    inputs = in_float64(inputs)
    model.double()
    with torch.no_grad():
        stock = model(**inputs).logits
        vtc.wrap(model, vtc.selector("uniform", keyframes=5), processor=processor, encoder=encoder)
        assert relative_error(model(**inputs).logits, stock) < 1e-6
        model.vtc.selector = vtc.selector("uniform", keyframes=2)
        model(**inputs)
    assert [video.tokens_after for video in vtc.last_report(model).videos] == [2 * 4 + 3 + 1] * 2


def test_bfloat16(model, processor, encoder, make_video, make_inputs):
    inputs = make_inputs([make_video(8)], ["What?"])
    vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)
    with torch.no_grad():
        exact = model(**inputs).logits
        model.to(torch.bfloat16)
        rough = model(**inputs.to(torch.bfloat16)).logits
    assert rough.dtype == torch.bfloat16
    similarity = F.cosine_similarity(rough.float().flatten(), exact.flatten(), dim=0)
    assert similarity > 0.95


def test_a_wrapped_model_is_freed_like_a_stock_one(processor, encoder):
    import gc
    import weakref

    model, _ = vtc.testing.tiny("llava_onevision")
    vtc.wrap(model, processor=processor, encoder=encoder)
    alive = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del model
        assert alive() is None
    finally:
        gc.enable()


def test_a_model_without_a_head_is_refused_untouched(model):
    with pytest.raises(ValueError, match="needs a model with a language head"):
        vtc.wrap(model.model)
    assert not hasattr(model.model, "vtc")


def test_a_forward_replaced_on_the_object_is_refused(model, processor, encoder):
    model.forward = lambda **kwargs: None  # as accelerate does for mixed precision
    with pytest.raises(ValueError, match="keep_fp32_wrapper=False"):
        vtc.wrap(model, processor=processor, encoder=encoder)
    del model.forward
    vtc.wrap(model, processor=processor, encoder=encoder)
    model.forward = lambda **kwargs: None
    with pytest.raises(ValueError, match="keep_fp32_wrapper=False"):
        vtc.unwrap(model)
    assert vtc.is_wrapped(model)
