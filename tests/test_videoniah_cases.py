"""The cases of VideoNIAH: their lengths and depths, seeds, and what is refused."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from vtc.plugins.sections import SectionError
from vtc_recipes.evaluation.videoniah.asking import Asker, prompt_of
from vtc_recipes.evaluation.videoniah.cases import make_cases, read_cases, write_cases
from vtc_recipes.evaluation.videoniah.questions import ClipQuestion

FRAMES = {"n1": 40, "n2": 90, "short": 10, "long1": 300, "long2": 700}
QUESTIONS = [
    ClipQuestion(name, f"What {number}?", ("x", "y", "z"), "A", kind)
    for name in ("n1", "n2")
    for number in range(2)
    for kind in ("order", "count", "count2")
]


def cases_of(**options):
    settings = {"lengths": (200, 400), "depths": 3, "each": 4, "haystack_seconds": 300.0}
    return make_cases(QUESTIONS, FRAMES, **{**settings, **options})


def test_lengths_share_questions_and_each_question_meets_other_depths():
    cases = cases_of(depths=2, each=6, spread=0.0)
    assert len(cases) == 24
    by_length = {
        length: {
            (one.needle.video, one.question, one.kind) for one in cases if one.length == length
        }
        for length in (200, 400)
    }
    assert by_length[200] == by_length[400] and len(by_length[200]) == 12
    cells = Counter((case.length, case.depth) for case in cases)
    assert cells == {(length, depth): 6 for length in (200, 400) for depth in (0.0, 1.0)}
    pairs = Counter((case.id.split("-")[1], case.depth) for case in cases)
    assert set(pairs.values()) == {1} and len(pairs) == 24
    kinds = Counter(case.kind for case in cases if case.length == 200)
    assert set(kinds.values()) == {4}


def test_cases_are_as_long_as_they_say_and_hide_the_needle_elsewhere():
    for case in cases_of(haystack_seconds=40.0):
        assert sum(clip.frames for clip in case.haystack) + case.needle.frames == case.length
        assert case.needle.video not in {clip.video for clip in case.haystack}
        depth = case.start / (case.length - case.needle.frames)
        assert abs(depth - case.depth) <= 0.1 + 1 / 100
    assert {clip.video for case in cases_of() for clip in case.haystack} == {"long1", "long2"}
    shorter, longer = (
        {case.id.split("-")[1]: case for case in cases_of() if case.length == length}
        for length in (200, 400)
    )
    for number, case in shorter.items():
        assert longer[number].haystack[0].video == case.haystack[0].video


def test_the_default_cases_are_those_of_the_paper():
    frames = {**FRAMES, "long2": 20_000}
    cases = make_cases(QUESTIONS, frames)
    assert len(cases) == 3000 and len({case.id for case in cases}) == 3000
    assert Counter(case.length for case in cases) == dict.fromkeys(
        (2000, 4000, 6000, 8000, 10000), 600
    )
    assert {case.depth for case in cases} == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_a_seed_makes_the_same_cases_again(tmp_path):
    cases = cases_of(seed=3)
    assert cases_of(seed=3) == cases != cases_of(seed=4)
    write_cases(tmp_path / "cases.jsonl", cases)
    assert read_cases(tmp_path / "cases.jsonl") == cases


def test_haystacks_repeat_videos_only_where_they_may():
    with pytest.raises(ValueError, match=r"needs \d+ frames .* have 1000; .* --repeat"):
        cases_of(lengths=(2000,))
    cases = cases_of(lengths=(2000,), repeat=True)
    assert max(case.repeats for case in cases) == 2
    with pytest.raises(ValueError, match=r"of at least 900 seconds have 0; .* --haystack-seconds$"):
        cases_of(haystack_seconds=900.0, repeat=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"needle_seconds": (200.0, 300.0)}, "none of 12 questions is about a clip of 200 to 300"),
        ({"lengths": (90,)}, "lengths to be more than 90, the longest needle, got 90"),
        ({"each": 0}, "each to be an integer >= 1, got 0"),
        ({"spread": 2.0}, "spread to be 0"),
    ],
)
def test_impossible_cases_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cases_of(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 201}, "length: expected the 200 frames of needle and haystack, got 201"),
        ({"start": 999}, r"start: expected 0 to \d+, got 999"),
        ({"answer": "D"}, "answer: expected one of A, B, C, got 'D'"),
        ({"question": None}, "question: expected a string"),
    ],
)
def test_edited_cases_are_checked(tmp_path, change, message):
    case = cases_of(lengths=(200,), depths=1, each=1)[0]
    file = tmp_path / "cases.jsonl"
    file.write_text(json.dumps({**case.plain(), **change}) + "\n")
    with pytest.raises(SectionError, match=message):
        read_cases(file)


def test_a_prompt_is_filled_in_as_in_video_mme():
    text = prompt_of(cases_of(lengths=(200,), depths=1, each=1)[0], Asker.__init__.__defaults__[0])
    assert "(A, B, or C)" in text and text.count("\n") == 5
    assert text.endswith("\nA. x\nB. y\nC. z\nThe best answer is:")
