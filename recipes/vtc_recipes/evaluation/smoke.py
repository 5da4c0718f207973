"""Runs the commands of docs/reproduce.md on fakes: ``make reproduce-smoke``.

    python -m vtc_recipes.evaluation.smoke build/smoke

Each table and figure of the paper has one or more commands with small models and synthetic data,
so the scores mean nothing. A command fails if it does not leave its results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from time import perf_counter

from vtc_recipes.evaluation.fakes import write_fake

_AT_ONCE = 2
_FAKES = ("videomme", "qvhighlights", "ucf101", "something_v2", "activitynet")
_TINY = "--model tiny:llava_onevision --selector uniform --keyframes 2"
_SHIPPED = "--model shipped --keyframes 2 --fps 2"


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: The table or figure of the paper.
        words: The command after ``vtc``, with ``{data}`` and ``{out}`` for the folders.
        result: A file that it leaves, under ``{out}``; "" for none.
        harness: Whether it needs lmms-eval.
    """

    name: str
    words: str
    result: str = ""
    harness: bool = False


STEPS = (
    Step(
        "Table 1",
        f"evaluate videomme {_SHIPPED} --data {{data}}/videomme --out {{out}}/videomme "
        "--controls uniform,no_video",
        "videomme/results.md",
        harness=True,
    ),
    Step(
        "Table 2",
        "ablate smoke base.task.examples=2 base.task.frames=16 --out {out}/table2",
        "table2/report",
    ),
    Step(
        "Table 3",
        "evaluate qvhighlights --annotations {data}/qvhighlights/highlight_val_release.jsonl "
        "--videos {data}/qvhighlights/videos --selector uniform --out {out}/qvhighlights",
        "qvhighlights/results.json",
    ),
    Step(
        "Table 4",
        "evaluate actions ucf101 --annotations {data}/ucf101 --videos {data}/ucf101 "
        f"--out {{out}}/ucf101 {_TINY} --options 4",
        "ucf101/results.json",
    ),
    Step(
        "Table 4",
        "evaluate actions something_v2 --annotations {data}/something_v2 "
        f"--videos {{data}}/something_v2/videos --out {{out}}/something_v2 {_TINY} --options all",
        "something_v2/results.json",
    ),
    Step(
        "Table 4",
        "evaluate actions activitynet --annotations "
        "{data}/activitynet/activity_net.v1-3.min.json --videos {data}/activitynet/videos "
        f"--out {{out}}/activitynet {_TINY} --options 4",
        "activitynet/results.json",
    ),
    Step(
        "Table 5, Figure 1",
        "profile llava-onevision-0.5b --frames 64,256 --plots {out}/profile",
        "profile",
    ),
    Step(
        "Table 6",
        "ablate table6 base.task.examples=1 base.task.frames=16 base.seeds=[0] "
        "axes.temperature=[1,0.01] axes.similarity_threshold=[0.5,0.85] --out {out}/table6",
        "table6/report",
    ),
    Step(
        "Figure 2",
        "evaluate videoniah make --questions {data}/videomme/videomme/test-00000-of-00001.parquet "
        "--videos {data}/videomme/data --out {out}/cases.jsonl --lengths 40,60 --depths 2 "
        "--cases 1 --needle-seconds 5,9 --haystack-seconds 9 --repeat",
        "cases.jsonl",
    ),
    Step(
        "Figure 2",
        "evaluate videoniah run {out}/cases.jsonl --videos {data}/videomme/data "
        "--out {out}/videoniah --model shipped --keyframes 2 --size 64x64",
        "videoniah/heatmap.png",
    ),
    Step(
        "Figures 3, 4",
        "analyse redundancy --model shipped --videos {data}/rows.jsonl "
        "--video-root {data}/videomme/data --out {out}/redundancy --frames 12 --keyframes 3",
        "redundancy/redundancy.json",
    ),
    Step(
        "Figure 6",
        "ablate figure6 base.task.examples=1 base.task.frames=16 base.seeds=[0] "
        "axes.keyframes=[2,4] --out {out}/figure6",
        "figure6/report",
    ),
    Step(
        "Appendix A.3",
        "train vilamp_lora --check-data data.sources.0.share=0 data.sources.1.format=messages "
        "data.sources.1.path={data}/synthetic/train.jsonl",
    ),
    Step(
        "Appendix A.3",
        "train smoke data.sources.0.path={data}/synthetic/train.jsonl output.folder={out}/trained",
        "trained/config.json",
    ),
)


def run(folder: Path, harness: Path | None) -> bool:
    """Run all commands, two at a time, and print what each took.

    Args:
        folder: Is emptied; gets ``data`` and ``out``.
        harness: The ``vtc`` of an environment with lmms-eval; None leaves its commands out.

    Returns:
        Whether all commands that were run left their results.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder = folder.absolute()
    data, out = folder / "data", folder / "out"
    data.mkdir(parents=True)
    out.mkdir()
    for name in _FAKES:
        write_fake(name, data)
    synthetic = [sys.executable, "-m", "vtc_recipes.synthetic", str(data / "synthetic")]
    subprocess.run([*synthetic, "--videos", "4"], check=True, stdout=subprocess.DEVNULL)
    row = {"id": 1, "video": "fake3.mp4", "question": "What colour is the star?"}
    (data / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    began = perf_counter()
    groups = [list(steps) for _, steps in groupby(STEPS, lambda step: step.name)]

    def run_group(steps: list[Step]) -> bool:
        """Run commands in order, because some read what the one before wrote."""
        return all([_run_step(step, data, out, harness) for step in steps])

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        good = all(list(pool.map(run_group, groups)))
    times = os.times()
    cpu = times.children_user + times.children_system
    print(f"{perf_counter() - began:.0f} s ({cpu:.0f} CPU s) in all; results in {out}")
    return good


def _run_step(step: Step, data: Path, out: Path, harness: Path | None) -> bool:
    if step.harness and harness is None:
        print(f"{step.name:<18} skipped: no lmms-eval (make eval-env)", flush=True)
        return True
    start = [str(harness)] if step.harness else [sys.executable, "-m", "vtc.cli"]
    words = step.words.format(data=data, out=out).split()
    then = perf_counter()
    environment = dict(os.environ)
    if step.harness:
        environment.pop("PYTHONPATH", None)  # the other environment has its own
    ended = subprocess.run(
        [*start, *words], capture_output=True, text=True, env=environment, check=False
    )
    left = not step.result or (out / step.result).exists()
    is_good = ended.returncode == 0 and left
    state = "ok" if is_good else f"FAILED ({ended.returncode})"
    seconds = perf_counter() - then
    line = f"{step.name:<18} {seconds:>6.1f} s  {state:<12} vtc {' '.join(words[:3])}"
    print(line if is_good else f"{line}\n{(ended.stderr or ended.stdout)[-2000:]}", flush=True)
    return is_good


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for data and results, which is emptied")
    parser.add_argument("--harness", type=Path, help="the vtc of an environment with lmms-eval")
    args = parser.parse_args()
    if args.harness is not None and not args.harness.exists():
        parser.error(f"there is no {args.harness}; make eval-env makes it")
    sys.exit(0 if run(args.folder, args.harness) else 1)


if __name__ == "__main__":
    main()
