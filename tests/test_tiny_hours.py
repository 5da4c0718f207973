"""Videos of hours in the training of the tiny models: thinned, with the keyframes of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc
from vtc.plugins import registry
from vtc_recipes.reading import apply_overrides, load_yaml
from vtc_recipes.schema import RecipeError
from vtc_recipes.shipped import find_config
from vtc_recipes.synthetic.questions import solve
from vtc_recipes.tiny.curriculum import draw_budgeted_hours, draw_hours
from vtc_recipes.tiny.features import Features
from vtc_recipes.tiny.needles import bury
from vtc_recipes.tiny.reading import parse_tiny
from vtc_recipes.tiny.sequences import Dialogue
from vtc_recipes.tiny.vlm import tokens_of
from vtc_recipes.tiny.world import World, thin


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), total=st.integers(80, 600), count=st.integers(50, 75))
def test_a_thinned_video_stands_for_the_whole(seed: int, total: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    keyframes = np.sort(rng.choice(total, 3, replace=False))
    first = int(rng.integers(total - 12))
    rows = torch.arange(total) + 1000  # a row tells the number of its frame
    whole = Dialogue(rows, torch.from_numpy(keyframes), "", torch.zeros(4), [("a?", "b")])
    thinned = thin(rng, whole, [(first, first + 12)], count)
    numbers = thinned.rows - 1000
    assert len(numbers) == count and bool((numbers.diff() > 0).all())
    assert numbers[thinned.keyframes].tolist() == keyframes.tolist()
    # Every frame before adds one position, removed or not.
    assert (torch.arange(count) + thinned.gaps.cumsum(0)).tolist() == numbers.tolist()
    assert thinned.crowd.sum().item() == pytest.approx(total, rel=1e-5)
    beside = {n for k in keyframes.tolist() for n in range(k - 4, k + 5) if 0 <= n < total}
    near = beside | set(range(first, first + 12))
    weights = dict(zip(numbers.tolist(), thinned.crowd.tolist(), strict=True))
    assert near <= weights.keys() and all(weights[n] == 1 for n in near)
    assert len({w for n, w in weights.items() if n not in near}) == 1
    with pytest.raises(ValueError, match=f"^expected count to be {len(near) + 1} to "):
        thin(rng, whole, [(first, first + 12)], len(near))


def test_a_question_about_hours_is_about_the_needles_and_its_keyframes_are_nearest() -> None:
    rng = np.random.default_rng(0)
    example, needles = bury(rng, 800, 100, "after", "train", scenes=2000, rare_shapes=2)
    assert len(needles) == 3 and solve(example.question, example.video) == {example.question.answer}
    form = draw_hours(rng)
    assert form.kept and form.scenes * 8 == form.frames and form.buried and form.rare in (2, 4)


def test_a_video_without_a_fair_question_of_the_kind_is_drawn_again() -> None:
    """For example, two scenes with the shape follow one another, or none follows the last."""
    for seed in range(20):  # 3 of these had none
        rng = np.random.default_rng(seed)
        example, _ = bury(rng, 24, 6, "after", "train", scenes=300, rare_shapes=2)
        assert solve(example.question, example.video) == {example.question.answer}


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("vtc.budget=null", "vtc.budget with a number of max_tokens"),
        ("vtc.budget=auto", "vtc.budget with a number of max_tokens"),
        ("vtc.budget=foveated", "vtc.budget with a number of max_tokens"),
        ("vtc.budget=1", "a vtc.budget of at least 2 tokens, got 1"),
        ("vtc.budget={name: evs, max_tokens: 99}", "another vtc.budget: this one looks at the"),
        ("vtc.merger=drop", "a vtc.merger that can make any number of tokens: dfm or mean_pool"),
        ("vtc.merger=divprune", "a vtc.merger that can make any number of tokens"),
    ],
)
def test_the_stage_hours_names_what_its_budget_lacks(setting: str, problem: str) -> None:
    values = load_yaml(find_config("tiny_shipped", "training"))
    assert parse_tiny(values, "shipped").stages[-1].name == "hours"
    with pytest.raises(RecipeError, match=f"'hours' needs {problem}"):
        parse_tiny(apply_overrides(values, [setting]), "shipped")


def test_whole_videos_of_hours_have_the_tokens_of_their_budget() -> None:
    budget = registry.build_budget(vtc.budget("foveated", max_tokens=1024))
    rng = np.random.default_rng(0)
    assert {draw_budgeted_hours(rng, budget).selector for _ in range(20)} == {"dks", "dks_next"}
    form = draw_budgeted_hours(rng, budget)
    assert form.kept == 0 and form.frames >= 4000 and tokens_of(form) == 1024
    rows = torch.arange(form.frames)
    keyframes = torch.arange(0, form.frames, 500)
    world = World(
        "train", 1, Features(*torch.zeros(2, 0, 0, 0)), torch.eye(2)[rows % 2], None, None
    )
    fitting, tokens = world.share(budget, rows, vtc.Selection(keyframes, None))
    assert torch.equal(fitting, keyframes) and int(tokens.clamp(min=0).sum()) == 1023
