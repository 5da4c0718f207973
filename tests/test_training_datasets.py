"""Readers of the data sets of ViLAMP: a row of each published format, its video and its turns."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

import vtc
from vtc_recipes.reading import load_yaml
from vtc_recipes.shipped import find_config
from vtc_recipes.training.config import Format, Source, parse_recipe
from vtc_recipes.training.data import read_samples
from vtc_recipes.training.datasets import CAPTION, ROWS

COLOURS = ["red", "blue", "green"]
LETTERED = "\nA. red\nB. blue\nC. green"
FIVE = "\nA. red\nB. blue\nC. green\nD. cyan\nE. grey"
CSV = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
# Format: name of the annotations, their content, the video, and the texts of the turns.
CASES: dict[str, tuple[str, Any, str, list[str]]] = {
    "webvid": (
        "results_10M_train.csv",
        'videoid,contentUrl,duration,page_dir,name\n7,https://x/7.mp4,PT00H,0_9,"A dog, running"\n',
        "0_9/7.mp4",
        [CAPTION, "A dog, running"],
    ),
    "internvid": (
        "internvid.jsonl",
        {
            "YoutubeID": "abc",
            "Start_timestamp": "00:00:01.000",
            "End_timestamp": "00:00:05.000",
            "Caption": "A dog",
            "UMT_Score": 0.4,
        },
        "abc_00:00:01.000_00:00:05.000.mp4",
        [CAPTION, "A dog"],
    ),
    "openvid": (
        "OpenVid-1M.csv",
        "video,caption,aesthetic score,seconds\nclip_0.mp4,A dog,5.1,4.2\n",
        "clip_0.mp4",
        [CAPTION, "A dog"],
    ),
    "vript": (
        "captions/007_caption.json",
        {
            "meta": {"video_id": "007"},
            "data": {
                "007-Scene-001": {
                    "video_id": "007",
                    "clip_id": "007-Scene-001",
                    "caption": {"shot_type": "close", "content": "A dog"},
                }
            },
        },
        "007/007-Scene-001.mp4",
        [CAPTION, "A dog"],
    ),
    "videochat2_it": (
        "train.json",
        [
            {
                "video": "a/b.mp4",
                "QA": [
                    {"i": "Answer.", "q": "What is red?", "a": "The dog."},
                    {"i": "", "q": "And blue?", "a": "Nothing."},
                ],
            }
        ],
        "a/b.mp4",
        ["Answer.\nWhat is red?", "The dog.", "And blue?", "Nothing."],
    ),
    "egotaskqa": (
        "formatted_train_qas_encode.json",
        [{"interval": "P1|0_9", "question": "What is cut?", "answer": "bread", "type": "query"}],
        "P1|0_9.mp4",
        ["What is cut?", "bread"],
    ),
    "clevrer": (
        "train.json",
        [
            {
                "scene_index": 1428,
                "video_filename": "video_01428.mp4",
                "questions": [
                    {"question": "How many move?", "answer": "2", "program": []},
                    {
                        "question": "Which is responsible?",
                        "choices": [
                            {"choice_id": 0, "choice": "the cube", "answer": "correct"},
                            {"choice_id": 1, "choice": "the ball", "answer": "wrong"},
                        ],
                    },
                    {
                        "question": "What next?",
                        "choices": [{"choice_id": 0, "choice": "a crash", "answer": "wrong"}],
                    },
                ],
            }
        ],
        "video_01000-02000/video_01428.mp4",
        [
            "How many move?",
            "2",
            "Which is responsible?\nA. the cube\nB. the ball",
            "A. the cube",
            "What next?\nA. a crash",
            "None of them.",
        ],
    ),
    "moviechat": (
        "jsons/12.json",
        {
            "info": {},
            "caption": "A film",
            "global": [{"question": "Is it day?", "answer": "Yes"}],
            "breakpoint": [{"time": 9, "question": "Who?", "answer": "A man"}],
        },
        "12.mp4",
        [CAPTION, "A film", "Is it day?", "Yes"],
    ),
    "perception_test": (
        "mc_question_train.json",
        {
            "video_8": {
                "metadata": {"split": "train"},
                "mc_question": [
                    {"id": 0, "question": "Which?", "options": COLOURS, "answer_id": 1, "tag": []}
                ],
            },
            "video_9": {"metadata": {}, "mc_question": []},
        },
        "video_8.mp4",
        ["Which?" + LETTERED, "B. blue"],
    ),
    "hirest": (
        "all_data_train.json",
        {
            "Make a Fire": {
                "wWh1.mp4": {"relevant": False, "clip": False, "bounds": [0, 0], "steps": []},
                "Tu9f.mp4": {
                    "relevant": True,
                    "clip": True,
                    "v_duration": 95.76,
                    "bounds": [47, 63],
                    "steps": [
                        {"index": 0, "heading": "Remove lid ", "absolute_bounds": [47, 57]},
                        {"index": 1, "heading": "Put handle", "absolute_bounds": [57, 63]},
                    ],
                },
            }
        },
        "Tu9f.mp4",
        [
            "What does the video show how to do?",
            "Make a Fire",
            "List its steps.",
            "1. Remove lid\n2. Put handle",
        ],
    ),
    "star": (
        "STAR_train.json",
        [
            {
                "question_id": "Interaction_T1_13",
                "question": "Which?",
                "answer": "green",
                "video_id": "6H78U",
                "start": 11.1,
                "end": 19.6,
                "choices": [{"choice_id": n, "choice": c} for n, c in enumerate(COLOURS)],
            }
        ],
        "6H78U.mp4",
        ["Which?" + LETTERED, "C. green"],
    ),
    "nextqa": (
        "train.csv",
        CSV + "4010,900,640,480,which one,0,6,CW,red,blue,green,cyan,grey\n",
        "4010.mp4",
        ["which one?" + FIVE, "A. red"],
    ),
    "finevideo": (
        "metadata/sample_1.json",
        {"content_metadata": {"qAndA": [{"question": "Why?", "answer": "So."}], "fps": 24.0}},
        "sample_1.mp4",
        ["Why?", "So."],
    ),
    "cinepile": (
        "train.jsonl",
        {
            "movie_name": "A film",
            "yt_clip_link": "https://www.youtube.com/watch?v=Z4DDrBjEBHE",
            "question": "Which?",
            "choices": COLOURS,
            "answer_key": "blue",
            "answer_key_position": 1,
        },
        "Z4DDrBjEBHE.mp4",
        ["Which?" + LETTERED, "B. blue"],
    ),
}


def write(folder: Path, name: str) -> tuple[Path, Path]:
    """Write the annotations and the video of a case; return the path of a source, and the video."""
    file, content, video, _ = CASES[name]
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / "videos" / video).parent.mkdir(parents=True, exist_ok=True)
    (folder / "videos" / video).touch()
    return (path.parent if "/" in file else path), folder / "videos" / video


def read(path: Path, name: str, folder: Path) -> tuple[Any, list[str]]:
    source = Source(name=name, path=str(path), format=name, video_folder=str(folder / "videos"))
    return read_samples([source], seed=0)


@pytest.mark.parametrize("name", CASES)
def test_a_row_of_the_published_format_becomes_a_conversation(tmp_path, name):
    path, video = write(tmp_path, name)
    samples, errors = read(path, name, tmp_path)
    assert errors == [] and len(samples) == 1
    assert samples[0].video == video
    assert [turn.text for turn in samples[0].turns] == CASES[name][3]
    assert [turn.role for turn in samples[0].turns[:2]] == ["user", "assistant"]


@pytest.mark.parametrize("name", CASES)
def test_a_missing_video_is_named(tmp_path, name):
    path, video = write(tmp_path, name)
    video.unlink()
    samples, [error] = read(path, name, tmp_path)
    assert samples == [] and f"there is no file {video}" in error


def test_every_format_has_a_reader_and_every_recipe_names_one():
    assert {*get_args(Format)} == {*ROWS}
    assert {*CASES} == {*ROWS} - {"llava_json", "messages"}
    formats = set()
    for name in ("vilamp_pretrain", "vilamp_short", "vilamp_long"):
        recipe = parse_recipe(load_yaml(find_config(name, "training")), name)
        formats |= {source.format for source in recipe.data.sources}
    assert formats == {*ROWS} - {"messages"}


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("star", ("green", "purple"), "expected the answer to be one of the choices, got 'purple'"),
        ("nextqa", (",0,6,", ",7,6,"), "expected the answer to be one of 5 options, got 7"),
        ("nextqa", (",0,6,", ",x,6,"), "expected the answer to be a number, got 'x'"),
        (
            "clevrer",
            ("video_01428", "clip_01428"),
            "expected video_00000.mp4, got 'clip_01428.mp4'",
        ),
        ("cinepile", ("watch?v=", "channel/"), "yt_clip_link to be a YouTube URL"),
        ("perception_test", ('"answer_id": 1', '"answer_id": 5'), "one of 3 options, got 5"),
        ("videochat2_it", ('"QA"', '"qa"'), "QA is missing"),
        ("hirest", ('"heading": "Put', '"title": "Put'), r"steps\.1\.heading is missing"),
        ("openvid", ("video,caption", "path,caption"), "line 2: video is missing"),
        ("finevideo", ("qAndA", "questions"), "sample_1.json: content_metadata.qAndA is missing"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, name, change, error):
    path, _ = write(tmp_path, name)
    file = path if path.is_file() else next(path.glob("*.json"))
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change, 1))
    samples, errors = read(path, name, tmp_path)
    assert samples == [] and len(errors) == 1
    assert re.search(error, errors[0]), errors[0]


def test_parquet_is_read_and_a_folder_without_annotations_is_an_error(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    _, video = write(tmp_path, "cinepile")
    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([CASES["cinepile"][1]]), path)
    samples, errors = read(path, "cinepile", tmp_path)
    assert errors == [] and samples[0].video == video
    (tmp_path / "empty").mkdir()
    assert "holds no JSON file" in read(tmp_path / "empty", "vript", tmp_path)[1][0]
    path.write_bytes(b"no parquet")
    assert "train.parquet cannot be read" in read(path, "cinepile", tmp_path)[1][0]


def test_the_data_of_a_recipe_are_checked_by_source(tmp_path, command):
    settings = []
    for number, name in enumerate(("finevideo", "cinepile")):
        path, video = write(tmp_path, name)
        vtc.testing.write_video(video, vtc.testing.moving_squares(seconds=3, fps=2), 2)
        settings += [f"data.sources.{number}.path={path}"]
        settings += [f"data.sources.{number}.video_folder={tmp_path / 'videos'}"]
    code, out, err = command("train", "vilamp_long", *settings, "--check-data")
    assert code == 0, err + out
    assert "FineVideo: 1 samples" in out and "CinePile: 1 samples" in out
    (tmp_path / "videos/Z4DDrBjEBHE.mp4").write_bytes(b"no video")
    code, out, _ = command("train", "vilamp_long", *settings, "--check-data")
    assert code == 1 and "error: CinePile: " in out
