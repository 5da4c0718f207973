"""The tiny models' towers: models, pretext, dual encoder, and the cache of their features."""

from __future__ import annotations

import json
import math
from pathlib import Path
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
from vtc_recipes.tiny.dual_encoder import train as train_dual_encoder
from vtc_recipes.tiny.features import embeddings_of, kept, patches_of, rows_of
from vtc_recipes.tiny.models import build_dual_encoder, build_vlm, copy_tower, word_tokenizer
from vtc_recipes.tiny.pretext import PatchHead, encode_patches, pretext_loss, probe
from vtc_recipes.tiny.running import Run, require_gate, write_metrics


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


def test_features_are_computed_once(tmp_path: Path) -> None:
    file = tmp_path / "features.safetensors"
    first = kept(file, lambda: torch.arange(3.0))
    second = kept(file, lambda: pytest.fail("computed again"))
    assert torch.equal(first, second)


def test_frames_find_the_nearest_row_of_their_scene() -> None:
    video = SyntheticVideo([Segment(Scene(2), 2, 3), Segment(Scene(0), 47, 2)])
    first = 2 * FRAMES
    assert rows_of(video).tolist() == [first, first, first + 1, FRAMES - 1, FRAMES - 1]


def test_two_steps_of_the_pretext_change_the_tower_and_lower_the_loss() -> None:
    torch.manual_seed(0)
    model, head = build_vlm(seed=1)[0], PatchHead()
    bank = build_bank("train", 4)
    scenes, numbers = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    tower = model.model.vision_tower
    run = Run([*tower.parameters(), *head.parameters()], 2, 0.1)
    losses = []
    for _ in range(3):
        loss = pretext_loss(model, head, bank, scenes, numbers)
        losses.append(loss.item())
        run.update(loss)
    # Untrained, all classes are about equally likely.
    assert losses[0] == pytest.approx(math.log(9) + math.log(7) + math.log(6), rel=0.3)
    assert losses[-1] < losses[0]


def test_the_probe_counts_objects_by_their_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = build_bank("validation", 20)

    def perfect(vlm: Any, pixels: Tensor) -> Tensor:
        quarters = patch_quarters()
        labels = [
            F.one_hot(bank.shapes[:, quarters], 9),
            F.one_hot(bank.colours[:, quarters] % 6 + 1, 7),  # a wrong colour everywhere
            F.one_hot(bank.textures, 6)[:, None].expand(-1, 36, -1),
        ]
        return 9.0 * torch.cat(labels, dim=-1)

    head = PatchHead()
    monkeypatch.setattr(head, "linear", torch.nn.Identity())
    monkeypatch.setattr("vtc_recipes.tiny.pretext.encode_patches", perfect)
    there = bank.colours[bank.colours > 0]
    assert len(there)
    assert probe(None, head, bank) == {"shape": 1.0, "colour": 0.0, "texture": 1.0}


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
    matches = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0]], dtype=torch.bool)
    scale = torch.tensor(5.0, dtype=torch.float64)

    def one_way(rows: Tensor, columns: Tensor, found: Tensor) -> float:
        losses = []
        for row, those in zip(rows, found, strict=True):
            if not those.any():
                continue
            scores = [math.exp(5 * float(row @ column)) for column in columns]
            logs = [math.log(score / sum(scores)) for score in scores]
            right = [log for log, is_right in zip(logs, those.tolist(), strict=True) if is_right]
            losses.append(-sum(right) / len(right))
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


def test_retrieval_of_an_encoder_that_knows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = build_bank("validation", 24)
    # Frames come in the bank's order, all in one batch, twice.
    has = F.one_hot(bank.shapes, 9).amax(1)[:, 1:].float()
    vectors = F.normalize(torch.cat([has, 3 * torch.eye(24)], dim=1), dim=-1)
    monkeypatch.setattr("vtc_recipes.tiny.dual_encoder.embed_frames", lambda *_: vectors)
    monkeypatch.setattr("vtc_recipes.tiny.dual_encoder.embed_texts", lambda *_: torch.eye(8, 32))
    found = retrieval(None, None, bank)
    assert found == pytest.approx({"precision": 1.0, "same_scene": 1.0, "other_scene": 1.0})


def test_a_gate_stops_what_comes_after(tmp_path: Path) -> None:
    options = {"steps": 1, "batch": 2, "scenes": 4, "rate": 1e-3, "minutes": 1.0, "seed": 0}
    with pytest.raises(ValueError, match="run the stage 'pretext' first"):
        train_dual_encoder(tmp_path, **options)
    write_metrics(tmp_path, "pretext", {"passed": False, "gate": "shape >= 0.9"})
    with pytest.raises(ValueError, match=r"'pretext' failed its gate \(shape >= 0.9\)"):
        train_dual_encoder(tmp_path, **options)
    write_metrics(tmp_path, "pretext", {"passed": True})
    require_gate(tmp_path, "pretext")
    assert json.loads((tmp_path / "pretext.json").read_text()) == {"passed": True}


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    run = Run([weight], steps=400, rate=1.0)
    rates = []
    while run.done < 1:
        run.update((weight**2).sum())
        rates.append(run.optimizers[0].param_groups[0]["lr"])
    assert len(rates) == 400
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(0.55 + 0.45 * math.cos(math.pi / 4), abs=0.01)
    assert rates[-1] == pytest.approx(0.1, abs=0.001)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    run = Run([weight], steps=2, rate=1.0)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        run.update(weight.sum() * math.nan)


def test_a_patch_is_seen_by_the_tower(vlm: tuple[Any, Any]) -> None:
    pixels = torch.zeros(1, 3, 48, 48)
    changed = pixels.clone()
    changed[..., :8, :8] = 1
    before, after = (encode_patches(vlm[0], one) for one in (pixels, changed))
    assert before.shape == (1, 36, 96)
    assert (before - after).abs().sum(-1)[0].argmax() == 0
