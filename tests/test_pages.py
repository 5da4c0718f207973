"""Pages that show why: their structure, what they say, and that nothing in them asks or runs."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import vtc
from vtc.pages.contact_sheet import contact_sheet
from vtc.pages.page import page_html
from vtc.pages.pictures import Pictures, heat_map, heaviest_share
from vtc.pages.text import clock, escape
from vtc.pages.timeline import Mark, Timeline, longest_gap, timeline_svg
from vtc.pipeline.report import Heat, Keyframe, Report, Stage, VideoReport

HOSTILE = """<script>alert('x')</script>"><img src=//e.com onerror=a> & \u202e \x1b[31m"""
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """The elements of a page; refuses one that is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str, css: str | None = None) -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and (css is None or css in (attrs.get("class") or "").split())
        ]


def check(text: str) -> Page:
    """Check what holds for every page, and return it."""
    page = Page(text)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    ids = Counter(attrs["id"] for _, attrs in page.elements if attrs.get("id"))
    assert set(ids.values()) <= {1}, ids
    for tag, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            address = attrs.get(name)
            if address is not None and not address.startswith("data:image/jpeg;base64,"):
                assert address.startswith("#") and address[1:] in ids, address
        if tag == "img":
            assert attrs["alt"] and attrs["width"] and attrs["height"]
    [policy] = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    [style] = re.findall("<style>(.*?)</style>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"'sha256-{digest}'" in policy and "unsafe" not in policy and "url(" not in style
    assert len(page.all("h1")) == 1 and page.all("html")[0]["lang"] == "en"
    assert any("width=device-width" in (m.get("content") or "") for m in page.all("meta"))
    return page


def frame(number: int, height: int = 90, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), number % 256, dtype=np.uint8)


def report(
    frames: int = 100, keyframes=(0, 40, 41), heat=(10,), relevance=True, text="red"
) -> Report:
    ranks = tuple(float(np.sin(n / 7)) for n in range(frames)) if relevance else None
    rank = (lambda n: ranks[n]) if ranks else (lambda n: None)
    weights = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    video = VideoReport(
        name="talk.mp4",
        frames=frames,
        keyframes=tuple(Keyframe(n, float(n), rank(n)) for n in keyframes),
        tokens_before=19600,
        tokens_after=700,
        query="What is red?",
        timestamps=tuple(map(float, range(frames))),
        relevance=ranks,
        heat=tuple(Heat(n, rank(n), weights) for n in heat),
        pictures=Pictures((n, frame(n)) for n in (*keyframes, *heat)),
    )
    stages = {"decoding": Stage(1.0), "merging": Stage(3.0)}
    merger = {"name": "dfm", "temperature": 0.01}
    return Report({"name": "dks"}, merger, [video], stages, ["a frame was damaged"], text)


def test_a_page_holds_question_answer_times_tokens_stages_and_warnings():
    text = page_html(report())
    page = check(text)
    for words in ("What is red?", "red", "talk.mp4", "19,600 → 700 (28.0 times fewer)"):
        assert words in page.text
    for words in ("dfm(temperature=0.01)", "a frame was damaged", "decoding", "4.00"):
        assert words in page.text
    # The last keyframe is at 0:41 of 1:40.
    assert "The longest time without a keyframe is 0:59, from 0:41 to 1:40" in page.text
    assert [float(meter["value"]) for meter in page.all("meter")] == [0.25, 0.75]


def test_each_keyframe_has_a_picture_a_circle_and_a_link_and_gaps_stand_between():
    page = check(page_html(report()))
    figures = [attrs["id"] for attrs in page.all("figure") if "id" in attrs]
    assert figures == ["video-0-frame-0", "video-0-frame-40", "video-0-frame-41"]
    assert len(page.all("circle", "dot")) == len(page.all("image")) == 3
    links = [link["href"] for link in page.all("a") if "frame" in link["href"]]
    assert links == [f"#{name}" for name in figures]
    assert "39 frames between0:39" in page.text and "58 frames after0:58" in page.text
    assert len(page.all("li", "gap")) == 2  # none before frame 0, none between 40 and 41


def test_frames_with_weights_stand_beside_their_heat_map():
    page = check(page_html(report(heat=(10, 20))))
    alts = [image["alt"] for image in page.all("img")]
    assert [alt for alt in alts if alt.startswith("Weights of the frame at 0:10")]
    assert len(alts) == 3 + 2 * 2
    assert "Weights" not in str([i["alt"] for i in check(page_html(report(heat=()))).all("img")])


def test_hostile_text_is_shown_as_it_is():
    hostile = report(text=HOSTILE)
    hostile.videos[0] = VideoReport(
        **{**vars(hostile.videos[0]), "query": HOSTILE, "name": HOSTILE}
    )
    hostile.warnings.append(HOSTILE)
    hostile.stages[HOSTILE] = Stage(0.1)
    hostile.merger["name"] = HOSTILE
    page = check(page_html(hostile, [Mark(HOSTILE, 3, 9)]))
    assert page.text.count("<script>alert('x')</script>\"><img src=//e.com onerror=a> &") >= 7
    assert "\x1b" not in page.text and "\u202e" not in page.text


def test_the_checks_of_a_page_can_fail():
    good = page_html(report())
    for old, new in (
        ("<h2", "<script>1</script><h2"),
        ('<p class="answer">', '<p class="answer" onclick="a()">'),
        ("</main>", '<img src="https://e.com/a.png" alt="a" width="1" height="1"></main>'),
        ('href="#timeline-0"', 'href="#nowhere"'),
        ("</dl>", ""),
        ("img-src data:", "img-src *"),
    ):
        assert old in good
        with pytest.raises(AssertionError):
            check(good.replace(old, new, 1))


@pytest.mark.parametrize("keyframes", [(), (5,)])
@pytest.mark.parametrize("relevance", [True, False])
def test_calls_without_keyframes_ranks_or_times_have_a_page(keyframes, relevance):
    odd = report(frames=6, keyframes=keyframes, heat=(), relevance=relevance)
    check(page_html(odd))
    odd.videos[0] = VideoReport(**{**vars(odd.videos[0]), "timestamps": None})
    assert ("frame 5" in check(page_html(odd)).text) == bool(keyframes)
    odd.videos.append(odd.videos[0])
    assert len(check(page_html(odd)).all("svg")) == 2
    odd.videos.clear()
    check(page_html(odd))


def test_the_curve_of_a_long_video_keeps_its_peaks():
    times, relevance = [float(n) for n in range(10_000)], [0.0] * 10_000
    relevance[6173], relevance[811] = 1.0, -1.0
    line = Timeline(times, relevance, [6173], {6173: "f"})
    svg = timeline_svg(line)
    [path] = re.findall('class="curve" d="M([^"]*)"', svg)
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert len(points) < 2_000
    assert (line.x(6173.0), 26.0) in points and (line.x(811.0), 190.0) in points
    assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_every_frame_of_a_short_video_is_on_the_curve():
    values = [0.1, 0.4, 0.2]
    svg = timeline_svg(Timeline([0.0, 1.0, 2.0], values, [], {}))
    [path] = re.findall('class="curve" d="M([^"]*)"', svg)
    heights = [float(point.split()[1]) for point in path.split("L")]
    assert heights == pytest.approx([190 - (v - 0.1) / 0.3 * 164 for v in values], abs=0.1)


def test_the_longest_gap_counts_start_and_end():
    assert longest_gap(Timeline([0.0, 1.0, 2.0, 3.0], None, [3], {})) == (0.0, 3.0)
    assert longest_gap(Timeline([0.0, 1.0, 2.0, 3.0], None, [0], {})) == (0.0, 4.0)
    assert longest_gap(Timeline([], None, [], {})) is None


def test_thumbnails_do_not_overlap_and_the_most_relevant_ones_are_drawn():
    times, keyframes = [float(n) for n in range(1000)], list(range(500, 530))
    relevance = [float(n) for n in times]
    line = Timeline(
        times, relevance, keyframes, {k: "f" for k in keyframes}, dict.fromkeys(keyframes, "#")
    )
    images = [
        (float(x), float(y))
        for x, y in re.findall('<image x="([^"]*)" y="([^"]*)"', timeline_svg(line))
    ]
    assert 4 <= len(images) < 30
    for n, (x, y) in enumerate(images):
        assert all(y != other or abs(x - left) >= 92 for left, other in images[:n])
    assert timeline_svg(line).rindex("<image") > timeline_svg(line).rindex(
        'aria-label="Keyframe at 8:49'
    )


@pytest.mark.parametrize(
    ("seconds", "decimals", "text"),
    [
        (0, 0, "0:00"),
        (1065.2, 0, "17:45"),
        (59.6, 0, "1:00"),
        (3661, 0, "1:01:01"),
        (65.25, 1, "1:05.2"),
    ],
)
def test_times_are_those_of_a_clock(seconds, decimals, text):
    assert clock(seconds, decimals) == text


def test_escaped_text_is_safe_in_attributes():
    assert escape("\"'<>&") == "&quot;&#x27;&lt;&gt;&amp;"


def test_a_heat_map_is_as_bright_as_the_weights():
    picture = Image.fromarray(np.full((40, 40, 3), 200, dtype=np.uint8))
    weights = np.array([[0.0, 0.1], [0.2, 0.4]], dtype=np.float32)
    bright = np.asarray(heat_map(picture, weights)).astype(float)
    means = [bright[y : y + 20, x : x + 20].mean() for y in (0, 20) for x in (0, 20)]
    assert means == pytest.approx([30, 72, 115, 200], abs=3)
    assert heaviest_share(np.array([[1, 1, 1, 1, 6]], dtype=np.float32)) == pytest.approx(0.6)


# Real calls


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
    source = vtc.VideoSource(film, keep=2**30)
    said = vtc.ask(model, processor, source, "Where?", max_new_tokens=1).report
    assert source._reader._kept and not hasattr(said.videos[0].pictures._source._reader, "_kept")
    assert len(pickle.dumps(said)) < 50_000
    plain = json.loads(json.dumps(said.to_dict()))
    assert plain["answer"] == said.answer and len(plain["videos"][0]["relevance"]) == 12
    assert not plain["videos"][0].keys() & {"heat", "pictures"}


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
