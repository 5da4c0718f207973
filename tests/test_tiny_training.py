"""How the tiny models learn to answer, and how they are examined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import CLIPModel

import vtc
from vtc import registry
from vtc._hf_clip import HFClipEncoder
from vtc.frame_encoder import EncoderOptions
from vtc_recipes.synthetic import Example, Scene, Segment, SyntheticVideo, make_example
from vtc_recipes.synthetic.questions import solve
from vtc_recipes.tiny.asking import KINDS, choose_questions, describe, fair_questions
from vtc_recipes.tiny.bank import build_bank, to_pixels
from vtc_recipes.tiny.curriculum import LEVELS, Curriculum, batch_size
from vtc_recipes.tiny.evaluate import asking, evaluate, examples, wilson
from vtc_recipes.tiny.features import embeddings_of, patches_of, rows_of
from vtc_recipes.tiny.models import build_dual_encoder, build_vlm, word_tokenizer
from vtc_recipes.tiny.pretext import encode_patches
from vtc_recipes.tiny.running import Run
from vtc_recipes.tiny.sequences import Dialogue, collate_texts, forward, merge_batch
from vtc_recipes.tiny.trained import WEIGHTS, load_trained
from vtc_recipes.tiny.vlm import (
    World,
    by_dks,
    merger_options,
    middle_of_scenes,
    score,
    split_weights,
    train,
)


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


@torch.no_grad()
def test_training_sees_the_logits_that_a_wrapped_model_computes() -> None:
    vlm, processor = lively_vlm()
    encoder = clip_encoder()
    wrapped, patches, dialogues = [], [], []
    for number, seed in enumerate((3, 4)):
        example = make_example(seed, 16, kind="first")
        selector = vtc.selector("uniform", keyframes=2 + number)  # rows of different lengths
        vtc.wrap(vlm, selector, "dfm", processor=processor, encoder=encoder)
        inputs = vtc.prepare_inputs(vlm, processor, example.video, example.question.text)
        wrapped.append(vlm(**inputs).logits[0, -1])
        keyframes = [frame.index for frame in vtc.last_report(vlm).videos[0].keyframes]
        vtc.unwrap(vlm)
        frames = torch.from_numpy(example.video.frames(range(16)))
        patches.append(encode_patches(vlm, to_pixels(frames)))
        # Questions of the same video must not see one another.
        others = [("What colour is the star?", "blue")] * number
        dialogues.append(
            Dialogue(
                rows=torch.arange(16) + 16 * number,
                keyframes=torch.tensor(keyframes),
                query=example.question.text,
                turns=[*others, (example.question.text, "red")],
            )
        )
    logits, labels, _ = forward(
        vlm, processor.tokenizer, torch.cat(patches), dialogues, merger_options()
    )
    ours = logits[labels == processor.tokenizer.convert_tokens_to_ids("red")]
    torch.testing.assert_close(ours, torch.stack(wrapped), rtol=1e-4, atol=1e-4)
    assert (wrapped[0] - wrapped[1]).abs().max() > 0.1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), frames=st.integers(2, 6), weight=st.floats(0, 2))
def test_merging_a_batch_is_the_toolkit_s_merging(seed: int, frames: int, weight: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, frames, 4, 5, generator=draw, dtype=torch.float64)
    queries = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    is_key = torch.rand(2, frames, generator=draw) < 0.4
    ours = merge_batch(patches, is_key, queries, temperature=0.1, weight=weight)
    merger = registry.build_part(
        "merger", vtc.merger("dfm", temperature=0.1, redundancy_weight=weight)
    )
    for row in range(2):
        for frame in (~is_key[row]).nonzero().flatten().tolist():
            before = is_key[row, :frame].nonzero().flatten()
            known = len(before) > 0
            reference = patches[row, before[-1]] if known else torch.zeros(4, 5)
            expected = merger(
                patches[row, frame][None],
                reference[None].double(),
                torch.tensor([known]),
                queries[row],
            )
            torch.testing.assert_close(ours[row, frame], expected[0, 0])


def test_only_answers_and_their_ends_are_learned() -> None:
    tokenizer = word_tokenizer()
    turns = [("What colour is the star?", "red"), ("", "blue ring on dots")]
    empty = torch.zeros(0, dtype=torch.int64)
    texts = collate_texts(tokenizer, [Dialogue(empty, empty, "", turns)])
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
    questions = choose_questions(np.random.default_rng(seed), example, each=3)
    assert questions[0] == example.question
    assert len({question.text for question in questions}) == len(questions)
    for question in questions:
        assert solve(question, example.video) == {question.answer}
    same_kind = fair_questions(example.video)[kind]
    assert example.question in same_kind


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


def test_the_curriculum_goes_on_when_a_level_is_understood() -> None:
    curriculum = Curriculum(seed=0)
    assert curriculum.frames(0) == 8
    for _ in range(19):
        curriculum.note(1.0, done=0.0)
    assert curriculum.level == 0
    curriculum.note(1.0, done=0.0)
    assert curriculum.level == 1
    assert {curriculum.frames(step) for step in range(50)} == set(LEVELS[1])
    curriculum.note(0.0, done=0.29)
    assert curriculum.level == 1
    curriculum.note(0.0, done=0.31)
    assert curriculum.level == 2
    for _ in range(500):
        curriculum.note(1.0, done=1.0)
    assert curriculum.level == len(LEVELS) - 1


def test_batches_of_longer_videos_are_smaller() -> None:
    sizes = [batch_size(frames) for frames in (8, 16, 32, 64, 1000)]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) == 4


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon before 2.9")
def test_two_steps_of_answering_and_captions_lower_the_loss() -> None:
    vlm, processor = build_vlm(seed=1)
    vlm.model.vision_tower.requires_grad_(False)
    patches = patches_of(vlm, build_bank("train", 300))
    world = World(patches, 300, "train", middle_of_scenes)
    rng = np.random.default_rng(0)
    dialogues = [world.dialogue(rng, 16, captions) for captions in (False, True)]
    assert len(dialogues[0].turns) > 1
    matrices, others = split_weights(vlm)
    before = [weight.detach().clone() for weight in matrices]
    run = Run(others, 2, 0.1, matrices=matrices)
    losses = []
    for _ in range(3):
        logits, labels, _ = forward(vlm, processor.tokenizer, patches, dialogues, merger_options())
        losses.append(F.cross_entropy(logits, labels))
        run.update(losses[-1])
    assert losses[0].item() == pytest.approx(np.log(len(processor.tokenizer)), rel=0.1)
    assert losses[2] < losses[0]
    assert not any(torch.equal(*pair) for pair in zip(before, matrices, strict=True))
    found = score(vlm, processor.tokenizer, world, 16, captions=False, videos=16)
    assert set(found) <= {*KINDS, "all"}
    assert 0 <= found["all"] <= 1


def test_every_weight_has_one_optimizer() -> None:
    vlm, _ = build_vlm(seed=1)
    matrices, others = split_weights(vlm)
    assert {id(weight) for weight in vlm.parameters()} == {id(w) for w in [*matrices, *others]}
    assert len(matrices) + len(others) == len(list(vlm.parameters()))
    assert len(matrices) == 2 + 4 * 7  # the projector's, and seven in each layer
    assert any(weight is vlm.get_input_embeddings().weight for weight in others)


def test_torch_without_muon_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    Run([weight], 1, 0.1)
    with pytest.raises(RuntimeError, match="has no Muon: this stage needs 2.9 or newer"):
        Run([], 1, 0.1, matrices=[weight])


@torch.no_grad()
def test_keyframes_in_training_are_those_of_the_wrapped_model() -> None:
    model, processor, encoder = load_trained()  # random weights tell no scenes apart
    clip = CLIPModel.from_pretrained(encoder)
    bank = build_bank("train", 300)
    example = make_example(1, 24, kind="after", scenes=300)
    # Only frames that are in the bank, so that nothing is stood for by a neighbour.
    scenes = [segment.scene for segment in example.video.segments]
    video = SyntheticVideo([Segment(scene, at, 1) for scene in scenes for at in (6, 12)])
    select = by_dks(embeddings_of(clip, bank), clip, word_tokenizer(end_texts=True))
    chosen = select(video, rows_of(video), example.question.text)
    vtc.wrap(model, vtc.selector("dks", keyframes=6), "dfm", processor=processor, encoder=encoder)
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


def test_answers_need_captions_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run the stage 'captions' first"):
        train("answers", tmp_path, steps=1, scenes=1, rate=1e-3, minutes=1, seed=0)


def test_the_shipped_model_answers_questions_about_unseen_videos() -> None:
    model, processor, encoder = load_trained()
    selector = vtc.selector("dks", keyframes=8)
    vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder)
    found = evaluate(asking(model, processor), examples(32, 64))
    assert found["all"]["coverage"] >= 0.9
    assert found["all"]["accuracy"] >= 0.7  # chance is 0.16
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 10e6
