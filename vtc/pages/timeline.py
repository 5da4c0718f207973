"""The timeline of a page as SVG: the relevance of all frames, the keyframes and the gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vtc.pages.text import clock, escape

WIDTH, LEFT, RIGHT = 1000, 56, 12
"""The width and the margins of the drawing, in its units."""
TOP, BOTTOM = 26, 190
"""The y coordinates of the highest and the lowest relevance."""
LANE_TOP, THUMB, LANES, SPACE = 236, 92, 4, 6
_POINTS = 600
"""The number of columns of the curve; with more frames, each column shows its extremes."""
_MINUTE, _HOUR = 60, 3600
_STEPS: tuple[float, ...] = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 4, 10)),
)


@dataclass(frozen=True)
class Mark:
    """A marked part of the timeline, such as the needle of a demo.

    Attributes:
        name: The label.
        start, end: Seconds; frame numbers if the video has no times.
    """

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """The data of a timeline.

    Attributes:
        times: The times of all N frames, ascending: seconds, or frame numbers.
        relevance: The relevance of all N frames; None if the selector does not rank.
        keyframes: The numbers of the keyframes, ascending.
        thumbnails: The addresses of small pictures of keyframes, by number.
        anchors: The id of the element that each keyframe links to, by number.
        seconds: Whether ``times`` are seconds.
        decimals: The number of decimals of the times.
        aspect: The height of a thumbnail divided by its width.
        marks: The marked parts.
    """

    times: Sequence[float]
    relevance: Sequence[float] | None
    keyframes: Sequence[int]
    anchors: Mapping[int, str]
    thumbnails: Mapping[int, str] = field(default_factory=dict)
    seconds: bool = True
    decimals: int = 0
    aspect: float = 9 / 16
    marks: Sequence[Mark] = ()

    @property
    def end(self) -> float:
        """The end of the last frame, which lasts as long as the mean step between frames."""
        if len(self.times) < 2:
            return self.times[0] + 1 if self.times else 1.0
        return self.times[-1] + (self.times[-1] - self.times[0]) / (len(self.times) - 1)

    def label(self, time: float) -> str:
        """Return a time as text."""
        return clock(time, self.decimals) if self.seconds else f"frame {time:.0f}"

    def x(self, time: float) -> float:
        """Return the x coordinate of a time."""
        start = self.times[0] if self.times else 0.0
        share = (time - start) / max(self.end - start, 1e-9)
        return round(LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT), 1)


def timeline_svg(line: Timeline, number: int = 0) -> str:
    """Draw a timeline.

    Args:
        number: The number of the video on its page, to make the ids of elements unique.
    """
    lanes = _lanes(line)
    used = 1 + max((lane for _, lane in lanes), default=-1)
    height = LANE_TOP + used * (round(THUMB * line.aspect) + SPACE)
    title = f"{len(line.keyframes)} keyframes of {len(line.times)} frames"
    return "\n".join(
        [
            f'<svg class="timeline" viewBox="0 0 {WIDTH} {height}" role="group" '
            f'aria-labelledby="timeline-{number}-title">',
            f'<title id="timeline-{number}-title">{title}</title>',
            f'<defs><pattern id="hatch-{number}" width="6" height="6" '
            'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<line y2="6" class="hatch"/></pattern></defs>',
            *_axis(line),
            *_curve(line),
            *_marks(line, number),
            *_keyframes(line, lanes),
            "</svg>",
        ]
    )


def longest_gap(line: Timeline) -> tuple[float, float] | None:
    """Return start and end of the longest time without a keyframe; None without a gap."""
    if not line.times:
        return None
    ends = [line.times[0], *(line.times[k] for k in line.keyframes), line.end]
    gaps = [pair for pair in zip(ends, ends[1:], strict=False) if pair[1] > pair[0]]
    return max(gaps, key=lambda gap: gap[1] - gap[0], default=None)


def _marks(line: Timeline, number: int) -> list[str]:
    parts = []
    for mark in line.marks:
        left, right = line.x(mark.start), line.x(mark.end)
        width = max(2.0, round(right - left, 1))
        anchor, at = ("end", left + width) if left > WIDTH * 0.8 else ("start", left)
        parts += [
            f'<rect class="mark" x="{left}" y="{TOP}" width="{width}" height="{BOTTOM - TOP}" '
            f'fill="url(#hatch-{number})"/>',
            f'<text class="mark-name" x="{at}" y="{TOP - 8}" text-anchor="{anchor}">'
            f"{escape(mark.name)}</text>",
        ]
    return parts


def _axis(line: Timeline) -> list[str]:
    parts = [f'<path class="axis" d="M{LEFT} {BOTTOM}H{WIDTH - RIGHT}"/>']
    start = line.times[0] if line.times else 0.0
    span = max(line.end - start, 1e-9)
    step = next((step for step in _STEPS if span / step <= 10), span / 10)
    if not line.seconds:
        step = max(1.0, step)
    tick = -(-start // step) * step
    while tick < line.end:
        x = line.x(tick)
        anchor = "start" if x < LEFT + 20 else "end" if x > WIDTH - 40 else "middle"
        name = clock(tick, 0 if step >= 1 else 1) if line.seconds else f"{tick:.0f}"
        parts.append(
            f'<path class="axis" d="M{x} {BOTTOM}v6"/>'
            f'<text x="{x}" y="{BOTTOM + 22}" text-anchor="{anchor}">{name}</text>'
        )
        tick += step
    return parts


def _curve(line: Timeline) -> list[str]:
    if line.relevance is None or not len(line.relevance):
        middle = (TOP + BOTTOM) // 2
        return [f'<text class="note" x="{LEFT + 8}" y="{middle}">no relevance</text>']
    low, high = min(line.relevance), max(line.relevance)
    points = [(line.x(line.times[k]), _y(line, k)) for k in _drawn(line.relevance)]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    area = f"{path}L{points[-1][0]} {BOTTOM}L{points[0][0]} {BOTTOM}Z"
    labels = [(high, TOP)] if high == low else [(high, TOP), (low, BOTTOM)]
    return [
        f'<path class="area" d="{area}"/><path class="curve" d="{path}"/>',
        *(
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.2f}</text>'
            for value, y in labels
        ),
    ]


def _y(line: Timeline, frame: int) -> float:
    if line.relevance is None:
        return float(TOP)
    low, high = min(line.relevance), max(line.relevance)
    share = (line.relevance[frame] - low) / (high - low) if high > low else 1.0
    return round(BOTTOM - share * (BOTTOM - TOP), 1)


def _drawn(relevance: Sequence[float]) -> list[int]:
    """Return the frames of the curve's points: the lowest and the highest of each column."""
    count = len(relevance)
    if count <= 2 * _POINTS:
        return list(range(count))
    drawn = {0, count - 1}
    for column in range(_POINTS):
        frames = range(column * count // _POINTS, (column + 1) * count // _POINTS)
        drawn |= {min(frames, key=relevance.__getitem__), max(frames, key=relevance.__getitem__)}
    return sorted(drawn)


def _keyframes(line: Timeline, lanes: Sequence[tuple[int, int]]) -> list[str]:
    tall = round(THUMB * line.aspect)
    tops = {k: LANE_TOP + lane * (tall + SPACE) for k, lane in lanes}
    parts = [
        f'<path class="leader" d="M{line.x(line.times[k])} {BOTTOM + 28}V{top}"/>'
        for k, top in tops.items()
    ]
    for k in line.keyframes:
        x, y = line.x(line.times[k]), _y(line, k)
        ranked = "" if line.relevance is None else f", relevance {line.relevance[k]:.3f}"
        name = f"Keyframe at {line.label(line.times[k])}{ranked}"
        parts.append(
            f'<a href="#{line.anchors[k]}" aria-label="{name}"><title>{name}</title>'
            f'<path class="stem" d="M{x} {y}V{BOTTOM}"/>'
            f'<circle class="dot" cx="{x}" cy="{y}" r="5"/>'
        )
        if k in tops:
            parts.append(
                f'<image x="{_left(line, k):.1f}" y="{tops[k]}" width="{THUMB}" height="{tall}" '
                f'preserveAspectRatio="none" href="{line.thumbnails[k]}"/>'
            )
        parts.append("</a>")
    return parts


def _lanes(line: Timeline) -> list[tuple[int, int]]:
    """Place thumbnails below their times without overlap; return pairs of keyframe and lane.

    The most relevant keyframes are placed first; those without room get no thumbnail.
    """
    taken: list[list[float]] = [[] for _ in range(LANES)]
    ranks = line.relevance or [0.0] * len(line.times)
    lanes = []
    for k in sorted(line.keyframes, key=lambda k: (-ranks[k], k)):
        left = _left(line, k)
        free = (
            number
            for number, others in enumerate(taken)
            if all(abs(left - other) >= THUMB + SPACE for other in others)
        )
        lane = next(free, None)
        if k in line.thumbnails and lane is not None:
            taken[lane].append(left)
            lanes.append((k, lane))
    return lanes


def _left(line: Timeline, k: int) -> float:
    """Return the left edge of a keyframe's thumbnail."""
    x = line.x(line.times[k]) - THUMB / 2
    return min(WIDTH - RIGHT - THUMB, max(LEFT, x))
