"""Workers: claims, takeovers, embeddings made once, kills that change nothing, trainings."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import vtc
from vtc.encoders.lazy import LazyEncoder
from vtc.plugins import registry
from vtc_recipes.ablation import work as working
from vtc_recipes.ablation.embeddings import KeepingEncoder, Shelf
from vtc_recipes.ablation.leases import Lease, LeaseLost, claim, last_claim
from vtc_recipes.ablation.records import read_results
from vtc_recipes.ablation.work import Job, work
from vtc_recipes.synthetic.dataset import write_dataset


def test_one_claim_at_a_time_and_a_silent_one_is_taken_over(tmp_path: Path) -> None:
    first = claim(tmp_path, "job", 60)
    assert first is not None and claim(tmp_path, "job", 60) is None
    assert claim(tmp_path, "other", 60) is not None
    first.check()
    old = time.time() - 61
    os.utime(tmp_path / "job.1", (old, old))
    second = claim(tmp_path, "job", 60)
    assert second is not None and second.number == 2 and first.lost
    with pytest.raises(LeaseLost, match="job job was taken over"):
        first.check()
    assert claim(tmp_path, "job", 60) is None
    second.stop(free=True)
    third = claim(tmp_path, "job", 60)
    assert third is not None and third.number == 3


def test_a_claim_is_kept_alive_while_it_is_held(tmp_path: Path) -> None:
    with claim(tmp_path, "job", 1.0) as lease:
        for _ in range(8):
            time.sleep(0.25)
            assert claim(tmp_path, "job", 1.0) is None
        assert not lease.lost
    assert not list(tmp_path.glob("clock-*"))


def test_of_many_claims_at_once_one_holds(tmp_path: Path) -> None:
    for name, dead in (("new", False), ("dead", True)):
        if dead:
            claim(tmp_path, name, 60).stop(free=True)
        barrier, won = threading.Barrier(8), []

        def race(name: str = name, barrier: Any = barrier, won: list[Any] = won) -> None:
            barrier.wait()
            won.append(claim(tmp_path, name, 60))

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([lease for lease in won if lease]) == 1
        assert last_claim(tmp_path, name) == 1 + dead


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("leases", "working", "done"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(working, "POLL_SECONDS", 0.01)
    return tmp_path


def run(place: Path, *jobs: Job) -> None:
    work(jobs, place / "leases", place / "working", 60.0)


def job(place: Path, name: str, run: Any, *needs: str) -> Job:
    return Job(
        name, f"job {name}", place / "done" / name, tuple(place / "done" / n for n in needs), run
    )


def test_jobs_wait_for_what_they_need_and_go_on_when_others_fail(place: Path) -> None:
    order = []

    def note(folder: Path, lease: Lease) -> None:
        order.append(folder.name)

    def fail(folder: Path, lease: Lease) -> None:
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
    assert order == ["first.1", "last.1"]
    assert "no such luck" in (place / "working" / "broken.1" / "log.txt").read_text()
    with pytest.raises(RuntimeError):  # tried again, and what is done stays done
        run(place, *jobs)
    assert order == ["first.1", "last.1"]


def test_who_was_taken_over_publishes_nothing_and_fails_nothing(place: Path) -> None:
    def slow(folder: Path, lease: Lease) -> None:
        if lease.number == 1:
            (folder / "half").touch()
            old = time.time() - 61
            os.utime(place / "leases" / "slow.1", (old, old))
            run(place, job(place, "slow", slow))  # another worker, meanwhile
            (folder / "late").touch()
        assert (folder / "half").exists()  # what the one before left

    run(place, job(place, "slow", slow))
    assert [file.name for file in (place / "done" / "slow").iterdir()] == ["half"]
    assert not list((place / "working").iterdir())


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
        shelf = Shelf(tmp_path, tmp_path, 60)
        kept = KeepingEncoder(LazyEncoder(counting), "counting", shelf)
        with shelf.of("video"):
            for chunk in chunks:
                assert torch.equal(kept.encode_frames(chunk), plain.encode_frames(chunk))
            assert torch.equal(kept.encode_text("red"), plain.encode_text("red"))
        assert counting.frames == 9, time_round
    assert (kept.name, kept.dim) == ("counting", 16)
    with shelf.of("video"):  # the video changed, under the same name
        kept.encode_frames(chunks[0] + 1)
    assert counting.frames == 13
    with shelf.of("another"):
        kept.encode_frames(chunks[0])
    other = KeepingEncoder(LazyEncoder(counting), "another encoder", shelf)
    with shelf.of("video"):
        other.encode_frames(chunks[0])
    assert counting.frames == 21
    assert not list(tmp_path.glob("*.partial"))


def test_embeddings_that_another_worker_makes_are_waited_for(tmp_path: Path) -> None:
    counting, chunk = Counting(), torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    begun = threading.Barrier(3)

    def worker() -> None:
        shelf = Shelf(tmp_path, tmp_path, 60)
        kept = KeepingEncoder(LazyEncoder(counting), "counting", shelf)
        begun.wait()
        with shelf.of("video"):
            kept.encode_frames(chunk)

    threads = [threading.Thread(target=worker) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counting.frames == 4


SLOW = """
import time, torch, vtc

class Slow(vtc.FrameSelector):
    uses_query = False

    def select(self, embeddings, query=None, timestamps=None):
        time.sleep(0.4)
        return vtc.Selection(torch.arange(2), None)

@vtc.hookimpl
def vtc_register_selectors():
    return {"slow": Slow}
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
    "axes": {"selector": ["slow", "uniform", {"name": "dks", "keyframes": 3}]},
    "lease_seconds": 12,
}


class Worker:
    """A process of ``vtc ablate ... --worker``."""

    def __init__(self, folder: Path, name: str) -> None:
        self.log = folder / f"{name}.log"
        paths = [str(folder), *(os.path.abspath(path) for path in sys.path if path)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import vtc.cli; vtc.cli.main()", "ablate", "grid.yaml"]
            + ["--worker", "--out", "runs"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("w"),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )

    def in_a_cell(self, runs: Path) -> str | None:
        """The cell in which it has answered something, and has something to answer."""
        for lines in (runs / "working").glob("*/predictions.jsonl"):
            name = lines.parent.name
            holder = json.loads((runs / "leases" / name).read_text())["process"]
            if holder == self.process.pid and 1 <= len(lines.read_text().splitlines()) <= 3:
                return name.partition(".")[0]
        return None

    def lines(self, word: str) -> list[str]:
        """The cells of which its log says so."""
        text = self.log.read_text()
        return [line.split()[1] for line in text.splitlines() if f": {word}" in line]


def install(folder: Path) -> None:
    (folder / "slow_parts.py").write_text(SLOW)
    info = folder / "slow_vtc-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-vtc\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtc]\nslow = slow_parts\n")
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))


def without_times(runs: Path) -> dict[str, Any]:
    found = read_results(runs).to_dict()
    for row in found["rows"]:
        del row["seconds"]
    return found


def test_a_worker_killed_in_mid_cell_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    install(tmp_path)
    runs = tmp_path / "runs"
    killed, other = Worker(tmp_path, "killed"), Worker(tmp_path, "other")
    cell, deadline = None, time.monotonic() + 240
    while cell is None and time.monotonic() < deadline:
        time.sleep(0.01)
        cell = killed.in_a_cell(runs)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    assert cell is not None and not (runs / "cells" / cell).exists()
    third = Worker(tmp_path, "third")
    workers = (killed, other, third)
    for worker in (other, third):
        assert worker.process.wait(timeout=240) == 0, worker.log.read_text()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(registry, "_registry", registry.Registry())
    code, _, err = command("ablate", tmp_path / "grid.yaml", "--out", tmp_path / "undisturbed")
    assert code == 0, err
    assert without_times(runs) == without_times(tmp_path / "undisturbed")
    done = Counter(name for worker in workers for name in worker.lines("done"))
    begun = Counter(name for worker in workers for name in worker.lines("begun"))
    assert set(done.values()) == {1} and len(done) == 6
    assert begun == done + Counter([cell])
    taken_over = [n for one in workers for n in one.lines("begun, with what another worker left")]
    assert taken_over == [cell]
    for folder in (runs / "cells").iterdir():
        lines = (folder / "predictions.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == list("01234")
        log = (folder / "log.txt").read_text()
        assert log.count("finished") == 1
        assert log.count("attempt") == (2 if folder.name == cell else 1)


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


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon before 2.9")
def test_mergers_of_a_seed_share_the_stages_that_know_none(tmp_path: Path, command: Any) -> None:
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
