"""Selectors and mergers with one defect each, run by test_part_suites.py.

The classes called `TestSound...` pass everything; each other class changes one thing. Its docstring
holds words, a colon and a part of a sentence: the checks whose names hold a word must fail with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import vtc
from vtc.plugins import registry
from vtc.plugins.discovery import Claim, Plugin


@dataclass(frozen=True, kw_only=True)
class Options:
    keyframes: int = 4

    def __post_init__(self):
        if self.keyframes < 1:
            raise ValueError(f"keyframes={self.keyframes}: allowed is at least 1")


class Sound(vtc.FrameSelector):
    """Takes the frames nearest to the query."""

    Config = Options

    def select(self, embeddings, query=None, timestamps=None):
        self.refuse(embeddings, query)
        relevance = (embeddings.double() * query.double()).sum(-1).float()
        order = relevance.argsort(descending=True, stable=True)
        return vtc.Selection(order[: self.config.keyframes].sort().values, relevance)

    def refuse(self, embeddings, query):
        if query is None:
            raise ValueError("needs a query")
        if embeddings.ndim != 2 or not len(embeddings) or query.shape != embeddings.shape[1:]:
            raise ValueError("wrong shape")
        if not (embeddings.isfinite().all() and query.isfinite().all()):
            raise ValueError("not finite")


class Steps(vtc.FrameSelector):
    """Takes every tenth frame."""

    uses_query = uses_embeddings = False

    def select(self, embeddings, query=None, timestamps=None):
        return vtc.Selection(torch.arange(0, len(embeddings), 10), None)


class _Registered:
    """Registers the class of `part`, as a plug-in would."""

    registered: type | None = None

    @pytest.fixture(autouse=True)
    def _register(self, monkeypatch):
        cls = self.registered or type(self.part)
        plugin = Plugin("broken", "broken_parts", "broken-parts", "1.0")
        claim = Claim(self.kind, "broken", cls, plugin)
        plugin = Plugin("broken", "broken_parts", "broken-parts", "1.0", claims=(claim,))
        monkeypatch.setattr(registry._registry, "_plugins", [plugin])


class TestSoundSelector(_Registered, vtc.testing.SelectorContract):
    part = Sound()


class SelectorDefect(_Registered, vtc.testing.SelectorContract):
    """Checks the class `broken` that is written in the body of a subclass."""

    broken: type | None = None

    def __init_subclass__(cls):
        cls.part = cls.broken and cls.broken()


class TestSetsNoSelector(SelectorDefect):
    """made: set part = ... in the class TestSetsNoSelector"""


class TestReturnsABareTensor(SelectorDefect):
    """keyframes_and_relevance: must return vtc.Selection(keyframes, relevance), got Tensor"""

    class broken(Sound):
        def select(self, *video):
            return super().select(*video).keyframes


class TestReturnsAList(SelectorDefect):
    """keyframes_and_relevance: keyframes must be a tensor [K'] of int64, got list"""

    class broken(Sound):
        def select(self, *video):
            return vtc.Selection(super().select(*video).keyframes.tolist(), None)


class TestRanksInAnArray(SelectorDefect):
    """keyframes_and_relevance: relevance must be a tensor [N] of float32, or None, got ndarray"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance.numpy())


class TestForgetsToRegister(SelectorDefect):
    """registered_name: Sound is registered by no plug-in"""

    broken = Sound
    registered = Steps


class TestChangesItsOptions(SelectorDefect):
    """registered_name: must keep its options as they were given"""

    class broken(Sound):
        def __init__(self, config=None):
            super().__init__(Options(keyframes=(config or Options()).keyframes + 1))


class TestOptionsAreNotPlain(SelectorDefect):
    """registered_name: has options that are no plain JSON"""

    class broken(Sound):
        @dataclass(frozen=True, kw_only=True)
        class Config(Options):
            dtype: torch.dtype = torch.float32


class TestDescending(SelectorDefect):
    """keyframes_and_relevance: keyframes must be ascending and unique, got ["""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes.flip(0), selection.relevance)


class TestRepeatsFrames(SelectorDefect):
    """keyframes_and_relevance: keyframes must be ascending and unique, got [0, 0]"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes[[0] * 2], selection.relevance)


class TestCountsFromOne(SelectorDefect):
    """keyframes_and_relevance: keyframes of 1 frames must lie in 0 ... 0, got [1]"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes + 1, selection.relevance)


class TestInt32Keyframes(SelectorDefect):
    """keyframes_and_relevance: keyframes must be [K'] of int64, got [1] of torch.int32"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes.int(), selection.relevance)


class TestKeyframesElsewhere(SelectorDefect):
    """keyframes_and_relevance: keyframes must be on the inputs' device, cpu, got meta"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes.to("meta"), selection.relevance)


class TestKeyframesOnTheCpu(SelectorDefect):
    """cuda: keyframes must be on the inputs' device, cuda:0, got cpu"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes.cpu(), selection.relevance)


class TestRelevanceOfKeyframesOnly(SelectorDefect):
    """keyframes_and_relevance: relevance of 7 frames must be [7] of float32, got [4]"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance[selection.keyframes])


class TestRelevanceOfTheInputsDtype(SelectorDefect):
    """every_dtype: relevance of 40 frames must be [40] of float32, got [40] of"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance.to(video[0].dtype))


class TestOneTooMany(SelectorDefect):
    """budget: at most 4 keyframes are asked for, got 5 of 5 frames"""

    class broken(Sound):
        def select(self, *video):
            order = super().select(*video).relevance.argsort(descending=True)
            return vtc.Selection(order[: self.config.keyframes + 1].sort().values, None)


class TestDrawsLots(SelectorDefect):
    """same_input: the same video gave another result at the second call"""

    class broken(Sound):
        def select(self, *video):
            self.refuse(*video[:2])
            return vtc.Selection(torch.randperm(len(video[0]))[:4].sort().values, None)


class TestCountsSelectors(SelectorDefect):
    """same_input: two selectors of the same options gave different results"""

    class broken(Sound):
        made = 0

        def __init__(self, config=None):
            super().__init__(config)
            type(self).made += 1
            self.shift = self.made

        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance + self.shift)


class TestRanksOnlyOnce(SelectorDefect):
    """same_input: relevance is None in one of them"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            self.relevance, shown = None, getattr(self, "relevance", selection.relevance)
            return vtc.Selection(selection.keyframes, shown)


class TestRemembersTheFirstVideo(SelectorDefect):
    """other_videos: the result of a video depends on the videos before it"""

    class broken(Sound):
        def select(self, *video):
            self.shift = getattr(self, "shift", video[0].mean())
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance + self.shift)


class TestNormalisesInPlace(SelectorDefect):
    """inputs_are_not_modified: select changed its argument embeddings in place"""

    class broken(Sound):
        def select(self, *video):
            video[0].mul_(2)
            return super().select(*video)


class TestReadsStorage(SelectorDefect):
    """memory_layout: embeddings that are not contiguous gave another result"""

    class broken(Sound):
        def select(self, embeddings, *rest):
            self.refuse(embeddings, *rest[:1])
            flat = embeddings.as_strided(embeddings.shape, (embeddings.shape[1], 1))
            return super().select(flat, *rest)


class TestDividesByZero(SelectorDefect):
    """degenerate: relevance must be finite, but is not at frames [0, 1, 2, 3, 4] and 25 more"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            self.refuse(embeddings, query)
            unit = embeddings / embeddings.norm(dim=1, keepdim=True)
            selection = super().select(embeddings, query)
            return vtc.Selection(selection.keyframes, (unit * query).sum(1).float())


class TestTrustsTimestamps(SelectorDefect):
    """unknown_timestamps: timestamps=None must work or raise a ValueError that says 'timestamps'"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            timestamps[0]
            return super().select(embeddings, query)


class TestGuessesTheQuery(SelectorDefect):
    """a_query_is_needed: query=None, as uses_query is True, must be refused"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings, embeddings[0] if query is None else query)


class TestPromisesToIgnoreTheQuery(SelectorDefect):
    """a_query_is_needed: uses_query is False, yet the result depends on the query"""

    class broken(Sound):
        uses_query = False

        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings, embeddings[0] if query is None else query)


class TestNeedsAQueryThatItNeverGets(SelectorDefect):
    """a_query_is_needed: no query is given to a selector without embeddings"""

    class broken(Steps):
        uses_query = True


class TestPromisesToIgnoreEmbeddings(SelectorDefect):
    """embeddings_make_no_difference: uses_embeddings is False, yet the result depends"""

    class broken(Steps):
        def select(self, embeddings, query=None, timestamps=None):
            return vtc.Selection(torch.arange(0, len(embeddings), 1 + embeddings.shape[1]), None)


class TestRanksNaN(SelectorDefect):
    """not_finite: embeddings with a row of nan must be refused with a ValueError"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings.nan_to_num(), query)


class TestAsksNaN(SelectorDefect):
    """not_finite: a query of nan must be refused with a ValueError"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings, None if query is None else query.nan_to_num())


class TestTakesAnyShape(SelectorDefect):
    """wrong_shapes: embeddings of the shape [1, 40, 16] in place of [N, d]"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings[0] if embeddings.ndim == 3 else embeddings, query)


class TestTakesNoKeyframes(SelectorDefect):
    """0_keyframes: the option keyframes=0 must be refused"""

    class broken(Sound):
        @dataclass(frozen=True, kw_only=True)
        class Config:
            keyframes: int = 4


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


class TestSoundMerger(_Registered, vtc.testing.MergerContract):
    part = Weighted()


class TestSoundPairs(_Registered, vtc.testing.MergerContract):
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


class TestSoundWithoutEmbeddings(_Registered, vtc.testing.SelectorContract):
    class CheckedSteps(Steps):
        """Refuses what is no video."""

        def select(self, embeddings, query=None, timestamps=None):
            if embeddings.ndim != 2 or not len(embeddings):
                raise ValueError("wrong shape")
            return super().select(embeddings, query, timestamps)

    part = CheckedSteps()


class MergerDefect(_Registered, vtc.testing.MergerContract):
    """Checks the class `broken` that is written in the body of a subclass."""

    broken: type | None = None

    def __init_subclass__(cls):
        cls.part = cls.broken and cls.broken()


class TestSetsNoMerger(MergerDefect):
    """made: set part = ... in the class TestSetsNoMerger"""


class TestReturnsAnArray(MergerDefect):
    """tokens_are_as_promised: a list of tensors [T_i, D], got ndarray"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).numpy()


class TestReturnsLists(MergerDefect):
    """tokens_are_as_promised: a list of tensors [T_i, D], got a list of list"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).tolist()


class TestLosesTheFirstFrame(MergerDefect):
    """tokens_are_as_promised: 1 frames were given and 0 came back"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames)[1:]


class TestForgetsTheWidth(MergerDefect):
    """tokens_are_as_promised: the tokens of a frame must be [T, 16], got [16] for frame 0"""

    class broken(Mean):
        def forward(self, *frames):
            return [frame.mean(0) for frame in frames[0]]


class TestMoreTokensThanSaid(MergerDefect):
    """tokens_are_as_promised: tokens_per_frame is 1, so a tensor of tokens must be [n, 1, D]"""

    class broken(Mean):
        def forward(self, *frames):
            return frames[0]


class TestVanishesButDoesNot(MergerDefect):
    """tokens_are_as_promised: tokens_per_frame is 0, yet frame 0 has 9 tokens"""

    class broken(Mean):
        tokens_per_frame = 0

        def forward(self, *frames):
            return list(frames[0])


class TestTokensElsewhere(MergerDefect):
    """tokens_are_as_promised: tokens must be on the inputs' device, cpu, got meta"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).to("meta")


class TestTokensOnTheCpu(MergerDefect):
    """cuda: tokens must be on the inputs' device, cuda:0, got cpu"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).cpu()


class TestAlwaysFloat32(MergerDefect):
    """every_dtype: tokens must have the dtype of the patches"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames).float()


class TestParametersOfOneDtype(MergerDefect):
    """every_dtype: RuntimeError: mat1 and mat2 must have the same dtype"""

    class broken(Mean):
        def build(self, patch_dim, query_dim):
            self.map = nn.Linear(patch_dim, patch_dim)

        def forward(self, *frames):
            return self.map(super().forward(*frames))


class TestWeightsOfAnotherSum(MergerDefect):
    """weights_give: weights(...) @ patches must be what forward returns"""

    class broken(Weighted):
        def forward(self, *frames):
            return super().forward(*frames) * 2


class TestWeightsOfOneToken(MergerDefect):
    """weights_give: weights must be [T, M] a frame, [(1, 9), (1, 9), (1, 9), (1, 9), (1, 9)]"""

    class broken(Weighted):
        def forward(self, *frames):
            weights = super().weights(*frames)
            return (weights @ frames[0].to(weights.dtype)).to(frames[0].dtype)

        def weights(self, *frames):
            return super().weights(*frames)[:, 0]


class TestNoWeightsOfHalf(MergerDefect):
    """weights_give: weights returns a result for float64 and None for bfloat16"""

    class broken(Weighted):
        def forward(self, *frames):
            weights = super().weights(*frames)
            return (weights @ frames[0].to(weights.dtype)).to(frames[0].dtype)

        def weights(self, *frames):
            return None if frames[0].dtype == torch.bfloat16 else super().weights(*frames)


class TestHalfWeights(MergerDefect):
    """weights_give: weights of bfloat16 patches must be in at least float32, got torch.bfloat16"""

    class broken(Weighted):
        def weights(self, *frames):
            return super().weights(*frames).to(frames[0].dtype)


class TestKeepsTheLastFrame(MergerDefect):
    """same_input: the tokens depend on the calls before"""

    class broken(Mean):
        last = 0.0

        def forward(self, *frames):
            tokens = super().forward(*frames) + self.last
            self.last = float(tokens.sum())
            return tokens


class TestCentresTheChunk(MergerDefect):
    """chunks depends_on_its_group: a frame's tokens may depend on its group"""

    class broken(Mean):
        def forward(self, *frames):
            tokens = super().forward(*frames)
            return tokens - tokens.mean(0) if len(tokens) else tokens


class TestKeepsMoreOfTheLast(MergerDefect):
    """chunks: has 2 and 1 tokens"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return [*patches[:-1, :1], *patches[-1:, :2]]


class TestMultipliesByAMask(MergerDefect):
    """unknown_reference: the tokens depend on a reference whose has_reference is False"""

    class broken(Mean):
        def forward(self, patches, reference, has_reference, query):
            return (patches - reference * has_reference[:, None, None]).mean(1, keepdim=True)


class TestLooksAtTheNextFrame(MergerDefect):
    """depends_on_its_group: NaN in frame 0, or its group of frames_together = 1, changed"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(patches + 0 * patches.roll(1, dims=0), *rest)


class TestMakesAQueryUp(MergerDefect):
    """a_query_is_needed: query=None, as query_source is 'language_model', must be refused"""

    class broken(Weighted):
        def weights(self, *frames):
            query = frames[0][0, 0] if frames[3] is None else frames[3]
            return super().weights(*frames[:3], query)


class TestPromisesNoQuery(MergerDefect):
    """a_query_is_needed: query_source is None, yet the tokens depend on the query"""

    class broken(Mean):
        def forward(self, *frames):
            return super().forward(*frames) + (0 if frames[3] is None else frames[3])


class TestStacksNothing(MergerDefect):
    """no_frames: n = 0 frames must give no tokens, got RuntimeError: stack expects"""

    class broken(Mean):
        def forward(self, *frames):
            return torch.stack([frame.mean(0, keepdim=True) for frame in frames[0]])


class TestDividesByNorms(MergerDefect):
    """degenerate: tokens must be finite, but 16 numbers of frame 0 are not"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(patches / patches.norm(dim=-1, keepdim=True), *rest)


class TestDividesBySpread(MergerDefect):
    """degenerate: tokens must be finite, but 16 numbers of frame 0 are not"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(patches / patches.std(1, keepdim=True), *rest)


class TestScalesInPlace(MergerDefect):
    """inputs_are_not_modified: forward changed its argument patches in place"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(patches.mul_(2), *rest)


class TestDetachesPatches(MergerDefect):
    """gradients_reach: no gradient reaches patches"""

    class broken(Weighted):
        def forward(self, patches, *rest):
            return super().forward(patches.detach(), *rest)


class TestTracksNothing(MergerDefect):
    """gradients_reach: no gradient leaves the tokens"""

    class broken(Mean):
        @torch.no_grad()
        def forward(self, *frames):
            return super().forward(*frames)


class TestNeverUsesAParameter(MergerDefect):
    """gradients_reach: no gradient reaches spare"""

    class broken(Weighted):
        def build(self, patch_dim, query_dim):
            super().build(patch_dim, query_dim)
            self.spare = nn.Parameter(torch.ones(1))


class TestWorksWithoutParameters(MergerDefect):
    """missed_before_build: a call before build must be refused with a RuntimeError"""

    class broken(Weighted):
        def forward(self, *frames):
            return super().forward(*frames) if hasattr(self, "to_query") else frames[0][:, :1]


class TestHasNothingToTrain(MergerDefect):
    """missed_before_build: needs_training is True, yet there are no parameters"""

    class broken(Mean):
        needs_training = True


class TestDropsOutInTraining(MergerDefect):
    """training_mode: the tokens in train() and in eval() differ"""

    class broken(Mean):
        def forward(self, patches, *rest):
            return super().forward(nn.functional.dropout(patches, 0.5, self.training), *rest)


class TestHidesAParameter(MergerDefect):
    """state_dict: tensors that build makes must be parameters or buffers"""

    class broken(Mean):
        def build(self, patch_dim, query_dim):
            self.shift = torch.randn(1)

        def forward(self, patches, *rest):
            return super().forward(patches + self.shift, *rest)


class TestHoldsALambda(MergerDefect):
    """copies: a merger must be copied by pickle, got"""

    class broken(Mean):
        def __init__(self, config=None):
            super().__init__(config)
            self.scale = lambda value: value


class TestMergerForgetsToRegister(MergerDefect):
    """registered_name: Mean is registered by no plug-in"""

    broken = Mean
    registered = Weighted
