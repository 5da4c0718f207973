"""The truth of synthetic videos, read off their pixels by a slow eye that knows only templates.

The eye shares nothing with the code that draws: it finds bright blobs in the quarters of a frame,
names their colours, and compares their outlines with polygons that Pillow draws.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vtc_recipes.synthetic.cases import make_cases
from vtc_recipes.synthetic.examples import make_example
from vtc_recipes.synthetic.questions import KINDS
from vtc_recipes.synthetic.scenes import Scene

SIZE = 96
GRID = 40
PALETTE = {
    "red": (225, 45, 45),
    "green": (45, 185, 70),
    "blue": (55, 95, 235),
    "yellow": (240, 215, 50),
    "purple": (170, 60, 205),
    "cyan": (60, 215, 225),
}


def polygon(draw, points, turn):
    cos, sin = math.cos(turn), math.sin(turn)
    turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in points]
    draw.polygon([(100 + 70 * x, 100 + 70 * y) for x, y in turned], fill=1)


def on_circle(radius, degrees):
    return radius * math.sin(math.radians(degrees)), -radius * math.cos(math.radians(degrees))


def template(shape, turn):
    image = Image.new("1", (200, 200))
    draw = ImageDraw.Draw(image)
    if shape in ("circle", "ring", "moon"):
        draw.ellipse((30, 30, 170, 170), fill=1)
    if shape == "ring":
        hole = 70 * 0.5 / 0.9
        draw.ellipse((100 - hole, 100 - hole, 100 + hole, 100 + hole), fill=0)
    if shape == "moon":
        x, y = 100 + 70 * 0.53 * math.cos(turn), 100 + 70 * 0.53 * math.sin(turn)
        draw.ellipse((x - 55, y - 55, x + 55, y + 55), fill=0)
    if shape == "square":
        polygon(draw, [(-1, -1), (1, -1), (1, 1), (-1, 1)], turn)
    if shape == "diamond":
        polygon(draw, [(0, -1), (0.77, 0), (0, 1), (-0.77, 0)], turn)
    if shape == "triangle":
        polygon(draw, [(0, -0.7), (0.87, 0.8), (-0.87, 0.8)], turn)
    if shape == "cross":
        for bar in ((0.95, 0.27), (0.27, 0.95)):
            polygon(draw, [(a * bar[0], b * bar[1]) for a, b in CORNERS], turn)
    if shape == "star":
        tips = [on_circle(1.0 if k % 2 == 0 else 0.42, 36 * k) for k in range(10)]
        polygon(draw, tips, turn)
    if shape == "spark":
        for k in range(4):
            x, y = 70 * math.cos(math.pi * k / 4), 70 * math.sin(math.pi * k / 4)
            draw.line((100 - x, 100 - y, 100 + x, 100 + y), fill=1, width=13)
    return fit(np.asarray(image))


CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def fit(mask):
    """A mask cropped to what it covers and blown up to a grid, with its true proportions."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(crop.shape)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
    square[top : top + crop.shape[0], left : left + crop.shape[1]] = crop * 255
    resized = Image.fromarray(square).resize((GRID, GRID), Image.Resampling.BILINEAR)
    return np.asarray(resized) > 127


SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "star", "moon", "spark")
TEMPLATES = [(shape, template(shape, t)) for shape in SHAPES for t in np.linspace(-0.2, 0.2, 7)]


def see(frame):
    """The objects of a frame: {shape: colour}."""
    found = {}
    half = len(frame) // 2
    for rows in (slice(0, half), slice(half, None)):
        for columns in (slice(0, half), slice(half, None)):
            part = frame[rows, columns].astype(np.float64)
            # The backdrop is dull and dark; paint is neither.
            vivid = (part.max(-1) - part.min(-1) > 90) & (part.max(-1) > 140)
            if vivid.sum() < 40:
                continue
            mean = part[vivid].mean(0)
            colour = min(PALETTE, key=lambda name: np.abs(mean - PALETTE[name]).sum())
            mask = fit(vivid)
            scores = [((mask & t).sum() / (mask | t).sum(), shape) for shape, t in TEMPLATES]
            shape = max(scores)[1]
            assert shape not in found
            found[shape] = colour
    return found


def runs(flags):
    """Ranges, first and end, in which flags are set."""
    edges = np.flatnonzero(np.diff([0, *map(int, flags), 0]))
    return [tuple(pair) for pair in edges.reshape(-1, 2).tolist()]


def check(frames, kind, text, answer, evidence):
    """The evidence holds all frames that bear on the question, and they say the answer."""
    seen = [see(frame) for frame in frames]
    words = text.rstrip("?").split()
    if kind == "spark":
        assert runs("spark" in objects for objects in seen) == [*evidence]
        assert {objects["spark"] for objects in seen if "spark" in objects} == {answer}
        return
    shape = words[-1]
    shown = [objects.get(shape) for objects in seen]
    if kind == "after":
        colour, (first, second) = words[3], evidence
        assert runs(colour is not None for colour in shown) == [first] and first[1] == second[0]
        for objects in seen[slice(*second)]:
            assert [name for name in SHAPES[:-1] if objects.get(name) == colour] == [answer]
        assert second[1] == len(seen) or set(seen[second[1]]) - {"spark"} != set(
            seen[second[0]]
        ) - {"spark"}
        return
    asked = [k for k, colour in enumerate(shown) if colour is not None]
    assert asked == [k for first, end in evidence for k in range(first, end)]
    if kind in ("colour", "texture"):
        assert len(evidence) == 1
        # The eye sees objects, not what is behind them.
        assert kind == "texture" or set(shown) - {None} == {answer}
        return
    one, other = ({shown[k] for k in range(*pair)} for pair in evidence)
    assert (one if kind == "first" else other) == {answer}
    assert len(one) == len(other) == 1 and one != other


def test_the_eye_sees_what_scenes_say_they_hold():
    for seed in range(60):
        scene = Scene(seed, "validation", SIZE)
        lit = scene.spark.start if scene.spark else 0
        for number in (0, 17, lit):
            truth = {thing.shape: thing.colour for thing in scene.objects}
            spark = scene.spark
            if spark and spark.start <= number < spark.start + spark.length:
                truth["spark"] = spark.colour
            assert see(scene.frame(number)) == truth, (seed, number)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_evidence_is_true_and_the_answer_is_the_only_one(kind, seed):
    example = make_example(seed, frames=24, kind=kind, split="test", size=SIZE)
    question, video = example.question, example.video
    check(video.frames(range(24)), kind, question.text, question.answer, question.evidence)


@pytest.mark.parametrize("number", range(5))
def test_nothing_in_the_haystack_answers_the_question(number):
    case = make_cases([40], [0.6], 5, size=(SIZE, SIZE), needle_frames=12)[number]
    check(case.video().frames(), case.kind, case.question, case.answer, case.evidence)
