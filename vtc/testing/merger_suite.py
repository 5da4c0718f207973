"""The contract of token mergers. To test a merger, subclass `MergerContract`.

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

from vtc.interfaces.token_merger import TokenMerger
from vtc.plugins.discovery import cause
from vtc.testing._demands import (
    PURITY,
    demand,
    demand_device,
    demand_equal,
    demand_untouched,
    fail,
    kinds,
    refused,
)
from vtc.testing.part_suite import DTYPES, PartContract, needs_basics, needs_cuda

Frames = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""The arguments of ``forward``: patches, reference, has_reference, query."""

TOLERANCE = 1e-6
"""The tolerance between calls of different sizes in float64: additions may be reordered."""

FORWARD = "see vtc.TokenMerger.forward"
WEIGHTS = "see vtc.TokenMerger.weights"
GRADIENT = "training needs it: use no detach, no_grad or argmax, and every parameter"


class MergerContract(PartContract):
    """The contract of a merger; see `PartContract` for ``part``.

    Attributes:
        patch_dim: D, the width of the patches.
        query_dim: The width of a query from the frame encoder; others have the patches' width.
        patches_per_frame: M in most checks.
        fewest_patches: The smallest M that the merger accepts.
    """

    kind: ClassVar[str] = "merger"
    basics: ClassVar[tuple[str, ...]] = (
        *PartContract.basics,
        "test_tokens_are_as_promised",
        "test_inputs_are_not_modified",
        "test_same_input_same_tokens",
    )
    patch_dim: ClassVar[int] = 16
    query_dim: ClassVar[int] = 12
    patches_per_frame: ClassVar[int] = 9
    fewest_patches: ClassVar[int] = 1

    @pytest.fixture
    def merger(self, basics_hold: None) -> TokenMerger:
        return self.built()

    def built(self, seed: int = 0) -> TokenMerger:
        """Make a merger with float32 parameters, all changed from their initial values."""
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
        """Make random arguments of ``forward``; the first two frames have no reference.

        Args:
            merger: The merger, for its ``frames_together`` and ``query_source``.
            count: n; None for 5.5 times ``frames_together``.
            seed: The seed of the random frames and query.
            dtype: The dtype of the patches and the query.
            patches: M; None for ``patches_per_frame``.
        """
        n = 11 * merger.frames_together // 2 if count is None else count
        generator = torch.Generator().manual_seed(seed)
        shape = (n, patches or self.patches_per_frame, self.patch_dim)
        tokens = torch.randn(shape, generator=generator).to(dtype)
        reference = torch.randn(shape, generator=generator).to(dtype)
        query = torch.randn(self._query_dim(merger), generator=generator).to(dtype)
        has_reference = torch.arange(n) >= 2
        return tokens, reference, has_reference, None if merger.query_source is None else query

    def _query_dim(self, merger: TokenMerger) -> int:
        return self.patch_dim if merger.query_source == "language_model" else self.query_dim

    def merge(self, merger: TokenMerger, frames: Frames) -> list[Tensor]:
        """Merge, and demand a result of the types of the interface.

        Returns:
            The tokens ``[T_i, D]`` of each frame. A frame with fewer patches than
            ``tokens_per_frame`` may keep those.
        """
        tokens = merger(*frames)
        n, patches, _ = frames[0].shape
        if isinstance(tokens, Tensor):
            count = merger.tokens_per_frame
            demand(
                tokens.ndim == 3 and tokens.shape[1] in (count, min(count, patches)),
                f"tokens_per_frame is {count}, so a tensor of tokens must be "
                f"[n, {min(count, patches)}, D], got {list(tokens.shape)}; change tokens_per_frame "
                f"or return a list; {FORWARD}",
            )
        else:
            demand(
                isinstance(tokens, list) and all(isinstance(frame, Tensor) for frame in tokens),
                f"tokens must be a tensor [n, T, D] or a list of tensors [T_i, D], got "
                f"{kinds(tokens)}; {FORWARD}",
            )
        demand(len(tokens) == n, f"expected the tokens of {n} frames, got {len(tokens)}; {FORWARD}")
        return list(tokens)

    def check(self, merger: TokenMerger, frames: Frames) -> list[Tensor]:
        """Merge, and demand a result with the shapes and dtypes of the interface; return it."""
        patches, count = frames[0], merger.tokens_per_frame
        merged = self.merge(merger, frames)
        for n, tokens in enumerate(merged):
            demand(
                tokens.ndim == 2 and tokens.shape[1] == self.patch_dim,
                f"the tokens of a frame must be [T, {self.patch_dim}], got {list(tokens.shape)} "
                f"for frame {n}; {FORWARD}",
            )
            demand(
                tokens.dtype == patches.dtype,
                f"tokens must have the dtype of the patches, {patches.dtype}, got {tokens.dtype}; "
                "end with .to(patches.dtype)",
            )
            demand_device("tokens", tokens, patches.device)
            wrong = int((~tokens.isfinite()).sum())
            demand(not wrong, f"tokens must be finite, but {wrong} numbers of frame {n} are not")
            demand(
                bool(count) or not len(tokens),
                f"tokens_per_frame is 0, but frame {n} has {len(tokens)} tokens; change "
                "tokens_per_frame",
            )
        return merged

    # --- the basics

    @needs_basics
    def test_tokens_are_as_promised(self) -> None:
        merger = self.built()
        for count in (1, 2, 5, None):
            self.check(merger, self.frames(merger, count))

    @needs_basics
    def test_inputs_are_not_modified(self) -> None:
        for dtype in (torch.float32, torch.float64):
            merger = self.built().to(dtype)
            frames = self.frames(merger, dtype=dtype)
            before = copy.deepcopy(frames)
            merger(*frames)
            demand_untouched("forward", "patches reference has_reference query", frames, before)

    @needs_basics
    def test_same_input_same_tokens(self) -> None:
        merger = self.built()
        frames, others = self.frames(merger), self.frames(merger, seed=1)
        expected = self.merge(merger, frames)
        unspoilt = self.merge(self.built(), others)
        for again, first in ((others, unspoilt), (frames, expected)):
            demand_equal(
                self.merge(merger, again),
                first,
                "the tokens depend on earlier calls; use no unseeded random numbers and keep no "
                f"state between calls except parameters {PURITY}",
            )

    # --- the result

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype(self, merger: TokenMerger, dtype: torch.dtype) -> None:
        frames = self.frames(merger, dtype=dtype)
        self.check(merger, frames)
        self.check(merger.to(dtype), frames)

    @needs_cuda
    def test_cuda(self, merger: TokenMerger) -> None:
        patches, reference, has_reference, query = self.frames(merger)
        on_gpu = None if query is None else query.cuda()
        self.check(merger.cuda(), (patches.cuda(), reference.cuda(), has_reference.cuda(), on_gpu))

    def test_weights_give_the_tokens(self, merger: TokenMerger) -> None:
        frames = self.frames(merger, dtype=torch.float64)
        weights = merger.double().weights(*frames)
        if weights is None:
            pytest.skip("the tokens are not weighted sums of patches")
        tokens = self.check(merger, frames)
        expected = [(len(frame), self.patches_per_frame) for frame in tokens]
        shapes = [tuple(frame.shape) for frame in weights]
        demand(
            shapes == expected,
            f"weights of a frame must be [T, M], {expected}, got {shapes}; {WEIGHTS}",
        )
        sums = [frame @ patches for frame, patches in zip(weights, frames[0], strict=True)]
        demand_equal(
            sums,
            tokens,
            f"weights(...) @ patches must equal what forward returns; {WEIGHTS}",
            TOLERANCE,
        )
        half = merger.bfloat16().weights(*self.frames(merger, dtype=torch.bfloat16))
        for frame in () if half is None else half:
            demand(
                frame.dtype in (torch.float32, torch.float64),
                f"weights of bfloat16 patches must be in at least float32, got {frame.dtype}",
            )
        demand(half is not None, "weights returns a result for float64 and None for bfloat16")

    # --- dependence on other frames

    @pytest.mark.parametrize("groups", [1, 2, 3])
    def test_chunks_do_not_matter(self, merger: TokenMerger, groups: int) -> None:
        patches, reference, has_reference, query = self.frames(merger, dtype=torch.float64)
        whole = self.merge(merger.double(), (patches, reference, has_reference, query))
        size = groups * merger.frames_together
        chunks = []
        for start in range(0, len(whole), size):
            part = slice(start, start + size)
            chunks += self.merge(
                merger, (patches[part], reference[part], has_reference[part], query)
            )
        demand_equal(
            chunks,
            whole,
            f"the tokens change if {len(patches)} frames are merged in chunks of {size}; a frame's "
            f"tokens may depend on its group of frames_together = {merger.frames_together} only "
            "(Chunks, docs/plugins.md)",
            TOLERANCE,
        )

    @pytest.mark.parametrize("fill", ["other numbers", "NaN"])
    def test_a_frame_depends_on_its_group_alone(self, merger: TokenMerger, fill: str) -> None:
        patches, reference, has_reference, query = self.frames(merger, dtype=torch.float64)
        expected = self.merge(merger.double(), (patches, reference, has_reference, query))
        size = merger.frames_together
        for start in range(0, len(patches), size):
            group = slice(start, start + size)
            changed = patches.clone(), reference.clone()
            for tensor in changed:
                tensor[group] = torch.nan if fill == "NaN" else tensor[group].flip(-1)
            merged = self.merge(merger, (*changed, has_reference, query))
            merged[group] = expected[group]
            demand_equal(
                merged,
                expected,
                f"{fill} in frame {start}, or its group of frames_together = {size}, changed the "
                "tokens of others; a frame's tokens may depend on its group only (Chunks, "
                "docs/plugins.md)",
                TOLERANCE,
            )

    def test_an_unknown_reference_is_not_looked_at(self, merger: TokenMerger) -> None:
        patches, reference, has_reference, query = self.frames(merger)
        for mask in (has_reference, torch.zeros_like(has_reference)):
            blank = reference.clone()
            blank[~mask] = torch.nan
            demand_equal(
                self.merge(merger, (patches, blank, mask, query)),
                self.merge(merger, (patches, reference, mask, query)),
                "the tokens depend on a reference whose has_reference is False, which may be NaN; "
                "replace it with torch.where, as NaN * 0 is NaN",
            )

    def test_a_reference_that_is_not_used_makes_no_difference(self, merger: TokenMerger) -> None:
        if merger.uses_reference:
            return
        patches, reference, has_reference, query = self.frames(merger)
        none = torch.zeros_like(has_reference)
        demand_equal(
            self.merge(merger, (patches, reference, ~none, query)),
            self.merge(merger, (patches, reference, none, query)),
            "uses_reference is False, but the tokens depend on the reference; set it to True or "
            "ignore the reference",
        )

    def test_a_query_is_needed_or_makes_no_difference(self, merger: TokenMerger) -> None:
        patches, reference, has_reference, query = self.frames(merger)
        if merger.query_source is not None:
            with refused(f"query=None, as query_source is {merger.query_source!r},", word="query"):
                merger(patches, reference, has_reference, None)
        else:
            ones = torch.ones(self.patch_dim)
            demand_equal(
                self.merge(merger, (patches, reference, has_reference, ones)),
                self.merge(merger, (patches, reference, has_reference, None)),
                "query_source is None, but the tokens depend on the query; set query_source or "
                "ignore the query",
            )

    # --- odd frames

    def test_no_frames(self, merger: TokenMerger) -> None:
        frames = self.frames(merger, count=0)
        try:
            self.check(merger, frames)
        except Exception as error:  # third-party code may raise anything
            fail(f"n = 0 frames must give no tokens, got {cause(error)}; {FORWARD}")

    @pytest.mark.parametrize("case", ["one patch", "zeros", "equal patches", "equal to reference"])
    def test_degenerate_frames(self, merger: TokenMerger, case: str) -> None:
        fewest = self.fewest_patches if case == "one patch" else None
        patches, reference, has_reference, query = self.frames(merger, patches=fewest)
        if case == "zeros":
            patches, reference = torch.zeros_like(patches), torch.zeros_like(reference)
        elif case == "equal patches":
            patches = patches[:, :1].expand_as(patches)
        elif case == "equal to reference":
            reference = patches.clone()
        self.check(merger, (patches, reference, has_reference, query))

    # --- parameters

    def test_gradients_reach_patches_and_parameters(self, merger: TokenMerger) -> None:
        frames = self.frames(merger, dtype=torch.float64)
        patches = frames[0].requires_grad_()
        tokens = torch.cat(self.merge(merger.double().train(), frames))
        if not len(tokens):
            pytest.skip("the merger returns no tokens")
        demand(tokens.requires_grad, f"the tokens have no gradient; {GRADIENT}")
        # Not a plain sum, which has a zero gradient after a norm.
        score = (tokens * torch.arange(tokens.numel()).view_as(tokens).cos()).sum()
        torch.autograd.backward(score)
        for name, tensor in (("patches", patches), *merger.named_parameters()):
            reached = tensor.grad is not None and bool((tensor.grad != 0).any())
            demand(reached, f"no gradient reaches {name}; {GRADIENT}")

    def test_parameters_are_missed_before_build(self, merger: TokenMerger) -> None:
        names = {name for name, _ in merger.named_parameters()}
        unbuilt: TokenMerger = self.make()
        if names == {name for name, _ in unbuilt.named_parameters()}:
            demand(
                bool(names) or not merger.needs_training,
                "needs_training is True, but there are no parameters; create them in build",
            )
            pytest.skip("the merger creates no parameters")
        with refused("a call before build", word="build", error=RuntimeError):
            unbuilt(*self.frames(merger))

    def test_training_mode_makes_no_difference(self, merger: TokenMerger) -> None:
        frames = self.frames(merger)
        expected = self.merge(merger.eval(), frames)
        demand_equal(
            self.merge(merger.train(), frames),
            expected,
            f"the tokens in train() and in eval() differ; use no dropout {PURITY}",
        )

    def test_state_dict_holds_all(self, merger: TokenMerger) -> None:
        frames = self.frames(merger)
        other = self.built(seed=1)
        other.load_state_dict(merger.state_dict())
        demand_equal(
            self.merge(other, frames),
            self.merge(merger, frames),
            "a merger that loaded another's state_dict gives other tokens; tensors that build "
            "makes must be parameters or buffers",
        )

    def test_copies_do_the_same(self, merger: TokenMerger) -> None:
        frames = self.frames(merger)
        expected = self.merge(merger, frames)
        for how, copied in (("copy.deepcopy", copy.deepcopy), ("pickle", _pickled)):
            try:
                other = copied(merger)
            except Exception as error:  # third-party code may raise anything
                fail(f"{how} must copy a merger, got {cause(error)}; use no lambda as attribute")
            tokens = self.merge(other, frames)
            demand_equal(tokens, expected, f"a merger copied by {how} gives other tokens")


def _pickled(merger: TokenMerger) -> TokenMerger:
    restored: TokenMerger = pickle.loads(pickle.dumps(merger))
    return restored
