"""Needles in haystacks: splices of videos, and cases that make them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtc.video import VideoSource
from vtc_recipes.synthetic.cases import Case, make_cases, read_cases, write_cases
from vtc_recipes.synthetic.examples import make_example
from vtc_recipes.synthetic.splice import Splice
from vtc_recipes.synthetic.videos import random_video


def numbered(count: int, first: int, size: tuple[int, int] = (4, 6)) -> np.ndarray:
    frames = np.empty((count, *size, 3), np.uint8)
    frames[:] = np.arange(first, first + count)[:, None, None, None]
    return frames


@given(
    haystack=st.integers(1, 40),
    needle=st.integers(1, 9),
    data=st.data(),
    chunk=st.integers(1, 12),
)
@settings(max_examples=80, deadline=None)
def test_a_splice_is_what_putting_arrays_together_gives(haystack, needle, data, chunk):
    at = data.draw(st.integers(0, haystack))
    hay, needles = numbered(haystack, 0), numbered(needle, 100)
    whole = np.concatenate([hay[:at], needles, hay[at:]])
    source = VideoSource(Splice(hay, needles, at))
    wanted = data.draw(st.sets(st.integers(0, len(whole) - 1)).map(sorted))
    np.testing.assert_array_equal(source.frames(wanted), whole[wanted])
    chunks = [part.frames for part in source.chunks(size=chunk, prefetch=0)]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_a_needle_takes_the_size_of_the_haystack():
    splice = Splice(numbered(3, 0), numbered(2, 100, size=(40, 20)), at=1)
    frames = VideoSource(splice).frames()
    assert frames.shape == (5, 4, 6, 3) and frames[:, 2, 2, 0].tolist() == [0, 100, 101, 1, 2]


class Damaged:
    """Frames of which some turn out to be lost while they are read."""

    height, width = 4, 6

    def __init__(self):
        self.warnings: list[str] = []

    def __len__(self) -> int:
        return 3

    def read(self, indices):
        for index in indices:
            if index == 1:
                self.warnings.append("frame 1 is lost")
            yield np.zeros((4, 6, 3), np.uint8)


def test_a_splice_passes_warnings_on():
    source = VideoSource(Splice(Damaged(), numbered(2, 9), at=2))
    assert source.warnings == []
    source.frames()
    assert source.warnings == ["frame 1 is lost"]


@pytest.mark.parametrize("at", [-1, 4])
def test_a_splice_refuses_a_place_outside(at):
    with pytest.raises(ValueError, match=rf"^expected at to be 0 to 3, .*, got {at}$"):
        Splice(numbered(3, 0), numbered(1, 9), at)


def test_needles_are_where_the_cases_say():
    cases = make_cases([40, 100], [0.0, 0.5, 1.0], 4, needle_frames=10, spread=0.0)
    assert len(cases) == 24 and len(set(cases)) == 24
    for case in cases:
        assert case.start == (case.length - 10) * case.depth
        frames = case.video().frames()
        example = make_example(
            case.seed, frames=10, kind=case.kind, split="test", segments=len(case.evidence)
        )
        assert len(frames) == case.length
        needle = example.video.frames(range(10))
        np.testing.assert_array_equal(frames[case.start : case.start + 10], needle)
        assert case.evidence == tuple(
            (first + case.start, end + case.start) for first, end in example.question.evidence
        )


def test_cells_share_needles_and_depths_share_haystacks():
    cases = make_cases([40, 100], [0.0, 0.5], 3, needle_frames=10)
    for length in (40, 100):
        kept = []
        for case in (c for c in cases if c.length == length and c.seed == 1):
            frames = case.video().frames()
            kept.append(np.delete(frames, range(case.start, case.start + 10), axis=0))
        np.testing.assert_array_equal(*kept)
    assert {(case.question, case.answer) for case in cases if case.seed == 1} == {
        (cases[1].question, cases[1].answer)
    }


def test_the_spread_moves_needles_but_not_far():
    cases = make_cases([1016], [0.0, 0.5, 1.0], 40, spread=0.1)
    for depth, low, high in ((0.0, 0, 100), (0.5, 400, 600), (1.0, 900, 1000)):
        starts = [case.start for case in cases if case.depth == depth]
        assert low <= min(starts) and max(starts) <= high
        assert max(starts) - min(starts) > 0.7 * (high - low)


def test_cases_come_back_as_they_were_written(tmp_path):
    cases = make_cases([40], [0.0, 1.0], 5, size=(32, 48))
    write_cases(tmp_path / "cases.jsonl", cases)
    assert read_cases(tmp_path / "cases.jsonl") == cases
    lines = (tmp_path / "cases.jsonl").read_text().splitlines()
    assert len(lines) == 10 and json.loads(lines[3])["question"] == cases[3].question
    again = read_cases(tmp_path / "cases.jsonl")[3]
    np.testing.assert_array_equal(again.video().frames(), cases[3].video().frames())


CASE = make_cases([40], [0.5], 1)[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not valid JSON: Expecting property name"),
        ("[1]", "line 2 has 1 error:\n  - expected a mapping"),
        ('{"lenght": 3}', "  - lenght is unknown; expected one of: length, depth, .*length?"),
        ("{}", "line 2 has 7 errors:\n  - length is missing\n  - depth is missing"),
        ('{"length": "64"}', "  - length: expected a whole number, got '64'"),
        ('{"seed": -1}', "  - seed: expected a value >= 0, got -1"),
        ('{"evidence": "ab"}', "  - evidence: expected a list"),
        ('{"size": 5}', "  - size: expected a list, got 5"),
        ('{"answer": 3}', "  - answer: expected a string, got 3"),
    ],
)
def test_a_line_that_is_no_case_is_named(tmp_path, line, message):
    write_cases(tmp_path / "cases.jsonl", [CASE])
    with (tmp_path / "cases.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_cases(tmp_path / "cases.jsonl")


def test_a_file_without_cases_is_refused(tmp_path):
    (tmp_path / "cases.jsonl").touch()
    with pytest.raises(
        ValueError, match="^expected at least one case in .*cases.jsonl, got an empty file$"
    ):
        read_cases(tmp_path / "cases.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 16}, "^expected needle_frames to be 1 to 15, in a video of 16 frames, got 16$"),
        ({"depth": 1.5}, r"^expected depth to be 0 \(start\) to 1 \(end\), got 1\.5$"),
        ({"start": 25}, "^expected start to be 0 to 24, got 25$"),
        ({"answer": "pink"}, "^expected answer to be one of the choices .*, got 'pink'$"),
        ({"evidence": ()}, r"^expected evidence to be at least one range .*, got \(\)$"),
        ({"evidence": ((30, 41),)}, r"at least one range .* 40 frames, got \(\(30, 41\),\)$"),
    ],
)
def test_a_case_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CASE, **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([40], [0.5], 0), "^expected count to be an integer >= 1, got 0$"),
        (([], [0.5], 1), r"^expected lengths to be at least one, got \[\]$"),
        (([16], [0.5], 1), "^expected needle_frames to be 1 to 15, in a video of 16 frames, got"),
        (([40], [2.0], 1), "^expected depth to be 0 "),
    ],
)
def test_cases_that_cannot_be_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_cases(*arguments)
    with pytest.raises(ValueError, match="^expected kind to be one of .*, got 'who'$"):
        make_cases([40], [0.5], 1, kinds=["who"])
    with pytest.raises(ValueError, match=r"^expected spread to be 0 \(exactly at the depths\)"):
        make_cases([40], [0.5], 1, spread=2)


def test_a_case_that_was_changed_makes_no_video():
    other = next(colour for colour in CASE.choices if colour != CASE.answer)
    with pytest.raises(
        ValueError, match="^expected the question, answer and evidence .* for seed 0, got"
    ):
        replace(CASE, answer=other).video()


def test_real_files_are_haystacks_and_needles(tmp_path):
    hay, clip = random_video(50, 30, size=(48, 64)), random_video(51, 12, size=(64, 64))
    hay.write(tmp_path / "hay.mp4")
    clip.write(tmp_path / "clip.mp4")
    case = make_cases([28], [0.5], 1, haystack=str(tmp_path / "hay.mp4"), spread=0.0)[0]
    source = case.video()
    assert (len(source), source.height, source.width) == (28, 48, 64)
    decoded = VideoSource(tmp_path / "hay.mp4", frames=12).frames()
    np.testing.assert_array_equal(source.frames([*range(6), *range(22, 28)]), decoded)
    own = Case(
        length=20,
        depth=0.25,
        start=3,
        needle_frames=6,
        question="Who wins?",
        answer="nobody",
        evidence=((3, 9),),
        needle=str(tmp_path / "clip.mp4"),
        haystack=str(tmp_path / "hay.mp4"),
    )
    needle = own.video().frames(range(3, 9))
    shrunk = VideoSource(tmp_path / "clip.mp4", frames=6).frames()
    assert needle.shape == (6, 48, 64, 3)
    assert np.abs(needle.mean((1, 2)) - shrunk.mean((1, 2))).max() < 1
    with pytest.raises(ValueError, match=r"^expected at least 34 frames in .*hay\.mp4, got 30$"):
        replace(own, length=40).video()
