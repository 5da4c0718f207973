"""Long prompts are read in pieces, which changes memory and nothing else."""

from __future__ import annotations

import pytest
import torch
import transformers
from families import FAMILIES
from packaging import version

import vtc
from vtc.pipeline.kv_cache import returned_cache

pytestmark = pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.23"),
    reason="transformers before 5.23 fails on pieces for some families, so none are read there",
)


@pytest.fixture(params=FAMILIES, ids=lambda suite: suite.family)
def case(request, encoder):
    """A wrapped model of each family, and two rows of inputs."""
    return build(request.param(), encoder)


def build(suite, encoder):
    model, processor = suite.build()
    chosen = vtc.selector("uniform", keyframes=2)
    vtc.wrap(model.eval(), chosen, "dfm", processor=processor, encoder=encoder)
    frames = 12 * model.vtc.adapter.frames_per_slice
    videos = [suite.video(frames, 1), suite.video(frames, 2)]
    return model, suite.inputs(processor, videos, ["What is red?", "And blue here?"])


def answer(model, inputs, **settings):
    """The scores of four tokens ``[4, B, V]``, and the lengths of what the decoder was given."""
    lengths = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    given = {"max_new_tokens": 4, "do_sample": False, "output_scores": True}
    output = model.generate(**inputs, return_dict_in_generate=True, **given, **settings)
    hook.remove()
    return torch.stack(output.scores), lengths


def test_pieces_give_what_the_whole_gives(case):
    model, inputs = case
    assert model.vtc.prefill_chunk == 4096
    whole, lengths = answer(model, inputs)
    prompt = lengths[0]
    assert lengths == [prompt, 1, 1, 1]
    model.vtc.prefill_chunk = 20
    pieces, lengths = answer(model, inputs)
    if not model.vtc.adapter.causal:
        assert lengths[0] == prompt, "tokens that attend to later ones must be read with them"
        return
    expected = [20] * (prompt // 20) + ([prompt % 20] if prompt % 20 else [])
    assert lengths == [*expected, 1, 1, 1]
    seen = whole.isfinite()
    apart = (pieces - whole).abs()[seen].max() / whole.abs()[seen].max()
    assert apart < 2e-5


@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_families_that_look_ahead_would_read_pieces_wrongly(family, encoder):
    """Why ``causal`` is there: asked for by hand, pieces change what these models say."""
    (suite,) = (suite for suite in FAMILIES if suite.family == family)
    model, inputs = build(suite(), encoder)
    whole, _ = answer(model, inputs)
    pieces, lengths = answer(model, inputs, prefill_chunk_size=20)
    assert lengths[0] == 20
    seen = whole.isfinite()
    assert (pieces - whole).abs()[seen].max() / whole.abs()[seen].max() > 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"prefill_chunk_size": 9},
        {"generation_config": {"prefill_chunk_size": 9}},
        {"use_cache": False},
        {"output_hidden_states": True},
        {"cache_implementation": "static", "disable_compile": True},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=["given", "configured", "no-cache", "hidden-states", "static", "lookup"],
)
def test_what_the_caller_asked_for_comes_first(
    model, processor, encoder, make_inputs, make_video, settings
):
    vtc.wrap(
        model, vtc.selector("uniform", keyframes=2), "dfm", processor=processor, encoder=encoder
    )
    inputs = make_inputs([make_video(12, 1)], ["What is red?"])
    whole, lengths = answer(model, inputs)
    prompt = lengths[0]
    model.vtc.prefill_chunk = 20
    if "generation_config" in settings:
        settings = {"generation_config": transformers.GenerationConfig(prefill_chunk_size=9)}
    scores, lengths = answer(model, inputs, **settings)
    chosen_size = "prefill_chunk_size" in settings or "generation_config" in settings
    assert lengths[0] == 9 if chosen_size else lengths[0] >= prompt  # candidates come on top
    torch.testing.assert_close(scores, whole, rtol=1e-4, atol=1e-4)


def test_a_second_turn_is_read_in_pieces_too(model, processor, encoder, make_inputs, make_video):
    """On one cache, with a video of its own."""
    chosen = vtc.selector("uniform", keyframes=2)
    vtc.wrap(model.eval(), chosen, "dfm", processor=processor, encoder=encoder)
    one, two = (make_inputs([make_video(12, seed)], ["What is red?"]) for seed in (1, 2))
    answers = {}
    for size in (None, 20):
        model.vtc.prefill_chunk = size
        settings = {"max_new_tokens": 2, "do_sample": False, "vtc_restore_prompt": False}
        first = model.generate(**one, **settings, return_dict_in_generate=True)
        ids = torch.cat([first.sequences, two["input_ids"]], dim=1)
        again = {**two, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        again |= vtc.testing.cache_argument(returned_cache(first))
        answers[size], lengths = answer(model, again, vtc_restore_prompt=False)
    assert lengths[0] == 20 and answers[None].shape == answers[20].shape
    torch.testing.assert_close(answers[20], answers[None], rtol=1e-4, atol=1e-4)


def test_a_generation_config_is_left_alone(model, processor, encoder, make_inputs, make_video):
    vtc.wrap(
        model, vtc.selector("uniform", keyframes=2), "dfm", processor=processor, encoder=encoder
    )
    model.vtc.prefill_chunk = 20
    config = transformers.GenerationConfig(max_length=300)
    inputs = make_inputs([make_video(12, 1)], ["What is red?"])
    _, lengths = answer(model, inputs, generation_config=config)
    assert lengths[0] == 20
    assert config.prefill_chunk_size is None and config.max_length == 300


def test_pieces_are_left_alone_where_their_mask_takes_more_than_they_save(case):
    model, inputs = case
    _, lengths = answer(model, inputs)
    config = model.config.get_text_config()
    config.intermediate_size = 8
    model.vtc.prefill_chunk = 20
    _, again = answer(model, inputs)
    assert again == lengths


@pytest.mark.parametrize("tokens", [0, -1, 2.5, True])
def test_an_impossible_size_is_refused(model, processor, encoder, tokens):
    vtc.wrap(model, "uniform", "dfm", processor=processor, encoder=encoder)
    with pytest.raises(
        ValueError, match=f"expected prefill_chunk to be a whole number .*got {tokens}"
    ):
        model.vtc.prefill_chunk = tokens
    model.vtc.prefill_chunk = None


def test_it_is_saved(model, processor, encoder, tmp_path):
    vtc.wrap(model, "uniform", "dfm", processor=processor, encoder=encoder)
    model.vtc.prefill_chunk = None
    vtc.save_pretrained(model, tmp_path)
    assert vtc.from_pretrained(tmp_path, encoder=encoder).vtc.prefill_chunk is None
