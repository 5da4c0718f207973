"""Data sets of synthetic videos, as files."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from vtc.video import VideoSource
from vtc_recipes.synthetic import make_example
from vtc_recipes.synthetic.__main__ import main
from vtc_recipes.synthetic.dataset import write_dataset
from vtc_recipes.synthetic.examples import fair_questions
from vtc_recipes.training.config import Source
from vtc_recipes.training.data import load_samples


def read(path):
    return load_samples([Source(name="synthetic", path=str(path), format="messages")], seed=0)


def test_training_reads_the_videos_and_their_own_questions(tmp_path):
    path = write_dataset(tmp_path, videos=3, kinds=["texture", "first"], split="test", seed=7)
    samples = read(path)
    assert path == tmp_path / "test.jsonl" and len(samples) == 3
    for number, sample in enumerate(samples):
        kind = ("texture", "first")[number % 2]
        example = make_example(7 + number, 16, kind=kind, split="test")
        asked, answered = sample.turns
        assert (asked.text, answered.text) == (example.question.text, example.question.answer)
        source = VideoSource(sample.video, fps=1.0)
        assert (len(source), source.height, source.width) == (16, 48, 48)
        drawn = example.video.frames(range(16)).astype(float)
        assert np.abs(source.frames() - drawn).mean() < 12


def test_further_questions_are_fair_and_of_the_kinds_in_turn(tmp_path):
    kinds = ["texture", "colour", "texture", "after"]
    samples = read(write_dataset(tmp_path, videos=12, kinds=kinds, questions=4))
    found = Counter()
    for number, sample in enumerate(samples):
        in_turn = [kinds[(number + turn) % 4] for turn in range(4)]
        video = make_example(number, 16, kind=in_turn[0]).video
        fair = {q.text: q for kind in set(kinds) for q in fair_questions(video, kind)}
        questions = [turn.text for turn in sample.turns[::2]]
        assert [fair[text].answer for text in questions] == [t.text for t in sample.turns[1::2]]
        assert len(set(questions)) == len(questions)
        asked = [fair[text].kind for text in questions]
        left = iter(in_turn)  # what a video has no question left of is left out
        assert asked[0] == in_turn[0] and all(kind in left for kind in asked)
        found.update(asked)
    assert found["texture"] >= 20 and found["colour"] >= 10 and found["after"] >= 8


def test_the_same_options_write_the_same_and_splits_share_a_folder(tmp_path):
    for folder in ("one", "two"):
        write_dataset(tmp_path / folder, videos=2, questions=3)
        write_dataset(tmp_path / folder, videos=2, questions=3, split="validation")
    one, two = tmp_path / "one", tmp_path / "two"
    written = {str(path.relative_to(one)) for path in one.rglob("*.*")}
    assert written == {
        f"{split}{name}"
        for split in ("train", "validation")
        for name in (".jsonl", "/00000.mp4", "/00001.mp4")
    }
    for path in written:
        assert (one / path).read_bytes() == (two / path).read_bytes()
    unseen = (one / "validation.jsonl").read_text().replace("validation/", "train/")
    assert unseen != (one / "train.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--videos 0", "expected videos to be an integer >= 1, got 0"),
        ("--questions 0", "expected questions to be an integer >= 1, got 0"),
        ("--seed -1", "expected seed to be an integer >= 0, got -1"),
        ("--size 49", "expected an even width and height for H.264, got 49x49"),
        ("--size 8", "expected size to be at least 16 pixels per side, got 8"),
        ("--kinds texture,who --videos 1", "expected kind to be one of 'colour', 'first', "),
        ("--kinds first --frames 1", "expected segments to be 1 to 1, one frame each, got 2"),
        ("--split dev", "expected split to be one of 'train', 'validation', 'test', got 'dev'"),
    ],
)
def test_wrong_options_are_one_line_before_any_work(tmp_path, options, message):
    with pytest.raises(SystemExit, match=f"^error: {message}") as stop:
        main([str(tmp_path / "data"), *options.split()])
    assert "\n" not in str(stop.value) and not (tmp_path / "data").exists()


def test_the_command_writes_once(tmp_path, capsys):
    words = [str(tmp_path), "--videos", "2", "--kinds", "colour,after", "--size", "32"]
    main(words)
    file = tmp_path / "train.jsonl"
    assert capsys.readouterr().out == f"wrote 2 videos and {file}\n"
    first, second = map(json.loads, file.read_text().splitlines())
    content = first["messages"][0]["content"]
    assert content[0] == {"type": "video", "video": "train/00000.mp4"}
    assert content[1]["text"].startswith("What colour is the ")
    assert "in the scene after" in second["messages"][0]["content"][1]["text"]
    assert VideoSource(tmp_path / "train" / "00001.mp4").width == 32
    with pytest.raises(SystemExit, match=r"train.jsonl already exists; choose another folder, or"):
        main(words)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"^error: .*file/train"):
        main([str(tmp_path / "file"), "--videos", "1"])
    with pytest.raises(ValueError, match="^expected kinds to be at least one, such as 'texture'"):
        write_dataset(tmp_path, kinds=[])
