"""Frames that enter as still images: how many there are, where they stand, what is refused."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from family_models import CONTRACTS, STILLS, built, prompt_of, wrap

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare
from vtc.pipeline.query import row_texts


@pytest.mark.parametrize("family", [*STILLS, "qwen3_vl"])
def test_the_question_is_read_without_the_text_around_frames(family, encoder):
    contract = CONTRACTS[family]
    model, processor = wrap(family, encoder)
    inputs = contract.inputs(processor, [contract.video(8)], ["Where is the cat?"])
    assert row_texts(Call(model, model.vtc, inputs), [processor]) == ["Where is the cat?"]


@pytest.mark.parametrize("family", STILLS)
def test_every_way_to_say_how_many_frames(family, encoder):
    contract = CONTRACTS[family]
    model, processor = wrap(family, encoder)
    inputs = contract.inputs(processor, [contract.video(6, 1), contract.video(6, 2)], ["A?", "B?"])
    with torch.no_grad():
        expected = model(**inputs).logits
        for said in (6, [6, 6], torch.tensor([6, 6]), [6, [(0, 6)]]):
            assert torch.equal(model(**{**inputs, "vtc_frames": said}).logits, expected)


def test_several_videos_among_still_images(encoder):
    """A picture, four frames, a picture, two frames: only frames are compressed."""
    contract = CONTRACTS["gemma3"]
    model, processor = wrap("gemma3", encoder, keyframes=1)
    inputs = contract.inputs(processor, [contract.video(8)], ["What?"])
    inputs["vtc_frames"] = [[(1, 4), (6, 2)]]
    report = prepare(Call(model, model.vtc, inputs)).report
    assert [video.frames for video in report.videos] == [4, 2]
    text = prompt_of(model, processor, inputs)
    runs = [int(n) for n in re.findall(r"\[(\d+)\]", text)]
    # Pictures 0 and 5 stay as they are; of 4 frames 3 are merged, of 2 one.
    assert sum(runs) == 2 * 4 + (4 + 3) + (4 + 1)
    with torch.no_grad():
        model(**inputs)
        model.vtc.selector = vtc.selector("uniform", keyframes=8)
        bare = {name: value for name, value in inputs.items() if name != "vtc_frames"}
        whole = model(**inputs).logits
        with vtc.disabled(model):
            assert torch.allclose(whole, model(**bare).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (5, "says 5 frames for row 0, which has 6 pictures"),
        ([6, 6], r"vtc_frames=\[6, 6\] has 2 entries for 1 rows; give a number"),
        (2.5, "expected vtc_frames to be a number of frames.*got 2.5"),
        (-1, "expected vtc_frames to be .*; got -1"),
        ([8.0], "expected vtc_frames to be .*; got 8.0 for row 0"),
        ([(0, 6)], r"expected vtc_frames to be .*; got \(0, 6\) for row 0"),
        ("8", "expected vtc_frames to be .*; got '8'"),
        ([[(3, 4)]], r"says 4 frames from picture 3 in row 0; expected pictures 0 to 5"),
        ([[(2, 2), (3, 1)]], r"from picture 3 in row 0; expected pictures 4 to 5"),
        ([[(0, 0)]], "says 0 frames from picture 0"),
    ],
)
def test_wrong_numbers_of_frames_are_named(said, message, encoder):
    contract = CONTRACTS["internvl"]
    model, processor = wrap("internvl", encoder)
    inputs = contract.inputs(processor, [contract.video(6)], ["What?"])
    with pytest.raises(ValueError, match=message):
        model(**{**inputs, "vtc_frames": said})


def test_tiles_of_a_picture_are_one_picture_and_no_frame(encoder):
    contract = CONTRACTS["internvl"]
    model, processor = wrap("internvl", encoder)
    still, video = vtc.testing.drifting_video(1, 5, (56, 168))[0], contract.video(4)
    tiled = vtc.testing.stock_inputs(processor, [video], ["What?"], [still], crop_to_patches=True)
    tiles = len(tiled["pixel_values"]) - 4
    assert tiles > 1
    stock = built("internvl")[0]
    with torch.no_grad():
        short = model(**tiled, vtc_frames=[[(1, 4)]]).logits.shape[1]
        assert vtc.last_report(model).tokens_before == 16
        model.vtc.selector = vtc.selector("uniform", keyframes=4)
        expected = stock(**tiled).logits
        assert short < expected.shape[1]
        assert torch.allclose(model(**tiled, vtc_frames=[[(1, 4)]]).logits, expected, atol=1e-4)
        with pytest.raises(
            ValueError, match=rf"cut into {tiles} tiles; give crop_to_patches=False"
        ):
            model(**tiled, vtc_frames=5)


def test_frames_without_pictures_are_refused(encoder):
    model, processor = wrap("internvl", encoder)
    inputs = CONTRACTS["internvl"].inputs(processor, [], ["Hello?"])
    with pytest.raises(ValueError, match="vtc_frames=8 was given, but no pixel_values"):
        model(**inputs, vtc_frames=8)


@pytest.mark.parametrize("family", STILLS)
def test_pictures_that_nobody_declared_are_loud_and_stay(family, encoder):
    contract = CONTRACTS[family]
    model, processor = wrap(family, encoder)
    inputs = contract.inputs(processor, [contract.video(6)], ["What?"])
    del inputs["vtc_frames"]
    stock = built(family)[0]
    with torch.no_grad():
        with pytest.warns(UserWarning, match="pass their number as vtc_frames=N"):
            logits = model(**inputs).logits
        assert torch.equal(logits, stock(**inputs).logits)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert torch.equal(model(**inputs, vtc_frames=0).logits, logits)


def test_frames_of_a_family_with_videos_are_refused(encoder):
    model, processor = wrap("llava_onevision", encoder)
    inputs = vtc.testing.stock_inputs(processor, [np.zeros((4, 42, 42, 3), np.uint8)], ["What?"])
    with pytest.raises(ValueError, match="takes videos directly"):
        model(**inputs, vtc_frames=4)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "internvl", "gemma3", "smolvlm"])
def test_a_second_video_in_a_second_turn(family, encoder):
    """On the cache of the first turn it is read as in the whole talk, and at the same places."""
    from transformers import DynamicCache

    contract = CONTRACTS[family]
    model, processor = wrap(family, encoder)
    if family == "qwen2_vl":
        model.vtc.configure(mrope="4.57")  # the first video moves what comes after it
    one = contract.inputs(processor, [contract.video(12, 1)], ["Where is it?"])
    two = contract.inputs(processor, [contract.video(6, 2)], ["And now?"])
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "vtc_query": "it"}
    cache = DynamicCache(config=model.config.get_text_config())
    first = model.generate(
        **one, **vtc.testing.cache_argument(cache), vtc_restore_prompt=False, **settings
    )
    new = first[:, -4:]
    talk = torch.cat([first, two["input_ids"]], dim=1)
    along = {}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in two:
            padded = (first.shape[1], 0)
            along[name] = torch.nn.functional.pad(two[name], padded)
    second = model.generate(
        **{**two, **along, "input_ids": talk, "attention_mask": torch.ones_like(talk)},
        **vtc.testing.cache_argument(cache),
        **settings,
    )
    middle = {"input_ids": new, "attention_mask": torch.ones_like(new)}
    whole = {}
    for name, value in one.items():
        if name == "vtc_frames":
            whole[name] = [[*value[0], (12, 6)]]
        elif name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
            parts = [value, middle.get(name, torch.zeros_like(new)), two[name]]
            whole[name] = torch.cat(parts, dim=1)
        else:
            along_pictures = 1 if family == "smolvlm" else 0
            whole[name] = torch.cat([value, two[name]], dim=along_pictures)
    assert model.generate(**whole, **settings)[0, -4:].tolist() == second[0, -4:].tolist()


def batched(name, rows, processor):
    """What the processor makes of two rows, from what it makes of each."""
    if name.startswith("pixel"):
        if rows[0].shape[0] != 1:
            return torch.cat(rows)
        # Idefics3 fills rows of fewer pictures with zeros.
        return torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
    fill = processor.tokenizer.pad_token_id if name == "input_ids" else 0
    length = max(row.shape[1] for row in rows)
    pad = torch.nn.functional.pad
    return torch.cat([pad(row, (length - row.shape[1], 0), value=fill) for row in rows])


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "internvl", "llava", "paligemma"])
def test_still_images_beside_videos_in_every_row(family, encoder):
    contract = CONTRACTS[family]
    model, processor = wrap(family, encoder, keyframes=64)
    lengths = (6, 6) if family == "internvl" else (4, 6)  # whose processor takes equal ones only
    videos = [contract.video(length, length) for length in lengths]
    pictures = [contract.video(1, seed)[0] for seed in (8, 9)]
    if family == "internvl":
        inputs = dict(vtc.testing.stock_inputs(processor, videos, ["A?", "And b?"], pictures))
    else:
        rows = [
            contract.inputs(processor, [video], [question], [picture])
            for video, question, picture in zip(videos, ["A?", "And b?"], pictures, strict=True)
        ]
        inputs = {
            name: batched(name, [row[name] for row in rows], processor)
            for name in rows[0]
            if name != "vtc_frames"
        }
    said = [[(1, length)] for length in lengths]
    with torch.no_grad():
        with vtc.disabled(model):
            stock = model(**inputs).logits
        used = inputs["attention_mask"].bool()
        logits = model(**inputs, vtc_frames=said).logits
        assert torch.allclose(logits[used], stock[used], atol=1e-4)
        model.vtc.selector = vtc.selector("uniform", keyframes=2)
        short = model(**inputs, vtc_frames=said).logits
        for row in range(2):
            alone = contract.inputs(
                processor, [videos[row]], [["A?", "And b?"][row]], [pictures[row]]
            )
            expected = model(**alone).logits[0]
            assert torch.allclose(short[row, -len(expected) :], expected, atol=1e-4)


def test_the_warning_points_at_the_callers_line(encoder):
    contract = CONTRACTS["internvl"]
    model, processor = wrap("internvl", encoder)
    inputs = contract.inputs(processor, [contract.video(6)], ["What?"])
    del inputs["vtc_frames"]
    for call in (model, lambda **given: model.generate(**given, max_new_tokens=1)):
        with pytest.warns(UserWarning, match="vtc_frames=N") as caught:
            call(**inputs)
        assert [w.filename for w in caught if "vtc_frames=N" in str(w.message)] == [__file__]
