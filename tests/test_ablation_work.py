"""Workers: locks, dead processes, embeddings made once, trainings."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forked import run_vtc
from quick_training import examine_little

import vtc
from vtc.encoders.lazy import LazyEncoder
from vtc.plugins import registry
from vtc_recipes.ablation import work as working
from vtc_recipes.ablation.embeddings import KeepingEncoder, Shelf
from vtc_recipes.ablation.records import read_results
from vtc_recipes.ablation.work import Job, work
from vtc_recipes.synthetic.dataset import write_dataset


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("locks", "working", "done"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(working, "POLL_SECONDS", 0.01)
    return tmp_path


def run(place: Path, *jobs: Job, report: Any = lambda text: None) -> None:
    work(jobs, place / "locks", place / "working", report=report)


def job(place: Path, name: str, run: Any, *needs: str) -> Job:
    return Job(
        name, f"job {name}", place / "done" / name, tuple(place / "done" / n for n in needs), run
    )


def test_jobs_wait_for_what_they_need_and_run_when_others_fail(place: Path) -> None:
    order = []

    def note(folder: Path) -> None:
        order.append(folder.name)

    def fail(folder: Path) -> None:
        raise ValueError("no such luck")

    jobs = [
        job(place, "broken", fail),
        job(place, "behind", note, "broken"),
        job(place, "far", note, "behind"),
        job(place, "last", note, "first"),
        job(place, "first", note),
    ]
    with pytest.raises(RuntimeError, match="1 failed; 2 more need them: job broken: .*such luck"):
        run(place, *jobs)
    assert order == ["first", "last"]
    assert "no such luck" in (place / "working" / "broken" / "log.txt").read_text()
    with pytest.raises(RuntimeError):  # tried again; finished jobs stay finished
        run(place, *jobs)
    assert order == ["first", "last"]


def test_of_many_workers_one_runs_a_job_and_the_others_wait(place: Path) -> None:
    barrier, ran = threading.Barrier(8), []

    def note(folder: Path) -> None:
        ran.append(folder.name)

    def worker() -> None:
        barrier.wait()
        run(place, *(job(place, name, note) for name in "abc"))

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == ["a", "b", "c"] and not list((place / "working").iterdir())


DYING = """
import os, signal, sys
from pathlib import Path
from vtc_recipes.ablation.work import Job, work

place = Path(sys.argv[1])

def die(folder):
    with (folder / "visits").open("a") as lines:
        lines.write("visit ")
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))

jobs = [
    Job("deadly", "job deadly", place / "done" / "deadly", (), die),
    Job("harmless", "job harmless", place / "done" / "harmless", (), lambda folder: None),
]
work(jobs, place / "locks", place / "working")
"""


def die(place: Path, kind: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DYING, str(place), kind], capture_output=True, text=True, check=False
    )


def test_a_job_that_killed_its_process_twice_is_set_aside_and_named(place: Path) -> None:
    assert die(place, "SIGKILL").returncode == die(place, "SIGKILL").returncode == -signal.SIGKILL
    third = die(place, "SIGKILL")
    assert third.returncode == 1
    assert "1 failed: job deadly: RuntimeError: set aside because 2 processes died" in third.stderr
    assert (place / "done" / "harmless").is_dir()
    deadly = place / "working" / "deadly"
    assert (deadly / "visits").read_text() == "visit visit "
    (deadly / working.DEATHS).unlink()  # as the message says
    lines: list[str] = []
    run(place, job(place, "deadly", lambda folder: None), report=lines.append)
    assert lines == ["job deadly: resumed", "job deadly: done"]
    files = {file.name for file in (place / "done" / "deadly").iterdir()}
    assert files == {"log.txt", "visits"}


def test_an_interrupted_job_is_not_counted_as_a_dead_process(place: Path) -> None:
    for _ in range(3):
        assert "KeyboardInterrupt" in die(place, "SIGINT").stderr
    deadly = place / "working" / "deadly"
    assert (deadly / "visits").read_text() == 3 * "visit "
    assert not (deadly / working.DEATHS).exists()


class Counting:
    """A frame encoder that counts the frames it embeds."""

    name = "counting"

    def __init__(self) -> None:
        self.encoder = vtc.testing.tiny_encoder()
        self.frames = 0

    def encode_frames(self, frames: Any) -> torch.Tensor:
        self.frames += len(frames)
        return self.encoder.encode_frames(frames)

    def encode_text(self, text: str) -> torch.Tensor:
        return self.encoder.encode_text(text)


def test_embeddings_are_made_once_and_stay_the_same_bits(tmp_path: Path) -> None:
    frames = torch.randint(256, (9, 8, 8, 3), generator=torch.Generator().manual_seed(0))
    chunks = list(frames.to(torch.uint8).split(4))
    plain = LazyEncoder(Counting())
    counting = Counting()
    for time_round in range(2):
        shelf = Shelf(tmp_path)
        kept = KeepingEncoder(LazyEncoder(counting), "counting", shelf)
        with shelf.open_video("video"):
            for chunk in chunks:
                assert torch.equal(kept.encode_frames(chunk), plain.encode_frames(chunk))
            assert torch.equal(kept.encode_text("red"), plain.encode_text("red"))
        assert counting.frames == 9, time_round
    assert (kept.name, kept.dim) == ("counting", 16)
    with shelf.open_video("video"):  # the video changed, under the same name
        kept.encode_frames(chunks[0] + 1)
    assert counting.frames == 13
    with shelf.open_video("another"):
        kept.encode_frames(chunks[0])
    other = KeepingEncoder(LazyEncoder(counting), "another encoder", shelf)
    with shelf.open_video("video"):
        other.encode_frames(chunks[0])
    assert counting.frames == 21
    assert not list(tmp_path.glob("*.partial"))


def test_embeddings_that_another_worker_makes_are_waited_for(tmp_path: Path) -> None:
    counting, chunk = Counting(), torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    begun = threading.Barrier(3)

    def worker() -> None:
        shelf = Shelf(tmp_path)
        kept = KeepingEncoder(LazyEncoder(counting), "counting", shelf)
        begun.wait()
        with shelf.open_video("video"):
            kept.encode_frames(chunk)

    threads = [threading.Thread(target=worker) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counting.frames == 4


DEADLY = """
import os, signal, torch, vtc
from contextlib import suppress
from pathlib import Path

class Deadly(vtc.FrameSelector):
    \"\"\"Kills its process at the third video, unless one was killed before.\"\"\"

    uses_query = False
    calls = 0

    def select(self, embeddings, query=None, timestamps=None):
        Deadly.calls += 1
        if Deadly.calls == 3:
            with suppress(FileExistsError):
                Path("killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return vtc.Selection(torch.arange(2), None)

@vtc.hookimpl
def vtc_register_selectors():
    return {"deadly": Deadly}
"""
GRID = {
    "base": {
        "model": "tiny:llava_onevision",
        "merger": "mean_pool",
        "prompt": "{question}",
        "task": {"examples": 5, "frames": 12},
        "max_new_tokens": 2,
        "seeds": [0, 1],
    },
    "axes": {"selector": ["deadly", "uniform", {"name": "dks", "keyframes": 3}]},
}


def run_worker(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``vtc ablate ... --worker`` in a process of its own."""
    words = ("ablate", "grid.yaml", "--worker", "--out", "runs")
    return run_vtc(*words, folder=folder, PYTHONPATH=str(folder), OMP_NUM_THREADS="1")


def cells(worker: subprocess.CompletedProcess[str], word: str) -> list[str]:
    """The cells of which a worker's log says so."""
    lines = worker.stderr.splitlines()
    return [line.split()[1] for line in lines if line.endswith(f": {word}")]


def install(folder: Path) -> None:
    (folder / "deadly_parts.py").write_text(DEADLY)
    info = folder / "deadly_vtc-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly-vtc\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtc]\ndeadly = deadly_parts\n")
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))


def without_times(runs: Path) -> dict[str, Any]:
    results = read_results(runs).to_dict()
    for row in results["rows"]:
        del row["seconds"]
    return results


def test_a_worker_that_dies_in_mid_cell_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    install(tmp_path)
    runs = tmp_path / "runs"
    with ThreadPoolExecutor(2) as pool:
        workers = list(pool.map(run_worker, [tmp_path] * 2))
    codes = sorted(worker.returncode for worker in workers)
    assert codes == [-signal.SIGKILL, 0], [worker.stderr for worker in workers]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(registry, "_registry", registry.Registry())
    code, _, err = command("ablate", tmp_path / "grid.yaml", "--out", tmp_path / "undisturbed")
    assert code == 0, err
    assert without_times(runs) == without_times(tmp_path / "undisturbed")
    done = Counter(name for worker in workers for name in cells(worker, "done"))
    started = Counter(name for worker in workers for name in cells(worker, "started"))
    [resumed] = [name for worker in workers for name in cells(worker, "resumed")]
    assert started == done and set(done.values()) == {1} and len(done) == 6
    for folder in (runs / "cells").iterdir():
        lines = (folder / "predictions.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == list("01234")
        log = (folder / "log.txt").read_text()
        assert log.count("finished") == 1
        assert log.count("started") == (2 if folder.name == resumed else 1)


def test_a_grid_trains_its_mergers_once_and_answers_with_them(tmp_path: Path, command: Any) -> None:
    data = write_dataset(tmp_path / "data", videos=2, frames=8)
    steps = ["optimisation.steps=1", "output.save_steps=1", "optimisation.accumulation=1"]
    steps.append("optimisation.warmup=0")  # or the first step changes nothing
    settings = [f"data.sources.0.path={data}", *steps]
    values = {
        "base": {
            "model": {"recipe": "smoke", "settings": settings},
            "task": {"examples": 1, "frames": 12},
            "max_new_tokens": 2,
            "seeds": [0],
        },
        "axes": {"selector": ["uniform", "dks"], "merger": ["q_former"]},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    words = ("ablate", tmp_path / "grid.yaml", "--out", tmp_path / "runs")
    code, out, err = command(*words)
    assert code == 0, err
    [training] = (tmp_path / "runs" / "trainings").iterdir()
    saved = json.loads((training / "model" / "vtc.json").read_text())
    assert saved["merger"]["name"] == "q_former"
    assert err.count("training") == 2 and len(list((tmp_path / "runs" / "cells").iterdir())) == 2
    data.rename(tmp_path / "elsewhere")
    missing = "data.sources.0.path (synthetic): there is no "
    code, out, _ = command(*words[:2], "--dry-run", "--out", tmp_path / "new")
    assert code == 0 and out.count(f"missing: {missing}") == 1
    code, _, err = command(*words[:2], "--out", tmp_path / "new")
    assert code == 1 and missing in err and not (tmp_path / "new").exists()
    code, _, err = command(*words)  # what is trained needs no data
    assert code == 0, err
    (tmp_path / "elsewhere").rename(data)
    # The trained model is one that a grid may take for itself, with its merger or without.
    values["base"] |= {"model": str(training / "model"), "merger": "llama_vid", "encoder": "tiny"}
    values["axes"] = {"selector": ["uniform"], "merger": ["q_former", "llama_vid"]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    code, out, err = command(*words, "--dry-run")
    assert code == 1 and err.count("were not trained") == 1
    assert "merger=llama_vid, selector=uniform: merger 'llama_vid' has parameters" in err


@pytest.mark.slow
def test_mergers_of_a_seed_share_the_stages_that_know_none(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine_little(monkeypatch)
    stages = [
        f"stages.{number}.{what}"
        for number, batch in enumerate((4, 8, 100, 100, 100))
        for what in ("steps=1", "scenes=200", "gates={}", f"batch={batch}")
    ]
    values = {
        "base": {
            "model": {"recipe": "tiny_vlm", "settings": stages},
            "task": {"examples": 1, "frames": 12},
            "max_new_tokens": 2,
            "seeds": [0],
        },
        "axes": {"merger": ["mean_pool", "drop"]},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    words = ("ablate", tmp_path / "grid.yaml", "--out", tmp_path / "runs")
    code, before, err = command(*words, "--dry-run")
    assert code == 0, err
    assert "0 of 3 trainings" in before and before.count("for an unknown time") == 2
    code, _, err = command(*words)
    assert code == 0, err
    models = [folder / "model" for folder in (tmp_path / "runs" / "trainings").iterdir()]
    shared, *own = sorted(models, key=lambda model: (model / "long_answers.json").exists())
    assert not (shared / "captions.json").exists() and len(own) == 2
    for stage in ("pretext", "dual_encoder"):
        assert len({(model / f"{stage}.json").read_bytes() for model in models}) == 1
        assert len({(model / stage / "model.safetensors").read_bytes() for model in models}) == 1
    saved = [json.loads((model / "long_answers" / "vtc.json").read_text()) for model in own]
    assert {parts["merger"]["name"] for parts in saved} == {"mean_pool", "drop"}
    _, after, _ = command(*words, "--dry-run")
    assert "3 of 3 trainings" in after and "about 0.0 minutes" in after
