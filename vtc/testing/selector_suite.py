"""What every frame selector must pass; an author subclasses `SelectorContract`.

import vtc

class TestMine(vtc.testing.SelectorContract):
    part = vtc.selector("mine", keyframes=4)
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.frame_selector import FrameSelector, Selection
from vtc.testing.part_suite import DTYPES, PartContract, needs_cuda

Video = tuple[Tensor, Tensor | None, Tensor]
"""The arguments of ``select``: embeddings, query, timestamps."""

DIM = 16


class SelectorContract(PartContract):
    """The contract of one selector; see `PartContract` for ``part``.

    Attributes:
        budget: The most keyframes that ``part`` may choose. None: its option ``keyframes``, and
            any number where it has none.
    """

    kind: ClassVar[str] = "selector"
    budget: ClassVar[int | None] = None

    @pytest.fixture
    def selector(self) -> FrameSelector:
        made: FrameSelector = self.make()
        return made

    def video(self, frames: int = 40, seed: int = 0, dtype: torch.dtype = torch.float32) -> Video:
        """Random arguments of ``select``, of the width that the selector gets.

        Returns:
            Embeddings ``[N, d]`` of scenes of five frames, d = 0 where the selector does not look
            at them; the query ``[d]``, None where it takes none; timestamps ``[N]``, one a second.
        """
        generator = torch.Generator().manual_seed(seed)
        scenes = torch.randn(-(-frames // 5), DIM, generator=generator).repeat_interleave(5, 0)
        noise = torch.randn(frames, DIM, generator=generator)
        embeddings = F.normalize(scenes[:frames] + 0.4 * noise, dim=-1).to(dtype)
        query = F.normalize(torch.randn(DIM, generator=generator), dim=-1).to(dtype)
        timestamps = torch.arange(frames, dtype=torch.float64)
        selector = self.make()
        if not selector.uses_embeddings:
            return torch.empty(frames, 0, dtype=dtype), None, timestamps
        return embeddings, query if selector.uses_query else None, timestamps

    def check(self, selection: Selection, embeddings: Tensor) -> None:
        """A selection of a video of these embeddings ``[N, d]`` must be as the interface says."""
        keyframes, relevance = selection.keyframes, selection.relevance
        assert keyframes.dtype == torch.int64
        assert keyframes.ndim == 1
        assert keyframes.device == embeddings.device
        chosen = keyframes.tolist()
        assert chosen == sorted(set(chosen)), "keyframes must be ascending and unique"
        assert set(chosen) <= set(range(len(embeddings))), "keyframes outside the video"
        if relevance is not None:
            assert relevance.dtype == torch.float32
            assert relevance.shape == (len(embeddings),)
            assert bool(relevance.isfinite().all())

    # --- the result

    @pytest.mark.parametrize("frames", [1, 2, 3, 7, 40])
    def test_keyframes_and_relevance_are_as_promised(
        self, selector: FrameSelector, frames: int
    ) -> None:
        video = self.video(frames, seed=frames)
        self.check(selector.select(*video), video[0])

    def test_budget_is_kept(self, selector: FrameSelector) -> None:
        budget = self.budget or getattr(selector.config, "keyframes", None)
        if budget is None:
            pytest.skip("the selector has no option 'keyframes', and no budget is set")
        for frames in (1, budget, budget + 1, 10 * budget):
            assert len(selector.select(*self.video(frames)).keyframes) <= budget

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype(self, selector: FrameSelector, dtype: torch.dtype) -> None:
        video = self.video(dtype=dtype)
        self.check(selector.select(*video), video[0])

    @needs_cuda
    def test_cuda(self, selector: FrameSelector) -> None:
        embeddings, query, timestamps = self.video()
        on_gpu = embeddings.cuda(), None if query is None else query.cuda(), timestamps.cuda()
        self.check(selector.select(*on_gpu), on_gpu[0])

    # --- the same input, the same result

    def test_same_input_same_result(self, selector: FrameSelector) -> None:
        video = self.video()
        expected = selector.select(*video)
        _assert_same(selector.select(*video), expected)
        _assert_same(self.make().select(*video), expected)

    def test_other_videos_leave_no_trace(self, selector: FrameSelector) -> None:
        video, other = self.video(), self.video(frames=23, seed=1)
        expected = selector.select(*video)
        unspoilt = self.make().select(*other)
        _assert_same(selector.select(*other), unspoilt)
        _assert_same(selector.select(*video), expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_inputs_are_not_modified(self, selector: FrameSelector, dtype: torch.dtype) -> None:
        video = self.video(dtype=dtype)
        before = copy.deepcopy(video)
        selector.select(*video)
        torch.testing.assert_close(video, before, rtol=0, atol=0)

    def test_memory_layout_does_not_matter(self, selector: FrameSelector) -> None:
        embeddings, query, timestamps = self.video()
        scattered = embeddings.T.contiguous().T.repeat_interleave(2, 0)[::2]
        _assert_same(
            selector.select(scattered, query, timestamps.repeat_interleave(2)[::2]),
            selector.select(embeddings, query, timestamps),
        )

    # --- odd videos

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("case", ["identical frames", "zero vectors", "zero query"])
    def test_degenerate_videos(
        self, selector: FrameSelector, case: str, dtype: torch.dtype
    ) -> None:
        embeddings, query, timestamps = self.video(30, dtype=dtype)
        if case == "identical frames":
            embeddings = embeddings[:1].repeat(30, 1)
        elif case == "zero vectors":
            embeddings = torch.zeros_like(embeddings)
        elif query is not None:
            query = torch.zeros_like(query)
        self.check(selector.select(embeddings, query, timestamps), embeddings)

    def test_unknown_timestamps_are_fine_or_named(self, selector: FrameSelector) -> None:
        embeddings, query, _ = self.video()
        try:
            selection = selector.select(embeddings, query, None)
        except ValueError as error:
            assert "timestamps" in str(error)
        else:
            self.check(selection, embeddings)

    def test_a_query_is_needed_or_makes_no_difference(self, selector: FrameSelector) -> None:
        embeddings, query, timestamps = self.video()
        if selector.uses_query:
            assert selector.uses_embeddings, "without embeddings no query is given either"
            with pytest.raises(ValueError, match="query"):
                selector.select(embeddings, None, timestamps)
        else:
            _assert_same(
                selector.select(embeddings, torch.ones(embeddings.shape[1]), timestamps),
                selector.select(embeddings, query, timestamps),
            )

    def test_embeddings_make_no_difference_where_not_used(self, selector: FrameSelector) -> None:
        if selector.uses_embeddings:
            pytest.skip("the selector looks at embeddings")
        _, _, timestamps = self.video()
        _assert_same(
            selector.select(torch.randn(len(timestamps), DIM), None, timestamps),
            selector.select(torch.empty(len(timestamps), 0), None, timestamps),
        )

    def test_numbers_that_are_not_finite_are_refused(self, selector: FrameSelector) -> None:
        if not selector.uses_embeddings:
            pytest.skip("the selector does not look at embeddings")
        for bad in (torch.nan, torch.inf):
            embeddings, query, timestamps = self.video()
            if query is not None:
                with pytest.raises(ValueError):
                    selector.select(embeddings, torch.full_like(query, bad), timestamps)
            embeddings[7] = bad
            with pytest.raises(ValueError):
                selector.select(embeddings, query, timestamps)

    def test_wrong_shapes_are_refused(self, selector: FrameSelector) -> None:
        embeddings, query, timestamps = self.video()
        for wrong in (embeddings.sum(1), embeddings[None], embeddings[:0]):
            with pytest.raises(ValueError):
                selector.select(wrong, query, timestamps[: len(wrong)])
        for wrong in () if query is None else (query[:-1], query[None]):
            with pytest.raises(ValueError):
                selector.select(embeddings, wrong, timestamps)

    def test_0_keyframes_are_refused(self, selector: FrameSelector) -> None:
        if not hasattr(selector.config, "keyframes"):
            pytest.skip("the selector has no option 'keyframes'")
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="keyframes"):
                replace(selector.config, keyframes=wrong)


def _assert_same(one: Selection, other: Selection) -> None:
    assert one.keyframes.tolist() == other.keyframes.tolist()
    if one.relevance is None or other.relevance is None:
        assert one.relevance is other.relevance is None
    else:
        torch.testing.assert_close(one.relevance, other.relevance, rtol=1e-6, atol=1e-6)
