"""Scenes, videos and questions of the synthetic world."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtc_recipes.synthetic import (
    COLOURS,
    KINDS,
    SHAPES,
    SPLITS,
    Question,
    Scene,
    Segment,
    SyntheticVideo,
    caption,
    covers,
    make_example,
    random_video,
    vocabulary,
    words,
)
from vtc_recipes.synthetic.examples import fair_questions

seeds = st.integers(0, 10**6)

FINGERPRINT = """
import hashlib
from vtc_recipes.synthetic import Scene, make_example, random_video
example = make_example(11, frames=20, split="test")
parts = [Scene(5, "validation").frames(3, start=9), random_video(2, 30).frames(range(30)),
         example.video.frames(range(20))]
facts = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
facts += repr(example.question)
"""


def test_another_process_draws_the_same():
    here: dict = {}
    exec(FINGERPRINT, here)
    there = subprocess.run(
        [sys.executable, "-c", FINGERPRINT + "print(facts)"], capture_output=True, text=True
    )
    assert there.stdout.strip() == here["facts"], there.stderr


def test_splits_share_no_scene():
    frames = {
        split: {Scene(seed, split, 16).frame(0).tobytes() for seed in range(100)}
        for split in SPLITS
    }
    assert all(len(found) == 100 for found in frames.values())
    assert len(set.union(*frames.values())) == 300


@pytest.mark.parametrize("split", SPLITS)
def test_examples_keep_to_their_split(split):
    for kind in KINDS:
        segments = make_example(3, frames=30, kind=kind, split=split).video.segments
        assert {segment.scene.split for segment in segments} == {split}


@given(seed=seeds)
@settings(max_examples=60, deadline=None)
def test_scenes_hold_two_or_three_different_objects(seed):
    scene = Scene(seed)
    assert len(scene.objects) in (2, 3)
    for names in (
        [thing.shape for thing in scene.objects],
        [thing.colour for thing in scene.objects],
        [thing.quarter for thing in scene.objects] + ([scene.spark.quarter] if scene.spark else []),
    ):
        assert len(set(names)) == len(names)


def test_frames_of_a_scene_are_near_duplicates_that_move():
    for seed in range(20):
        frames = Scene(seed).frames(12).astype(float)
        step = np.abs(frames[1:] - frames[:-1]).mean()
        other = np.abs(frames[0] - Scene(seed + 100).frame(0)).mean()
        assert 0 < step < other / 2
        tracks = Scene(seed).centres(range(12))
        moves = np.abs(np.diff(tracks, axis=0))
        assert moves.max() < 1 and moves.sum() > 0.5


def test_any_frame_comes_by_its_number():
    scene = Scene(4, size=(20, 36))
    some = scene.render([7, 2, 7])
    assert some.shape == (3, 20, 36, 3) and some.dtype == np.uint8
    np.testing.assert_array_equal(some, scene.frames(8)[[7, 2, 7]])
    np.testing.assert_array_equal(scene.frame(7), some[0])


def test_long_stacks_are_drawn_in_blocks_that_do_not_show():
    scene = Scene(3, size=(320, 640))
    np.testing.assert_array_equal(scene.frames(12), np.stack([scene.frame(k) for k in range(12)]))


def test_a_scene_looks_alike_at_every_size():
    for seed in range(8):
        small, large = Scene(seed, size=48).frame(0), Scene(seed, size=192).frame(0)
        shrunk = large.reshape(48, 4, 48, 4, 3).mean((1, 3))
        assert np.abs(small - shrunk).mean() < 10


def test_the_centres_are_where_the_paint_is():
    scene = Scene(9, size=96)
    for thing, centre in zip(scene.objects, scene.centres([0])[0], strict=True):
        near = np.abs(scene.frame(0) - np.array(COLOURS[thing.colour], float)).sum(-1) < 40
        if thing.shape in ("circle", "square", "diamond", "cross", "ring"):
            rows, columns = np.nonzero(near)
            assert abs(columns.mean() + 0.5 - centre[0]) < 2
            assert abs(rows.mean() + 0.5 - centre[1]) < 2


@pytest.mark.parametrize("size", [48, (60, 90)])
def test_objects_never_leave_their_quarters(size):
    for seed in range(60):
        scene = Scene(seed, size=size)
        half = np.array([scene.width, scene.height]) / 2
        for thing, track in zip(
            scene.objects, scene.centres(range(0, 400, 5)).swapaxes(0, 1), strict=True
        ):
            corner = half * [thing.quarter % 2, thing.quarter // 2]
            reach = thing.radius * min(scene.height, scene.width)
            assert (track - reach >= corner).all() and (track + reach <= corner + half).all()


@given(seed=seeds, kind=st.sampled_from(tuple(KINDS)), frames=st.integers(8, 60))
@settings(max_examples=80, deadline=None)
def test_questions_have_one_answer(seed, kind, frames):
    example = make_example(seed, frames=frames, kind=kind)
    assert len(example.video) == frames
    questions = fair_questions(example.video, kind)
    assert example.question in questions and len(set(questions)) == len(questions)
    for question in questions:
        check_question(question, example.video)


def check_question(question, video):
    """What every single frame shows makes the answer the only one, and the evidence whole."""
    kind = question.kind
    assert question.answer in question.choices
    shown = []  # by frame: {shape: colour}, spark, scene number
    for number, (segment, (first, end)) in enumerate(
        zip(video.segments, video.ranges(), strict=True)
    ):
        scene = segment.scene
        for frame in range(first, end):
            inside = frame - first + segment.start
            lit = scene.spark and 0 <= inside - scene.spark.start < scene.spark.length
            objects = {thing.shape: thing.colour for thing in scene.objects}
            shown.append((objects, scene.spark.colour if lit else None, number))
    if kind == "spark":
        bearing = [k for k, (_, spark, _) in enumerate(shown) if spark]
        answers = {spark for _, spark, _ in shown if spark}
    else:
        asked = [k for k, (objects, _, _) in enumerate(shown) if question.shape in objects]
        scenes = sorted({shown[k][2] for k in asked})
        bearing = asked
        if kind == "after":
            (scene,) = scenes
            following = [k for k, (_, _, number) in enumerate(shown) if number == scene + 1]
            bearing = asked + following
            answers = {
                shape
                for k in following
                for shape, colour in shown[k][0].items()
                if colour == question.colour
            }
        else:
            assert len(scenes) == KINDS[kind]
            chosen = scenes[-1] if kind == "last" else scenes[0]
            answers = {
                objects[question.shape]
                for objects, _, number in shown
                if number == chosen and question.shape in objects
            }
    if kind == "texture":
        (scene,) = scenes
        answers = {video.segments[scene].scene.backdrop.texture}
    assert answers == {question.answer}
    assert [k for first, end in question.evidence for k in range(first, end)] == bearing


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_balanced(kind):
    count = 600
    found = Counter(
        make_example(seed, frames=8, kind=kind, scenes=4000).question.answer
        for seed in range(count)
    )
    choices = len(SHAPES) if kind == "after" else len(COLOURS)
    assert len(found) == choices
    deviation = (count / choices * (1 - 1 / choices)) ** 0.5
    assert all(abs(n - count / choices) < 4.5 * deviation for n in found.values()), found


def test_chance_is_one_of_the_choices():
    assert make_example(0, frames=16, kind="colour").question.chance == pytest.approx(1 / 6)
    after = make_example(0, frames=16, kind="after").question
    assert after.chance == pytest.approx(1 / 7) and after.shape not in after.choices


def test_the_vocabulary_is_closed():
    known = set(vocabulary())
    assert len(known) == len(vocabulary()) < 80
    for seed in range(200):
        example = make_example(seed, frames=16)
        scene = example.video.segments[0].scene
        texts = [example.question.text, *example.question.choices]
        for text in (*texts, caption(scene), caption(scene, places=True)):
            assert set(words(text)) <= known, text


def test_captions_say_what_there_is():
    scene = Scene(7, "test")
    first, second = scene.objects
    places = ("top left", "top right", "bottom left", "bottom right")
    assert caption(scene) == f"{first.colour} {first.shape}, {second.colour} {second.shape} on " + (
        scene.backdrop.texture
    )
    assert f"{first.shape} {places[first.quarter]}, " in caption(scene, places=True)


@given(
    frames=st.lists(st.integers(0, 30), max_size=8, unique=True).map(sorted),
    starts=st.lists(st.integers(0, 25), min_size=1, max_size=3),
)
def test_covers_asks_for_a_frame_of_every_range(frames, starts):
    evidence = [(start, start + 4) for start in starts]
    wanted = all(set(frames) & set(range(*pair)) for pair in evidence)
    assert covers(frames, evidence) is wanted


def test_scenes_from_a_small_bank():
    used = {
        segment.scene.seed
        for seed in range(40)
        for segment in make_example(seed, frames=24, scenes=500).video.segments
    }
    assert max(used) < 500 and len(used) > 50


def test_a_question_tells_which_scenes_leave_it_alone():
    plain = Question("colour", "red", ((0, 1),), shape="star")
    sparkling = Question("spark", "red", ((0, 1),))
    for seed in range(50):
        scene = Scene(seed)
        assert plain.is_unrelated_to(scene) is ("star" not in [o.shape for o in scene.objects])
        assert sparkling.is_unrelated_to(scene) is (scene.spark is None)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Scene(-1), ValueError, r"^expected seed to be an integer >= 0, got -1$"),
        (lambda: Scene(1.5), TypeError, r"^expected seed to be an integer, got 1\.5$"),
        (lambda: Scene(0, "dev"), ValueError, "expected split to be one of 'train', "),
        (lambda: Scene(0, size=8), ValueError, "expected size to be at least 16 pixels per side"),
        (lambda: Scene(0, size=(48,)), TypeError, r"an integer or \(height, width\), got \(48,\)$"),
        (lambda: Scene(0).frame(-1), ValueError, "expected frame numbers >= 0, got -1"),
        (lambda: SyntheticVideo([]), ValueError, "expected at least one segment, got none"),
        (
            lambda: SyntheticVideo([Segment(Scene(0), 0, 2), Segment(Scene(0, size=32), 0, 2)]),
            ValueError,
            r"expected scenes of one size, got the sizes \[\(32, 32\), \(48, 48\)\]",
        ),
        (
            lambda: SyntheticVideo([Segment(Scene(0), 0, 0)]),
            ValueError,
            "expected length to be an integer >= 1, got 0",
        ),
        (lambda: random_video(0, 9).frames([9]), ValueError, "expected frames 0 to 8, got 9 to 9"),
        (lambda: random_video(0, 4, segments=5), ValueError, "expected segments to be 1 to 4, "),
        (lambda: random_video(0, 4, split="dev"), ValueError, "expected split to be one of"),
        (lambda: random_video(0, 2, size=17).write("x.mp4"), ValueError, "H.264, got 17x17"),
        (
            lambda: make_example(0, 9, kind="who"),
            ValueError,
            "expected kind to be one of 'colour', ",
        ),
        (
            lambda: make_example(0, 9, kind="after", segments=1),
            ValueError,
            "expected segments to be an integer >= 2 for the kind 'after', got 1",
        ),
        (
            lambda: make_example(0, 9, kind="spark", scenes=1),
            ValueError,
            "none of 100000 draws from 1 scenes of the split 'train' meets the condition; draw ",
        ),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("module", ["examples", "questions", "scenes", "splice", "videos"])
def test_what_the_documentation_prints_is_true(module):
    found = doctest.testmod(importlib.import_module(f"vtc_recipes.synthetic.{module}"))
    assert found.attempted and not found.failed
