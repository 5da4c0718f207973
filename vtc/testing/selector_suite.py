"""The contract of frame selectors. To test a selector, subclass `SelectorContract`.

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

from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.plugins.discovery import cause
from vtc.testing._demands import (
    PURITY,
    demand,
    demand_device,
    demand_untouched,
    fail,
    listed,
    refused,
)
from vtc.testing.part_suite import DTYPES, PartContract, needs_basics, needs_cuda

Video = tuple[Tensor, Tensor | None, Tensor]
"""The arguments of ``select``: embeddings, query, timestamps."""

DIM = 16


class SelectorContract(PartContract):
    """The contract of a selector; see `PartContract` for ``part``.

    Attributes:
        budget: The maximum number of keyframes of ``part``. None: its option ``keyframes``; no
            maximum without such an option.
    """

    kind: ClassVar[str] = "selector"
    basics: ClassVar[tuple[str, ...]] = (
        *PartContract.basics,
        "test_keyframes_and_relevance_are_as_promised",
        "test_inputs_are_not_modified",
        "test_same_input_same_result",
    )
    budget: ClassVar[int | None] = None

    @pytest.fixture
    def selector(self, basics_hold: None) -> FrameSelector:
        selector: FrameSelector = self.make()
        return selector

    def video(self, frames: int = 40, seed: int = 0, dtype: torch.dtype = torch.float32) -> Video:
        """Make random arguments of ``select``.

        Returns:
            Embeddings ``[N, d]`` of scenes of five frames, d = 0 if the selector does not use
            them; the query ``[d]``, None if it does not use one; timestamps ``[N]``, one frame
            per second.
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

    def select(
        self,
        selector: FrameSelector,
        embeddings: Tensor,
        query: Tensor | None,
        timestamps: Tensor | None,
    ) -> Selection:
        """Select, and demand a result of the types of the interface."""
        selection = selector.select(embeddings, query, timestamps)
        where = "vtc.Selection(keyframes, relevance)"
        demand(
            isinstance(selection, Selection),
            f"select must return {where}, got {_kind(selection)}",
        )
        keyframes, relevance = selection.keyframes, selection.relevance
        demand(
            isinstance(keyframes, Tensor),
            f"keyframes must be a tensor [K'] of int64, got {_kind(keyframes)}; see {where}",
        )
        demand(
            relevance is None or isinstance(relevance, Tensor),
            f"relevance must be a tensor [N] of float32, or None, got {_kind(relevance)}; "
            f"see {where}",
        )
        return selection

    def check(
        self,
        selector: FrameSelector,
        embeddings: Tensor,
        query: Tensor | None,
        timestamps: Tensor | None,
    ) -> None:
        """Select, and demand a result with the shapes and dtypes of the interface."""
        selection = self.select(selector, embeddings, query, timestamps)
        keyframes, relevance = selection.keyframes, selection.relevance
        frames, device = len(embeddings), embeddings.device
        demand(
            keyframes.ndim == 1 and keyframes.dtype == torch.int64,
            f"keyframes must be [K'] of int64, got {list(keyframes.shape)} of {keyframes.dtype}; "
            "see vtc.Selection",
        )
        demand_device("keyframes", keyframes, device)
        indices = keyframes.tolist()
        demand(
            indices == sorted(set(indices)),
            f"keyframes must be ascending and unique, got {indices}",
        )
        demand(
            set(indices) <= set(range(frames)),
            f"keyframes of {frames} frames must be in 0 ... {frames - 1}, got {indices}",
        )
        if relevance is not None:
            demand(
                relevance.shape == (frames,) and relevance.dtype == torch.float32,
                f"relevance of {frames} frames must be [{frames}] of float32, got "
                f"{list(relevance.shape)} of {relevance.dtype}; see vtc.Selection",
            )
            demand_device("relevance", relevance, device)
            wrong = (~relevance.isfinite()).nonzero().flatten()
            demand(not len(wrong), f"relevance must be finite, got NaN or inf at {listed(wrong)}")

    # --- the basics

    @needs_basics
    def test_keyframes_and_relevance_are_as_promised(self) -> None:
        for frames in (1, 2, 3, 7, 40):
            self.check(self.make(), *self.video(frames, seed=frames))

    @needs_basics
    def test_inputs_are_not_modified(self) -> None:
        for dtype in (torch.float32, torch.float64):
            video = self.video(dtype=dtype)
            before = copy.deepcopy(video)
            self.make().select(*video)
            demand_untouched("select", "embeddings query timestamps", video, before)

    @needs_basics
    def test_same_input_same_result(self) -> None:
        video, selector = self.video(), self.make()
        expected = self.select(selector, *video)
        _demand_same(
            self.select(selector, *video),
            expected,
            "a second call with the same video gave another result; use no unseeded random "
            f"numbers and keep no state between calls {PURITY}",
        )
        _demand_same(
            self.select(self.make(), *video),
            expected,
            "two selectors with the same options gave different results; use no unseeded random "
            f"numbers and share no state {PURITY}",
        )

    # --- the result

    def test_budget_is_kept(self, selector: FrameSelector) -> None:
        budget = self.budget or getattr(selector.config, "keyframes", None)
        if budget is None:
            pytest.skip("the selector has no option 'keyframes', and no budget is set")
        for frames in (1, budget, budget + 1, 10 * budget):
            count = len(self.select(selector, *self.video(frames)).keyframes)
            demand(
                count <= budget,
                f"expected at most {budget} keyframes, got {count} of {frames} frames; set budget "
                "in the class if the option keyframes is not the maximum",
            )

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype(self, selector: FrameSelector, dtype: torch.dtype) -> None:
        self.check(selector, *self.video(dtype=dtype))

    @needs_cuda
    def test_cuda(self, selector: FrameSelector) -> None:
        embeddings, query, timestamps = self.video()
        on_gpu = None if query is None else query.cuda()
        self.check(selector, embeddings.cuda(), on_gpu, timestamps.cuda())

    # --- the same input, the same result

    def test_other_videos_leave_no_trace(self, selector: FrameSelector) -> None:
        video, other = self.video(), self.video(frames=23, seed=1)
        expected = self.select(selector, *video)
        unspoilt = self.select(self.make(), *other)
        for again, first in ((other, unspoilt), (video, expected)):
            _demand_same(
                self.select(selector, *again),
                first,
                "the result depends on earlier videos; keep no state in self between calls "
                f"{PURITY}",
            )

    def test_memory_layout_does_not_matter(self, selector: FrameSelector) -> None:
        embeddings, query, timestamps = self.video()
        scattered = embeddings.T.contiguous().T.repeat_interleave(2, 0)[::2]
        _demand_same(
            self.select(selector, scattered, query, timestamps.repeat_interleave(2)[::2]),
            self.select(selector, embeddings, query, timestamps),
            "non-contiguous embeddings gave another result than contiguous ones; use reshape, not "
            "view or as_strided",
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
        self.check(selector, embeddings, query, timestamps)

    def test_unknown_timestamps_are_fine_or_named(self, selector: FrameSelector) -> None:
        embeddings, query, _ = self.video()
        expected = "timestamps=None must work or raise a ValueError that says 'timestamps'"
        try:
            self.check(selector, embeddings, query, None)
        except ValueError as error:
            demand("timestamps" in str(error), f"{expected}, got {cause(error)}")
        except Exception as error:  # third-party code may raise anything
            fail(f"{expected}, got {cause(error)}")

    def test_a_query_is_needed_or_makes_no_difference(self, selector: FrameSelector) -> None:
        embeddings, query, timestamps = self.video()
        if selector.uses_query:
            demand(
                selector.uses_embeddings,
                "uses_query is True and uses_embeddings is False, but a selector without "
                "embeddings gets no query; set uses_query = False",
            )
            with refused("query=None, as uses_query is True,", word="query"):
                selector.select(embeddings, None, timestamps)
        else:
            _demand_same(
                self.select(selector, embeddings, torch.ones(embeddings.shape[1]), timestamps),
                self.select(selector, embeddings, query, timestamps),
                "uses_query is False, but the result depends on the query; set uses_query = True "
                "or ignore the query",
            )

    def test_embeddings_make_no_difference_where_not_used(self, selector: FrameSelector) -> None:
        if selector.uses_embeddings:
            pytest.skip("the selector uses embeddings")
        _, _, timestamps = self.video()
        _demand_same(
            self.select(selector, torch.randn(len(timestamps), DIM), None, timestamps),
            self.select(selector, torch.empty(len(timestamps), 0), None, timestamps),
            "uses_embeddings is False, but the result depends on the embeddings; set "
            "uses_embeddings = True or use their number only",
        )

    def test_numbers_that_are_not_finite_are_refused(self, selector: FrameSelector) -> None:
        if not selector.uses_embeddings:
            pytest.skip("the selector does not use embeddings")
        for bad in (torch.nan, torch.inf):
            embeddings, query, timestamps = self.video()
            if query is not None:
                with refused(f"a query of {bad}"):
                    selector.select(embeddings, torch.full_like(query, bad), timestamps)
            embeddings[7] = bad
            with refused(f"embeddings with a row of {bad}"):
                selector.select(embeddings, query, timestamps)

    def test_wrong_shapes_are_refused(self, selector: FrameSelector) -> None:
        embeddings, query, timestamps = self.video()
        for wrong in (embeddings.sum(1), embeddings[None], embeddings[:0]):
            with refused(f"embeddings of the shape {list(wrong.shape)} instead of [N, d], N >= 1,"):
                selector.select(wrong, query, timestamps[: len(wrong)])
        for wrong in () if query is None else (query[:-1], query[None]):
            shapes = f"{list(wrong.shape)} with embeddings {list(embeddings.shape)}"
            with refused(f"a query of the shape {shapes}"):
                selector.select(embeddings, wrong, timestamps)

    def test_0_keyframes_are_refused(self, selector: FrameSelector) -> None:
        if not hasattr(selector.config, "keyframes"):
            pytest.skip("the selector has no option 'keyframes'")
        for wrong in (0, -1):
            with refused(f"the option keyframes={wrong}", word="keyframes"):
                replace(selector.config, keyframes=wrong)


def _kind(value: object) -> str:
    """Return the name of a value's type, for messages."""
    return type(value).__name__


def _demand_same(one: Selection, other: Selection, sentence: str) -> None:
    """Demand that two selections are equal, relevance up to rounding; fail with ``sentence``."""
    keyframes = f"{listed(one.keyframes)} and {listed(other.keyframes)}"
    demand(torch.equal(one.keyframes, other.keyframes), f"{sentence}: keyframes {keyframes}")
    if one.relevance is None or other.relevance is None:
        demand(one.relevance is other.relevance, f"{sentence}: relevance is None in one of them")
    else:
        lengths = len(one.relevance), len(other.relevance)
        demand(len(set(lengths)) == 1, f"{sentence}: relevance of {lengths} frames")
        near = torch.isclose(one.relevance, other.relevance, rtol=1e-6, atol=1e-6)
        frames = (~near).nonzero().flatten()
        demand(not len(frames), f"{sentence}: relevance differs at frames {listed(frames)}")
