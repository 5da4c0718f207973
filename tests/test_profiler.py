"""The profiler's counts equal closed forms and real runs."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vtc
from vtc.pipeline.report import Recorder, Report, watching
from vtc.plugins import registry
from vtc.profiler import SHAPE_NAMES
from vtc.profiler.count import count
from vtc.profiler.counting import counting
from vtc.profiler.measure import DrawnFrames, measure
from vtc.profiler.models import empty_model
from vtc.profiler.stages import CONNECTOR, KEYFRAMES, MERGING, OTHERS, PREFILL, STAGES
from vtc.profiler.subject import Subject, encoder_without_weights
from vtc.testing import LiveBytes
from vtc_adapters.shapes import SHAPES

PAPER = {64: 61.0, 256: 120.3, 1024: 356.8, 8192: 2565.2}
"""Table 5 of ViLAMP: "FLOPs (T)" of its 7B model."""
QWEN2 = {"llava-onevision-7b": (3584, 18944, 28, 512), "llava-onevision-0.5b": (896, 4864, 24, 128)}
QWEN2["qwen2-vl-7b"] = QWEN2["llava-onevision-7b"]


def subject(config, processor, selector="uniform", merger="dfm", encoder=None, **options):
    choosing = registry.build_part("selector", selector)
    dtype = options.pop("dtype", torch.bfloat16)
    model = empty_model(config, dtype)
    merging = registry.build_part("merger", merger)
    width = model.get_input_embeddings().weight.shape[1]
    merging.build(width, width)
    return Subject(
        model=model,
        processor=processor,
        adapter=registry.adapter_for(config.model_type),
        selector=choosing,
        merger=merging,
        encoder=encoder,
        **options,
    )


@pytest.fixture(scope="module")
def shape():
    """Subjects of the full-size shapes, each made once."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = subject(*SHAPES[name]())
        return known[name]

    return get


def shallow():
    """The shape of LLaVA-OneVision-7B with three layers of each kind, which are counted sooner."""
    config, processor = SHAPES["llava-onevision-7b"]()
    config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = 3
    config.text_config.layer_types = config.text_config.layer_types[:3]
    return config, processor


@pytest.fixture(scope="module")
def open_clip():
    return encoder_without_weights("open_clip:ViT-B-32/openai")


def siglip(width_out):
    """MACs of layers and of attention, for one frame: 26 layers, 729 patches, the projector."""
    linear = 588 * 1152 + 26 * (4 * 1152**2 + 2 * 1152 * 4304) + 1152 * width_out + width_out**2
    return 729 * linear, 26 * 2 * 729**2 * 1152


def language_model(name, tokens, vocabulary):
    """MACs of layers and of attention, in full; and of the logits of one token."""
    width, inner, layers, shared = QWEN2[name]
    linear = layers * (2 * width**2 + 2 * width * shared + 3 * width * inner)
    return tokens * linear + width * vocabulary, layers * 2 * tokens**2 * width


def test_the_command_knows_the_shapes_that_the_adapters_register():
    assert SHAPE_NAMES == tuple(SHAPES)


@pytest.mark.parametrize("frames", PAPER)
def test_table_5_of_the_paper(shape, frames):
    found = count(shape("llava-onevision-7b"), frames).first_token
    assert found.linear_macs / 1e12 == pytest.approx(PAPER[frames], rel=0.005)


@pytest.mark.parametrize("name", ["llava-onevision-7b", "llava-onevision-0.5b"])
@pytest.mark.parametrize("frames", [7, 100])
def test_llava_onevision_equals_its_closed_form(shape, name, frames):
    """Whole chunks, and what is left; fewer frames than keyframes."""
    found = count(shape(name), frames)
    keys = min(32, frames)
    tokens = keys * 196 + (frames - keys) + 1 + 64
    seen, compared = siglip(QWEN2[name][0])
    read, attended = language_model(name, tokens, 152000)
    merging = found.stages[5].macs
    assert found.first_token.tokens == tokens
    assert found.first_token.linear_macs == frames * seen + read
    selection = found.stages[2].macs
    all_macs = frames * (seen + compared) + read + attended + merging + selection
    assert found.first_token.macs == pytest.approx(all_macs, rel=1e-12)
    assert found.first_token.flops == 2 * found.first_token.macs
    read, attended = language_model(name, frames * 196 + 65, 152000)
    assert found.stock_first_token.macs == frames * (seen + compared) + read + attended
    assert found.stock_first_token.tokens == frames * 196 + 65


def test_qwen2_vl_equals_its_closed_form(shape):
    found = count(shape("qwen2-vl-7b"), 200)
    patches, slices = 26 * 46, 100  # 640 x 360 pixels, two frames each
    seen = patches * (1176 * 1280 + 32 * 12 * 1280**2)
    seen += patches // 4 * (5120**2 + 5120 * 3584)
    tokens = 32 * patches // 4 + 68 + 64
    read, _ = language_model("qwen2-vl-7b", tokens, 152064)
    assert (found.keyframes, found.first_token.tokens) == (32, tokens)
    assert found.first_token.linear_macs == slices * seen + read
    vision = found.stages[3].macs + found.stages[4].macs
    assert vision == slices * (seen + 32 * 2 * patches**2 * 1280)


def test_the_frame_encoder_equals_its_closed_form_and_the_fast_path_saves_fifteen_times(open_clip):
    about = subject(*SHAPES["llava-onevision-7b"](), selector="dks", encoder=open_clip)
    found = count(about, 8192)
    layers, width, places = 12, 768, 50
    macs = 49 * 3072 * width + layers * (12 * width**2 * places + 2 * places**2 * width)
    macs += width * 512
    assert found.stages[1].macs == pytest.approx(8192 * macs, rel=1e-4)  # the query on top
    assert found.stages[1].linear_macs is None  # Table 5 leaves it out
    assert found.keyframes == 32
    assert 15 < found.first_token.flops / found.fast_path.flops < 16.5


@pytest.mark.parametrize("selector", ["dks", "uniform"])
def test_the_fast_path_equals_its_closed_form(open_clip, selector):
    """The connector in the place of the tower, on 49 patches of 768 numbers a frame."""
    usual = subject(*shallow(), selector=selector, encoder=open_clip)
    fast = count(replace(usual, fast_path=True), 500)
    assert [stage.name for stage in fast.stages][4] == CONNECTOR
    assert fast.stages[4].linear_macs == 468 * 49 * (768 * 3584 + 3584**2)
    assert fast.stages[5].macs < 49 / 729 * 1.1 * count(usual, 500).stages[5].macs
    kept = 500 * 49 * 768 * 2
    assert kept < fast.stages[2].peak_memory < 1.1 * kept
    assert fast.stages[1].flops == pytest.approx(500 * 8.8e9, rel=0.02)  # even if nobody looks
    assert fast.fast_path is None
    assert count(usual, 500).fast_path == fast.first_token


def test_chunks_change_memory_and_nothing_else():
    config, processor = shallow()
    small = count(subject(config, processor, chunk=5), 77)
    large = count(subject(config, processor), 77)
    assert small.first_token.macs == pytest.approx(large.first_token.macs, rel=1e-12)
    peaks = [
        next(s for s in each.stages if s.name == OTHERS).peak_memory for each in (small, large)
    ]
    assert peaks[0] < 0.8 * peaks[1]


def test_prefill_in_pieces_saves_memory_and_attention():
    config, processor = shallow()
    pieces = count(subject(config, processor, prefill_chunk=2048), 300).stages[6]
    whole = count(subject(config, processor), 300).stages[6]
    logits = 3584 * 152000  # of the last token of each piece
    assert pieces.linear_macs - whole.linear_macs == 3 * logits
    assert pieces.flops < whole.flops
    assert pieces.peak_memory < 0.7 * whole.peak_memory


def test_ten_thousand_frames_need_few_gigabytes(shape):
    """The derivation in docs/performance.md, in bytes of bfloat16."""
    found = count(shape("llava-onevision-7b"), 10000)
    length = 32 * 196 + 9968 + 65
    cache = length * 28 * 2 * 512 * 2
    inside = 3 * length * 18944 * 2  # gate, up and their product, while the last is made
    features = 2 * (length - 64) * 3584 * 2
    states = 6 * length * 3584 * 2
    prefill = found.stages[6].peak_memory
    assert cache + inside + features < prefill < cache + inside + features + states
    assert found.first_token.peak_memory == prefill


# --- against real runs


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_the_vision_tower_and_the_language_model_count_as_on_the_cpu(family):
    """Torch's own counter on a model with weights, with attention written out."""
    model, processor = vtc.testing.tiny(family)
    model.set_attn_implementation("eager")
    about = subject(model.config, processor, "uniform", dtype=torch.float32, size=(56, 84))
    found = count(about, 8, keyframes=8)
    adapter = about.adapter
    frames = torch.zeros(8, 56, 84, 3, dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as real:
        adapter.encode(model, adapter.preprocess(processor, frames, 8))
    assert found.stages[3].flops == real.get_total_flops()
    embedded = torch.zeros(1, found.stages[6].tokens, model.get_input_embeddings().weight.shape[1])
    with torch.no_grad(), FlopCounterMode(display=False) as real:
        output = model.get_decoder()(inputs_embeds=embedded)
        model.get_output_embeddings()(output.last_hidden_state[:, -1:])
    assert found.stages[6].flops == real.get_total_flops()


@pytest.mark.parametrize("frames", [200, 1000])
def test_memory_is_what_a_run_holds(frames):
    """The most bytes alive in each stage while the tiny model really reads a video."""
    model, processor = vtc.testing.tiny()
    vtc.wrap(model, vtc.selector("uniform", keyframes=20), "dfm", processor=processor)
    # What the stock processor holds while it resizes is the CPU's, not the device's.
    model.vtc.adapter.preprocess = lambda processor, frames, total: {
        "pixel_values_videos": torch.zeros(len(frames), 3, 42, 42)
    }
    inputs = vtc.prepare_inputs(model, processor, np.zeros((frames, 42, 42, 3), np.uint8), "What?")
    live, seen = LiveBytes(), {}

    @contextmanager
    def watch(name):
        live.peak = 0
        yield
        seen[name] = max(seen.get(name, 0), live.peak)

    with torch.no_grad(), live, watching(watch):
        model.generate(**inputs, max_new_tokens=1)
    prompt = inputs["input_ids"].shape[1] - 1 + vtc.last_report(model).tokens_after
    options = {"dtype": torch.float32, "size": (42, 42)}
    spec = {"name": "uniform", "keyframes": 20}
    found = count(subject(model.config, processor, spec, **options), frames, prompt=prompt)
    counted = {stage.name: stage.peak_memory for stage in found.stages}
    assert seen["language model"] == pytest.approx(counted[PREFILL], rel=0.03)
    for name in (KEYFRAMES, OTHERS, MERGING):
        assert seen[name] == pytest.approx(counted[name], rel=0.15), name


def test_a_run_is_measured(encoder):
    model, processor = vtc.testing.tiny()
    vtc.wrap(model, vtc.selector("dks", keyframes=6), processor=processor, encoder=encoder)
    run = measure(model, processor, DrawnFrames(40, 32, 48), "What?", frames=40, new_tokens=3)
    assert set(run.seconds) == set(STAGES) and min(run.seconds.values()) > 0
    assert 0 < run.first_token and run.keyframes == len(run.report.keyframes) <= 6
    before = sum(seconds for name, seconds in run.seconds.items() if name != STAGES[-1])
    assert run.first_token >= before
    text = vtc.prepare_inputs(model, processor, DrawnFrames(40, 32, 48), "What?")
    assert run.prompt == text["input_ids"].shape[1] - 1 + run.report.tokens_after


def test_stages_run_in_the_context_of_a_watcher():
    seen = []

    @contextmanager
    def watch(name):
        seen.append(name)
        yield

    recorder = Recorder(Report({}, {}))
    with watching(watch), recorder.stage("selection"):
        pass
    with recorder.stage("merging"):
        pass
    assert seen == ["selection"] and set(recorder.report.stages) == {"selection", "merging"}


# --- the counter


def test_what_is_counted():
    layer = nn.Linear(8, 4, device="meta")
    convolution = nn.Conv2d(3, 6, 2, groups=3, device="meta")
    pixels, rows = torch.empty(1, 3, 4, 4, device="meta"), torch.empty(5, 8, device="meta")
    with counting() as cost:
        layer(rows)
        convolution(pixels)
        rows @ rows.T
    of_layers = 5 * 8 * 4 + 6 * 9 * 4
    assert cost.linear_macs == of_layers
    assert cost.macs == of_layers + 5 * 8 * 5
    with counting() as cost:
        kept = rows.T[:3] + 1  # a view moves nothing
        del kept
        torch.zeros(4, device="meta") + torch.arange(4)  # what the CPU holds joins
    assert cost.bytes_moved >= 2 * 4 * 15
    assert cost.peak_memory >= 60 and cost.flops == 0


def test_attention_is_one_operation():
    query, key = torch.empty(2, 4, 5, 8, device="meta"), torch.empty(2, 2, 7, 8, device="meta")
    with counting() as cost:
        out = torch.ops.vtc.counted_attention(query, key, key)
    assert out.shape == query.shape
    assert cost.macs == 2 * 4 * 5 * 7 * (8 + 8)
    assert cost.bytes_moved == 4 * (2 * query.numel() + 2 * key.numel())
    assert cost.peak_memory == query.nbytes
    with pytest.raises(RuntimeError, match="counts on the meta device only"):
        torch.ops.vtc.counted_attention(*(torch.zeros(1, 1, 1, 1) for _ in range(3)))


def test_a_budget_bounds_tokens_and_memory():
    """Ten times the frames need no more memory within the same budget."""
    model, processor = vtc.testing.tiny()
    spec = {"name": "uniform", "keyframes": 4}
    whole = subject(model.config, processor, spec, size=(42, 42))
    within = replace(whole, max_tokens=60, chunks={})
    short, long = (count(within, frames) for frames in (300, 3000))
    tokens = [next(s.tokens for s in one.stages if s.name == PREFILL) for one in (short, long)]
    assert tokens == [60 + within.text_tokens] * 2
    assert long.first_token.peak_memory == pytest.approx(short.first_token.peak_memory, rel=0.01)
    assert count(whole, 3000).first_token.peak_memory > 1.5 * long.first_token.peak_memory
    with pytest.raises(ValueError, match="cannot work with a budget"):
        count(replace(within, merger=vtc.merger("tome"), chunks={}), 30)
