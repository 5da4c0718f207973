"""Mergers with one defect each, run by test_part_suites.py.

The classes `TestSound...` pass all checks; every other class has one defect. Its docstring holds
words, a colon and part of a sentence: each check whose name contains a word must fail with it.
"""

from __future__ import annotations

import torch
from broken_parts import Defect, Registered
from torch import nn

import vtc


class Weighted(vtc.TokenMerger):
    """Weighs patches by a learned map of the query and of what the keyframe lacks."""

    needs_training = True

    def build(self, patch_dim, query_dim):
        self.to_query = nn.Linear(query_dim, patch_dim)

    def forward(self, patches, reference, has_reference, query):
        weights = self.weights(patches, reference, has_reference, query)
        return (weights @ patches.to(weights.dtype)).to(patches.dtype)

    def weights(self, patches, reference, has_reference, query):
        if query is None:
            raise ValueError("needs a query")
        if not hasattr(self, "to_query"):
            raise RuntimeError("call build first")
        exact = torch.promote_types(patches.dtype, torch.float32)
        wanted = self.to_query(query.to(self.to_query.weight.dtype)).to(exact)
        known = torch.where(has_reference[:, None, None], reference, 0.0)
        scores = ((patches - known).to(exact) * wanted).sum(-1)
        return scores.softmax(-1)[:, None]


class Mean(vtc.TokenMerger):
    """Averages patches."""

    query_source = None

    def forward(self, patches, reference, has_reference, query):
        return patches.mean(1, keepdim=True)


class TestSoundMerger(Registered, vtc.testing.MergerContract):
    part = Weighted()


class TestSoundPairs(Registered, vtc.testing.MergerContract):
    class Pairs(Mean):
        """Adds the frame before, in pairs; the first of a pair keeps two tokens."""

        frames_together = 2

        def forward(self, patches, reference, has_reference, query):
            means = patches.mean(1)
            return [
                means[n - 1 : n + 1].sum(0, keepdim=True) if n % 2 else patches[n, :2]
                for n in range(len(patches))
            ]

    part = Pairs()


class TestSetsNoMerger(Defect, vtc.testing.MergerContract):
    """made: set part = ... in the class TestSetsNoMerger"""


class TestReturnsAnArray(Defect, vtc.testing.MergerContract):
    """tokens_are_as_promised: a list of tensors [T_i, D], got ndarray"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).numpy()


class TestReturnsLists(Defect, vtc.testing.MergerContract):
    """tokens_are_as_promised: a list of tensors [T_i, D], got a list of list"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).tolist()


class TestLosesTheFirstFrame(Defect, vtc.testing.MergerContract):
    """tokens_are_as_promised: expected the tokens of 1 frames, got 0"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames)[1:]


class TestForgetsTheWidth(Defect, vtc.testing.MergerContract):
    """tokens_are_as_promised: the tokens of a frame must be [T, 16], got [16] for frame 0"""

    class broken(Mean):
        def forward(self, *frames):
            return [frame.mean(0) for frame in frames[0]]


class TestMoreTokensThanSaid(Defect, vtc.testing.MergerContract):
    """tokens_are_as_promised: tokens_per_frame is 1, so a tensor of tokens must be [n, 1, D]"""

    class broken(Mean):
        def forward(self, *frames):
            return frames[0]


class TestVanishesButDoesNot(Defect, vtc.testing.MergerContract):
    """tokens_are_as_promised: tokens_per_frame is 0, but frame 0 has 9 tokens"""

    class broken(Mean):
        tokens_per_frame = 0

        def forward(self, *frames):
            return list(frames[0])


class TestTokensElsewhere(Defect, vtc.testing.MergerContract):
    """tokens_are_as_promised: tokens must be on the inputs' device, cpu, got meta"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).to("meta")


class TestTokensOnTheCpu(Defect, vtc.testing.MergerContract):
    """cuda: tokens must be on the inputs' device, cuda:0, got cpu"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).cpu()


class TestAlwaysFloat32(Defect, vtc.testing.MergerContract):
    """every_dtype: tokens must have the dtype of the patches"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).float()


class TestParametersOfOneDtype(Defect, vtc.testing.MergerContract):
    """every_dtype: RuntimeError: mat1 and mat2 must have the same dtype"""

    class broken(Mean):
        def build(self, patch_dim, query_dim):
            self.map = nn.Linear(patch_dim, patch_dim)

        def forward(self, *frames):
            return self.map(super().forward(*frames))


class TestWeightsOfAnotherSum(Defect, vtc.testing.MergerContract):
    """weights_give: weights(...) @ patches must equal what forward returns"""

    class broken(Weighted):
        def forward(self, *frames):
            return super().forward(*frames) * 2


class TestWeightsOfOneToken(Defect, vtc.testing.MergerContract):
    """weights_give: weights of a frame must be [T, M], [(1, 9), (1, 9), (1, 9), (1, 9), (1, 9)]"""

    class broken(Weighted):
        def forward(self, *frames):
            weights = super().weights(*frames)
            return (weights @ frames[0].to(weights.dtype)).to(frames[0].dtype)

        def weights(self, *frames):
            return super().weights(*frames)[:, 0]


class TestNoWeightsOfHalf(Defect, vtc.testing.MergerContract):
    """weights_give: weights returns a result for float64 and None for bfloat16"""

    class broken(Weighted):
        def forward(self, *frames):
            weights = super().weights(*frames)
            return (weights @ frames[0].to(weights.dtype)).to(frames[0].dtype)

        def weights(self, *frames):
            return None if frames[0].dtype == torch.bfloat16 else super().weights(*frames)


class TestHalfWeights(Defect, vtc.testing.MergerContract):
    """weights_give: weights of bfloat16 patches must be in at least float32, got torch.bfloat16"""

    class broken(Weighted):
        def weights(self, *frames):
            return super().weights(*frames).to(frames[0].dtype)


class TestKeepsTheLastFrame(Defect, vtc.testing.MergerContract):
    """same_input: the tokens depend on earlier calls"""

    class broken(Mean):
        last = 0.0

        def forward(self, *frames):
            tokens = super().forward(*frames) + self.last
            self.last = float(tokens.sum())
            return tokens


class TestCentresTheChunk(Defect, vtc.testing.MergerContract):
    """chunks depends_on_its_group: a frame's tokens may depend on its group"""

    class broken(Mean):
        def forward(self, *frames):
            tokens = super().forward(*frames)
            return tokens - tokens.mean(0) if len(tokens) else tokens


class TestKeepsMoreOfTheLast(Defect, vtc.testing.MergerContract):
    """chunks: has 2 and 1 tokens"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return [*patches[:-1, :1], *patches[-1:, :2]]


class TestMultipliesByAMask(Defect, vtc.testing.MergerContract):
    """unknown_reference: the tokens depend on a reference whose has_reference is False"""

    class broken(Mean):
        def forward(self, patches, reference, has_reference, query):
            return (patches - reference * has_reference[:, None, None]).mean(1, keepdim=True)


class TestLooksAtTheNextFrame(Defect, vtc.testing.MergerContract):
    """depends_on_its_group: NaN in frame 0, or its group of frames_together = 1, changed"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(patches + 0 * patches.roll(1, dims=0), *rest)


class TestMakesAQueryUp(Defect, vtc.testing.MergerContract):
    """a_query_is_needed: query=None, as query_source is 'language_model', must raise"""

    class broken(Weighted):
        def weights(self, *frames):
            query = frames[0][0, 0] if frames[3] is None else frames[3]
            return super().weights(*frames[:3], query)


class TestPromisesNoQuery(Defect, vtc.testing.MergerContract):
    """a_query_is_needed: query_source is None, but the tokens depend on the query"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames) + (0 if frames[3] is None else frames[3])


class TestPromisesNoReference(Defect, vtc.testing.MergerContract):
    """reference_that_is_not_used: uses_reference is False, but the tokens depend on the"""

    class broken(Mean):
        uses_reference = False

        def forward(self, patches, reference, has_reference, query):
            known = torch.where(has_reference[:, None, None], reference, 0.0)
            return (patches - known).mean(1, keepdim=True)


class TestStacksNothing(Defect, vtc.testing.MergerContract):
    """no_frames: n = 0 frames must give no tokens, got RuntimeError: stack expects"""

    class broken(Mean):
        def forward(self, *frames):
            return torch.stack([frame.mean(0, keepdim=True) for frame in frames[0]])


class TestDividesByNorms(Defect, vtc.testing.MergerContract):
    """degenerate: tokens must be finite, but 16 numbers of frame 0 are not"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(patches / patches.norm(dim=-1, keepdim=True), *rest)


class TestDividesBySpread(Defect, vtc.testing.MergerContract):
    """degenerate: tokens must be finite, but 16 numbers of frame 0 are not"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(patches / patches.std(1, keepdim=True), *rest)


class TestScalesInPlace(Defect, vtc.testing.MergerContract):
    """inputs_are_not_modified: forward modified its argument patches in place"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(patches.mul_(2), *rest)


class TestDetachesPatches(Defect, vtc.testing.MergerContract):
    """gradients_reach: no gradient reaches patches"""

    class broken(Weighted):
        def forward(self, patches, *rest):
            return super().forward(patches.detach(), *rest)


class TestTracksNothing(Defect, vtc.testing.MergerContract):
    """gradients_reach: the tokens have no gradient"""

    class broken(Mean):
        @torch.no_grad()
        def forward(self, *frames):
            return super().forward(*frames)


class TestNeverUsesAParameter(Defect, vtc.testing.MergerContract):
    """gradients_reach: no gradient reaches spare"""

    class broken(Weighted):
        def build(self, patch_dim, query_dim):
            super().build(patch_dim, query_dim)
            self.spare = nn.Parameter(torch.ones(1))


class TestWorksWithoutParameters(Defect, vtc.testing.MergerContract):
    """missed_before_build: a call before build must raise a RuntimeError"""

    class broken(Weighted):
        def forward(self, *frames):
            return super().forward(*frames) if hasattr(self, "to_query") else frames[0][:, :1]


class TestHasNothingToTrain(Defect, vtc.testing.MergerContract):
    """missed_before_build: needs_training is True, but there are no parameters"""

    class broken(Mean):
        needs_training = True


class TestDropsOutInTraining(Defect, vtc.testing.MergerContract):
    """training_mode: the tokens in train() and in eval() differ"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(nn.functional.dropout(patches, 0.5, self.training), *rest)


class TestHidesAParameter(Defect, vtc.testing.MergerContract):
    """state_dict: tensors that build makes must be parameters or buffers"""

    class broken(Mean):
        def build(self, patch_dim, query_dim):
            self.shift = torch.randn(1)

        def forward(self, patches, *rest):
            return super().forward(patches + self.shift, *rest)


class TestHoldsALambda(Defect, vtc.testing.MergerContract):
    """copies: pickle must copy a merger, got"""

    class broken(Mean):
        def __init__(self, config=None):
            super().__init__(config)
            self.scale = lambda value: value


class TestMergerForgetsToRegister(Defect, vtc.testing.MergerContract):
    """registered_name: Mean is not registered by any plug-in"""

    broken = Mean
    registered = Weighted
