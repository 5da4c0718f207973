"""Pages of real calls, in Chromium and from the command line."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess

import numpy as np
import pytest
import torch
from page_checks import check, frame, report
from PIL import Image

import vtc
from vtc.pages.contact_sheet import contact_sheet
from vtc.pages.page import page_html
from vtc.pages.timeline import Mark
from vtc.pipeline.heat import first_apart
from vtc.pipeline.report import Keyframe


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    file = tmp_path_factory.mktemp("film") / "squares.mp4"
    vtc.testing.write_video(file, vtc.testing.moving_squares(seconds=12))
    return file


def wrapped(family: str, encoder, selector="dks", merger="dfm", keyframes=3):
    model, processor = vtc.testing.tiny(family)
    if isinstance(selector, str):
        selector = vtc.selector(selector, keyframes=keyframes)
    vtc.wrap(model, selector, merger, processor=processor, encoder=encoder)
    return model, processor


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_vl"])
@pytest.mark.parametrize("kind", ["file", "array"])
def test_a_call_keeps_what_its_page_shows(family, kind, film, encoder, tmp_path):
    model, processor = wrapped(family, encoder)
    video = film if kind == "file" else vtc.VideoSource(film).frames()
    answer = vtc.ask(model, processor, video, "Where is it?", max_new_tokens=2)
    [seen] = answer.report.videos
    each = seen.frames_per_slice
    assert len(seen.timestamps) == len(seen.relevance) == -(-seen.frames // each)
    keyframes = {keyframe.index for keyframe in seen.keyframes}
    for keyframe in seen.keyframes:
        assert keyframe.timestamp == seen.timestamps[keyframe.index // each]
        assert keyframe.relevance == pytest.approx(seen.relevance[keyframe.index // each])
    others = [n for n in range(len(seen.relevance)) if n * each not in keyframes]
    best = sorted(others, key=lambda n: -seen.relevance[n])[:4]
    assert [heat.index for heat in seen.heat] == sorted(n * each for n in best)
    for heat in seen.heat:
        assert heat.weights.sum() == pytest.approx(1, abs=1e-4) and heat.weights.min() >= 0
    answer.report.save_page(tmp_path / "page.html")
    page = check((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == len(keyframes) + 2 * len(seen.heat)
    assert page.all("p", "answer") and "Where is it?" in page.text
    tokens = seen.tokens_before // len(seen.timestamps)  # and image_newline after the last slice
    assert seen.keyframe_tokens == tokens * len(keyframes)
    assert seen.merged_tokens == len(seen.timestamps) - len(keyframes)
    assert seen.tokens_after - seen.keyframe_tokens - seen.merged_tokens == (
        family == "llava_onevision"
    )
    inputs = vtc.prepare_inputs(model, processor, video, "Where is it?")
    assert seen.prompt_tokens == inputs["input_ids"].shape[1] - 1 + seen.tokens_after


def test_the_weights_on_the_page_are_those_that_merge(film, encoder, monkeypatch):
    model, processor = wrapped("llava_onevision", encoder)
    tokens, patches = {}, {}
    forward = type(model.vtc.merger).forward

    def recording(merger, frames, *rest):
        merged = forward(merger, frames, *rest)
        for frame_patches, token in zip(frames, merged, strict=True):
            patches[len(patches)], tokens[len(tokens)] = frame_patches.double(), token.double()
        return merged

    monkeypatch.setattr(type(model.vtc.merger), "forward", recording)
    seen = vtc.ask(model, processor, film, "Where?", max_new_tokens=1).report.videos[0]
    keyframes = {keyframe.index for keyframe in seen.keyframes}
    others = [n for n in range(seen.frames) if n not in keyframes]
    for heat in seen.heat:
        row = others.index(heat.index)
        weights = torch.tensor(heat.weights.ravel()).double()
        assert (weights @ patches[row] - tokens[row][0]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("selector", "merger"),
    [("uniform", "dfm"), ("dks", "drop"), ("dks", "memory"), ("dks", "tome")],
)
def test_parts_without_ranks_or_weights_have_a_page(selector, merger, film, encoder, tmp_path):
    model, processor = wrapped("llava_onevision", encoder, selector, merger)
    said = vtc.ask(model, processor, film, "Where?", max_new_tokens=1).report
    assert (said.videos[0].relevance is None) == (selector == "uniform")
    assert len(said.videos[0].heat) == (0 if merger in {"drop", "memory"} else 4)
    said.save_page(tmp_path / "page.html")
    check((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_inputs_of_the_stock_processor_have_pictures_too(case, tmp_path):
    model, inputs = case
    model.generate(**inputs, max_new_tokens=1)
    said = vtc.last_report(model)
    said.save_page(tmp_path / "page.html")
    page = check((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 2 + 2 * len(said.videos[0].heat) and said.answer is None


def test_a_page_without_its_file_says_so(film, encoder, tmp_path):
    copy = shutil.copy(film, tmp_path / "gone.mp4")
    model, processor = wrapped("llava_onevision", encoder)
    said = vtc.ask(model, processor, copy, "Where?", max_new_tokens=1).report
    (tmp_path / "gone.mp4").unlink()
    said.save_page(tmp_path / "page.html")
    page = check((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.text.count("picture not available") == len(said.keyframes)


def test_reports_keep_no_frames_of_a_file_and_can_be_pickled(film, encoder):
    model, processor = wrapped("llava_onevision", encoder)
    said = vtc.ask(model, processor, film, "Where?", max_new_tokens=1).report
    assert said.videos[0].kept == 12
    packed = pickle.dumps(said)
    assert len(packed) < 50_000
    assert not pickle.loads(packed).videos[0].pictures.of([0])  # the file stays where it is
    assert said.videos[0].pictures.of([0])
    plain = json.loads(json.dumps(said.to_dict()))
    assert plain["answer"] == said.answer and len(plain["videos"][0]["relevance"]) == 12
    assert not plain["videos"][0].keys() & {"heat", "pictures"}


@pytest.mark.parametrize(
    ("frames", "count", "expected"),
    [
        ([50, 51, 52, 10, 90], 3, [50, 10, 90]),  # by relevance; neighbours of 50 are left out
        ([50, 51, 52, 10], 3, [50, 10, 51]),  # unless there are too few others
        ([5, 6, 7], 2, [5, 6]),
        ([5], 4, [5]),
        ([], 4, []),
        ([5, 9], 0, []),
    ],
)
def test_frames_with_weights_lie_apart(frames, count, expected):
    numbers = torch.tensor(frames, dtype=torch.int64)
    assert first_apart(numbers, min(count, len(frames))).tolist() == expected


def test_training_keeps_no_weights_and_heat_frames_sets_their_number(film, encoder):
    model, processor = wrapped("llava_onevision", encoder)
    inputs = vtc.prepare_inputs(model, processor, film, "Where?")
    model(**inputs)
    assert not vtc.last_report(model).videos[0].heat
    model.vtc.heat_frames = 7
    said = vtc.ask(model, processor, film, "Where?", max_new_tokens=1).report
    assert len(said.videos[0].heat) == 7


def test_a_merger_whose_weights_fail_costs_the_picture_and_not_the_answer(
    film, encoder, monkeypatch
):
    model, processor = wrapped("llava_onevision", encoder)

    def broken(*_):
        raise RuntimeError("no weights today")

    monkeypatch.setattr(type(model.vtc.merger), "weights", broken)
    said = vtc.ask(model, processor, film, "Where?", max_new_tokens=1).report
    assert "the weights of merger 'dfm' cannot be shown: no weights today" in said.warnings


@pytest.mark.parametrize("name", ["page.htm", "nowhere/page.html"])
def test_a_page_that_cannot_be_written_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"end in \.html|no writable folder"):
        report().save_page(tmp_path / name)


# Chromium


def chromium(file, folder, *options: str) -> str:
    """Open a page without a network; what Chromium complains of."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs chromium, which is not installed (apt install chromium)")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *options]
    run = subprocess.run(
        [*command, file.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return "\n".join(line for line in run.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("size", ["1280,1600", "390,1600"])
def test_chromium_shows_the_page_and_complains_of_nothing(size, tmp_path):
    report().save_page(tmp_path / "page.html", [Mark("needle", 30, 45)])
    shot = tmp_path / "shot.png"
    options = (f"--window-size={size}", f"--screenshot={shot}")
    assert chromium(tmp_path / "page.html", tmp_path, *options) == ""
    with Image.open(shot) as picture:
        assert picture.size == tuple(map(int, size.split(",")))
        assert len(picture.convert("RGB").getcolors(2**24) or ()) > 50


def test_chromium_refuses_what_the_policy_forbids(tmp_path):
    text = page_html(report()).replace(
        "</main>", "<script>1</script><b style='color:red'>x</b></main>"
    )
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    said = chromium(tmp_path / "page.html", tmp_path, f"--screenshot={tmp_path / 'shot.png'}")
    assert "script-src" in said and "style-src" in said


# Contact sheets


def test_a_contact_sheet_has_a_title_and_marks_the_needle():
    keyframes = [Keyframe(n, float(n), 0.5) for n in (3, 1065)]
    frames = np.stack([frame(0), frame(0)])
    plain = contact_sheet(frames, keyframes)
    titled = contact_sheet(
        frames, keyframes, title=["What is red?" * 30, "talk.mp4"], marked=[1065]
    )
    assert titled.width == plain.width and titled.height > plain.height
    red = [color for _, color in titled.getcolors(2**24) if color[0] > 150 and color[1] < 60]
    assert red and not [c for _, c in plain.getcolors(2**24) if c[0] > 150 and c[1] < 60]


def test_captions_tell_the_time_as_a_clock(monkeypatch):
    from vtc.pages import contact_sheet as module

    assert module._caption(Keyframe(1065, 1065.2, 0.25), 0) == "17:45   #1065   relevance 0.250"
    assert module._caption(Keyframe(7, None, None), 0) == "#7"


# Commands


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    vtc.testing.save_tiny_clip(folder)
    return folder


def test_select_writes_a_page_and_json_of_all_frames(command, film, clip, tmp_path):
    page = tmp_path / "page.html"
    words = ("select", film, "a red square", "--encoder", clip, "--keyframes", 3, "--page", page)
    code, out, err = command(*words, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["timestamps"] == [float(n) for n in range(12)]
    assert len(result["relevance"]) == 12
    for keyframe in result["keyframes"]:
        assert keyframe["relevance"] == result["relevance"][keyframe["index"]]
    shown = check(page.read_text(encoding="utf-8"))
    assert "a red square" in shown.text and len(shown.all("img")) == len(result["keyframes"])
    code, out, _ = command(*words)
    assert code == 0 and f"page: {page}" in out.replace("\n", "")


def test_ask_writes_a_page(command, film, clip, tmp_path):
    model, processor = vtc.testing.tiny("llava_onevision")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    page = tmp_path / "page.html"
    words = ("ask", film, "Where?", "--model", tmp_path / "model", "--encoder", clip)
    options = ("--keyframes", 3, "--max-new-tokens", 2, "--page", page, "--heat", 2)
    code, out, err = command(*words, *options)
    assert code == 0 and f"page: {page}" in out.replace("\n", ""), err
    images = check(page.read_text(encoding="utf-8")).all("img")
    assert sum("Weights" in image["alt"] for image in images) == 2


@pytest.mark.parametrize("name", ["ask", "select"])
def test_a_bad_page_is_refused_before_the_work(command, film, name):
    code, _, err = command(name, film, "x", "--encoder", "no/such", "--page", "page.txt")
    assert code == 1 and "expected the page to end in .html, got 'page.txt'" in err
