"""A page about a call: one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from vtc.pages.pictures import data_uri, heat_map, heaviest_share
from vtc.pages.text import clock, clock_decimals, escape
from vtc.pages.timeline import THUMB, Mark, Timeline, longest_gap, timeline_svg

if TYPE_CHECKING:
    from PIL import Image

    from vtc.pipeline.report import Heat, Keyframe, Report, VideoReport

_WIDE_GAP = 0.1
"""A gap of this share of the video stands out on the storyboard."""


def page_html(report: Report, marks: Sequence[Mark] = ()) -> str:
    """Return a page about a call: its answer, its keyframes in time, and the costs.

    The page is one file: it has no script, and its content security policy forbids every request.
    All text in it is escaped.

    Args:
        marks: Parts of the timeline to mark.
    """
    video = report.videos[0] if report.videos else None
    question = None if video is None else video.query
    title = question or ("Keyframes" if video is None else f"Keyframes of {video.name}")
    body = [
        '<a class="skip" href="#main">Skip to the answer</a>',
        f'<header><h1>{escape(title)}</h1></header><main id="main">',
        *_answer(report),
        *_warnings(report.warnings),
        *_facts(report),
        *(part for n, item in enumerate(report.videos) for part in _video(report, item, n, marks)),
        '<div class="costs">',
        *_tokens(report),
        *_stages(report),
        "</div>",
        "</main>",
        "<footer>Written by vtc. Times are those of the sampled frames.</footer>",
    ]
    return _document(title, body)


def _document(title: str, body: Sequence[str]) -> str:
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style>",
    ]
    return "\n".join(
        ["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body]
        + ["</body>", "</html>", ""]
    )


@cache
def _style() -> str:
    return files("vtc.pages").joinpath("page.css").read_text(encoding="utf-8")


def _answer(report: Report) -> list[str]:
    if report.answer is None:
        return []
    return [f'<p class="answer">{escape(report.answer) or "(no text)"}</p>']


def _warnings(warnings: Sequence[str]) -> list[str]:
    if not warnings:
        return []
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return [f'<h2>Warnings</h2><ul class="warnings">{items}</ul>']


def _facts(report: Report) -> list[str]:
    names = ", ".join(video.name for video in report.videos)
    facts = {
        "video": names,
        "frames": f"{report.frames:,}",
        "keyframes": f"{sum(len(video.keyframes) for video in report.videos):,}",
    }
    if report.tokens_before:
        times = report.tokens_before / max(report.tokens_after, 1)
        facts["visual tokens"] = (
            f"{report.tokens_before:,} → {report.tokens_after:,} ({times:.1f} times fewer)"
        )
    if report.text_before:
        facts["text around frames"] = f"{report.text_before:,} → {report.text_after:,} tokens"
    facts["selector"] = _part(report.selector)
    if report.merger:
        facts["merger"] = _part(report.merger)
    if report.budget:
        facts["budget"] = _part(report.budget)
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return [f"<dl>{rows}</dl>"]


def _part(spec: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key}={value!r}" for key, value in spec.items() if key != "name")
    return f"{spec['name']}({options})" if options else str(spec["name"])


def _video(report: Report, video: VideoReport, number: int, marks: Sequence[Mark]) -> list[str]:
    name = escape(video.name) if len(report.videos) > 1 else ""
    heat = video.heat
    step = video.frames_per_slice
    numbers = [*(frame.index for frame in video.keyframes), *(item.index for item in heat)]
    pictures = {} if video.pictures is None else video.pictures.of(numbers)
    seconds = video.timestamps is not None
    times: Sequence[float] = video.timestamps or range(-(-video.frames // step))
    relevance = video.relevance
    if relevance is not None and not all(map(math.isfinite, relevance)):
        relevance = None
    keyframes = [frame.index // step for frame in video.keyframes]
    some = next(iter(pictures.values()), None)
    line = Timeline(
        times=times,
        relevance=relevance,
        keyframes=keyframes,
        thumbnails={
            frame.index // step: data_uri(_thumbnail(pictures[frame.index]))
            for frame in video.keyframes
            if frame.index in pictures
        },
        anchors={k: f"video-{number}-frame-{k * step}" for k in keyframes},
        seconds=seconds,
        decimals=clock_decimals(times) if seconds else 0,
        aspect=9 / 16 if some is None else some.height / some.width,
        marks=marks if number == 0 else (),
    )
    parts = [
        f'<h2 id="timeline-{number}">Timeline {name}</h2>',
        f"<p>{escape(_caption(line, video))}</p>",
        f'<div class="scroll" tabindex="0" role="region" aria-label="Timeline {name}">',
        timeline_svg(line, number),
        "</div>",
        f"<h2>Keyframes {name}</h2>",
        *_storyboard(line, video, pictures, number, step),
        *_heat(line, heat, pictures, name, step),
    ]
    return parts


def _thumbnail(picture: Image.Image) -> Image.Image:
    width = 2 * THUMB
    return picture.resize((width, max(1, round(width * picture.height / picture.width))))


def _caption(line: Timeline, video: VideoReport) -> str:
    curve = "The curve is the relevance of every frame for the question"
    if line.relevance is None:
        curve = "The selector does not rank frames"
    words = [f"{curve}; each circle is a keyframe."]
    gap = longest_gap(line)
    if gap is not None and line.seconds:
        words.append(
            f" The longest time without a keyframe is {clock(gap[1] - gap[0], line.decimals)}, "
            f"from {line.label(gap[0])} to {line.label(gap[1])}."
        )
    if video.uncovered is not None:
        share = f"{video.uncovered:.0%} of the video"
        words.append(f" {share} is more than {video.near:.0f} s from every keyframe.")
    return "".join(words)


def _storyboard(
    line: Timeline,
    video: VideoReport,
    pictures: Mapping[int, Image.Image],
    number: int,
    step: int,
) -> Iterator[str]:
    """Yield the keyframes in order, and between them the number of merged frames."""
    if not video.keyframes:
        yield '<p class="note">No frame was kept.</p>'
        return
    yield '<ol class="board">'
    last = -1
    for frame in video.keyframes:
        k = frame.index // step
        yield from _gap(line, last, k)
        yield f"<li>{_figure(line, frame, pictures.get(frame.index), number, k)}</li>"
        last = k
    yield from _gap(line, last, len(line.times))
    yield "</ol>"


def _gap(line: Timeline, last: int, k: int) -> Iterator[str]:
    frames = k - last - 1
    if frames <= 0:
        return
    start = line.times[max(last, 0)]
    end = line.times[k] if k < len(line.times) else line.end
    wide = " wide" if end - start >= _WIDE_GAP * (line.end - line.times[0]) else ""
    length = f"<span>{clock(end - start, line.decimals)}</span>" if line.seconds else ""
    where = "before" if last < 0 else "after" if k == len(line.times) else "between"
    plural = "" if frames == 1 else "s"
    yield f'<li class="gap{wide}"><span>{frames:,} frame{plural} {where}</span>{length}</li>'


def _figure(
    line: Timeline, frame: Keyframe, picture: Image.Image | None, number: int, k: int
) -> str:
    time = line.label(line.times[k])
    shown = (
        '<p class="note">picture not available</p>'
        if picture is None
        else f'<img src="{data_uri(picture)}" width="{picture.width}" height="{picture.height}" '
        f'alt="Keyframe at {time}">'
    )
    rank = "" if frame.relevance is None else f"<br>relevance {frame.relevance:.3f}"
    inside = [mark.name for mark in line.marks if mark.start <= line.times[k] < mark.end]
    badges = "".join(f"<br><mark>{escape(name)}</mark>" for name in inside)
    return (
        f'<figure id="{line.anchors[k]}"><a href="#timeline-{number}">{shown}</a>'
        f"<figcaption><strong>{time}</strong> · frame {frame.index:,}{rank}{badges}"
        "</figcaption></figure>"
    )


def _heat(
    line: Timeline,
    heat: Sequence[Heat],
    pictures: Mapping[int, Image.Image],
    name: str,
    step: int,
) -> Iterator[str]:
    shown = [item for item in heat if item.index in pictures]
    if not shown:
        return
    yield f"<h2>Merger weights {name}</h2>"
    yield (
        "<p>Relevant non-keyframes from different parts of the video: each frame, and the weights "
        "of its patches. Bright patches make up the merged token; dark ones hardly count.</p>"
    )
    yield '<ul class="heat">'
    for item in shown:
        picture = pictures[item.index]
        time = line.label(line.times[item.index // step])
        share = f"the heaviest tenth of the patches holds {heaviest_share(item.weights):.0%}"
        rank = "" if item.relevance is None else f" · relevance {item.relevance:.3f}"
        size = f'width="{picture.width}" height="{picture.height}"'
        yield (
            f'<li><figure><div class="pair"><img src="{data_uri(picture)}" {size} '
            f'alt="Frame at {time}"><img src="{data_uri(heat_map(picture, item.weights))}" {size} '
            f'alt="Weights of the frame at {time}: {share}"></div>'
            f"<figcaption><strong>{time}</strong> · frame {item.index:,}{rank} · {share}"
            "</figcaption></figure></li>"
        )
    yield "</ul>"


def _tokens(report: Report) -> Iterator[str]:
    """Yield a table of the tokens that the language model reads, by part of the prompt."""
    videos = [video for video in report.videos if video.keyframe_tokens is not None]
    if not videos:
        return
    keyframes = sum(video.keyframe_tokens or 0 for video in videos)
    merged = sum(video.merged_tokens or 0 for video in videos)
    counts = {
        "keyframes": keyframes,
        "merged frames": merged,
        "after the last frame": report.tokens_after - keyframes - merged,
        "text around frames": report.text_after,
    }
    if len(videos) == 1 and videos[0].prompt_tokens is not None:  # others may share its row
        read = report.tokens_after + report.text_after
        counts["question and other text"] = videos[0].prompt_tokens - read
    total = sum(counts.values())
    yield "<section><h2>Tokens</h2><table>"
    yield "<thead><tr><th>part</th><th>tokens</th><th>share</th></tr></thead><tbody>"
    for name, count in counts.items():
        if count:
            share = count / total
            yield (
                f"<tr><td>{name}</td><td>{count:,}</td>"
                f'<td><meter value="{share:.3f}">{share:.0%}</meter></td></tr>'
            )
    yield f"<tr><th>read by the model</th><td>{total:,}</td><td></td></tr>"
    yield "</tbody></table></section>"


def _stages(report: Report) -> Iterator[str]:
    if not report.stages:
        return
    total = sum(stage.seconds for stage in report.stages.values())
    yield "<section><h2>Time</h2><table>"
    yield "<thead><tr><th>stage</th><th>seconds</th><th>share</th></tr></thead><tbody>"
    for name, stage in report.stages.items():
        share = stage.seconds / total if total > 0 else 0.0
        yield (
            f"<tr><td>{escape(name)}</td><td>{stage.seconds:.2f}</td>"
            f'<td><meter value="{share:.3f}">{share:.0%}</meter></td></tr>'
        )
    sums = {"all stages": total}
    if report.total_seconds:
        sums["whole call"] = report.total_seconds
    for name, seconds in sums.items():
        yield f"<tr><th>{name}</th><td>{seconds:.2f}</td><td></td></tr>"
    yield "</tbody></table></section>"
