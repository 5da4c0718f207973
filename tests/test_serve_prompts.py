"""Conversations with lazy videos, as the stock processor and the adapters write them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_models import CONTRACTS, wrap
from PIL import Image
from serving import openai  # noqa: F401 - skips without the extras

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare
from vtc.serve.prompt import Turn, conversation_inputs
from vtc.serve.stream import TextStream

QUESTION = "What is red?"


def source(family, frames=5, seed=1):
    return vtc.VideoSource(CONTRACTS[family].video(frames, seed), fps=1.0)


@pytest.mark.parametrize("family", sorted(set(CONTRACTS) - {"paligemma"}))
def test_a_video_stands_in_a_conversation_as_the_adapter_writes_it(family, encoder):
    model, processor = wrap(family, encoder)
    video = source(family)
    alone = model.vtc.adapter.prompt(processor, QUESTION, video)
    until = alone.index(QUESTION) + len(QUESTION)
    turns = [
        Turn("user", [video, QUESTION]),
        Turn("assistant", ["A dot."]),
        Turn("user", ["Where?"]),
    ]
    inputs = conversation_inputs(model, processor, turns)
    written = processor.tokenizer.decode(inputs["input_ids"][0]).removeprefix("<s>")
    assert written.startswith(alone[:until]) and written.endswith(alone[until:])
    assert written.index("A dot.") < written.index("Where?")
    assert inputs["vtc_query"] == "Where?"
    simple = conversation_inputs(model, processor, turns[:1])
    usual = vtc.prepare_inputs(model, processor, video, QUESTION)
    assert torch.equal(simple["input_ids"], usual["input_ids"]) and simple.keys() == usual.keys()


@pytest.mark.parametrize("family", sorted(CONTRACTS))
def test_a_model_answers_text_pictures_and_videos_or_says_that_it_cannot(family, encoder):
    model, processor = wrap(family, encoder)
    picture = Image.fromarray(CONTRACTS[family].video(1, 2)[0])
    first, second = source(family), source(family, frames=4, seed=2)
    conversations = {
        "two videos": [Turn("user", [first, "and", second, "differ?"])],
        "pictures": [Turn("user", [picture, "and", picture, "differ?"])],
        "beside": [Turn("user", [picture, first, "differ?"])],
        "text": [Turn("system", ["Be brief."]), Turn("user", ["Why?"])],
    }
    reads_pictures = model.vtc.adapter.modality == "image"
    for name, turns in conversations.items():
        if family == "paligemma" or (name == "beside" and reads_pictures):
            with pytest.raises(ValueError, match="has no chat template|no images besides them"):
                conversation_inputs(model, processor, turns)
            continue
        inputs = conversation_inputs(model, processor, turns)
        result = model.generate(**inputs, max_new_tokens=2, vtc_restore_prompt=False)
        if name == "two videos":
            videos = vtc.last_report(model).videos
            assert [video.frames for video in videos] == [5, 4]
            assert result.shape[1] > sum(video.tokens_after for video in videos)


@pytest.mark.parametrize("family", ["llava_onevision", "llava_next_video", "qwen2_vl"])
def test_pictures_beside_a_video_are_read_as_by_the_stock_processor(family, encoder):
    model, processor = wrap(family, encoder)
    frames = CONTRACTS[family].video(4, 1)
    pictures = [Image.fromarray(CONTRACTS[family].video(1, seed)[0]) for seed in (2, 3)]
    video = vtc.VideoSource(frames, fps=1.0)
    turns = [Turn("user", [*pictures, video, QUESTION])]
    lazy = conversation_inputs(model, processor, turns)
    content = [{"type": "image"}] * 2 + [{"type": "video"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    stock = processor(
        text=[prompt],
        images=pictures,
        videos=[np.asarray(frames)],
        do_sample_frames=False,
        return_tensors="pt",
    )
    with torch.no_grad():
        ours, theirs = (
            prepare(Call(model, model.vtc, dict(inputs), generating=True)).inputs
            for inputs in (lazy, stock)
        )
    names = {"input_ids", "attention_mask", "position_ids", "pixel_values", "image_grid_thw"}
    assert len(names & theirs.keys()) >= 3
    for name in names & theirs.keys():
        torch.testing.assert_close(ours[name], theirs[name], msg=name)
    features = [each["mm_encoder_outputs"]["video"].pooler_output for each in (ours, theirs)]
    torch.testing.assert_close(*features)


def test_words_of_the_prompt_format_are_refused_in_any_turn(encoder):
    model, processor = wrap("llava_onevision", encoder)
    for turns in (
        [Turn("system", ["<video>"]), Turn("user", [source("llava_onevision"), QUESTION])],
        [Turn("user", ["<image>"])],
    ):
        with pytest.raises(ValueError, match="expected text to be plain text"):
            conversation_inputs(model, processor, turns)
    with pytest.raises(ValueError, match="expected the last message to have some text"):
        conversation_inputs(model, processor, [Turn("user", [source("llava_onevision"), " "])])


class Letters:
    """A tokenizer of bytes."""

    def decode(self, ids, skip_special_tokens):
        return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("words", "stops", "pieces"),
    [
        ("héllo ☃", (), ["h", "é", "l", "l", "o", " ☃"]),
        ("  a b \n", (), ["a", " b"]),
        ("abcabd", ("abd",), ["abc"]),
        ("ab", ("abd",), ["ab"]),
        ("xENDy", ("END", "ENDy"), ["x"]),
        ("END", ("END",), []),
    ],
)
def test_a_stream_holds_back_what_may_still_change(words, stops, pieces):
    taken: list[str] = []
    stream = TextStream(Letters(), stops, taken.append)
    stream.put(torch.tensor([[1, 2, 3]]))
    for byte in words.encode():
        stream.put(torch.tensor([byte]))
    stream.end()
    assert taken == pieces and stream.tokens == len(words.encode())
    assert stream.stopped == any(stop in words for stop in stops)
