"""The tiny models' towers: models, pretext, dual encoder, and their features."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vtc_adapters.llava_onevision import LlavaOnevisionAdapter
from vtc_recipes.synthetic import COLOURS, SHAPES, Scene, Segment, SyntheticVideo
from vtc_recipes.tiny.bank import FRAMES, STEP, build_bank, patch_quarters, to_pixels
from vtc_recipes.tiny.dual_encoder import (
    draw_texts,
    embed_frames,
    matching_loss,
    retrieval,
    scene_loss,
)
from vtc_recipes.tiny.features import embeddings_of, patches_of, rows_of
from vtc_recipes.tiny.models import build_dual_encoder, build_vlm, copy_tower, word_tokenizer
from vtc_recipes.tiny.pretext import PatchReader, encode_patches, probe, read_batch


@pytest.fixture(scope="module")
def vlm() -> tuple[Any, Any]:
    return build_vlm(seed=1)


@pytest.fixture(scope="module")
def dual_encoder() -> tuple[Any, Any, Any]:
    return build_dual_encoder(seed=1)


def test_the_seed_makes_the_weights(vlm: tuple[Any, Any]) -> None:
    again, other = build_vlm(seed=1)[0], build_vlm(seed=2)[0]
    weight = vlm[0].model.multi_modal_projector.linear_1.weight
    assert torch.equal(weight, again.model.multi_modal_projector.linear_1.weight)
    assert not torch.equal(weight, other.model.multi_modal_projector.linear_1.weight)


def test_the_models_are_tiny(vlm: tuple[Any, Any], dual_encoder: tuple[Any, Any, Any]) -> None:
    models = (vlm[0], dual_encoder[0])
    count = sum(weight.numel() for model in models for weight in model.parameters())
    assert 4 * count < 10e6  # bytes in float32


def test_every_word_of_the_world_is_one_token() -> None:
    tokenizer = word_tokenizer()
    text = "Which shape is red in the scene after the star?"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 11
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == "which shape is red in the scene after the star ?"
    assert word_tokenizer(end_texts=True)(text)["input_ids"] == [*ids, tokenizer.eos_token_id]


def test_pixels_are_those_of_both_processors(
    vlm: tuple[Any, Any], dual_encoder: tuple[Any, Any, Any]
) -> None:
    frames = torch.from_numpy(Scene(3).frames(2))
    ours = to_pixels(frames)
    video = vlm[1].video_processor(
        [frames.permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt"
    )["pixel_values_videos"][0]
    images = dual_encoder[1](
        list(frames.permute(0, 3, 1, 2)), input_data_format="channels_first", return_tensors="pt"
    )["pixel_values"]
    torch.testing.assert_close(ours, video, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, images, atol=1e-5, rtol=0)


def test_bank_labels_what_scenes_hold_where_they_hold_it() -> None:
    bank = build_bank("validation", 5)
    assert bank.frames.shape == (5, FRAMES, 48, 48, 3)
    for number in range(5):
        scene = Scene(number, "validation")
        assert np.array_equal(bank.frames[number, 3], scene.frame(3 * STEP))
        assert (bank.shapes[number] > 0).sum() == len(scene.objects)
        for thing, (x, y) in zip(scene.objects, scene.centres([0])[0], strict=True):
            patch = int(y) // 8 * 6 + int(x) // 8
            quarter = patch_quarters()[patch]
            assert SHAPES[bank.shapes[number, quarter] - 1] == thing.shape
            assert list(COLOURS)[bank.colours[number, quarter] - 1] == thing.colour


def test_patches_are_what_the_adapter_gives_the_projector(vlm: tuple[Any, Any]) -> None:
    model = vlm[0]
    bank = build_bank("validation", 3)
    cached = patches_of(model, bank).view(3, FRAMES, 36, 96)
    with torch.no_grad():
        dense = model.model.multi_modal_projector(cached[2, 5].float())
        pixels = {"pixel_values_videos": to_pixels(bank.frames[2, 5:6])}
        expected = LlavaOnevisionAdapter().encode(model, pixels).dense
    assert expected is not None
    torch.testing.assert_close(dense, expected[0], atol=2e-3, rtol=0)


def test_embeddings_are_those_of_the_model(dual_encoder: tuple[Any, Any, Any]) -> None:
    bank = build_bank("validation", 40)  # more frames than are embedded at once
    cached = embeddings_of(dual_encoder[0], bank).view(40, FRAMES, 64)
    with torch.no_grad():
        own = embed_frames(dual_encoder[0], to_pixels(bank.frames[39, 7:]))
    torch.testing.assert_close(cached[39, 7:], own)


def test_frames_find_the_nearest_row_of_their_scene() -> None:
    video = SyntheticVideo([Segment(Scene(2), 2, 3), Segment(Scene(0), 47, 2)])
    first = 2 * FRAMES
    assert rows_of(video).tolist() == [first, first, first + 1, FRAMES - 1, FRAMES - 1]


def test_patches_are_labelled_with_what_is_in_their_quarter() -> None:
    bank = build_bank("train", 6)
    batch = read_batch(bank, torch.tensor([4, 2]), torch.tensor([0, 3]))
    torch.testing.assert_close(batch["pixels"][1], to_pixels(bank.frames[2, 3:4])[0])
    shapes, colours, textures = batch["labels"]
    for row, number in enumerate((4, 2)):
        scene = Scene(number)
        assert set(shapes[row].tolist()) - {0} == {1 + SHAPES.index(t.shape) for t in scene.objects}
        for patch, quarter in enumerate(patch_quarters().tolist()):
            thing = next((t for t in scene.objects if t.quarter == quarter), None)
            colour = 0 if thing is None else 1 + list(COLOURS).index(thing.colour)
            assert colours[row, patch] == colour
        assert textures[row].unique().tolist() == [bank.textures[number]]


def test_the_probe_counts_objects_by_their_quarter() -> None:
    bank = build_bank("validation", 20)

    class Perfect(torch.nn.Module):
        def forward(self, pixels: Tensor) -> list[Tensor]:
            quarters = patch_quarters()
            labels = [
                F.one_hot(bank.shapes[:, quarters], 9),
                F.one_hot(bank.colours[:, quarters] % 6 + 1, 7),  # a wrong colour everywhere
                F.one_hot(bank.textures, 6)[:, None].expand(-1, 36, -1),
            ]
            return [9.0 * label for label in labels]

    there = bank.colours[bank.colours > 0]
    assert len(there)
    found = probe(Perfect(), bank, torch.device("cpu"))
    assert found == {"shape": 1.0, "colour": 0.0, "texture": 1.0}


def test_an_untrained_reader_guesses() -> None:
    reader = PatchReader(build_vlm(seed=1)[0])
    logits = reader(to_pixels(build_bank("train", 2).frames[:, 0]))
    assert [kind.shape for kind in logits] == [(2, 36, 9), (2, 36, 7), (2, 36, 6)]


def test_the_warm_start_sees_the_patches_that_the_tower_sees() -> None:
    model, clip = build_vlm(seed=1)[0], build_dual_encoder(seed=2)[0]
    torch.nn.init.normal_(model.model.vision_tower.embeddings.patch_embedding.bias)
    copy_tower(model, clip)
    pixels = to_pixels(torch.from_numpy(Scene(1).frames(2)))
    tower = model.model.vision_tower
    expected = tower.embeddings(pixels)
    embedded = clip.vision_model.embeddings(pixels)[:, 1:]
    torch.testing.assert_close(embedded, expected, atol=1e-5, rtol=1e-4)
    mine, its = clip.vision_model.encoder.state_dict(), tower.encoder.state_dict()
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in its)


def test_matching_loss_against_a_slow_reference() -> None:
    torch.manual_seed(0)
    texts, frames = (F.normalize(torch.randn(n, 4, dtype=torch.float64), dim=-1) for n in (3, 5))
    matches = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0.25, 0, 1, 0]]).double()
    scale = torch.tensor(5.0, dtype=torch.float64)

    def one_way(rows: Tensor, columns: Tensor, found: Tensor) -> float:
        losses = []
        for row, those in zip(rows, found, strict=True):
            if not those.any():
                continue
            scores = [math.exp(5 * float(row @ column)) for column in columns]
            logs = [math.log(score / sum(scores)) for score in scores]
            weighed = [log * much for log, much in zip(logs, those.tolist(), strict=True)]
            losses.append(-sum(weighed) / float(those.sum()))
        return sum(losses) / len(losses)

    expected = (one_way(texts, frames, matches) + one_way(frames, texts, matches.T)) / 2
    assert matching_loss(texts, frames, matches, scale).item() == pytest.approx(expected)


def test_scene_loss_wants_frames_of_a_scene_alike_and_scenes_unlike() -> None:
    apart = torch.eye(4)
    alike = F.normalize(torch.ones(4, 4), dim=-1)
    assert scene_loss(apart, apart) < 0.01
    assert scene_loss(alike, alike).item() == pytest.approx(math.log(4))
    assert scene_loss(apart, apart.roll(1, 0)) > 10


def test_texts_name_the_shape_and_colour_that_they_are_labelled_with() -> None:
    texts, shapes, colours = draw_texts(np.random.default_rng(0), 50)
    for text, shape, colour in zip(texts, shapes.tolist(), colours.tolist(), strict=True):
        assert SHAPES[shape - 1] in text
        named = [number for number, name in enumerate(COLOURS, 1) if name in text]
        assert named == ([colour] if colour else [])


@pytest.mark.parametrize("blind", [False, True])
def test_retrieval_counts_scenes_that_are_found(
    blind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = build_bank("validation", 24)
    # Frames come in the bank's order, all in one batch, twice.
    has = F.one_hot(bank.shapes, 9).amax(1)[:, 1:].float()
    vectors = F.normalize(torch.cat([has, 3 * torch.eye(24)], dim=1), dim=-1)
    texts = torch.eye(8, 32) * (-1 if blind else 1)
    monkeypatch.setattr("vtc_recipes.tiny.dual_encoder.embed_frames", lambda *_: vectors)
    monkeypatch.setattr("vtc_recipes.tiny.dual_encoder.embed_texts", lambda *_: texts)
    found = retrieval(SimpleNamespace(device="cpu"), None, bank)
    expected = {"found": 0.0 if blind else 1.0, "same_scene": 1.0, "other_scene": 1.0}
    assert found == pytest.approx(expected)


def test_a_patch_is_seen_by_the_tower(vlm: tuple[Any, Any]) -> None:
    pixels = torch.zeros(1, 3, 48, 48)
    changed = pixels.clone()
    changed[..., :8, :8] = 1
    tower, layer = vlm[0].model.vision_tower, vlm[0].config.vision_feature_layer
    before, after = (encode_patches(tower, layer, one) for one in (pixels, changed))
    assert before.shape == (1, 36, 96)
    assert (before - after).abs().sum(-1)[0].argmax() == 0
