"""Questions whose answers take more scenes than the keyframes show, and training on them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoTokenizer

import vtc
from vtc_recipes.ablation import running
from vtc_recipes.ablation.questions import Item
from vtc_recipes.reading import apply_overrides, load_yaml
from vtc_recipes.shipped import find_config
from vtc_recipes.synthetic import SHAPES, STORIES, covers, held_share, make_example, make_story
from vtc_recipes.synthetic.stories import LENGTHS, final_answer, story_vocabulary, tell
from vtc_recipes.tiny import curriculum, evidence, hours, queries, vlm
from vtc_recipes.tiny.evaluate import asking_without_video, main
from vtc_recipes.tiny.evidence import related_turns
from vtc_recipes.tiny.hours import Hours
from vtc_recipes.tiny.models import word_tokenizer
from vtc_recipes.tiny.queries import draw_question, shows_any
from vtc_recipes.tiny.reading import parse_tiny
from vtc_recipes.tiny.stages import STAGES, train
from vtc_recipes.tiny.start import check_vocabulary, grow, start_folder
from vtc_recipes.tiny.trained import WEIGHTS

kinds = st.sampled_from(tuple(STORIES))
seeds = st.integers(0, 10**6)


def frames_shown(video: Any) -> list[tuple[int, dict[str, str]]]:
    """Return the scene number of each frame, and the colour of each shape that it shows."""
    shown = []
    for number, segment in enumerate(video.segments):
        objects = {thing.shape: thing.colour for thing in segment.scene.objects}
        shown += [(number, objects)] * segment.length
    return shown


def read_answer(text: str, video: Any) -> str:
    """Answer a question from its words and from the frames alone."""
    shown = frames_shown(video)
    words = text.lower().replace(",", "").replace(":", "").replace(".", "").rstrip("?").split()
    named = [word for word in words if word in SHAPES]
    seen = {name: [n for n, (_, objects) in enumerate(shown) if name in objects] for name in named}
    if "comes" in words:
        ordered = sorted(named, key=lambda name: seen[name][0])
        return ordered[1 if "second" in words else 2]
    if "longest" in words:
        return max(named, key=lambda name: len(seen[name]))
    shape = named[0]
    scenes = sorted({shown[n][0] for n in seen[shape]})
    colours = {shown[n][0]: shown[n][1][shape] for n in seen[shape]}
    if words[0] == "how":
        return ["three", "four", "five", "six"][len(scenes) - 3]
    if "between" in words:
        low, high = sorted(seen[name][0] for name in named[1:])
        [inside] = {shown[n][1][shape] for n in seen[shape] if low < n < high}
        return inside
    before = next(n for n, scene in enumerate(scenes) if colours[scene] == words[-1])
    return colours[scenes[before + 1]]


@given(seed=seeds, kind=kinds, frames=st.integers(16, 80))
@settings(max_examples=60, deadline=None)
def test_the_frames_give_the_answer_and_show_the_events(seed, kind, frames):
    example = make_story(seed, frames, kind=kind)
    question, shown = example.question, frames_shown(example.video)
    assert len(shown) == frames and question.kind == kind
    assert read_answer(question.text, example.video) == question.answer
    assert question.answer in question.choices and len(set(question.choices)) >= 4
    bearing = [n for n, (_, objects) in enumerate(shown) if {*question.names} & objects.keys()]
    assert [n for a, b in question.evidence for n in range(a, b)] == bearing
    assert all(question.is_unrelated_to(s.scene) for s in example.video.segments) is False


@pytest.mark.parametrize("kind", STORIES)
def test_no_keyframes_hold_more_than_their_share_of_the_events(kind):
    rng = np.random.default_rng(0)
    for seed in range(30):
        question = make_story(seed, 64, kind=kind, scenes=3000).question
        events = len(question.evidence)
        assert 3 <= events <= STORIES[kind]
        assert held_share(question, 2) == 2 / events
        assert held_share(question, events) == held_share(question, 40) == 1
        for _ in range(20):
            keyframes = sorted(rng.choice(64, 2, replace=False).tolist())
            held = sum(covers(keyframes, [span]) for span in question.evidence) / events
            assert held <= held_share(question, 2) and not covers(keyframes, question.evidence)


@pytest.mark.parametrize("kind", STORIES)
def test_a_guesser_that_has_learned_the_texts_is_at_chance(kind):
    """The controls without a video are at chance by construction: texts tell nothing."""
    count, tallies = 800, {}
    questions = [make_story(n, 24, kind=kind, scenes=3000).question for n in range(2 * count)]
    for question in questions[:count]:
        place = question.choices.index(question.answer)
        for clue in ("", question.text, question.names[0], question.ordinal, question.colour):
            tallies.setdefault(clue, Counter())[place] += 1
            tallies.setdefault((clue, "word"), Counter())[question.answer] += 1
    chance = questions[0].chance
    assert all(question.chance == chance for question in questions)
    deviation = (chance * (1 - chance) / count) ** 0.5
    for clue in (lambda q: "", lambda q: q.text, lambda q: q.names[0], lambda q: q.colour):
        right = by_word = 0
        for question in questions[count:]:
            [(place, _)] = tallies.get(clue(question), Counter({0: 1})).most_common(1)
            right += question.choices[place] == question.answer
            [(word, _)] = tallies.get((clue(question), "word"), Counter({"": 1})).most_common(1)
            by_word += word == question.answer
        assert right / count < chance + 4.5 * deviation
        assert by_word / count < chance + 4.5 * deviation


def test_stories_keep_to_their_split_and_to_the_first_scenes():
    for kind in STORIES:
        for seed in range(5):
            for segment in make_story(
                seed, 32, kind=kind, split="test", scenes=2000
            ).video.segments:
                assert segment.scene.split == "test" and segment.scene.seed < 2000


def test_make_example_draws_stories_by_their_kind():
    assert make_example(3, 64, kind="order").question == make_story(3, 64, kind="order").question


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "who"}, "^expected kind to be one of 'order', 'longest', .*, got 'who'$"),
        ({"segments": 5}, "^expected segments to be an integer >= 6 for the kind 'order', got 5$"),
        ({"frames": 11}, "^expected frames to be at least 12, two for each scene, got 11$"),
        ({"split": "dev"}, "^expected split to be one of 'train', .*, got 'dev'$"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_story(0, **{"frames": 64, "kind": "order", **options})


def test_the_shipped_models_words_keep_their_numbers():
    for folder, end_texts in (("vlm", False), ("dual_encoder", True)):
        old = AutoTokenizer.from_pretrained(WEIGHTS / folder)
        check_vocabulary(old, word_tokenizer(end_texts=end_texts))
        assert {*story_vocabulary()} <= old.get_vocab().keys()
    with pytest.raises(ValueError, match="^expected the start model.s token ids to be unchanged"):
        check_vocabulary(old, SimpleNamespace(get_vocab=dict))


def test_a_training_starts_from_the_last_model_of_a_run(tmp_path: Path) -> None:
    recipe = SimpleNamespace(start=str(tmp_path))
    names = ("vlm", "hour_answers", "long_answers")
    with pytest.raises(ValueError, match="has no model in vlm or hour_answers or long_answers; "):
        start_folder(recipe, *names)
    for name in ("long_answers", "hour_answers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        assert start_folder(recipe, *names) == tmp_path / name
    assert start_folder(SimpleNamespace(start="shipped"), *names) == WEIGHTS / "vlm"


def test_every_word_of_stories_is_one_token():
    tokenizer, rng = word_tokenizer(), np.random.default_rng(0)
    for kind in STORIES:
        question = make_story(1, 24, kind=kind, scenes=2000).question
        texts = [question.text, draw_question(rng, kind).text, *question.choices, "red. blue"]
        for text in texts:
            ids = tokenizer(text.replace("{", "").replace("}", ""))["input_ids"]
            unknown = tokenizer.unk_token_id in ids
            assert unknown is any(digit in text for digit in "0123"), text


def test_a_grown_embedding_keeps_its_rows():
    old = nn.Embedding(5, 8)
    new = grow(old, 7)
    assert torch.equal(new.weight[:5], old.weight) and new.weight.requires_grad
    ratio = (new.weight[5:].std() / old.weight.std()).item()
    assert 0.3 < ratio < 3


def test_a_text_is_about_the_scenes_with_any_of_its_shapes():
    shapes = torch.tensor([[1, 0, 3, 0], [0, 0, 0, 8]])
    named = torch.zeros(2, 8, dtype=torch.bool)
    named[0, [2, 6]] = named[1, 7] = True
    assert shows_any(shapes, named).tolist() == [[1.0, 0.0], [0.0, 1.0]]


@given(seed=seeds, kind=kinds)
@settings(max_examples=40, deadline=None)
def test_other_turns_have_the_answers_that_the_frames_give(seed, kind):
    example = make_story(seed, 32, kind=kind, scenes=3000)
    question = example.question
    own, *others = related_turns(np.random.default_rng(seed), example)
    assert own == (question.text, tell(question, example.video))
    shown = [objects for _, objects in frames_shown(example.video)]
    by_shape = kind in ("order", "longest")
    events = []
    for objects in shown:
        [name] = {*question.names} & objects.keys() or [None]
        by_colour = name == question.names[0] and not by_shape
        events.append(objects[name] if by_colour else name)
    told = list(dict.fromkeys(event for event in events if event))
    for text, answer in (own, *others):
        listed, end, final = answer.partition(". ")
        if "longest" in text:
            names, lengths = listed.split()[::2], listed.split()[1::2]
            frames = Counter(name for objects in shown for name in {*names} & objects.keys())
            sixteenths = [min(6, max(1, round(frames[name] / 2))) for name in names]
            assert lengths == [LENGTHS[number - 1] for number in sixteenths]
            listed = " ".join(names)
        if kind == "between" and text != question.text:  # it asks for the colours alone
            assert listed.split() == [event for event in told if event not in SHAPES]
        else:
            assert listed.split() == told
        assert end and final == final_answer(answer) == read_answer(text, example.video)
    assert question.text not in dict(others) and len(others) <= 4


@pytest.mark.parametrize(
    ("text", "answer"),
    [("star moon. Star", "star"), ("Star.", "star"), ("star moon", "star moon"), ("a. b. c.", "c")],
)
def test_the_answer_follows_the_events(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(("kind", "right"), [("order", True), ("colour", False)])
def test_a_grid_scores_the_answer_after_the_events_of_a_story(monkeypatch, kind, right):
    example = make_example(3, 64, kind=kind)
    counts = dict.fromkeys(("tokens_before", "text_before", "tokens_after", "text_after"), 0)
    report = SimpleNamespace(stages={}, keyframes=(), warnings=[], **counts)
    text = f"red blue. {example.question.answer}"
    monkeypatch.setattr(vtc, "ask", lambda *_, **__: SimpleNamespace(text=text, report=report))
    words = (kind, example.question.text, example.question.answer)
    item = Item("0", *words, (), None, lambda: example.video, "video")
    assert running.ask(None, None, item, "{question}", 12)["right"] is right


@pytest.mark.parametrize(
    ("names", "start"),
    [
        ("queries stories evidence", "stories"),
        ("queries stories long_stories evidence", "long_stories"),
        ("queries stories long_stories final_stories evidence", "final_stories"),
        ("queries stories long_stories evidence review", "evidence"),
        ("queries stories long_stories final_stories", "long_stories"),
    ],
)
def test_stages_start_from_the_stage_before(tmp_path: Path, names: str, start: str) -> None:
    values = load_yaml(find_config("tiny_evidence", "training"))
    values["stages"] = [{**values["stages"][0], "name": name} for name in names.split()]
    recipe = parse_tiny(values, "test")
    stage: Any = object.__new__(STAGES[names.split()[-1]])
    stage.folder = tmp_path
    assert stage.sources(recipe) == (tmp_path / start, tmp_path / "queries")
    assert sum(stage.shares.values()) == pytest.approx(1)


def test_a_trained_model_is_evaluated_on_stories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(queries, "UNSEEN", 64)
    for module in (vlm, evidence):
        monkeypatch.setattr(module, "EXAMINED", 5)
    monkeypatch.setattr(vlm, "UNSEEN", 130)
    monkeypatch.setattr(hours, "EXAMINED", 4)
    short = replace(hours.HOURS, frames=800, scenes=100)
    monkeypatch.setattr(hours, "HOURS", short)
    monkeypatch.setattr(curriculum, "draw_hours", lambda rng: short)
    monkeypatch.setattr(Hours, "old", 1.0)  # such a video in its only step
    run = tmp_path / "run"
    changes = [f"stages.{n}.{what}" for n in range(5) for what in ("steps=1", "scenes=130")]
    changes += [f"stages.{n}.batch={size}" for n, size in enumerate((16, 300, 300, 300, 300))]
    changes += [f"output.folder={run}", "start=shipped"]
    changes += ["vtc.budget={name: foveated, max_tokens: 300}"]
    values = load_yaml(find_config("tiny_evidence", "training"))
    del values["stages"][2:4]  # as stories, for longer
    review = {**values["stages"][-1], "name": "review", "seed": 3}
    values["stages"] = [*values["stages"], review, {**review, "name": "hours"}]
    folder = train(parse_tiny(apply_overrides(values, changes), "test"))
    model = vtc.from_pretrained(folder)
    assert len(model.get_input_embeddings().weight) == len(model.vtc.processor.tokenizer)
    assert model.vtc.selector.config.keyframes == 2
    for stage, seed in (("stories", 0), ("evidence", 0), ("review", 3)):
        metrics = json.loads((run / f"{stage}.json").read_text())
        assert metrics["seed"] == seed
        measured = metrics["measured"]
        assert {*measured} == {"64", *(f"64, {kind}" for kind in STORIES)}
    measured = json.loads((run / "hours.json").read_text())["measured"]
    assert {"64", "800", "800, after"} <= measured.keys()
    # Every frame is a keyframe in the stage before, so nothing is merged.
    assert not list(vtc.from_pretrained(run / "stories").vtc.merger.parameters())
    words = ["--model", str(folder), "--kinds", "order,between", "--examples", "4"]
    words += ["--frames", "16", "--selector", "uniform", "--keyframes", "2"]
    capsys.readouterr()
    main(words)
    results = json.loads(capsys.readouterr().out)["results"]
    assert results["order"]["held"] == 0.5 and results["between"]["held"] == 0.4
    assert results["all"]["count"] == 4 and results["all"]["coverage"] == 0
    main([*words, "--no-video"])
    alone = json.loads(capsys.readouterr().out)
    assert alone["frames"] == 0 and alone["results"]["all"]["held"] == 0
    ask = asking_without_video(model, model.vtc.processor)
    for kind in (*STORIES, "colour"):
        example = make_example(3, 64, kind=kind)
        assert ask(example)[0] in example.question.choices
