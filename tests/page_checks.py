"""What holds for every page, and a report that has everything a page shows."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np

from vtc.pages.pictures import Pictures
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
        keyframe_tokens=602,
        merged_tokens=97,
        prompt_tokens=720,
    )
    stages = {"decoding": Stage(1.0), "merging": Stage(3.0)}
    merger = {"name": "dfm", "temperature": 0.01}
    return Report({"name": "dks"}, merger, [video], stages, ["a frame was damaged"], text)
