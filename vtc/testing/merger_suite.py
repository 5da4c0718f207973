"""What every token merger must pass; an author subclasses `MergerContract`.

import vtc

class TestMine(vtc.testing.MergerContract):
    part = vtc.merger("mine", temperature=0.1)
"""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from vtc.testing.part_suite import DTYPES, PartContract, needs_cuda
from vtc.token_merger import TokenMerger

Frames = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""The arguments of ``forward``: patches, reference, has_reference, query."""

TOLERANCE = 1e-6
"""Between calls of other sizes, in float64: matrix products may add up in another order."""


class MergerContract(PartContract):
    """The contract of one merger; see `PartContract` for ``part``.

    Attributes:
        patch_dim: D, the width of the patches.
        query_dim: The width of a frame encoder's query; others are as wide as the patches.
        patches_per_frame: M in most checks.
        fewest_patches: The smallest M that the merger takes.
    """

    kind: ClassVar[str] = "merger"
    patch_dim: ClassVar[int] = 16
    query_dim: ClassVar[int] = 12
    patches_per_frame: ClassVar[int] = 9
    fewest_patches: ClassVar[int] = 1

    @pytest.fixture
    def merger(self) -> TokenMerger:
        return self.built()

    def built(self, seed: int = 0) -> TokenMerger:
        """A new merger with float32 parameters, none of which is exactly where it began."""
        merger: TokenMerger = self.make()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            merger.build(self.patch_dim, self._query_dim(merger))
            for parameter in merger.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
        return merger.eval()

    def frames(
        self,
        merger: TokenMerger,
        count: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        patches: int | None = None,
    ) -> Frames:
        """Random arguments of ``forward``; the first two frames have no reference.

        Args:
            merger: Tells ``frames_together`` and whether it takes a query.
            count: n; None for five groups and a half of ``frames_together``.
            seed: Another seed gives other frames and another query.
            dtype: Of the patches and the query.
            patches: M; None for ``patches_per_frame``.
        """
        n = 11 * merger.frames_together // 2 if count is None else count
        generator = torch.Generator().manual_seed(seed)
        shape = (n, patches or self.patches_per_frame, self.patch_dim)
        tokens = torch.randn(shape, generator=generator).to(dtype)
        reference = torch.randn(shape, generator=generator).to(dtype)
        query = torch.randn(self._query_dim(merger), generator=generator).to(dtype)
        known = torch.arange(n) >= 2
        return tokens, reference, known, None if merger.query_source is None else query

    def _query_dim(self, merger: TokenMerger) -> int:
        return self.query_dim if merger.query_source == "frame_encoder" else self.patch_dim

    def check(self, merger: TokenMerger, frames: Frames) -> list[Tensor]:
        """Merge; the result must be as the interface says. Returns ``[T_i, D]`` of each frame.

        A frame of fewer patches than ``tokens_per_frame`` may keep those.
        """
        patches = frames[0]
        merged = merger(*frames)
        if isinstance(merged, Tensor):
            said = merger.tokens_per_frame
            assert merged.shape[1] in (said, min(said, patches.shape[1])), "see tokens_per_frame"
        assert len(merged) == len(patches)
        for tokens in merged:
            assert tokens.ndim == 2 and tokens.shape[1] == self.patch_dim
            assert tokens.dtype == patches.dtype
            assert tokens.device == patches.device
            assert bool(tokens.isfinite().all())
            assert merger.tokens_per_frame or not len(tokens), "tokens_per_frame says none"
        return list(merged)

    # --- the result

    @pytest.mark.parametrize("count", [1, 2, 5, None])
    def test_tokens_are_as_promised(self, merger: TokenMerger, count: int | None) -> None:
        self.check(merger, self.frames(merger, count))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype(self, merger: TokenMerger, dtype: torch.dtype) -> None:
        frames = self.frames(merger, dtype=dtype)
        self.check(merger, frames)
        self.check(merger.to(dtype), frames)

    @needs_cuda
    def test_cuda(self, merger: TokenMerger) -> None:
        patches, reference, known, query = (
            value if value is None else value.cuda() for value in self.frames(merger)
        )
        assert patches is not None and reference is not None and known is not None
        self.check(merger.cuda(), (patches, reference, known, query))

    def test_weights_give_the_tokens(self, merger: TokenMerger) -> None:
        frames = self.frames(merger, dtype=torch.float64)
        weights = merger.double().weights(*frames)
        if weights is None:
            pytest.skip("the tokens are no weighted sums of patches")
        tokens = self.check(merger, frames)
        if isinstance(weights, Tensor):
            assert weights.shape == (len(tokens), len(tokens[0]), self.patches_per_frame)
        sums = [w @ patches for w, patches in zip(weights, frames[0], strict=True)]
        _assert_close(sums, tokens)
        half = merger.bfloat16().weights(*self.frames(merger, dtype=torch.bfloat16))
        assert half is not None
        assert all(w.dtype in (torch.float32, torch.float64) for w in half)

    # --- what a frame's tokens may depend on

    def test_same_input_same_tokens(self, merger: TokenMerger) -> None:
        frames, others = self.frames(merger), self.frames(merger, seed=1)
        expected = self.check(merger, frames)
        unspoilt = self.check(self.built(), others)
        _assert_equal(self.check(merger, others), unspoilt)
        _assert_equal(self.check(merger, frames), expected)

    @pytest.mark.parametrize("groups", [1, 2, 3])
    def test_chunks_do_not_matter(self, merger: TokenMerger, groups: int) -> None:
        patches, reference, known, query = self.frames(merger, dtype=torch.float64)
        whole = self.check(merger.double(), (patches, reference, known, query))
        size = groups * merger.frames_together
        chunks = []
        for start in range(0, len(whole), size):
            part = slice(start, start + size)
            chunks += self.check(merger, (patches[part], reference[part], known[part], query))
        _assert_close(chunks, whole)

    @pytest.mark.parametrize("fill", ["other numbers", "NaN"])
    def test_a_frame_depends_on_its_group_alone(self, merger: TokenMerger, fill: str) -> None:
        patches, reference, known, query = self.frames(merger, dtype=torch.float64)
        expected = self.check(merger.double(), (patches, reference, known, query))
        size = merger.frames_together
        for start in range(0, len(patches), size):
            group = slice(start, start + size)
            changed = patches.clone(), reference.clone()
            for tensor in changed:
                tensor[group] = torch.nan if fill == "NaN" else tensor[group].flip(-1)
            merged = list(merger(*changed, known, query))
            del merged[group]
            _assert_close(merged, expected[:start] + expected[start + size :])

    def test_an_unknown_reference_is_not_looked_at(self, merger: TokenMerger) -> None:
        patches, reference, known, query = self.frames(merger)
        for has_reference in (known, torch.zeros_like(known)):
            blank = reference.clone()
            blank[~has_reference] = torch.nan
            _assert_equal(
                self.check(merger, (patches, blank, has_reference, query)),
                self.check(merger, (patches, reference, has_reference, query)),
            )

    def test_a_query_is_needed_or_makes_no_difference(self, merger: TokenMerger) -> None:
        *frames, query = self.frames(merger)
        if merger.query_source is not None:
            with pytest.raises(ValueError, match="query"):
                merger(*frames, None)
        else:
            patches, reference, known = frames
            asked = torch.ones(self.patch_dim)
            _assert_equal(
                self.check(merger, (patches, reference, known, asked)),
                self.check(merger, (patches, reference, known, None)),
            )

    # --- odd frames

    def test_no_frames(self, merger: TokenMerger) -> None:
        assert self.check(merger, self.frames(merger, count=0)) == []

    @pytest.mark.parametrize("case", ["one patch", "zeros", "equal patches", "equal to reference"])
    def test_degenerate_frames(self, merger: TokenMerger, case: str) -> None:
        fewest = self.fewest_patches if case == "one patch" else None
        patches, reference, known, query = self.frames(merger, patches=fewest)
        if case == "zeros":
            patches, reference = torch.zeros_like(patches), torch.zeros_like(reference)
        elif case == "equal patches":
            patches = patches[:, :1].expand_as(patches)
        elif case == "equal to reference":
            reference = patches.clone()
        self.check(merger, (patches, reference, known, query))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_inputs_are_not_modified(self, merger: TokenMerger, dtype: torch.dtype) -> None:
        frames = self.frames(merger, dtype=dtype)
        before = copy.deepcopy(frames)
        self.check(merger, frames)
        torch.testing.assert_close(frames, before, rtol=0, atol=0)

    # --- parameters

    def test_gradients_reach_patches_and_parameters(self, merger: TokenMerger) -> None:
        frames = self.frames(merger, dtype=torch.float64)
        patches = frames[0].requires_grad_()
        merged = merger.double().train()(*frames)
        tokens = torch.cat(list(merged))
        if not len(tokens):
            pytest.skip("the merger leaves no tokens")
        # A plain sum would hide what a norm takes out.
        score = (tokens * torch.arange(tokens.numel()).view_as(tokens).cos()).sum()
        torch.autograd.backward(score)
        assert patches.grad is not None and bool((patches.grad != 0).any())
        for name, parameter in merger.named_parameters():
            assert parameter.grad is not None and bool((parameter.grad != 0).any()), name

    def test_parameters_are_missed_before_build(self, merger: TokenMerger) -> None:
        names = {name for name, _ in merger.named_parameters()}
        unbuilt: TokenMerger = self.make()
        if names == {name for name, _ in unbuilt.named_parameters()}:
            assert names or not merger.needs_training, "there is nothing to train"
            pytest.skip("the merger creates no parameters")
        with pytest.raises(RuntimeError, match="build"):
            unbuilt(*self.frames(merger))

    def test_training_mode_makes_no_difference(self, merger: TokenMerger) -> None:
        frames = self.frames(merger)
        expected = self.check(merger.eval(), frames)
        _assert_equal(self.check(merger.train(), frames), expected)

    def test_state_dict_holds_all(self, merger: TokenMerger) -> None:
        frames = self.frames(merger)
        other = self.built(seed=1)
        other.load_state_dict(merger.state_dict())
        _assert_equal(self.check(other, frames), self.check(merger, frames))

    def test_copies_do_the_same(self, merger: TokenMerger) -> None:
        frames = self.frames(merger)
        expected = self.check(merger, frames)
        _assert_equal(self.check(copy.deepcopy(merger), frames), expected)
        _assert_equal(self.check(pickle.loads(pickle.dumps(merger)), frames), expected)


def _assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def _assert_close(one: list[Tensor], other: list[Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)
