"""LLaVA-NeXT-Video, whose frames are pooled, and Video-LLaVA, whose frames keep a class token."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
import transformers
from packaging.version import Version
from reference import slow_dfm_token

import vtc
from vtc.testing.adapter_case import in_float64, relative_error, shift_rounding

QUESTIONS = ["What is red?", "How many people walk by, and when do they leave the room?"]
FAMILIES = ["llava_next_video", "video_llava"]
FRAME = (56, 84)  # of the processors' shorter side, so that frames are cropped and not resized


@pytest.fixture(scope="module", params=FAMILIES)
def stock(request):
    return vtc.testing.tiny(request.param)


@pytest.fixture
def model(stock):
    return copy.deepcopy(stock[0])


@pytest.fixture(scope="module")
def processor(stock):
    return stock[1]


@pytest.fixture
def make_inputs(processor):
    return functools.partial(vtc.testing.stock_inputs, processor)


@pytest.fixture
def wrapped(model, processor, encoder):
    return vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)


@pytest.fixture
def ragged(make_video):
    """A video that moves and one that stands still, which has one keyframe."""
    return [make_video(8, 1, FRAME), make_video(1, 2, FRAME).repeat(8, axis=0)]


def frame_by_hand(model, frame):
    """``[M, D]``, the tokens of a frame, and what of them is merged."""
    inner, layer = model.model, model.config.vision_feature_layer
    if model.config.model_type == "video_llava":
        states = inner.video_tower(frame[None], output_hidden_states=True).hidden_states
        tokens = inner.multi_modal_projector(states[layer][0])
        assert len(tokens) == 17
        return tokens, tokens[1:]
    states = inner.vision_tower(frame[None], output_hidden_states=True).hidden_states
    grid = states[layer][0, 1:].view(4, 4, -1)
    pooled = [grid[y : y + 2, x : x + 2].mean((0, 1)) for y in (0, 2) for x in (0, 2)]
    tokens = inner.multi_modal_projector(torch.stack(pooled))
    return tokens, tokens


def row_by_hand(model, processor, inputs, row, question, keys, temperature):
    """Logits of one compressed row, its features merged frame by frame."""
    ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
    asked = processor.tokenizer(question, add_special_tokens=False)["input_ids"]
    query = model.get_input_embeddings()(torch.tensor(asked)).mean(0).double()
    pieces, reference = [], None
    for n, frame in enumerate(inputs["pixel_values_videos"][row]):
        tokens, patches = frame_by_hand(model, frame)
        patches = patches.double()
        if n in keys:
            pieces.append(tokens)
            reference = patches
            continue
        pieces.append(slow_dfm_token(patches, reference, query, temperature).to(tokens))
    places = (ids == model.config.video_token_id).nonzero().flatten()
    table = model.get_input_embeddings()
    embeds = torch.cat([table(ids[: places[0]]), *pieces, table(ids[places[-1] + 1 :])])[None]
    return model.lm_head(model.model.language_model(inputs_embeds=embeds).last_hidden_state)[0]


@pytest.mark.parametrize("temperature", [0.01, 1.0])  # a patch alone, and all of them
def test_merged_videos_equal_a_reference_made_by_hand(
    wrapped, processor, make_inputs, ragged, temperature
):
    wrapped.vtc.merger = vtc.merger("dfm", temperature=temperature)
    inputs = in_float64(make_inputs(ragged, QUESTIONS))
    wrapped.double()
    with torch.no_grad():
        logits = wrapped(**inputs).logits
        reports = vtc.last_report(wrapped).videos
        assert [report.frames for report in reports] == [8, 8]
        assert len(reports[0].keyframes) > len(reports[1].keyframes) == 1
        for row, (question, report) in enumerate(zip(QUESTIONS, reports, strict=True)):
            keys = [frame.index for frame in report.keyframes]
            expected = row_by_hand(wrapped, processor, inputs, row, question, keys, temperature)
            bound = 1e-6 + shift_rounding(logits.shape[1], len(expected))
            assert relative_error(logits[row, -len(expected) :], expected) < bound


def written_from_embeddings(model, inputs, **settings):
    """What the stock ``generate`` writes of the stock features in ``inputs_embeds``."""
    videos = model.model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    place = (inputs["input_ids"] == model.config.video_token_id)[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(place, torch.cat([v.flatten() for v in videos.pooler_output]))
    mask = inputs["attention_mask"]
    return model.generate(inputs_embeds=embeds, attention_mask=mask, **settings)


def test_all_frames_as_keyframes_give_the_stock_model(model, processor, make_inputs, make_video):
    inputs = in_float64(make_inputs([make_video(5, n, FRAME) for n in (1, 2)], QUESTIONS))
    model.double()
    settings = {"max_new_tokens": 6, "do_sample": False}
    many = {"num_beams": 3, "num_return_sequences": 2, **settings}
    with torch.no_grad():
        logits = model(**inputs).logits
        written = model.generate(**inputs, **settings)
        # Stock 5.18 mixes up or loses the frames when it copies them for beams.
        beams = written_from_embeddings(model, inputs, **many)
        if Version(transformers.__version__) >= Version("5.23"):
            assert torch.equal(model.generate(**inputs, **many)[:, -6:], beams)
        vtc.wrap(model, vtc.selector("uniform", keyframes=32), processor=processor)
        assert relative_error(model(**inputs).logits, logits) < 1e-6
        assert torch.equal(model.generate(**inputs, **settings), written)
        assert torch.equal(model.generate(**inputs, **many)[:, -6:], beams)
        vtc.unwrap(model)
        assert torch.equal(model(**inputs).logits, logits)


@pytest.mark.parametrize("beams", [1, 3])
def test_an_image_beside_a_compressed_video(wrapped, make_inputs, ragged, make_video, beams):
    pictures = [make_video(1, seed, FRAME)[0] for seed in (3, 4)]
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "num_beams": beams}
    together = in_float64(make_inputs(ragged, QUESTIONS, images=pictures))
    wrapped.double()
    with torch.no_grad():
        logits = wrapped(**together).logits
        written = wrapped.generate(**together, **settings)[:, -5:]
        for row in (0, 1):
            alone = in_float64(make_inputs([ragged[row]], [QUESTIONS[row]], images=[pictures[row]]))
            expected = wrapped(**alone).logits[0]
            bound = 1e-6 + shift_rounding(logits.shape[1], len(expected))
            assert relative_error(logits[row, -len(expected) :], expected) < bound
            expected = wrapped.generate(**alone, **settings)[0, -5:]
            assert written[row].tolist() == expected.tolist()


def test_images_by_their_new_name(wrapped, make_inputs, make_video):
    inputs = make_inputs([make_video(6, 1, FRAME)], ["Compare."], [make_video(1, 3, FRAME)[0]])
    if "pixel_values_images" not in inputs or Version(transformers.__version__) < Version("5.23"):
        pytest.skip("these images have one name only")
    settings = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    with torch.no_grad():
        logits = wrapped(**inputs).logits
        written = wrapped.generate(**inputs, **settings)
        inputs["pixel_values"] = inputs.pop("pixel_values_images")
        assert torch.equal(wrapped(**inputs).logits, logits)
        assert torch.equal(wrapped.generate(**inputs, **settings), written)


def test_placeholders_that_do_not_fit_are_named(wrapped, make_inputs, make_video):
    inputs = make_inputs([make_video(6, 1, FRAME)], ["What?"])
    pixels = inputs["pixel_values_videos"]
    slots = math.prod(wrapped.vtc.adapter.slice_grid(wrapped, inputs))
    inputs["pixel_values_videos"] = pixels[:, :5]
    named = f"{6 * slots} video placeholders, .* 5 x {slots} = {5 * slots} each"
    with pytest.raises(ValueError, match=named):
        wrapped(**inputs)
    inputs["pixel_values_videos"] = pixels.repeat(2, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="holds 2 videos, but .* for 1"):
        wrapped(**inputs)
    with pytest.raises(ValueError, match="cannot be changed in a call"):
        wrapped(**make_inputs([make_video(2, 1, FRAME)], ["What?"]), vision_feature_layer=-1)
