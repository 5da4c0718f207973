"""The tasks of the installed lmms-eval on fake data in their layouts; ``make eval-env`` first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from filelock import FileLock

from vtc_recipes.evaluation.fakes import FAKE_OF, FAKES, write_fake
from vtc_recipes.evaluation.harness.requests import read_predictions
from vtc_recipes.evaluation.harness.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-eval/bin/python"
TASKS_HERE = [name for name, task in TASKS.items() if task.posts is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-eval; make eval-env"),
]

# Runs all tasks in one process of the harness, and prints its scores and ours.
DRIVER = """
import json, sys
from pathlib import Path
from vtc_recipes.evaluation.fakes import FAKE_OF
from vtc_recipes.evaluation.harness.layout import prepare, read_benchmark
from vtc_recipes.evaluation.harness.requests import read_predictions
from vtc_recipes.evaluation.harness.running import Run, execute, samples_of, scores_of, tasks_folder
from vtc_recipes.evaluation.harness.scores import records_of, summarise
from vtc_recipes.evaluation.harness.tasks import TASKS

fakes, out, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(",")
benchmarks = {n: read_benchmark(n, TASKS[n], fakes / FAKE_OF.get(n, n)) for n in names}
prepared = out / "prepared"
tasks = [t for b in benchmarks.values() for t in prepare(b, tasks_folder(), prepared)]
settings = {"pretrained": "shipped", "keyframes": 2, "fps": 2.0, "batch_size": 4}
output = execute(Run(out / "method", tuple(tasks), prepared, settings), lambda done: None)
results = {}
for name, benchmark in benchmarks.items():
    predictions = read_predictions(out / "method").values()
    records = records_of(
        benchmark, prepared, "method", predictions, lambda task: samples_of(output, task)
    )
    results[name] = summarise(records, TASKS[name])
print(json.dumps({"ours": results, "theirs": scores_of(output)}))
"""


def run_all(fakes: Path, out: Path) -> dict:
    words = [PYTHON, "-c", DRIVER, fakes, out, ",".join(TASKS_HERE)]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def environment() -> dict[str, str]:
    """The environment without the paths of this process: .venv-eval has its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def fakes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fakes")
    for name in FAKES:
        if name in {FAKE_OF.get(task, task) for task in TASKS_HERE}:
            write_fake(name, folder)
    return folder


def right_letter(name: str, row: dict) -> str:
    if name == "mvbench":
        return "ABC"[row["candidates"].index(row["answer"])]
    if name == "longvideobench_val_v":
        return "ABCDE"[row["correct_choice"]]
    return "ABCDE"[int(row["answer"])] if name == "egoschema_subset" else row["answer"]


def answer_by_hand(out: Path) -> None:
    """Replace the answers: even rows (of mvbench, even parts) are right, and the others wrong."""
    texts = {}
    for name in TASKS_HERE:
        for number, part in enumerate(TASKS[name].config):
            task = f"vtc_{name}_{part}" if part else f"vtc_{name}"
            file = out / "prepared/annotations" / task / f"{TASKS[name].split}.jsonl"
            for line in file.read_text().splitlines():
                row = json.loads(line)
                letter = right_letter(name, row)
                is_right = (number + row["vtc_row"]) % 2 == 0
                other = "B" if letter == "A" else "A"
                texts[task, row["vtc_row"]] = f"{letter if is_right else other}."
    file = out / "method/predictions-0.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == len(texts)
    for line in lines:
        line["text"] = texts[line["task"], line["doc"]]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_real_tasks_score_as_counted_by_hand(fakes, tmp_path):
    first = run_all(fakes, tmp_path)
    for name in TASKS_HERE:
        summary = first["ours"][name]
        assert summary["all"]["n"] == (20 if name == "mvbench" else 5), name
        assert summary["errors"] == 0 and 0 < summary["tokens"] < summary["tokens_before"], name
    predictions = read_predictions(tmp_path / "method").values()
    # Two questions about one video; Video-MME with subtitles asks about the same files.
    assert {each.together for each in predictions if "lvbench" in each.task} == {1, 2}
    assert max(each.together for each in predictions) == 4

    answer_by_hand(tmp_path)
    scores = run_all(fakes, tmp_path)
    assert all(each["no_letter"] == 0 for each in scores["ours"].values())
    right = {name: each["all"]["right"] for name, each in scores["ours"].items()}
    # Of mlvu_test's options A to F the harness reads A to D.
    readable = right["mlvu_test"]
    assert right == {name: 3 for name in TASKS_HERE} | {"mvbench": 10, "mlvu_test": readable}
    durations = scores["ours"]["videomme"]["groups"]["duration"]
    counts = {name: (each["right"], each["n"]) for name, each in durations.items()}
    assert counts == {"short": (2, 3), "medium": (1, 1), "long": (0, 1)}  # rows 0 1 4, 2, 3

    theirs = {
        name: next(value for key, value in each.items() if key.startswith(metric_of(name)))
        for name, each in scores["theirs"].items()
        if not name.startswith("vtc_mvbench")
    }
    # The harness divides by all seven task types: needle 1/2, count 1/2, plotQA 1/1.
    assert theirs["vtc_mlvu_dev"] == pytest.approx(100 * 2 / 7)
    assert scores["ours"]["mlvu_dev"]["score"] == pytest.approx(2 / 3)
    for name in ("videomme", "videomme_w_subtitle", "timescope"):
        assert theirs[f"vtc_{name}"] == pytest.approx(60), name
    for name in ("longvideobench_val_v", "egoschema_subset", "lvbench"):
        assert theirs[f"vtc_{name}"] == pytest.approx(0.6), name
    parts = [
        each["mvbench_accuracy,none"]
        for name, each in scores["theirs"].items()
        if name.startswith("vtc_mvbench")
    ]
    assert parts == [100, 0] * 10 or sorted(parts) == [0] * 10 + [100] * 10
    assert scores["ours"]["mvbench"]["score"] == 0.5


def metric_of(name: str) -> str:
    return TASKS[name.removeprefix("vtc_")].metric


def test_the_command_resumes_after_kill_9_with_two_processes(fakes, tmp_path):
    words = [PYTHON.with_name("vtc"), "evaluate", "lvbench", "--model", "shipped", "--fps", "2"]
    words += ["--data", fakes / "lvbench", "--out", tmp_path / "out", "--keyframes", "2"]
    words += ["--controls", "uniform,no_video", "--json"]
    first = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)
    predictions = tmp_path / "out/method/predictions-0.jsonl"
    while first.poll() is None:
        if predictions.exists() and predictions.read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_for_the_harness(tmp_path / "out/method")
    before = predictions.read_text().splitlines()
    ended = subprocess.run(
        [*words, "--processes", "2"], env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    results = json.loads(ended.stdout)
    assert {*results["summaries"]} == {"method", "uniform", "no_video"}
    assert predictions.read_text().splitlines()[: len(before)] == before
    uniform = [json.loads(x) for x in (tmp_path / "out/uniform/questions.jsonl").open()]
    method = [json.loads(x) for x in (tmp_path / "out/method/questions.jsonl").open()]
    for ours, theirs in zip(method, uniform, strict=True):
        assert abs(ours["tokens_after"] - theirs["tokens_after"]) <= 5
    files = sorted((tmp_path / "out/uniform").glob("predictions-*.jsonl"))
    shares = [{json.loads(line)["doc"] for line in file.open()} for file in files]
    assert len(shares) == 2 and shares[0] | shares[1] == {0, 1, 2, 3, 4}
    assert {0, 1} <= shares[0]  # the two questions about one video


def wait_for_the_harness(folder: Path) -> None:
    """Wait until the harness of a killed command, which goes on, has let go of its file."""
    with FileLock(folder / "predictions-0.lock", timeout=600):
        pass
