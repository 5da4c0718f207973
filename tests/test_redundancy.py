"""Redundancy of frames and patches: attention against a direct computation, measures, commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from families import FAMILIES

import vtc
from vtc_recipes.analysis.attention import (
    Collector,
    _attend,
    question_attention,
    question_positions,
)
from vtc_recipes.analysis.measures import (
    bars,
    cumulative_share,
    curve,
    frame_measures,
    mean_measures,
    patch_measures,
    random_pair_similarity,
    rank_neighbour_similarity,
    reference_frames,
)
from vtc_recipes.analysis.redundancy import lines_of, summarise

QUESTION = "What is red?"


def keep_all(model, processor, video):
    """Wrap a model that keeps all frames, and open a video of six slices."""
    vtc.wrap(model, vtc.selector("uniform", keyframes=8), "drop", processor=processor)
    return vtc.VideoSource(video(6 * model.vtc.adapter.frames_per_slice, 1))


def attentions(model, processor, source):
    """The stock attention matrices of all layers, the ids and the embeddings they belong to."""
    seen = {}
    hooks = [
        model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(ids=kwargs["input_ids"][0]), with_kwargs=True
        ),
        model.get_decoder().register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(tokens=kwargs["inputs_embeds"][0]),
            with_kwargs=True,
        ),
    ]
    before = model.get_decoder().config._attn_implementation
    model.get_decoder().set_attn_implementation("eager")
    inputs = vtc.prepare_inputs(model, processor, source, QUESTION)
    with torch.no_grad():
        output = model(**inputs, output_attentions=True, use_cache=False)
    model.get_decoder().set_attn_implementation(before)
    for hook in hooks:
        hook.remove()
    return [one[0].double() for one in output.attentions if one is not None], seen


@pytest.mark.parametrize("suite", FAMILIES, ids=lambda suite: suite.family)
def test_attention_is_that_of_output_attentions(suite):
    family = suite()
    model, processor = family.build()
    source = keep_all(model, processor, family.video)
    own = question_attention(model, processor, source, QUESTION)
    matrices, seen = attentions(model, processor, source)
    ids = seen["ids"].tolist()
    tokens = processor.tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    start = max(k for k in range(len(ids)) if ids[k : k + len(tokens)] == tokens)
    adapter = model.vtc.adapter
    visual = [k for k, one in enumerate(ids) if one == adapter.video_token_id(model)]
    visual = visual[: len(visual) - adapter.tail_length()]
    direct = [one[:, start : start + len(tokens), visual].mean((0, 1)) for one in matrices]
    slices, each = own.tokens.shape[:2]
    assert slices == 6 and slices * each == len(visual)
    torch.testing.assert_close(own.weights.flatten(1), torch.stack(direct), atol=1e-6, rtol=0)
    torch.testing.assert_close(own.tokens.flatten(0, 1), seen["tokens"][visual])
    assert own.question_tokens == len(tokens)
    assert own.text_tokens == len(ids) - len(visual)


def test_layers_can_be_chosen_and_the_model_is_left_as_it_was(model, processor):
    source = keep_all(model, processor, vtc.testing.drifting_video)
    before = model.get_decoder().config._attn_implementation
    answer = vtc.ask(model, processor, source, QUESTION, max_new_tokens=4).text
    whole = question_attention(model, processor, source, QUESTION)
    second = question_attention(model, processor, source, QUESTION, [1])
    assert second.layers == (1,) and torch.equal(second.weights[0], whole.weights[1])
    with pytest.raises(ValueError, match=r"layer 7 does not exist .*; measured: 1"):
        question_attention(model, processor, source, QUESTION, [1, 7])
    with pytest.raises(ValueError, match=r"no attention of \w+ .* has no such layer"):
        question_attention(model, processor, source, QUESTION, [7])
    assert model.get_decoder().config._attn_implementation == before
    assert vtc.ask(model, processor, source, QUESTION, max_new_tokens=4).text == answer
    vtc.unwrap(model)
    assert not model.get_decoder()._forward_pre_hooks and not model.base_model._forward_pre_hooks


def test_families_that_cannot_be_measured_are_refused_in_words(model, processor, monkeypatch):
    source = keep_all(model, processor, vtc.testing.drifting_video)
    decoder = model.get_decoder()
    monkeypatch.setattr(type(decoder), "_can_set_attn_implementation", lambda *_: False)
    with pytest.raises(ValueError, match=r"of Qwen2Model cannot be measured: it does not"):
        question_attention(model, processor, source, QUESTION)
    one = torch.ones(1, 1, 2, 2)
    for name in ("softcap", "s_aux", "position_bias"):
        with pytest.raises(ValueError, match=f"attention of Linear has {name}, which cannot"):
            _attend(torch.nn.Linear(1, 1), one, one, one, None, **{name: 1.0})


def test_a_selector_that_leaves_frames_out_is_refused(model, processor):
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), "mean_pool", processor=processor)
    source = vtc.VideoSource(vtc.testing.drifting_video(6, 1))
    with pytest.raises(ValueError, match=r"every frame to keep its tokens, got 2 of 6"):
        question_attention(model, processor, source, QUESTION)


def test_the_question_must_be_in_the_prompt(processor):
    ids = torch.tensor(processor.tokenizer("<s> What is red? ok")["input_ids"])
    positions = question_positions(processor, "<s> What is red? ok", QUESTION, ids)
    assert processor.tokenizer.decode(ids[positions]).strip() == QUESTION
    for prompt, tokens in (("<s> Who?", ids), ("<s> What is red? ok", ids.flip(0))):
        with pytest.raises(ValueError, match=r"'What is red\?' was not found in the prompt"):
            question_positions(processor, prompt, QUESTION, tokens)


def test_a_question_before_the_video_is_refused(model, processor, monkeypatch):
    source = keep_all(model, processor, vtc.testing.drifting_video)
    video = processor.video_token

    def question_first(self, writer, question, opened):
        return f"{question} {video} ok"

    monkeypatch.setattr(type(model.vtc.adapter), "prompt", question_first)
    with pytest.raises(ValueError, match="question stands before the video"):
        question_attention(model, processor, source, QUESTION)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_rows_alone_are_computed(mask):
    length, rows = 9, torch.tensor([4, 7])
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, length, 3), torch.randn(1, 2, length, 3)
    hidden = torch.ones(length, length).tril().bool() & (torch.rand(length, length) > 0.2)
    hidden.fill_diagonal_(True)
    if mask is None:
        hidden = torch.ones(length, length).tril().bool()
    added = torch.zeros(length, length).masked_fill(~hidden, -torch.inf)
    given = {None: None, "bool": hidden[None, None], "float": added[None, None]}[mask]
    collector = Collector(rows, torch.arange(length))
    collector.add(3, query, key, given, 0.5)
    scores = query[0].double() @ key[0].double().repeat_interleave(2, 0).mT * 0.5 + added
    expected = scores.softmax(-1)[:, rows].mean((0, 1))
    torch.testing.assert_close(collector.weights[3], expected, atol=1e-6, rtol=0)
    long = torch.randn(1, 1, 200_000, 2)  # all of its rows would take 160 GB
    Collector(rows, rows).add(0, long, long, None, 1.0)


def test_cumulative_attention_by_hand():
    shares = cumulative_share(torch.tensor([1.0, 6.0, 3.0]))
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.9, 1.0], dtype=torch.float64))
    line = curve(shares)
    assert line[0] == 0 and line[100] == pytest.approx(100)
    assert line[50] == pytest.approx(60 + 30 * (50 - 100 / 3) / (100 / 3))


def test_similarity_of_neighbours_in_rank_by_hand():
    angles = torch.tensor([0.0, 0.3, 0.9, 2.0, 2.1], dtype=torch.float64)
    features = 5 * torch.stack([angles.cos(), angles.sin()], 1)
    nearest = {0: (1, 2, 3), 1: (0, 2, 3), 2: (1, 3, 0), 3: (2, 4, 1), 4: (3, 2, 1)}
    expected = [float((angles[k] - angles[list(nearest[k])]).cos().mean()) for k in range(5)]
    assert rank_neighbour_similarity(features).tolist() == pytest.approx(expected)
    assert torch.isnan(rank_neighbour_similarity(features[:1])).all()


def test_similarity_of_random_pairs_is_the_mean_over_all_pairs():
    torch.manual_seed(1)
    features = torch.randn(7, 3)
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    pairs = [float(unit[i] @ unit[j]) for i in range(7) for j in range(i)]
    assert random_pair_similarity(features) == pytest.approx(np.mean(pairs))


def test_the_reference_of_a_frame_is_the_keyframe_before_it_or_the_first():
    assert reference_frames(torch.tensor([2, 5]), 8).tolist() == [2, 2, 2, 2, 2, 5, 5, 5]


def test_bars_are_means_over_equal_parts():
    assert bars(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), 2) == [3.0, 8.0]
    assert bars(torch.tensor([1.0, 3.0]), 4) == [1.0, 1.0, 3.0, 3.0]


def test_measures_of_frames_and_patches_by_hand():
    weights = torch.tensor([[0.1, 0.1], [0.0, 0.3], [0.02, 0.01], [0.03, 0.0]])
    tokens = torch.tensor(
        [
            [[1.0, 0.0], [1.0, 0.0]],
            [[1.0, 0.0], [0.0, 1.0]],
            [[0.0, 2.0], [0.0, 3.0]],
            [[2.0, 0.0], [-1.0, 0.0]],
        ]
    )
    frame = frame_measures(weights, tokens)
    assert frame["order"][:2] == [1, 0] and frame["frames"] == 4
    assert frame["attention_to_video"] == pytest.approx(0.56)
    assert frame["cumulative"][25] == pytest.approx(100 * 0.3 / 0.56)
    assert frame["frames_for_90_percent"] == 0.75
    patch = patch_measures(weights, tokens, 2)
    assert patch["keyframes"] == [0, 1] and patch["patches"] == 4
    # By attention 0.03, 0.02, 0.01, 0: patches (3, 0), (2, 0), (2, 1), (3, 1) against frame 1.
    assert patch["similarity"][::5] == pytest.approx([1, 0, 1, 0])
    assert patch["top_half"] == pytest.approx(0.05 / 0.06)
    assert patch_measures(weights, tokens, 4) is None
    both = mean_measures([frame, frame])
    assert both["videos"] == 2 and both["cumulative"] == pytest.approx(frame["cumulative"])


def test_the_summary_averages_videos_and_says_so_in_words():
    weights = torch.tensor([[3.0, 1.0], [0.5, 0.5], [0.25, 0.25]])
    record = {
        "layers": [0],
        "frame": frame_measures(weights, torch.ones(3, 2, 4)),
        "patch": patch_measures(weights, torch.ones(3, 2, 4), 1),
    }
    other = {**record, "patch": None}
    summary = summarise([record, other])
    assert summary["rows"] == 2 and summary["patch"]["videos"] == 1
    text = "\n".join(lines_of(summary))
    assert "random pairs 1.00" in text and "first half has 66.7 %" in text
    assert "every frame is a keyframe" in "\n".join(lines_of(summarise([other])))
    with pytest.raises(ValueError, match="at least one record"):
        summarise([])


def test_the_command_measures_resumes_and_draws(command, tmp_path):
    for number in range(2):
        frames = np.asarray(vtc.testing.drifting_video(12, number))
        vtc.testing.write_video(tmp_path / f"{number}.mp4", frames, fps=1)
    rows = [
        {"id": n, "video": f"{n}.mp4", "question": "What colour is the star?"} for n in (0, 1, 2)
    ]
    file, out = tmp_path / "rows.jsonl", tmp_path / "out"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    words = ["analyse", "redundancy", "--model", "shipped", "--videos", file, "--out", out]
    words += ["--video-root", tmp_path, "--frames", "8", "--keyframes", "3"]
    code, text, errors = command(*words, "--json")
    assert code == 0, errors
    result = json.loads(text)
    assert result["rows"] == 2 and result["frame"]["videos"] == result["patch"]["videos"] == 2
    assert json.loads((out / "redundancy.json").read_text())["frame"] == result["frame"]
    before = (out / "records.jsonl").read_text()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, text, errors = command(*words)
    assert code == 1 and "not measured: 2: 2.mp4: there is no such file" in errors
    assert "attention to the video" in text and "results: " in text
    assert (out / "records.jsonl").read_text() == before
    code, _, errors = command(*words, "--layers", "0")
    assert code == 1 and "holds results with another layers" in errors
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    for name in ("frames.png", "patches.png"):
        assert (out / name).stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keyframes", "128"], "expected --keyframes below --frames, got 128 of 128"),
        (["--layers", "first"], "expected --layers to be all or numbers such as 0,7,14"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(command, tmp_path, words, message):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": 1, "video": "a.mp4", "question": "What?"}\n')
    base = ["analyse", "redundancy", "--videos", file, "--out", tmp_path / "out"]
    code, _, errors = command(*base, *words)
    assert code == 1 and message in errors
