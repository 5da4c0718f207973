"""Write small fake benchmarks in the exact layouts of the real ones, for trying the commands.

    python -m vtc_recipes.evaluation.fakes FOLDER

Videos are synthetic and answers are random, so scores are meaningless. Every fake has two questions
about one of its videos.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vtc_recipes.evaluation.harness.tasks import TASKS
from vtc_recipes.synthetic import random_video

_WORDS = ("red", "green", "blue", "yellow", "cyan", "magenta")
_FRAMES = (12, 20, 28, 36)
_FPS = 2
_DOMAINS = (("Knowledge", "Law"), ("Sports Competition", "Football"), ("Life Record", "Food"))
_TASK_TYPES = ("OCR Problems", "Counting Problem", "Action Reasoning", "Temporal Reasoning")


class _Fake:
    """Draws the questions and writes the videos of one benchmark."""

    def __init__(self, folder: Path, seed: int, frames: tuple[int, ...] = _FRAMES) -> None:
        self.folder, self.seed, self.frames = folder, seed, frames
        self.rng = random.Random(seed)

    def video(self, number: int, path: str) -> None:
        """Write the video with an index, unless it exists."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            video = random_video(self.seed + number, self.frames[number], size=64)
            video.write(
                file.with_suffix(".mp4"), fps=_FPS
            )  # readers detect the format from the content
            file.with_suffix(".mp4").rename(file)

    def options(self, count: int) -> tuple[list[str], int]:
        """Draw options, and the index of the right one."""
        return self.rng.sample(_WORDS, count), self.rng.randrange(count)

    def questions(self) -> list[tuple[int, str]]:
        """Return questions with the indices of their videos, two about the first video."""
        numbers = [0, 0, *range(1, len(self.frames))]
        shapes = ("star", "moon", "circle", "cross", "square")
        return [(n, f"What colour is the {shapes[i % 5]}?") for i, n in enumerate(numbers)]

    def write(self, path: str, rows: list[dict[str, Any]]) -> None:
        """Write annotations as JSON lines, a JSON list or parquet, depending on the suffix."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        elif file.suffix == ".json":
            file.write_text(json.dumps(rows), encoding="utf-8")
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _videomme(fake: _Fake) -> None:
    rows = []
    for count, (number, question) in enumerate(fake.questions()):
        options, right = fake.options(4)
        name = f"fake{number}"
        fake.video(number, f"data/{name}.mp4")
        domain, sub = _DOMAINS[number % len(_DOMAINS)]
        rows.append(
            {
                "video_id": f"{number:03}",
                "duration": ("short", "medium", "long")[number % 3],
                "domain": domain,
                "sub_category": sub,
                "videoID": name,
                "question_id": f"{number:03}-{count}",
                "task_type": _TASK_TYPES[count % len(_TASK_TYPES)],
                "question": question,
                "options": [f"{_letter(n)}. {option}." for n, option in enumerate(options)],
                "answer": _letter(right),
            }
        )
        subtitle = fake.folder / "subtitle" / f"{name}.srt"
        subtitle.parent.mkdir(exist_ok=True)
        text = f'<font color="white" size=".72c">a {options[right]} star</font>'
        subtitle.write_text(f"1\n00:00:00,000 --> 00:00:09,000\n{text}\n\n", encoding="utf-8")
    fake.write("videomme/test-00000-of-00001.parquet", rows)


def _longvideobench(fake: _Fake) -> None:
    rows: list[dict[str, Any]] = []
    for count, (number, question) in enumerate(fake.questions()):
        options, right = fake.options(4 + count % 2)
        fake.video(number, f"videos/fake{number}.mp4")
        padded = [*options, "N/A"][:5]
        rows.append(
            {
                "id": f"fake{number}_{count}",
                "video_path": f"fake{number}.mp4",
                "question": question,
                **{f"option{n}": option for n, option in enumerate(padded)},
                "correct_choice": right,
                "duration_group": (15, 60, 600, 3600)[number],
                "question_category": ("S2E", "T2A")[count % 2],
            }
        )
    fake.write("data/validation-00000-of-00001.parquet", rows)


def _mlvu(fake: _Fake) -> None:
    test = fake.folder.name == "mlvu_test"
    types = ("needleQA", "sportsQA", "plotQA") if test else ("needle", "count", "plotQA")
    rows = []
    for count, (number, question) in enumerate(fake.questions()):
        options, right = fake.options(6 if test else 4)
        fake.video(number, f"fake{number}.mp4")
        listed = "".join(f"\n({_letter(n)}) {option}" for n, option in enumerate(options))
        rows.append(
            {
                "video_name": f"fake{number}.mp4",
                "question": question + listed,
                "answer": _letter(right),
                "task_type": types[count % 3],
            }
        )
    fake.write("data/test-00000-of-00001.parquet", rows)


def _egoschema(fake: _Fake) -> None:
    rows = []
    for number, question in fake.questions():
        options, right = fake.options(5)
        fake.video(number, f"videos/fake{number}.mp4")
        rows.append(
            {
                "video_idx": f"fake{number}",
                "question": question,
                "option": [f"{_letter(n)}. {option}" for n, option in enumerate(options)],
                "answer": str(right),
            }
        )
    fake.write("Subset/test-00000-of-00001.parquet", rows)
    hidden = [{name: value for name, value in row.items() if name != "answer"} for row in rows]
    fake.write("GENERATION/test-00000-of-00001.parquet", hidden)


def _lvbench(fake: _Fake) -> None:
    rows: list[dict[str, Any]] = []
    for count, (number, question) in enumerate(fake.questions()):
        options, right = fake.options(4)
        fake.video(number, f"fake{number}.mp4")
        listed = "".join(f"\n({_letter(n)}) {option}" for n, option in enumerate(options))
        rows.append(
            {
                "key": f"fake{number}",
                "video_path": f"fake{number}.mp4",
                "question": question + listed,
                "answer": _letter(right),
                "question_type": ["entity recognition", "reasoning"][: 1 + count % 2],
            }
        )
    fake.write("data/train-00000-of-00001.parquet", rows)


def _mvbench(fake: _Fake) -> None:
    task = TASKS["mvbench"]
    for count, part in enumerate(task.config):
        options, right = fake.options(3)
        row: dict[str, Any] = {
            "video": f"fake{count % 2}.mp4",
            "question": "What colour is the star?",
            "candidates": options,
            "answer": options[right],
        }
        place = task.videos(row, part)[0]
        if part == "episodic_reasoning":
            row["video"] = "fake"
            _write_pictures(fake.folder / task.videos(row, part)[0])
        else:
            fake.video(count % 2, place)
        fake.write(f"json/{part}.json", [row])


def _write_pictures(folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    frames = random_video(1, 6, size=64).frames(range(6))
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05}.jpg")


def _videoevalpro(fake: _Fake) -> None:
    types = ("Local Perception", "Local Reasoning", "Holistic Perception", "Holistic Reasoning")
    rows: list[dict[str, Any]] = []
    for count, (number, question) in enumerate(fake.questions()):
        options, right = fake.options(4)
        fake.video(number, f"videos_filtered/fake{number}.mp4")
        rows.append(
            {
                "video": f"fake{number}.mp4",
                "question": question,
                "options": [f"{_letter(n)}. {option}" for n, option in enumerate(options)],
                "answer": _letter(right),
                "answer_text": options[right],
                "qa_type": types[count % 4],
            }
        )
    fake.write("data/test-00000-of-00001.parquet", rows)


def _timescope(fake: _Fake) -> None:
    rows = []
    for count, (number, question) in enumerate(fake.questions()):
        options, right = fake.options(4)
        fake.video(number, f"fake{number}.mp4")
        listed = "".join(f"\n{_letter(n)}. {option}" for n, option in enumerate(options))
        rows.append(
            {
                "id": count,
                "video": f"fake{number}.mp4",
                "input": f"{question}{listed}\nAnswer with the option's letter.",
                "answer": _letter(right),
                "length": 60 * (1 + number),
                "type": ("QA", "OCR", "temporal")[count % 3],
            }
        )
    fake.write("data/test-00000-of-00001.parquet", rows)


def _qvhighlights(fake: _Fake) -> None:
    rows = []
    for count, (number, question) in enumerate(fake.questions()):
        name = f"fake{number}_0.0_{fake.frames[number] / _FPS}"
        fake.video(number, f"videos/{name}.mp4")
        clips = int(fake.frames[number] / _FPS / 2)
        first = fake.rng.randrange(clips)
        rows.append(
            {
                "qid": count,
                "query": question,
                "duration": fake.frames[number] / _FPS,
                "vid": name,
                "relevant_windows": [[2 * first, 2 * first + 2]],
                "relevant_clip_ids": [first],
                "saliency_scores": [[4, 3, 4]],
            }
        )
    fake.write("highlight_val_release.jsonl", rows)


def _ucf101(fake: _Fake) -> None:
    classes = ("ApplyEyeMakeup", "Archery", "BoxingPunchingBag", "HulaHoop", "Typing", "YoYo")
    lines = "".join(f"{n} {name}\n" for n, name in enumerate(classes, 1))
    fake.folder.mkdir(parents=True, exist_ok=True)
    (fake.folder / "classInd.txt").write_text(lines, encoding="utf-8")
    files = [f"{name}/v_{name}_g01_c0{n}.avi" for name in classes for n in (1, 2)]
    for number, file in enumerate(files):
        fake.video(number % len(fake.frames), file)
    (fake.folder / "testlist01.txt").write_text("\n".join(files) + "\n", encoding="utf-8")


def _something_v2(fake: _Fake) -> None:
    labels = [
        f"{verb} something" for verb in ("Folding", "Holding", "Lifting", "Opening", "Tearing")
    ]
    rows = []
    for number, label in enumerate(labels):
        fake.video(number % len(fake.frames), f"videos/{number}.webm")
        template = label.replace("something", "[something]")
        rows.append({"id": str(number), "label": label, "template": template})
    fake.write("validation.json", rows)
    text = json.dumps({label: str(n) for n, label in enumerate(labels)})
    (fake.folder / "labels.json").write_text(text, encoding="utf-8")


def _activitynet(fake: _Fake) -> None:
    labels = ("Archery", "Ballet", "Curling", "Polo", "Surfing")
    database = {}
    for number, label in enumerate(labels):
        fake.video(number % len(fake.frames), f"videos/v_fake{number}.mp4")
        other = labels[(number + 1) % 5]
        database[f"fake{number}"] = {
            "subset": "validation",
            "duration": 6.0,
            "annotations": [{"label": name, "segment": [0.0, 3.0]} for name in (label, other)],
        }
    text = json.dumps({"database": database, "taxonomy": [], "version": "VERSION 1.3"})
    (fake.folder / "activity_net.v1-3.min.json").write_text(text, encoding="utf-8")


_WRITERS: dict[str, Callable[[_Fake], None]] = {
    "videomme": _videomme,
    "longvideobench": _longvideobench,
    "mlvu_dev": _mlvu,
    "mlvu_test": _mlvu,
    "egoschema": _egoschema,
    "lvbench": _lvbench,
    "mvbench": _mvbench,
    "videoevalpro": _videoevalpro,
    "timescope": _timescope,
    "qvhighlights": _qvhighlights,
    "ucf101": _ucf101,
    "something_v2": _something_v2,
    "activitynet": _activitynet,
}
FAKES = tuple(_WRITERS)
FAKE_OF = {
    "videomme_w_subtitle": "videomme",
    "longvideobench_val_v": "longvideobench",
    "egoschema_subset": "egoschema",
    "videoevalpro_mcq": "videoevalpro",
}
"""The fakes of tasks with other names."""


def write_fake(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the fake of a benchmark into ``folder/name``.

    Args:
        name: One of ``FAKES``.

    Raises:
        ValueError: There is no fake of this name.
    """
    if name not in _WRITERS:
        raise ValueError(f"expected one of {', '.join(FAKES)}, got {name!r}")
    (folder / name).mkdir(parents=True, exist_ok=True)
    _WRITERS[name](_Fake(folder / name, seed))
    return folder / name


def main() -> None:
    """Write fakes from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for one subfolder per benchmark")
    parser.add_argument("names", nargs="*", default=[*FAKES], help="benchmarks; all by default")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.names:
        print(write_fake(name, args.folder, args.seed))


if __name__ == "__main__":
    main()
