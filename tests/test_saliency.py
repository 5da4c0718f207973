"""The saliency of the vision tower: equal to eager attention, in any chunks, from the cache too."""

from __future__ import annotations

import copy
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from family_models import CONTRACTS, built

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare
from vtc.pipeline.saliency import (
    encode_with_saliency,
    joined,
    received_attention,
    split_exactly,
    tower_with_saliency,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*the vision tower's output")


class Salient(vtc.TokenPruner):
    """Keeps the most salient tokens."""

    query_source = None
    uses_reference = False
    uses_saliency = True

    def keep(self, patches, reference, has_reference, query, tokens=None, saliency=None):
        counts = [2] * len(patches) if tokens is None else tokens
        order = saliency.argsort(dim=1, descending=True, stable=True)
        return [row[:count].sort().values for row, count in zip(order, counts, strict=True)]


def model_of(family, merger="mean_pool", selector="none", **options):
    model, processor = copy.deepcopy(built(family)[0]), built(family)[1]
    with pytest.warns(UserWarning, match="not registered") if merger != "mean_pool" else _nothing():
        vtc.wrap(model, selector, merger, processor=processor, **options)
    return model, processor


class _nothing:
    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


def pixels_of(model, processor, frames=4, side=64):
    pictures = torch.randint(
        0,
        255,
        (frames, side, side, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    return model.vtc.adapter.preprocess(processor, pictures, frames)


def eager_attention(model, pixels, monkeypatch):
    """The attention weights ``[n, H, L, L]`` of transformers' own eager function in the layer."""
    name = model.vtc.adapter.saliency_module(model)
    layer, weights = model.get_submodule(name), []
    model.set_attn_implementation("eager")
    source = sys.modules[type(layer).__module__]
    forward = source.eager_attention_forward

    def noting(module, *args, **kwargs):
        output, attention = forward(module, *args, **kwargs)
        if module is layer:
            weights.append(attention)
        return output, attention

    monkeypatch.setattr(source, "eager_attention_forward", noting)
    model.vtc.adapter.encode(model, pixels)
    monkeypatch.undo()
    model.set_attn_implementation("sdpa")
    return torch.cat(weights)


def expected_saliency(model, family, attention, pixels):
    """The means over heads and queries, and over the patches of each token, one by one."""
    grid = model.vtc.adapter.slice_grid(model, pixels)
    mean = attention.double().mean(1)
    if family in ("llava", "llava_next_video", "internvl", "video_llava"):
        received = mean[:, 0]  # the class token's query
        patches = received[:, 1:] if family != "video_llava" else received
    else:
        patches = mean.mean(1)
    if family.startswith("qwen"):
        merge = model.config.vision_config.spatial_merge_size
        return patches.reshape(-1, grid[0] * grid[1], merge**2).mean(-1)
    if patches.shape[1] == grid[0] * grid[1]:
        return patches
    side = round(patches.shape[1] ** 0.5)
    picture = patches.view(-1, 1, side, side)
    if family == "llava_onevision":
        return F.interpolate(picture, size=grid, mode="bilinear").flatten(1)
    step = side // grid[0]
    cells = [
        picture[:, 0, i * step : (i + 1) * step, j * step : (j + 1) * step].mean((1, 2))
        for i in range(grid[0])
        for j in range(grid[1])
    ]
    return torch.stack(cells, dim=1)


FEW = ["gemma3", "internvl", "llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl"]
FAMILIES = [f if f in FEW else pytest.param(f, marks=pytest.mark.slow) for f in CONTRACTS]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_saliency_equals_the_eager_attention_of_the_tower(family, monkeypatch):
    model, processor = model_of(family)
    adapter, pixels = model.vtc.adapter, pixels_of(model, processor)
    features = encode_with_saliency(adapter, model, pixels)
    plain = adapter.encode(model, pixels)
    assert torch.equal(features.tokens, plain.tokens)
    assert features.saliency.dtype == torch.float32
    assert features.saliency.shape == plain.tokens.shape[:2]
    attention = eager_attention(model, pixels, monkeypatch)
    expected = expected_saliency(model, family, attention, pixels)
    torch.testing.assert_close(features.saliency.double(), expected, atol=1e-6, rtol=1e-4)
    *states, saliency = tower_with_saliency(adapter, model, pixels)
    assert torch.equal(saliency, features.saliency)
    assert all(map(torch.equal, states, adapter.tower(model, pixels)))


@torch.no_grad()
def test_saliency_equals_output_attentions():
    model, processor = model_of("llava_onevision")
    pixels = pixels_of(model, processor)
    found = encode_with_saliency(model.vtc.adapter, model, pixels).saliency
    model.set_attn_implementation("eager")
    outputs = model.model.vision_tower(pixels["pixel_values_videos"], output_attentions=True)
    expected = expected_saliency(model, "llava_onevision", outputs.attentions[-1], pixels)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_saliency_follows_the_window_order_of_qwen2_5():
    """A patch that takes all attention is found at its token, whatever the order of the tower."""
    model, processor = model_of("qwen2_5_vl")
    adapter = model.vtc.adapter
    width = pixels_of(model, processor)["pixel_values_videos"].shape[1]
    pixels = {
        "pixel_values_videos": torch.randn(12 * 16, width),
        "video_grid_thw": torch.tensor([[1, 12, 16]]),
    }
    height, width = adapter.slice_grid(model, pixels)
    tokens = torch.arange(height * width)
    # Of the tower: the tokens in its order, as the projector's output shows.
    from vtc_adapters._tower import recorded

    order = recorded(adapter, model, pixels, rows_per_token=4)[1].tokens[0, :, 0].long()
    assert not torch.equal(order, tokens)
    received = torch.zeros(1, height * width, 4)
    received[0, order] = tokens[:, None].float()  # the place of each token in the tower
    found = adapter.token_saliency(model, pixels, received.flatten(1))
    torch.testing.assert_close(found[0], tokens.float())


@pytest.mark.parametrize("scores", [2**24, 60])
def test_received_attention_equals_its_definition(scores, monkeypatch):
    monkeypatch.setattr("vtc.pipeline.saliency._SCORES", scores)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, 4, 7, 5, generator=generator).unbind(0)
    mask = torch.rand(3, 1, 7, 7, generator=generator) < 0.8
    mask[..., 0] = True
    weights = (query @ key.transpose(-1, -2) / 5**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    found = received_attention(query, key, mask)
    torch.testing.assert_close(found, weights.mean((1, 2)))
    added = torch.zeros(3, 1, 7, 7).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(received_attention(query, key, added), weights.mean((1, 2)))
    padding = torch.tensor([[True] * 5 + [False] * 2] * 3)
    assert (received_attention(query, key, padding)[:, 5:] == 0).all()
    first = received_attention(query, key, mask, class_token=True)
    torch.testing.assert_close(first, weights[:, :, 0].mean(1))
    shared = received_attention(query, key[:, :2], mask)
    repeated = received_attention(query, key[:, :2].repeat_interleave(2, 1), mask)
    torch.testing.assert_close(shared, repeated)


def test_three_bfloat16_numbers_hold_a_float32():
    values = torch.rand(1000, 7) * 10.0 ** torch.arange(-6, 1)
    assert torch.equal(joined(split_exactly(values)), values)


def tokens_of(model, source, processor, question="What is red?"):
    inputs = vtc.prepare_inputs(model, processor, source, question)
    with torch.no_grad():
        prepared = prepare(Call(model, model.vtc, inputs, generating=True))
    features = prepared.inputs["mm_encoder_outputs"][model.vtc.adapter.modality].pooler_output
    return features[0], prepared.report


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=10))
    return path


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "internvl"])
def test_the_cache_and_the_chunks_do_not_change_what_is_kept(family, file, tmp_path):
    model, processor = model_of(family, Salient())
    model.to(torch.bfloat16)
    expected, report = tokens_of(model, vtc.VideoSource(file), processor)
    assert report.videos[0].tokens_after < report.videos[0].tokens_before
    for chunk in (16, 3, 1):
        model.vtc.chunk_slices = chunk
        found, _ = tokens_of(model, vtc.VideoSource(file), processor)
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
    for hit in (False, True):
        source = vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
        found, report = tokens_of(model, source, processor)
        assert [use.hit for use in report.videos[0].cache] == [hit]
        assert torch.equal(found, found_in(model, processor, file))


def found_in(model, processor, file):
    return tokens_of(model, vtc.VideoSource(file), processor)[0]


def test_a_cache_without_saliency_is_filled_again(file, tmp_path):
    model, processor = model_of("llava_onevision")
    source = vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
    tokens_of(model, source, processor)
    other, _ = model_of("llava_onevision", Salient())
    _, report = tokens_of(other, vtc.VideoSource(file, cache=tmp_path, cache_tower=True), processor)
    assert [use.hit for use in report.videos[0].cache] == [False]
    _, report = tokens_of(model, source, processor)
    assert any(use.hit for use in report.videos[0].cache if use.kind == "vision tower output")


def test_hidden_states_are_returned_once_after_saliency_was_read(file):
    model, processor = model_of("llava_next_video", Salient())
    tokens_of(model, vtc.VideoSource(file), processor)
    pixels = pixels_of(model, processor)["pixel_values_videos"]
    tower = model.model.vision_tower
    states = tower(pixels, output_hidden_states=True).hidden_states
    assert len(states) == tower.config.num_hidden_layers + 1


def test_threads_read_the_saliency_of_their_own_videos(file):
    model, processor = model_of("llava_onevision", Salient())
    videos = [vtc.testing.moving_squares(seconds=6, seed=seed) for seed in range(4)]
    expected = [tokens_of(model, video, processor)[0] for video in videos]
    found = [None] * len(videos)

    def run(number):
        found[number] = tokens_of(model, videos[number], processor)[0]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(videos))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other)


def test_an_adapter_without_saliency_is_refused_in_words(file, monkeypatch):
    from vtc.interfaces.tower_saliency import TowerSaliency

    model, processor = model_of("llava_onevision", Salient())
    adapter = type(model.vtc.adapter)
    monkeypatch.setattr(adapter, "saliency_module", TowerSaliency.saliency_module)
    words = r"defines no saliency_module\(\) and token_saliency\(\); choose a merger without"
    with pytest.raises(ValueError, match=words):
        tokens_of(model, vtc.VideoSource(file), processor)
    vtc.unwrap(model)
    with pytest.raises(ValueError, match=words):
        vtc.wrap(model, "none", "fastvid", processor=processor)
    assert not vtc.is_wrapped(model)


def test_a_tower_without_attention_is_refused_in_words(file, monkeypatch):
    model, processor = model_of("llava_onevision", Salient())
    adapter = type(model.vtc.adapter)
    name = "model.vision_tower.encoder.layers.1.mlp"
    monkeypatch.setattr(adapter, "saliency_module", lambda self, model: name)
    with pytest.raises(ValueError, match="mlp computed no attention; choose a merger without"):
        tokens_of(model, vtc.VideoSource(file), processor)
    monkeypatch.undo()
    model.config.vision_feature_layer = 0
    with pytest.raises(ValueError, match="has no layer 0 with query and key"):
        tokens_of(model, vtc.VideoSource(file), processor)


def test_patches_of_the_frame_encoder_have_no_saliency(file):
    model, processor = model_of("llava_onevision", Salient(), encoder=vtc.testing.tiny_encoder())
    model.vtc.merge_encoder_patches()
    with pytest.raises(ValueError, match=r"needs the saliency of the vision tower.*merge_encoder"):
        tokens_of(model, vtc.VideoSource(file), processor)
