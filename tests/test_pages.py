"""Pages that show why: their structure, what they say, and that nothing in them asks or runs."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from page_checks import HOSTILE, check, report
from PIL import Image

from vtc.pages.page import page_html
from vtc.pages.pictures import heat_map, heaviest_share
from vtc.pages.text import clock, escape
from vtc.pages.timeline import Mark, Timeline, longest_gap, timeline_svg
from vtc.pipeline.report import Stage, VideoReport


def test_a_page_holds_question_answer_times_tokens_stages_and_warnings():
    text = page_html(report())
    page = check(text)
    for words in ("What is red?", "red", "talk.mp4", "19,600 → 700 (28.0 times fewer)"):
        assert words in page.text
    for words in ("dfm(temperature=0.01)", "a frame was damaged", "decoding", "4.00"):
        assert words in page.text
    # The last keyframe is at 0:41 of 1:40.
    assert "The longest time without a keyframe is 0:59, from 0:41 to 1:40" in page.text
    assert "keyframes602" in page.text and "merged frames97" in page.text
    assert "after the last frame1" in page.text and "question and other text20" in page.text
    assert "read by the model720" in page.text and "text around frames" not in page.text
    tokens, seconds = [0.836, 0.135, 0.001, 0.028], [0.25, 0.75]
    assert [float(meter["value"]) for meter in page.all("meter")] == tokens + seconds


def mean_colour(address):
    """The mean colour of a picture in an address."""
    data = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data))).mean(axis=(0, 1))


def test_each_keyframe_has_a_picture_a_circle_and_a_link_and_gaps_stand_between():
    page = check(page_html(report()))
    figures = [attrs["id"] for attrs in page.all("figure") if "id" in attrs]
    assert figures == ["video-0-frame-0", "video-0-frame-40", "video-0-frame-41"]
    assert len(page.all("circle", "dot")) == len(page.all("image")) == 3
    thumbnails = [mean_colour(image["href"]) for image in page.all("image")]
    pictures = [mean_colour(img["src"]) for img in page.all("img") if "Keyframe" in img["alt"]]
    np.testing.assert_allclose(thumbnails, pictures, atol=3)
    assert not np.allclose(pictures[0], pictures[1], atol=6)
    links = [link["href"] for link in page.all("a") if "frame" in link["href"]]
    assert links == [f"#{name}" for name in figures]
    # From keyframe to keyframe, as the longest time without one.
    assert "39 frames between0:40" in page.text and "58 frames after0:59" in page.text
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
