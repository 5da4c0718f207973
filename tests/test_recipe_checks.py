"""Checks before training: data of the dry run, damaged checkpoints, one training a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import vtc
from vtc_recipes.shipped import find_config
from vtc_recipes.training.batches import Collator
from vtc_recipes.training.checkpoints import find_damage, last_checkpoint
from vtc_recipes.training.config import load_recipe
from vtc_recipes.training.data import load_samples
from vtc_recipes.training.models import open_model


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three good rows, one of a video of one frame, and three bad ones."""
    monkeypatch.chdir(tmp_path)
    vtc.testing.write_video(tmp_path / "clip.mp4", vtc.testing.moving_squares(seconds=6, fps=2), 2)
    vtc.testing.write_video(tmp_path / "one.mp4", vtc.testing.moving_squares(seconds=1, fps=1), 1)
    good = [_row("clip.mp4"), _row("clip.mp4"), _row("clip.mp4"), _row("one.mp4")]
    lines = [json.dumps(row) for row in [*good, _row("gone.mp4"), {"messages": 3}]]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*lines, '{"messages']))
    return file


def _row(video: str) -> dict[str, Any]:
    question = [{"type": "video", "video": video}, {"type": "text", "text": "What is red?"}]
    answer = {"role": "assistant", "content": "The square."}
    return {"messages": [{"role": "user", "content": question}, answer]}


def test_the_dry_run_names_all_broken_rows_and_counts_samples_steps_and_tokens(
    rows: Path, command: Any
) -> None:
    words = ("train", "smoke", "--dry-run", f"data.sources.0.path={rows}", "optimisation.epochs=3")
    code, out, err = command(*words)
    assert code == 0, err
    for line in (
        "4 samples, 6 steps in one process",
        f"error: {rows}, line 5: there is no file {rows.parent / 'gone.mp4'}",
        f"error: {rows}, line 6: messages: expected a list, got 3",
        f"error: {rows}, line 7 is not valid JSON: Unterminated string",
        f"warning: {rows.parent / 'one.mp4'} has 1 frame at fps=1",
    ):
        assert line in out, out
    data = json.loads(command(*words, "--json")[1])["data"]
    assert (data["samples"], data["opened"], len(data["errors"])) == (4, 4, 3)
    assert 0 < data["tokens"] < data["most_tokens"]


def test_the_tokens_of_the_dry_run_are_those_of_training(rows: Path, command: Any) -> None:
    rows.write_text(json.dumps(_row("clip.mp4")))
    # dks may take fewer keyframes than its limit, which the dry run counts.
    settings = [f"data.sources.0.path={rows}", "vtc.selector={name: uniform, keyframes: 3}"]
    _, out, _ = command("train", "smoke", "--dry-run", *settings, "--json")
    recipe = load_recipe(find_config("smoke", "training"), settings)
    model, processor = open_model(recipe)
    samples = load_samples(recipe.data.sources, 0)
    batch = Collator(model, model.vtc, processor)(samples)
    with torch.no_grad():
        model(**batch)
    text = batch["input_ids"] != model.vtc.adapter.video_token_id(model)
    report = vtc.last_report(model)
    assert report.tokens_after == 3 * 4 + 3 + 1  # keyframes, merged frames, the newline
    assert json.loads(out)["data"]["most_tokens"] == int(text.sum()) + report.tokens_after


def test_check_data_opens_no_model_and_fails_if_there_are_errors(rows: Path, command: Any) -> None:
    setting = f"data.sources.0.path={rows}"
    words = ("train", "vilamp_lora", "--check-data", setting, "data.sources.1.share=0")
    code, out, _ = command(*words, "data.sources.0.format=messages")
    assert code == 1 and out.count("error: ") == 3 and "tokens" not in out
    assert "4 samples, 1 steps in one process\n" in out and "one.mp4 has 1 frame" in out
    rows.write_text(json.dumps(_row("clip.mp4")))
    code, out, _ = command(*words, "data.sources.0.format=messages", "--json")
    assert code == 0 and json.loads(out)["errors"] == []
    code, _, err = command("train", "tiny_vlm", "--check-data")
    assert code == 1 and "generates its own data" in err


# --- checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with two checkpoints."""
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            torch.save({"step": torch.full((500,), step)}, folder / name)
        save_file({"weight": torch.zeros(500)}, folder / "model.safetensors")
        for name in ("vtc.json", "trainer_state.json", "config.json"):
            (folder / name).write_text(json.dumps({"global_step": step}))
    return tmp_path


def test_the_newest_intact_checkpoint_is_resumed_from(run: Path) -> None:
    assert last_checkpoint(run) == run / "checkpoint-10"
    (run / "checkpoint-11").mkdir()  # killed before its state was written
    assert last_checkpoint(run) == run / "checkpoint-10"
    assert last_checkpoint(run / "checkpoint-9") is None


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", "cut"),
        ("model.safetensors", "missing"),
        ("optimizer.pt", "cut"),
        ("optimizer.pt", "changed"),
        ("optimizer.pt", "missing"),
        ("optimizer.pt", "empty"),
        ("scheduler.pt", "missing"),
        ("rng_state.pth", "cut"),
        ("vtc.json", "cut"),
        ("trainer_state.json", "empty"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    run: Path, name: str, damage: str
) -> None:
    file = run / "checkpoint-10" / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes({"cut": content[:-20], "empty": b"", "changed": changed}[damage])
    word = "weights" if (name, damage) == ("model.safetensors", "missing") else name
    message = rf"checkpoint-10 is damaged: .*{word}.*; resuming from checkpoint-9 instead"
    with pytest.warns(UserWarning, match=message):
        assert last_checkpoint(run) == run / "checkpoint-9"
    (run / "checkpoint-9" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"checkpoint-10 is damaged: .*so are all earlier checkpoints"
    ):
        last_checkpoint(run)


def test_files_of_sharded_checkpoints_are_not_expected(run: Path) -> None:
    checkpoint = run / "checkpoint-10"
    for name in ("optimizer.pt", "scheduler.pt", "model.safetensors"):
        (checkpoint / name).unlink()
    (checkpoint / "pytorch_model_fsdp_0").mkdir()
    assert find_damage(checkpoint) is None
