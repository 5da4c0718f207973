"""How the tiny models learn to answer, and how they are examined."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPModel

import vtc
from vtc.encoders.base import EncoderOptions
from vtc.encoders.hf import HFClipEncoder
from vtc.pipeline.budget import share_tokens
from vtc.plugins import registry
from vtc_recipes.synthetic import Example, Scene, Segment, SyntheticVideo, make_example
from vtc_recipes.synthetic.questions import solve
from vtc_recipes.tiny.asking import KINDS, choose_turns, describe, fair_questions, scene_requests
from vtc_recipes.tiny.bank import build_bank, to_pixels
from vtc_recipes.tiny.curriculum import (
    draw_caption_format,
    draw_format,
    draw_kinds,
    draw_long_format,
)
from vtc_recipes.tiny.dual_encoder import embed_patches
from vtc_recipes.tiny.evaluate import asking, evaluate, examples, main, wilson
from vtc_recipes.tiny.features import Features, embeddings_of, rows_of
from vtc_recipes.tiny.models import build_dual_encoder, build_vlm, word_tokenizer
from vtc_recipes.tiny.needles import NEEDLES, bury
from vtc_recipes.tiny.pretext import encode_patches
from vtc_recipes.tiny.sequences import Dialogue, collate_texts, forward, lay_out
from vtc_recipes.tiny.trained import WEIGHTS, load_trained
from vtc_recipes.tiny.visual import POOLED
from vtc_recipes.tiny.world import Format, World, draw_crowd, draw_gaps


def lively_vlm() -> tuple[Any, Any]:
    """Random weights that react; the default initialisation hardly does."""
    vlm, processor = build_vlm(seed=1)
    with torch.no_grad():
        for name, weight in vlm.named_parameters():
            if weight.ndim > 1 and "vision" not in name:
                weight.normal_(std=0.3)
    return vlm.eval(), processor


def clip_encoder(seed: int = 1) -> HFClipEncoder:
    clip, image_processor, tokenizer = build_dual_encoder(seed)
    return HFClipEncoder(clip, image_processor, tokenizer, name="tiny", options=EncoderOptions())


@pytest.mark.parametrize(
    ("merger", "connector", "limit"),
    [
        ("dfm", "stock", None),
        ({"name": "dfm", "projection": "learned"}, "separate", None),
        ({"name": "dfm", "projection": "learned"}, "encoder_patches", None),
        ("mean_pool", "separate", None),
        ({"name": "q_former", "tokens": 2}, "stock", None),
        ("drop", "stock", None),
        ({"name": "dfm", "projection": "learned"}, "separate", 36),  # frames share tokens
        ("dfm", "stock", 60),  # frames have several
        ("mean_pool", "stock", 40),
        ({"name": "dfm", "projection": "learned"}, "separate", 120),  # some keep all nine
        ("dfm", "stock", 8),  # no keyframe fits
    ],
)
@torch.no_grad()
def test_training_sees_the_logits_that_a_wrapped_model_computes(
    merger: Any, connector: str, limit: int | None
) -> None:
    budget = limit and registry.build_budget(vtc.budget("foveated", max_tokens=limit))
    vlm, processor = lively_vlm()
    encoder = clip_encoder()
    wrapped, patches, of_encoder, dialogues = [], [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are untrained
        vtc.wrap(vlm, "uniform", merger, budget=budget, processor=processor, encoder=encoder)
    vlm.vtc.add_connector(connector)
    for weight in vlm.vtc.parameters():
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.2)
    for number, seed in enumerate((3, 4)):
        example = make_example(seed, 16, kind="first")
        # Rows of different lengths.
        vlm.vtc.selector = registry.build_part(
            "selector", vtc.selector("uniform", keyframes=2 + number)
        )
        inputs = vtc.prepare_inputs(vlm, processor, example.video, example.question.text)
        wrapped.append(vlm(**inputs).logits[0, -1])
        report = vtc.last_report(vlm).videos[0]
        keyframes = torch.tensor([frame.index for frame in report.keyframes], dtype=torch.int64)
        tokens = None
        if budget:
            selection = vtc.Selection(keyframes, None)
            _, tokens = share_tokens(budget, selection, torch.empty(16, 0), POOLED, limit - 1)
            assert int(tokens.clamp(min=0).sum()) == limit - 1
        frames = torch.from_numpy(example.video.frames(range(16)))
        layer = vlm.config.vision_feature_layer
        patches.append(encode_patches(vlm.model.vision_tower, layer, to_pixels(frames)))
        of_encoder.append(embed_patches(encoder._model, to_pixels(frames)))
        # Questions of the same video must not see one another.
        others = [("What colour is the star?", "blue")] * number
        dialogues.append(
            Dialogue(
                rows=torch.arange(16) + 16 * number,
                keyframes=keyframes,
                query=example.question.text,
                embedding=encoder.encode_text(example.question.text),
                turns=[*others, (example.question.text, "red")],
                tokens=tokens,
            )
        )
    kept = torch.cat(patches)
    features = Features(kept, torch.cat(of_encoder) if connector == "encoder_patches" else kept)
    logits, labels, _ = forward(vlm, processor.tokenizer, features, dialogues)
    ours = logits[labels == processor.tokenizer.convert_tokens_to_ids("red")]
    torch.testing.assert_close(ours, torch.stack(wrapped), rtol=1e-3, atol=1e-3)
    assert (wrapped[0] - wrapped[1]).abs().max() > 0.1


def test_gaps_move_what_comes_after_them() -> None:
    lengths = torch.tensor([[9, 1, 0], [1, 9, 1]])
    places = torch.tensor([[0, 18, 19], [20, 9, 21]])
    gaps = [torch.tensor([0, 5, 0]), torch.tensor([0, 0, 100])]
    index, positions = lay_out(places, lengths, gaps, last=22)
    assert index.tolist() == [[-1, *range(9), 18, 22], [20, *range(9, 18), 21, 22]]
    assert positions.tolist() == [[0, *range(1, 10), 15, 16], [*range(1, 11), 111, 112]]
    _, plain = lay_out(places, lengths, [None, None], last=22)
    assert plain.tolist() == [[0, *range(1, 12)], [*range(1, 13)]]


def test_only_answers_and_their_ends_are_learned() -> None:
    tokenizer = word_tokenizer()
    turns = [("What colour is the star?", "red"), ("", "blue ring on dots")]
    empty = torch.zeros(0, dtype=torch.int64)
    texts = collate_texts(tokenizer, [Dialogue(empty, empty, "", torch.zeros(0), turns)])
    learned = texts.labels[0] != -100
    assert tokenizer.decode(texts.labels[0][learned]) == "red <|end|> blue ring on dots <|end|>"
    # Each label is what comes next.
    for place in learned.nonzero().flatten().tolist():
        label = texts.labels[0, place]
        if label != tokenizer.eos_token_id:
            assert texts.ids[0, place + 1] == label
    assert texts.places[0].tolist() == [*range(9), *range(6)]
    assert texts.turns[0].tolist() == [1] * 9 + [2] * 6


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
def test_questions_about_one_video_have_one_right_answer(seed: int, kind: str) -> None:
    example = make_example(seed, 48, kind=kind, scenes=500)
    questions = fair_questions(example.video)
    assert example.question in questions[kind]
    for question in sum(questions.values(), []):
        assert solve(question, example.video) == {question.answer}


def test_other_turns_are_about_what_keyframes_show() -> None:
    example = make_example(3, 64, kind="colour")
    ranges = example.video.ranges()
    everything = [first for first, _ in ranges]
    turns = choose_turns(np.random.default_rng(0), example, everything)
    assert turns[0] == (example.question.text, example.question.answer)
    assert len({text for text, _ in turns}) == len(turns) > 5
    assert choose_turns(np.random.default_rng(0), example, []) == turns[:1]
    for seen in everything:  # the scene after the one that is seen is not
        requests = scene_requests(example.video, [seen])
        assert all("the scene the" in text for text, _ in requests)
    assert any(scene_requests(example.video, [seen]) for seen in everything)


def test_scene_requests_tell_of_the_right_scene() -> None:
    video = make_example(3, 64, kind="colour").video
    scenes = [segment.scene for segment in video.segments]
    requests = scene_requests(video, range(64))
    assert {text.split()[5] for text, _ in requests} == {"the", "after"}
    for text, answer in requests:
        after = text.startswith("What is in the scene after the ")
        shape = text.rstrip("?").split()[-1 if after else 6]
        [place] = [n for n, scene in enumerate(scenes) if scene.colour_of(shape)]
        assert answer == describe(SyntheticVideo([Segment(scenes[place + after], 0, 1)]))


def test_captions_list_objects_row_by_row() -> None:
    scenes = [Scene(1), Scene(2)]
    video = SyntheticVideo([Segment(scene, 0, 2) for scene in scenes])
    text = describe(video)
    for part, scene in zip(text.split(", "), scenes, strict=True):
        places = {part.index(thing.shape): thing.quarter for thing in scene.objects}
        quarters = [quarter for _, quarter in sorted(places.items())]
        assert quarters == sorted(quarters)
        assert part.endswith(f"on {scene.backdrop.texture}")
        assert all(f"{thing.colour} {thing.shape}" in part for thing in scene.objects)
    assert word_tokenizer().unk_token_id not in word_tokenizer()(text)["input_ids"]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), done=st.floats(0, 1, exclude_max=True))
def test_formats_can_be_drawn_and_grow(seed: int, done: float) -> None:
    form = draw_format(np.random.default_rng(seed), done)
    assert 2 <= form.scenes <= form.frames / 2 and 1 <= form.keyframes <= 32
    assert form.frames <= (24 if done < 0.26 else 64 if done < 0.5 else 1024)
    assert not form.buried or form.scenes > NEEDLES
    long = draw_long_format(np.random.default_rng(seed))
    assert 2 <= long.scenes <= long.frames / 2 and 1 <= long.keyframes <= 32
    kinds = draw_kinds(np.random.default_rng(seed), form, 1000)
    assert set(kinds) <= set(KINDS) and kinds.count("after") > 300
    told = draw_caption_format(np.random.default_rng(seed), 2, 8)
    assert 2 <= told.scenes == told.keyframes <= 8 and told.frames >= 2 * told.scenes


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
def test_needles_are_the_only_scenes_with_their_shapes(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    example, needles = bury(rng, frames=96, count=12, kind=kind, split="train", scenes=2000)
    video, question = example.video, example.question
    assert len(video) == 96 and len(video.segments) == 12 and len(needles) == NEEDLES
    assert question.kind == kind and solve(question, video) == {question.answer}
    shown = [{thing.shape for thing in segment.scene.objects} for segment in video.segments]
    common = set().union(*(shapes for place, shapes in enumerate(shown) if place not in needles))
    rare = [shape for place in needles for shape in shown[place] - common]
    assert question.shape in rare and len(rare) >= NEEDLES


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
def test_gaps_stand_before_scenes_and_not_within_what_is_asked(seed: int, kind: str) -> None:
    example = make_example(seed, 48, kind=kind, scenes=500)
    gaps = draw_gaps(np.random.default_rng(seed), example, spread=10_000)
    places = gaps.nonzero().flatten().tolist()
    assert 1 <= len(places) <= 2 and 1 <= int(gaps.max()) < 10_000
    assert set(places) <= {first for first, _ in example.video.ranges()}
    if kind == "after":
        assert example.question.evidence[1][0] not in places


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
def test_what_is_asked_about_is_never_crowded(seed: int, kind: str) -> None:
    example = make_example(seed, 48, kind=kind, scenes=500)
    crowd = draw_crowd(np.random.default_rng(seed), example, most=16)
    asked = torch.zeros(48, dtype=torch.bool)
    for first, end in example.question.evidence:
        asked[first:end] = True
    assert bool((crowd[asked] == 1).all())
    assert len(crowd[~asked].unique()) <= 1 and bool(((1 <= crowd) & (crowd <= 16)).all())


@torch.no_grad()
def test_a_frame_that_counts_as_three_is_three_frames_in_one_place() -> None:
    """To the text, in a model of one layer: copies see one another, a crowded frame itself."""
    vlm, processor = lively_vlm()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vtc.wrap(vlm, "uniform", "mean_pool", processor=processor, encoder=clip_encoder())
    vlm.model.language_model.layers = vlm.model.language_model.layers[:1]
    # Of sharp attention, which sees one token alone, a few more copies change nothing.
    vlm.model.language_model.layers[0].self_attn.q_proj.weight.mul_(0.02)
    vlm.model.language_model.layers[0].self_attn.q_proj.bias.zero_()
    draw = torch.Generator().manual_seed(0)
    patches = torch.randn(6, 36, 96, generator=draw)
    crowd = torch.tensor([9.0, 1.0, 3.0, 1.0, 1.0])  # the first is a keyframe, which never counts
    question = ("What colour is the star?", "red")

    def logits(rows: list[int], **more: Any) -> torch.Tensor:
        one = Dialogue(
            torch.tensor(rows), torch.tensor([0]), question[0], torch.randn(64), [question], **more
        )
        two = Dialogue(
            torch.tensor([1, *rows[1:]]),
            torch.tensor([0, 3]),
            question[0],
            one.embedding,
            [question],
        )  # of another length in tokens, so that one is padded
        features = Features(patches, patches)
        found, _, _ = forward(vlm, processor.tokenizer, features, [one, two])
        return found[: len(found) // 2]

    crowded = logits([0, 1, 2, 3, 4], crowd=crowd)
    repeated = logits([0, 1, 2, 2, 2, 3, 4], gaps=torch.tensor([0, 0, 0, -1, -1, 0, 0]))
    torch.testing.assert_close(crowded, repeated, rtol=1e-4, atol=1e-4)
    assert (crowded - logits([0, 1, 2, 3, 4])).abs().max() > 0.01


@torch.no_grad()
def test_keyframes_in_training_are_those_of_the_wrapped_model() -> None:
    model, processor = load_trained(keyframes=6)  # random weights tell no scenes apart
    clip = CLIPModel.from_pretrained(WEIGHTS / "dual_encoder")
    bank = build_bank("train", 300)
    example = make_example(1, 24, kind="after", scenes=300)
    # Only frames that are in the bank, so that nothing is stood for by a neighbour.
    scenes = [segment.scene for segment in example.video.segments]
    video = SyntheticVideo([Segment(scene, at, 1) for scene in scenes for at in (6, 12)])
    embeddings, words = (
        embeddings_of(clip, bank),
        AutoTokenizer.from_pretrained(WEIGHTS / "dual_encoder"),
    )
    world = World("train", 300, Features(torch.zeros(0), torch.zeros(0)), embeddings, clip, words)
    form = Format(len(scenes) * 2, len(scenes), 6)
    rng = np.random.default_rng(0)
    chosen = world.select(rng, rows_of(video), example.question.text, form).keyframes
    report = vtc.ask(model, processor, video, example.question.text, max_new_tokens=1).report
    assert chosen.tolist() == [frame.index for frame in report.videos[0].keyframes]
    assert len(chosen) == len(scenes) == 3


def oracle(example: Example) -> tuple[str, Sequence[int]]:
    """Right but about colours, and blind to the last scene that it needs."""
    answer = "moose" if example.question.kind == "colour" else f" {example.question.answer}\n"
    return answer, [first for first, _ in example.question.evidence[:1]]


def test_evaluation_counts_right_answers_and_covered_evidence() -> None:
    found = evaluate(oracle, examples(8, 16))
    assert {kind: row["count"] for kind, row in found.items()} == {
        **dict.fromkeys(KINDS, 2),
        "all": 8,
    }
    assert found["colour"]["accuracy"] == 0
    assert found["last"]["accuracy"] == found["after"]["accuracy"] == 1
    assert found["all"]["accuracy"] == 0.75
    assert found["colour"]["coverage"] == 1
    assert found["after"]["coverage"] == 0
    assert found["first"]["chance"] == pytest.approx(1 / 6, abs=1e-4)
    assert found["after"]["chance"] == pytest.approx(1 / 7, abs=1e-4)


def test_an_answer_that_says_more_is_wrong() -> None:
    def chatty(example: Example) -> tuple[str, Sequence[int]]:
        return f"{example.question.answer} {example.question.answer}", [0]

    assert evaluate(chatty, examples(4, 16))["all"]["accuracy"] == 0


@given(count=st.integers(1, 500), share=st.floats(0, 1))
def test_the_interval_holds_what_would_give_the_share_in_95_of_100_cases(
    count: int, share: float
) -> None:
    right = round(share * count)
    low, high = wilson(right, count)
    assert -1e-9 <= low <= right / count <= high + 1e-9
    for end in (low, high):  # the definition: the share is 1.96 standard errors away
        away = 1.96 * np.sqrt(max(0.0, end * (1 - end)) / count)
        assert abs(right / count - end) == pytest.approx(away, abs=1e-6)


def test_the_model_is_asked_through_the_toolkit() -> None:
    vlm, processor = lively_vlm()
    vtc.wrap(
        vlm,
        vtc.selector("dks", keyframes=3),
        "dfm",
        processor=processor,
        encoder=clip_encoder(),
    )
    text, keyframes = asking(vlm, processor)(next(iter(examples(1, 16))))
    assert isinstance(text, str)
    assert 1 <= len(keyframes) <= 3


def test_the_shipped_model_answers_questions_about_unseen_videos() -> None:
    model, processor = load_trained()
    found = evaluate(asking(model, processor), examples(32, 64))
    assert found["all"]["coverage"] >= 0.9
    assert found["all"]["accuracy"] >= 0.7  # chance is 0.16
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 10e6


def test_a_model_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "nowhere"])
    assert "model 'nowhere' is not a folder" in capsys.readouterr().err
