"""The contract of token budgets."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from vtc.interfaces.token_budget import SHARED, FrameStatistics, TokenBudget, VideoPatches
from vtc.testing._demands import PURITY, demand
from vtc.testing.part_suite import PartContract, needs_basics

_LAYOUTS = [
    (1, []),
    (1, [0]),
    (7, [3]),
    (60, []),
    (60, [0, 1, 30, 59]),
    (200, [199]),
]
"""Pairs of a number of frames and the keyframes among them."""
_TOTALS = [20, 70, 300]
"""Numbers of tokens for 58 frames: less than one each, about one, and several."""


def statistics_of(
    count: int,
    keyframes: list[int],
    tokens_per_frame: int = 9,
    known: bool = True,
    chunk: int = 7,
) -> FrameStatistics:
    """Return random statistics; with ``known=False`` those of a selector without embeddings."""
    generator = torch.Generator().manual_seed(count)
    numbers = torch.rand(3, count, generator=generator)
    patches = torch.randn(count, tokens_per_frame, 16, generator=generator)
    return FrameStatistics(
        torch.tensor(keyframes, dtype=torch.int64),
        tokens_per_frame,
        count,
        relevance=numbers[0] if known else None,
        previous_similarity=numbers[1] if known else None,
        keyframe_similarity=numbers[2] if known else None,
        timestamps=torch.arange(count, dtype=torch.float64) if known else None,
        patches=VideoPatches(lambda: iter(torch.split(patches, chunk))),
    )


class BudgetContract(PartContract):
    """The checks of a token budget; set ``part`` in a subclass.

    >>> class TestMine(vtc.testing.BudgetContract):
    ...     part = vtc.budget("even", max_tokens=512)
    """

    kind = "budget"
    basics: ClassVar[tuple[str, ...]] = ("test_part_can_be_made", "test_shape_and_dtype")

    def shared(self, statistics: FrameStatistics, total: int) -> Tensor:
        """Return the allocation of a new part."""
        budget: TokenBudget = self.make()
        return budget.allocate(statistics, total)

    @needs_basics
    def test_shape_and_dtype(self) -> None:
        tokens = self.shared(statistics_of(7, [3]), 5)
        demand(
            isinstance(tokens, Tensor) and tokens.dtype == torch.int64 and tokens.shape == (7,),
            f"expected allocate to return [7] int64, got {tokens!r} (Budgets, docs/plugins.md)",
        )

    @needs_basics
    @pytest.mark.parametrize("known", [True, False], ids=["statistics", "no statistics"])
    @pytest.mark.parametrize(("count", "keyframes"), _LAYOUTS)
    def test_total_is_kept_and_groups_are_runs(
        self, count: int, keyframes: list[int], known: bool
    ) -> None:
        statistics = statistics_of(count, keyframes, known=known)
        others = [number for number in range(count) if number not in keyframes]
        for total in (0, 1, 5, count, 3 * count, 9 * count, 100 * count):
            try:
                tokens = self.shared(statistics, total).tolist()
            except ValueError as error:
                if known or "selector" not in str(error):
                    raise
                return  # the budget needs statistics that only some selectors provide
            used = sum(max(tokens[number], 0) for number in others)
            demand(used <= total, f"expected at most {total} tokens, got {used} for {count} frames")
            for number in others:
                demand(
                    SHARED <= tokens[number] <= 9,
                    f"expected from -1 to 9 tokens of a frame, got {tokens[number]}",
                )
                before = tokens[number - 1] if number and number - 1 in others else 0
                demand(
                    tokens[number] != SHARED or before in (1, SHARED),
                    f"frame {number} shares the token of a frame that has {before} tokens "
                    "(Budgets, docs/plugins.md)",
                )

    @needs_basics
    @pytest.mark.parametrize("total", _TOTALS)
    def test_chunks_do_not_matter(self, total: int) -> None:
        first, *others = (
            self.shared(statistics_of(60, [0, 30], chunk=chunk), total) for chunk in (1, 7, 60)
        )
        demand(
            all(torch.equal(first, other) for other in others),
            "the tokens depend on how the video's patches are cut into chunks (Budgets, "
            "docs/plugins.md)",
        )

    @needs_basics
    @pytest.mark.parametrize("total", _TOTALS)
    def test_same_arguments_give_the_same_tokens(self, total: int) -> None:
        statistics = statistics_of(60, [0, 30])
        copies = [statistics.relevance, statistics.previous_similarity, statistics.keyframes]
        before = [None if tensor is None else tensor.clone() for tensor in copies]
        budget: TokenBudget = self.make()
        first, second = (budget.allocate(statistics, total) for _ in range(2))
        demand(torch.equal(first, second), f"two equal calls differ {PURITY}")
        for tensor, copy in zip(copies, before, strict=True):
            same = tensor is None or (copy is not None and torch.equal(tensor, copy))
            demand(same, f"allocate changed its arguments {PURITY}")
