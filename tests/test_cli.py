"""The command line as a user runs it: output, JSON, errors in one line, exit codes, speed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from forked import run_vtc
from PIL import Image

import vtc


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A tiny model, a tiny frame encoder and a video file, on disk."""
    root = tmp_path_factory.mktemp("cli")
    model, processor = vtc.testing.tiny("llava_onevision")
    model.save_pretrained(root / "model")
    processor.save_pretrained(root / "model")
    vtc.testing.save_tiny_clip(root / "clip")
    vtc.testing.write_video(root / "video.mp4", vtc.testing.moving_squares(seconds=12))
    return root


def ask(folders, *more):
    video, model, clip = folders / "video.mp4", folders / "model", folders / "clip"
    basics = ("--model", model, "--encoder", clip, "--max-new-tokens", 3)
    return ("ask", video, "Where is the square?", *basics, *more)


def test_ask_prints_answer_and_report(command, folders):
    code, out, _ = command(*ask(folders, "--keyframes", 4))
    assert code == 0
    for word in ("video.mp4", "0:12.0", "12 read", "keyframes", "49 -> ", "decoding", "MiB"):
        assert word in out, word


def test_ask_json_holds_the_whole_report(command, folders):
    options = ("--selector", "uniform", "--merger", "drop", "--keyframes", 3, "--fps", 2)
    code, out, _ = command(*ask(folders, "--json", *options))
    result = json.loads(out)
    assert code == 0
    assert result["question"] == "Where is the square?" and isinstance(result["answer"], str)
    report = result["report"]
    assert (report["frames"], report["tokens_before"], report["tokens_after"]) == (24, 97, 13)
    assert report["selector"] == {"name": "uniform", "keyframes": 3}
    times = [frame["timestamp"] for frame in report["videos"][0]["keyframes"]]
    assert times == [2.0, 6.0, 10.0]
    assert result["peak_memory_bytes"] > 2**20


def test_a_budget_is_kept(command, folders):
    more = ("--max-tokens", 30, "--budget", "foveated", "--budget-option", "reach=2")
    code, out, _ = command(*ask(folders, "--keyframes", 2, "--json", *more))
    report = json.loads(out)["report"]
    assert (code, report["tokens_after"]) == (0, 30)
    assert report["budget"]["name"] == "foveated" and report["budget"]["reach"] == 2
    code, out, _ = command(*ask(folders, "--keyframes", 2, "--max-tokens", 30))
    assert code == 0 and "30 tokens: 2 frames whole" in out
    code, _, error = command(*ask(folders, "--max-tokens", "many"))
    assert code == 1 and "expected --max-tokens to be a whole number or auto" in error


def test_part_options_reach_the_parts(command, folders):
    options = ("-s", "similarity_threshold=0.5", "-m", "temperature=1e-1", "--json")
    _, out, _ = command(*ask(folders, *options))
    report = json.loads(out)["report"]
    assert report["selector"]["similarity_threshold"] == 0.5
    assert report["merger"]["temperature"] == 0.1


def test_a_saved_wrapped_model_keeps_its_parts_unless_told(command, folders, tmp_path):
    model, processor = vtc.testing.tiny("llava_onevision")
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), "drop", processor=processor)
    vtc.save_pretrained(model, tmp_path)
    words = ("ask", folders / "video.mp4", "Where?", "--model", tmp_path, "--max-new-tokens", 2)
    _, out, _ = command(*words, "--json")
    report = json.loads(out)["report"]
    assert (report["selector"], report["merger"]) == (
        {"name": "uniform", "keyframes": 2},
        {"name": "drop"},
    )
    _, out, _ = command(*words, "--json", "--selector", "uniform")  # with its saved options
    assert json.loads(out)["report"]["selector"] == {"name": "uniform", "keyframes": 2}
    _, out, _ = command(*words, "--json", "--keyframes", 3, "--merger", "mean_pool")
    report = json.loads(out)["report"]
    assert (report["selector"], report["merger"]["name"]) == (
        {"name": "uniform", "keyframes": 3},
        "mean_pool",
    )


def test_the_reader_may_be_chosen(command, folders):
    words = ("select", folders / "video.mp4", "--selector", "uniform", "--json", "--reader")
    _, exact, _ = command(*words, "pyav")
    code, out, err = command(*words, "decord")
    if code:  # decord has no wheel for this platform
        assert "decord" in err
    else:
        assert json.loads(out)["keyframes"] == json.loads(exact)["keyframes"]
    code, _, err = command(*words, "opencv")
    assert code == 1 and "pyav" in err and "decord" in err


def test_select_prints_keyframes_and_draws_a_sheet(command, folders, tmp_path):
    sheet = tmp_path / "sheet.png"
    basics = ("select", folders / "video.mp4", "a square", "--encoder", folders / "clip")
    code, out, _ = command(*basics, "--keyframes", 5, "--sheet", sheet)
    assert code == 0 and "of 12 frames of video.mp4" in out and "relevance" in out
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.width > 240
    _, out, _ = command(*basics, "--keyframes", 5, "--json")
    found = json.loads(out)["keyframes"]
    assert 1 <= len(found) <= 5
    assert [f["timestamp"] for f in found] == sorted(f["timestamp"] for f in found)


def test_select_uniform_needs_neither_query_nor_encoder(command, folders):
    code, out, _ = command("select", folders / "video.mp4", "--selector", "uniform", "--json")
    assert code == 0 and len(json.loads(out)["keyframes"]) == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--selector", "dkss"), "Did you mean 'dks'"),
        (("--keyframes", "0"), "expected keyframes to be a whole number of at least 1, got 0"),
        (("-s", "keyframe=3"), "has no option 'keyframe'"),
        (("-s", "keyframes"), "write NAME=VALUE"),
        (("--merger", "dmf"), "unknown merger 'dmf'"),
        (("--fps", "0"), "expected fps to be a number from 1e-06"),
        (("--model", "no/such/folder"), "is not a folder; give a folder with a config.json"),
        (("--model", "nobody/nothing"), "nobody/nothing"),
        (("--dtype", "int8"), "float16, got 'int8'"),
        (("--device", "cuda:77"), "cannot use device='cuda:77' here"),
        (("--keyframes", "3", "-s", "keyframes=4"), "not both"),
        (("--max-tokens", "9", "--budget-option", "max_tokens=8"), "option max_tokens=, not both"),
        (("-s", "fill=[a"), "not valid YAML"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(command, folders, words, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, out, err = command(*ask(folders, *words))
    lines = [line for line in err.splitlines() if line.startswith("vtc: error: ")]
    assert code == 1 and len(lines) == 1 and message in lines[0], err
    assert "Traceback" not in err and not out


def test_debug_shows_the_traceback(folders):
    words = ["ask", "no-such.mp4", "What?", "--debug"]
    run = run_vtc(*words)
    assert run.returncode != 0 and "Traceback" in run.stderr and "VideoError" in run.stderr


@pytest.mark.parametrize("sheet", ["sheet.jpg", "no-such-folder/sheet.png"])
def test_a_bad_target_is_refused_before_the_work(command, folders, sheet):
    words = ("select", folders / "video.mp4", "x", "--encoder", "no/such", "--sheet", sheet)
    code, _, err = command(*words)
    assert code == 1 and "contact sheet" in err


def test_every_odd_file_works_or_is_named_in_one_line(command, folders, clips):
    files = sorted((clips / "odd").iterdir())
    assert files
    readable = 0
    for file in files:
        words = list(ask(folders, "--json"))
        words[1] = file
        code, out, err = command(*words)
        if code == 0:
            readable += 1
            assert json.loads(out)["report"]["frames"] > 0, file
        else:
            lines = [line for line in err.splitlines() if line.startswith("vtc: error: ")]
            assert code == 1 and len(lines) == 1 and file.name in lines[0], (file, err)
    assert 10 < readable < len(files)


def test_help_answers_at_once_and_names_every_command():
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vtc.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("ask", "select", "parts", "demo", "new-plugin"):
        assert f"│ {name} " in run.stdout
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert not {"torch", "transformers", "numpy", "av"} & imported


@pytest.mark.parametrize("family", vtc.parts("adapter"), ids=lambda part: part.name)
def test_ask_answers_with_every_family(command, folders, tmp_path, family):
    for saved in vtc.testing.tiny(family.name):
        saved.save_pretrained(tmp_path)
    words = list(ask(folders, "--keyframes", 2, "--json"))
    words[words.index(folders / "model")] = tmp_path
    code, out, err = command(*words)
    assert code == 0, err
    report = json.loads(out)["report"]
    assert report["frames"] == 12
    assert report["tokens_after"] < report["tokens_before"]
    if "frame_text" in family.options:
        code, out, _ = command(*words[:-1], "-a", "frame_text=none")
        assert code == 0 and "-> 0 tokens around frames" in out


def test_ask_takes_settings_of_generation_and_puts_the_answer_last(command, folders, monkeypatch):
    given = {}

    def answer(*arguments, **settings):
        given.update(settings)
        return real(*arguments, **settings)

    real = vtc.ask
    monkeypatch.setattr(vtc, "ask", answer, raising=False)
    words = ("--temperature", 0.7, "--top-p", 0.9, "--attn-implementation", "eager")
    code, out, err = command(*ask(folders, *words))
    assert code == 0, err
    assert given == {"max_new_tokens": 3, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    facts, _, text = out.rpartition("\n\n")
    assert "loading" in facts and "total" in facts and text.strip()
    given.clear()
    code, out, err = command(*ask(folders, "--num-beams", 2, "--temperature", 0, "--json"))
    assert code == 0, err
    assert given == {"max_new_tokens": 3, "num_beams": 2, "do_sample": False}
    seconds = json.loads(out)["seconds"]
    assert 0 < seconds["loading"] < seconds["total"]
    for words in (("--temperature", 0, "--top-p", 0.9), ("--top-p", 0)):
        code, out, err = command(*ask(folders, *words))
        assert code == 1 and "vtc: error: expected --t" in err and not out


def test_several_questions_share_a_pass(folders, command):
    words = list(ask(folders, "--json"))
    words.insert(3, "And the circle?")
    code, out, err = command(*words)
    assert code == 0, err
    answers = json.loads(out)["answers"]
    assert [row["question"] for row in answers] == ["Where is the square?", "And the circle?"]
    alone = []
    for question in ("Where is the square?", "And the circle?"):
        words = list(ask(folders, "--json"))
        words[2] = question
        alone.append(json.loads(command(*words)[1])["answer"])
    assert [row["answer"] for row in answers] == alone
    code, _, err = command(*words, "And?", "--page", folders / "page.html")
    assert code == 1 and "--page shows one question, got 2" in err
