"""Run lmms-eval in a separate process and check its result files.

lmms-eval exits with 0 even if it failed, so only its files count.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import sleep
from typing import Any

from vtc.plugins.sections import load_json
from vtc_recipes.evaluation.resuming import read_lines

_NAME = "vtc"
_POLL_SECONDS = 1.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ERROR = re.compile(r"Error during evaluation: (.*?)\. Please set `--verbosity", re.DOTALL)


@dataclass(frozen=True)
class Run:
    """One run of the harness.

    Attributes:
        folder: The folder for ``predictions-RANK.jsonl``, ``log.txt`` and ``harness``.
        tasks: Names of the prepared tasks.
        prepared: The folder that `layout.prepare` wrote.
        settings: Arguments of the model; see `model.Vtc`.
        processes: Number of processes on this machine, each with its own model.
        seed: The random seed.
    """

    folder: Path
    tasks: tuple[str, ...]
    prepared: Path
    settings: Mapping[str, Any]
    processes: int = 1
    seed: int = 0


def tasks_folder() -> Path:
    """Return the folder of lmms-eval's own tasks.

    Raises:
        ImportError: lmms-eval is not installed.
    """
    spec = find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "lmms-eval is not installed; run make eval-env, then .venv-eval/bin/vtc evaluate (or: "
            "pip install "
            "'video-token-compression[eval]')"
        )
    return Path(spec.submodule_search_locations[0]) / "tasks"


def command(run: Run) -> list[str]:
    """Return the command of a run, to be started in its folder."""
    start = [sys.executable, "-m", "lmms_eval"]
    if run.processes > 1:
        torchrun = "torch.distributed.run"
        processes = ["--standalone", "--nproc-per-node", str(run.processes)]
        start = [sys.executable, "-m", torchrun, *processes, "-m", "lmms_eval"]
    options = {
        "--model": _NAME,
        "--model_args": "settings=model.json",
        "--tasks": ",".join(run.tasks),
        "--include_path": str(run.prepared / "tasks"),
        "--batch_size": str(run.settings["batch_size"]),
        "--output_path": "harness",
        "--process_docs_parallel": "1",  # some scores use random numbers, in this order
        "--seed": str(run.seed),
    }
    return [*start, *(word for pair in options.items() for word in pair), "--log_samples"]


def environment(run: Run) -> dict[str, str]:
    """Return the environment of a run, with its own ``$HF_HOME`` but the user's models."""
    from huggingface_hub import constants

    from vtc.encoders.device import pick_device

    on_cpu = pick_device(run.settings.get("device", "auto")) == "cpu"
    return {
        **os.environ,
        "HF_HOME": str(run.prepared / "hf_home"),
        "HF_DATASETS_CACHE": str(run.prepared / "datasets"),
        "HF_HUB_CACHE": str(constants.HF_HUB_CACHE),
        "HF_TOKEN_PATH": str(constants.HF_TOKEN_PATH),
        "HF_DATASETS_OFFLINE": "1",  # the data are here
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),
        "WANDB_MODE": "disabled",
        # Without it, accelerate sees a single process on a machine without a GPU.
        **({"ACCELERATE_USE_CPU": "true"} if on_cpu else {}),
    }


def execute(run: Run, progress: Callable[[int], None]) -> Path:
    """Run the harness; an interrupted run resumes.

    Args:
        progress: Called with the number of questions that have a prediction.

    Returns:
        The folder of the harness's results.

    Raises:
        RuntimeError: It wrote no results; the message ends with the last lines of its log.
    """
    output = run.folder / "harness"
    if output.exists():
        shutil.rmtree(output)
    run.folder.mkdir(parents=True, exist_ok=True)
    arguments = {name: value for name, value in run.settings.items() if name != "batch_size"}
    settings = json.dumps({**arguments, "predictions": "."}, indent=2)
    (run.folder / "model.json").write_text(settings + "\n", encoding="utf-8")
    log = run.folder / "log.txt"
    with log.open("ab") as stream:
        start = stream.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command(run), cwd=run.folder, env=environment(run), stdout=stream, stderr=stream
        )
        try:
            while process.poll() is None:
                progress(_count(run.folder))
                sleep(_POLL_SECONDS)
        except BaseException:  # Ctrl-C and SIGTERM must stop the harness too
            process.terminate()
            process.wait()
            raise
    progress(_count(run.folder))
    files = sorted(output.glob("**/*_results.json"))
    results = load_json(files[-1])["results"] if files else {}
    absent = [task for task in run.tasks if task not in results]
    if absent:
        raise RuntimeError(
            f"lmms-eval wrote no results of {', '.join(absent[:3])} (exit code "
            f"{process.returncode}); the end of {log}: {_reason(log, start)}"
        )
    return files[-1].parent


def scores_of(output: Path) -> dict[str, dict[str, Any]]:
    """Return the harness's own scores by task."""
    file = max(output.glob("*_results.json"))
    results: dict[str, dict[str, Any]] = load_json(file)["results"]
    return results


def samples_of(output: Path, task: str) -> list[dict[str, Any]]:
    """Return the harness's records of a task, one per question, in the order of its rows.

    Raises:
        RuntimeError: There are no records.
    """
    files = sorted(output.glob(f"*_samples_{task}.jsonl"))
    if not files:
        raise RuntimeError(f"lmms-eval wrote no samples of {task} to {output}")
    return sorted(read_lines(files[-1]), key=lambda record: int(record["doc_id"]))


def _count(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("predictions-*.jsonl"))


def _reason(log: Path, start: int) -> str:
    """Return the first error in a log from a position, or else its last lines.

    If one of several processes fails, the others fail after it.
    """
    text = _COLOUR.sub("", log.read_bytes()[start:].decode(errors="replace"))
    errors = _ERROR.findall(text)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return " ".join(errors[0].split()) if errors else " | ".join(lines[-3:])
