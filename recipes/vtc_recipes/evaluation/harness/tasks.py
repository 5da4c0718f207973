"""The lmms-eval benchmarks that ``vtc evaluate`` runs: layouts, scores, and the paper's results.

Each task is the installed one of lmms-eval, with its own prompt and scoring. This module adds what
the harness does not define: where the files of a data folder are, and how to group answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

RowValues = Mapping[str, Any]
_LETTERED = re.compile(r"^\s*\(?([A-Z])[).:]", re.MULTILINE)
CONTROLS = ("uniform", "downsample", "random", "no_video")
"""The controls; each except the last has as many tokens as the method, video by video.

* ``uniform``: only evenly spaced frames, with all their tokens; * ``downsample``: all frames, with
their patches averaged over a grid (plain average pooling); * ``random``: as many random keyframes
as the method has, with the same merger; * ``no_video``: only the question.
"""
VILAMP, ONEVISION = "ViLAMP-7B (paper)", "LLaVA-OneVision-7B (paper)"


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        summary: One line for ``vtc evaluate --help``.
        config: The YAML files of lmms-eval by part, relative to its folder of tasks; the harness
            runs a part as one task. A single part has the name "".
        cache_dir: The folder of the videos under ``$HF_HOME``.
        split: The split that the harness reads.
        annotations: Patterns of the annotation files in the data folder, the usual one first;
            ``{part}`` is the name of the part.
        fields: Fields that each row of the annotations must have.
        videos: Returns the possible paths of a row's video in the data folder.
        metric: The harness's name of the score.
        is_right: Returns whether the harness's record of an answer is right.
        options: Returns the number of options of a row's question; 0 for open questions.
        groups: Fields of the annotations by which to group scores; the table uses the first.
        mean_of_groups: Whether the harness's score is the mean over the groups of the first field.
        posts: The server to which the harness sends the answers; None if it scores them itself.
        paper: Results of the paper by model, then by group, in %; "" is the whole benchmark.
        source: The table of the paper.
        note: A note for readers of the scores.
    """

    summary: str
    config: Mapping[str, str]
    cache_dir: str
    split: str
    annotations: tuple[str, ...]
    fields: tuple[str, ...]
    videos: Callable[[RowValues, str], list[str]]
    metric: str
    is_right: Callable[[Any], bool]
    options: Callable[[RowValues], int]
    groups: tuple[str, ...] = ()
    mean_of_groups: bool = False
    posts: str | None = None
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    source: str = "Table 1"
    note: str = ""


def _is_same(record: Any) -> bool:
    return str(record["pred_answer"]).lower() == str(record["answer"]).lower()


def _lettered(row: RowValues) -> int:
    """Count options such as ``(A) red`` in the text of a question."""
    return len(set(_LETTERED.findall(str(row["question"]))))


def _listed(row: RowValues) -> int:
    return len(row.get("options") or ()) or _lettered(row)


def _longvideobench_options(row: RowValues) -> int:
    return sum(row.get(f"option{n}") not in (None, "N/A") for n in range(5))


def _videomme_files(row: RowValues, part: str) -> list[str]:
    return [f"data/{row['videoID']}.{suffix}" for suffix in ("mp4", "MP4", "mkv")]


_VIDEOMME: dict[str, Any] = {
    "cache_dir": "videomme",
    "split": "test",
    "annotations": ("**/test*.parquet", "**/test*.json*"),
    "fields": (
        "videoID",
        "question_id",
        "duration",
        "domain",
        "sub_category",
        "task_type",
        "question",
        "options",
        "answer",
    ),
    "videos": _videomme_files,
    "metric": "videomme_perception_score",
    "is_right": lambda record: bool(record["score"]),
    "options": _listed,
    "groups": ("duration", "task_type", "domain"),
}
_MLVU: dict[str, Any] = {
    "split": "test",
    "annotations": ("**/test*.parquet", "**/test*.json*"),
    "fields": ("video_name", "question", "answer", "task_type"),
    "videos": lambda row, part: [str(row["video_name"])],
    "metric": "mlvu_percetion_score",  # as lmms-eval spells it
    "is_right": _is_same,
    "options": _lettered,
    "groups": ("task_type",),
    "mean_of_groups": True,
}
_VIDEOEVALPRO: dict[str, Any] = {
    "cache_dir": "videoevalpro",
    "split": "test",
    "annotations": ("**/test*.parquet", "**/test*.json*"),
    "videos": lambda row, part: [f"videos_filtered/{row['video']}"],
    "groups": ("qa_type",),
}
_MVBENCH_FOLDERS = {
    "action_sequence": "star/Charades_segment",
    "moving_count": "clevrer/video_validation",
    "action_prediction": "star/Charades_segment",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "scene_transition": "scene_qa/video",
    "object_shuffle": "perception/videos",
    "object_existence": "clevrer/video_validation",
    "fine_grained_pose": "nturgbd_convert",
    "unexpected_action": "FunQA_test/test",
    "moving_direction": "clevrer/video_validation",
    "state_change": "perception/videos",
    "object_interaction": "star/Charades_segment",
    "character_order": "perception/videos",
    "action_localization": "sta/sta_video_segment",
    "counterfactual_inference": "clevrer/video_validation",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "moving_attribute": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
}

TASKS: dict[str, Task] = {
    "videomme": Task(
        summary="Video-MME without subtitles, by duration.",
        config={"": "videomme/videomme.yaml"},
        paper={VILAMP: {"": 67.7, "long": 58.4}, ONEVISION: {"": 58.2}},
        **_VIDEOMME,
    ),
    "videomme_w_subtitle": Task(
        summary="Video-MME with subtitles (subtitle/ID.srt), by duration.",
        config={"": "videomme/videomme_w_subtitle.yaml"},
        paper={VILAMP: {"": 71.6, "long": 65.2}},
        note="the harness always shows the subtitles of 32 evenly spaced frames",
        **_VIDEOMME,
    ),
    "longvideobench_val_v": Task(
        summary="LongVideoBench, validation set.",
        config={"": "longvideobench/longvideobench_val_v.yaml"},
        cache_dir="datasets/longvideobench",
        split="validation",
        annotations=("**/validation*.parquet", "**/validation*.json*"),
        fields=(
            "id",
            "video_path",
            "question",
            *(f"option{n}" for n in range(5)),
            "correct_choice",
            "duration_group",
            "question_category",
        ),
        videos=lambda row, part: [f"videos/{row['video_path']}"],
        metric="lvb_acc",
        is_right=lambda record: record["parsed_pred"] == record["answer"],
        options=_longvideobench_options,
        groups=("duration_group", "question_category"),
        paper={VILAMP: {"": 60.2}, ONEVISION: {"": 56.5}},
        note="the harness picks a random option for an answer that names none",
    ),
    "mlvu_dev": Task(
        summary="MLVU, multiple choice of the development set.",
        config={"": "mlvu/mlvu_dev.yaml"},
        cache_dir="mlvu",
        paper={VILAMP: {"": 72.6}, ONEVISION: {"": 64.7}},
        source="Table 2",
        **_MLVU,
    ),
    "mlvu_test": Task(
        summary="MLVU, multiple choice of the test set.",
        config={"": "mlvu/mlvu_test.yaml"},
        cache_dir="mlvu_test",
        note="the harness reads the letters A to D only, so answers E and F count as wrong",
        **_MLVU,
    ),
    "egoschema_subset": Task(
        summary="EgoSchema, the 500 questions whose answers are public.",
        config={"": "egoschema/egoschema_subset.yaml"},
        cache_dir="egoschema",
        split="test",
        annotations=("**/Subset/test*.parquet", "**/Subset/test*.json*", "test*.json*"),
        fields=("video_idx", "question", "option", "answer"),
        videos=lambda row, part: [f"videos/{row['video_idx']}.{s}" for s in ("mp4", "MP4")],
        metric="score",
        is_right=lambda record: str(record["pred"]) == str(record["ground_truth"]),
        options=lambda row: len(row["option"]),
        paper={VILAMP: {"": 74.2}, ONEVISION: {"": 60.1}},
        note="the harness picks a random option for an answer that names none",
    ),
    "egoschema": Task(
        summary="EgoSchema in full; sends the answers to a server.",
        config={"": "egoschema/egoschema.yaml"},
        cache_dir="egoschema",
        split="test",
        annotations=("**/GENERATION/test*.parquet", "**/GENERATION/test*.json*", "test*.json*"),
        fields=("video_idx", "question", "option"),
        videos=lambda row, part: [f"videos/{row['video_idx']}.{s}" for s in ("mp4", "MP4")],
        metric="submission",
        is_right=lambda record: False,
        options=lambda row: len(row["option"]),
        posts="validation-server.onrender.com, which scores them",
        note="only the server knows the answers, so there are no scores by question",
    ),
    "lvbench": Task(
        summary="LVBench.",
        config={"": "lvbench/lvbench.yaml"},
        cache_dir="lvbench",
        split="train",
        annotations=("**/train*.parquet", "**/train*.json*"),
        fields=("video_path", "question", "answer"),
        videos=lambda row, part: [str(row["video_path"])],
        metric="lvbench_score",
        is_right=bool,
        options=_listed,
        groups=("question_type", "type"),
        paper={VILAMP: {"": 46.3}},
    ),
    "mvbench": Task(
        summary="MVBench, 20 tasks on short videos.",
        config={name: f"mvbench/mvbench_{name}.yaml" for name in _MVBENCH_FOLDERS},
        cache_dir="mvbench_video",
        split="train",
        annotations=("json/{part}.json", "{part}.json"),
        fields=("video", "question", "candidates", "answer"),
        videos=lambda row, part: [
            f"{_MVBENCH_FOLDERS[part]}/{row['video']}",
            f"data0613/{_MVBENCH_FOLDERS[part]}/{row['video']}",
        ],
        metric="mvbench_accuracy",
        is_right=lambda record: bool(record["score"]),
        options=lambda row: len(row["candidates"]),
        groups=("part",),
        mean_of_groups=True,
        note="as in the harness, the model reads the whole file, even for a question about a part",
    ),
    "videoevalpro_mcq": Task(
        summary="VideoEval-Pro as multiple choice.",
        config={"": "videoevalpro/videoevalpro_mcq.yaml"},
        fields=("video", "question", "options", "answer", "qa_type"),
        metric="videoevalpro_mcq_score",
        is_right=lambda record: bool(record["correct"]),
        options=_listed,
        **_VIDEOEVALPRO,
    ),
    "videoevalpro": Task(
        summary="VideoEval-Pro with free-text answers; sends them to OpenAI's API.",
        config={"": "videoevalpro/videoevalpro.yaml"},
        fields=("video", "question", "answer_text", "qa_type"),
        metric="videoevalpro_score",
        is_right=lambda record: bool(record["judge_result"]),
        options=lambda row: 0,
        posts="OpenAI's API, whose model judges them at your cost",
        **_VIDEOEVALPRO,
    ),
    "timescope": Task(
        summary="TimeScope: needles in videos of 1 minute to 8 hours.",
        config={"": "timescope/timescope.yaml"},
        cache_dir="timescope",
        split="test",
        annotations=("**/test*.parquet", "**/test*.json*"),
        fields=("id", "video", "input", "answer", "length", "type"),
        videos=lambda row, part: [str(row["video"])],
        metric="timescope_perception_score",
        is_right=_is_same,
        options=lambda row: len(set(_LETTERED.findall(str(row["input"])))),
        groups=("length", "type"),
    ),
}
