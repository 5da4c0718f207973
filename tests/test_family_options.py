"""Options of adapters: the text around slices, sizes, positions."""

from __future__ import annotations

import pytest
import torch
from family_models import CONTRACTS, WRAPPED, prompt_of, wrap

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare

# --- text around slices

INTERNVL = {
    "all": "user Frame1: <img>[1]</img>\nFrame2: <img>[4]</img>\nFrame3: <img>[1]</img>\n"
    "Frame4: <img>[4]</img>\nWhat",
    "keyframes": "user Frame1: [1]\nFrame2: <img>[4]</img>[1]\nFrame4: <img>[4]</img>\nWhat",
    "none": "user Frame1: [10]\nWhat",
}
QWEN3 = {
    "all": "<1.0 seconds><|vision_start|>[1]<|vision_end|><5.0 seconds><|vision_start|>[6]"
    "<|vision_end|><9.0 seconds><|vision_start|>[1]<|vision_end|><13.0 seconds><|vision_start|>"
    "[6]<|vision_end|>",
    "keyframes": "<1.0 seconds>[1]<5.0 seconds><|vision_start|>[6]<|vision_end|>[1]<13.0 seconds>"
    "<|vision_start|>[6]<|vision_end|>",
    "none": "<1.0 seconds>[14]",
}


@pytest.mark.parametrize("frame_text", ["all", "keyframes", "none"])
@pytest.mark.parametrize("way", ["processor", "lazy"])
@pytest.mark.parametrize(("family", "texts"), [("internvl", INTERNVL), ("qwen3_vl", QWEN3)])
def test_text_around_slices_is_kept_as_asked(family, texts, way, frame_text, encoder):
    contract = CONTRACTS[family]
    frames = 4 if family == "internvl" else 8
    model, processor = wrap(family, encoder, frame_text=frame_text)
    source = vtc.VideoSource(contract.video(frames), fps=0.5)
    if way == "lazy":
        inputs = vtc.prepare_inputs(model, processor, source, "What?")
    elif family == "internvl":
        inputs = contract.inputs(processor, [contract.video(frames)], ["What?"])
    else:
        metadata = {"fps": 0.5, "total_num_frames": 8, "frames_indices": list(range(8))}
        inputs = vtc.testing.stock_inputs(
            processor, [contract.video(frames)], ["What?"], video_metadata=[metadata]
        )
    assert texts[frame_text] in prompt_of(model, processor, inputs)


def test_frames_that_vanish_take_their_text_along(encoder):
    model, processor = wrap("internvl", encoder, frame_text="all")
    vtc.unwrap(model)
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), "drop", processor=processor)
    model.vtc.configure(frame_text="all")
    video = CONTRACTS["internvl"].video(4)
    inputs = vtc.prepare_inputs(model, processor, video, "What?")
    text = "user Frame1: \nFrame2: <img>[4]</img>\nFrame4: <img>[4]</img>\nWhat"
    assert text in prompt_of(model, processor, inputs)


@pytest.mark.parametrize("family", WRAPPED)
def test_the_report_tells_what_text_costs(family, encoder):
    contract = CONTRACTS[family]
    costs = {}
    for frame_text in ("all", "keyframes", "none"):
        model, processor = wrap(family, encoder, frame_text=frame_text)
        inputs = contract.inputs(processor, [contract.video(8)], ["What?"])
        report = prepare(Call(model, model.vtc, inputs)).report
        costs[frame_text] = report.text_after
        assert f"{report.text_before} -> {report.text_after} tokens of text" in str(report)
        assert report.to_dict()["text_after"] == report.text_after
    assert costs["all"] == report.text_before > costs["keyframes"] > costs["none"] == 0


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_vl_moe"])
@pytest.mark.parametrize("frame_text", ["all", "keyframes", "none"])
def test_positions_are_the_stock_ones_of_what_is_left(family, frame_text, encoder):
    contract = CONTRACTS[family]
    model, processor = wrap(family, encoder, frame_text=frame_text)
    inputs = contract.inputs(processor, [contract.video(8)], ["What is it?"])
    full = contract.positions(model, inputs, 0)
    prepared = prepare(Call(model, model.vtc, inputs)).inputs
    video = inputs["input_ids"][0] == model.config.video_token_id
    slots = video.nonzero().flatten().view(4, -1)
    kept = torch.ones(len(video), dtype=torch.bool)
    kept[video] = False
    keys = [1, 3]
    for n in range(4):
        kept[slots[n] if n in keys else contract.merged_slot(slots[n])] = True
        if frame_text == "none" or (frame_text == "keyframes" and n not in keys):
            kept[contract._around(slots, n)] = False
    assert torch.equal(prepared["position_ids"][:, 0], full[:, kept])
    assert torch.equal(prepared["input_ids"][0], inputs["input_ids"][0, kept])


def test_a_merger_without_weights_says_that_deepstack_is_averaged(encoder):
    model, processor = wrap("qwen3_vl", encoder)
    contract = CONTRACTS["qwen3_vl"]
    inputs = contract.inputs(processor, [contract.video(8)], ["What?"])
    assert not prepare(Call(model, model.vtc, inputs)).report.warnings
    vtc.unwrap(model)
    with pytest.warns(UserWarning, match="untrained parameters"):
        vtc.wrap(model, vtc.selector("uniform", keyframes=2), "q_former", processor=processor)
    with vtc.disabled(model):
        layers = contract.deepstack(model, inputs, 0)
    prepared = prepare(Call(model, model.vtc, inputs))
    [warning] = [text for text in prepared.report.warnings if "no weights" in text]
    assert "merger 'q_former'" in warning
    (row,) = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output
    mean = torch.cat([layer[0].mean(0) for layer in layers])
    assert torch.allclose(row[0, 32:], mean, atol=1e-6)  # of the first slice, which is merged


# --- the size of Qwen3-VL's frames


def test_a_lazy_video_has_the_resolution_of_the_whole(encoder):
    """The stock processor shrinks frames by their number, which a chunk does not tell."""
    contract = CONTRACTS["qwen3_vl"]
    video = vtc.testing.drifting_video(10, 0, (224, 336))
    model, processor = wrap("qwen3_vl", encoder)
    stock = contract.inputs(processor, [video], ["What?"])
    lazy = vtc.prepare_inputs(model, processor, video, "What?")
    with torch.no_grad():
        expected = model(**stock).logits
        for model.vtc.chunk_slices in (1, 2, 16):
            assert torch.allclose(model(**lazy).logits, expected, atol=1e-4)
    small = vtc.last_report(model).tokens_before
    model.vtc.configure(resolution_frames=4)
    prepare(Call(model, model.vtc, lazy))
    with torch.no_grad():
        model(**lazy)
    assert vtc.last_report(model).tokens_before > small


# --- where text after a video stands


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("frames", [4, 40])
def test_positions_of_transformers_4_57(family, frames, encoder):
    """After a video, text stood at the largest position of all three axes, and one more."""
    contract = CONTRACTS[family]
    model, processor = wrap(family, encoder, mrope="4.57")
    inputs = contract.inputs(processor, [contract.video(frames)], ["What is it?"])
    if family == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([1.0])
    ids = inputs["input_ids"][0].tolist()
    interval = 2 if family == "qwen2_5_vl" else 1  # two positions a second
    height, width, slices = 2, 3, frames // 2
    columns, following, kept, n = [], 0, [], 0
    for place, token in enumerate(ids):
        if token != model.config.video_token_id:
            columns.append([following] * 3)
            kept.append(place)
            following += 1
            continue
        if n == 0:
            start = following
        t, cell = divmod(n, height * width)
        columns.append([start + t * interval, start + cell // width, start + cell % width])
        following = max(following, max(columns[-1]) + 1)
        n += 1
    keys = {(2 * part + 1) * slices // 4 for part in range(2)}
    first = ids.index(model.config.video_token_id)
    for t in range(slices):
        at = first + t * height * width
        kept += range(at, at + height * width) if t in keys else [at + width + 1]
    expected = torch.tensor(columns).T[:, sorted(kept)]
    prepared = prepare(Call(model, model.vtc, inputs))
    assert torch.equal(prepared.inputs["position_ids"][:, 0], expected)
    assert int(prepared.offsets[0]) == int(expected.max()) + 1 - expected.shape[1]
    model.vtc.configure(mrope="stock")
    stock = prepare(Call(model, model.vtc, inputs)).inputs["position_ids"][:, 0]
    assert torch.equal(stock, expected) == (frames == 4)  # short videos are read alike


# --- options are checked, told and saved


def test_options_of_an_adapter_are_checked(encoder):
    model, _ = wrap("qwen3_vl", encoder)
    with pytest.raises(ValueError, match=r"has no option 'frame_txt'.*Did you mean 'frame_text'"):
        model.vtc.configure(frame_txt="all")
    with pytest.raises(ValueError, match="frame_text"):
        model.vtc.configure(frame_text="some")
    with pytest.raises(ValueError, match="expected resolution_frames to be .* got 1"):
        model.vtc.configure(resolution_frames=1)
    model.vtc.configure(frame_text="all")
    model.vtc.configure(resolution_frames=8)
    assert model.vtc.adapter.config.frame_text == "all"
    llava, _ = wrap("llava_onevision", encoder)
    with pytest.raises(ValueError, match="takes no options"):
        llava.vtc.configure(frame_text="all")


def test_options_of_an_adapter_are_saved(encoder, tmp_path):
    model, _ = wrap("qwen3_vl", encoder, frame_text="all")
    vtc.save_pretrained(model, tmp_path)
    assert vtc.from_pretrained(tmp_path, encoder=encoder).vtc.adapter.config.frame_text == "all"
