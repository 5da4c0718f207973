"""Videos of hours in the training of the tiny models: thinned, with the keyframes of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vtc_recipes.synthetic.questions import solve
from vtc_recipes.tiny.curriculum import draw_hours
from vtc_recipes.tiny.needles import bury
from vtc_recipes.tiny.sequences import Dialogue
from vtc_recipes.tiny.world import thin


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
