"""Selectors with one defect each, run by test_part_suites.py.

The classes `TestSound...` pass all checks; every other class has one defect. Its docstring holds
words, a colon and part of a sentence: each check whose name contains a word must fail with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from broken_parts import Defect, Registered

import vtc


@dataclass(frozen=True, kw_only=True)
class Options:
    keyframes: int = 4

    def __post_init__(self):
        if self.keyframes < 1:
            raise ValueError(f"expected keyframes >= 1, got {self.keyframes}")


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


class TestSoundSelector(Registered, vtc.testing.SelectorContract):
    part = Sound()


class TestSoundWithoutEmbeddings(Registered, vtc.testing.SelectorContract):
    class CheckedSteps(Steps):
        """Refuses what is no video."""

        def select(self, embeddings, query=None, timestamps=None):
            if embeddings.ndim != 2 or not len(embeddings):
                raise ValueError("wrong shape")
            return super().select(embeddings, query, timestamps)

    part = CheckedSteps()


class TestSetsNoSelector(Defect, vtc.testing.SelectorContract):
    """made: set part = ... in the class TestSetsNoSelector"""


class TestReturnsABareTensor(Defect, vtc.testing.SelectorContract):
    """keyframes_and_relevance: must return vtc.Selection(keyframes, relevance), got Tensor"""

    class broken(Sound):
        def select(self, *video):
            return super().select(*video).keyframes


class TestReturnsAList(Defect, vtc.testing.SelectorContract):
    """keyframes_and_relevance: keyframes must be a tensor [K'] of int64, got list"""

    class broken(Sound):
        def select(self, *video):
            return vtc.Selection(super().select(*video).keyframes.tolist(), None)


class TestRanksInAnArray(Defect, vtc.testing.SelectorContract):
    """keyframes_and_relevance: relevance must be a tensor [N] of float32, or None, got ndarray"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance.numpy())


class TestForgetsToRegister(Defect, vtc.testing.SelectorContract):
    """registered_name: Sound is not registered by any plug-in"""

    broken = Sound
    registered = Steps


class TestChangesItsOptions(Defect, vtc.testing.SelectorContract):
    """registered_name: must not change its options"""

    class broken(Sound):
        def __init__(self, config=None):
            super().__init__(Options(keyframes=(config or Options()).keyframes + 1))


class TestOptionsAreNotPlain(Defect, vtc.testing.SelectorContract):
    """registered_name: options of TestOptionsAreNotPlain.broken must be plain JSON"""

    class broken(Sound):
        @dataclass(frozen=True, kw_only=True)
        class Config(Options):
            dtype: torch.dtype = torch.float32


class TestDescending(Defect, vtc.testing.SelectorContract):
    """keyframes_and_relevance: keyframes must be ascending and unique, got ["""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes.flip(0), selection.relevance)


class TestRepeatsFrames(Defect, vtc.testing.SelectorContract):
    """keyframes_and_relevance: keyframes must be ascending and unique, got [0, 0]"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes[[0] * 2], selection.relevance)


class TestCountsFromOne(Defect, vtc.testing.SelectorContract):
    """keyframes_and_relevance: keyframes of 1 frames must be in 0 ... 0, got [1]"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes + 1, selection.relevance)


class TestInt32Keyframes(Defect, vtc.testing.SelectorContract):
    """keyframes_and_relevance: keyframes must be [K'] of int64, got [1] of torch.int32"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes.int(), selection.relevance)


class TestKeyframesElsewhere(Defect, vtc.testing.SelectorContract):
    """keyframes_and_relevance: keyframes must be on the inputs' device, cpu, got meta"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes.to("meta"), selection.relevance)


class TestKeyframesOnTheCpu(Defect, vtc.testing.SelectorContract):
    """cuda: keyframes must be on the inputs' device, cuda:0, got cpu"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes.cpu(), selection.relevance)


class TestRelevanceOfKeyframesOnly(Defect, vtc.testing.SelectorContract):
    """keyframes_and_relevance: relevance of 7 frames must be [7] of float32, got [4]"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance[selection.keyframes])


class TestRelevanceOfTheInputsDtype(Defect, vtc.testing.SelectorContract):
    """every_dtype: relevance of 40 frames must be [40] of float32, got [40] of"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance.to(video[0].dtype))


class TestOneTooMany(Defect, vtc.testing.SelectorContract):
    """budget: expected at most 4 keyframes, got 5 of 5 frames"""

    class broken(Sound):
        def select(self, *video):
            order = super().select(*video).relevance.argsort(descending=True)
            return vtc.Selection(order[: self.config.keyframes + 1].sort().values, None)


class TestDrawsLots(Defect, vtc.testing.SelectorContract):
    """same_input: a second call with the same video gave another result"""

    class broken(Sound):
        def select(self, *video):
            self.refuse(*video[:2])
            return vtc.Selection(torch.randperm(len(video[0]))[:4].sort().values, None)


class TestCountsSelectors(Defect, vtc.testing.SelectorContract):
    """same_input: two selectors with the same options gave different results"""

    class broken(Sound):
        made = 0

        def __init__(self, config=None):
            super().__init__(config)
            type(self).made += 1
            self.shift = self.made

        def select(self, *video):
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance + self.shift)


class TestRanksOnlyOnce(Defect, vtc.testing.SelectorContract):
    """same_input: relevance is None in one of them"""

    class broken(Sound):
        def select(self, *video):
            selection = super().select(*video)
            self.relevance, shown = None, getattr(self, "relevance", selection.relevance)
            return vtc.Selection(selection.keyframes, shown)


class TestRemembersTheFirstVideo(Defect, vtc.testing.SelectorContract):
    """other_videos: the result depends on earlier videos"""

    class broken(Sound):
        def select(self, *video):
            self.shift = getattr(self, "shift", video[0].mean())
            selection = super().select(*video)
            return vtc.Selection(selection.keyframes, selection.relevance + self.shift)


class TestNormalisesInPlace(Defect, vtc.testing.SelectorContract):
    """inputs_are_not_modified: select modified its argument embeddings in place"""

    class broken(Sound):
        def select(self, *video):
            video[0].mul_(2)
            return super().select(*video)


class TestReadsStorage(Defect, vtc.testing.SelectorContract):
    """memory_layout: non-contiguous embeddings gave another result"""

    class broken(Sound):
        def select(self, embeddings, *rest):
            self.refuse(embeddings, *rest[:1])
            flat = embeddings.as_strided(embeddings.shape, (embeddings.shape[1], 1))
            return super().select(flat, *rest)


class TestDividesByZero(Defect, vtc.testing.SelectorContract):
    """degenerate: relevance must be finite, got NaN or inf at [0, 1, 2, 3, 4] and 25 more"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            self.refuse(embeddings, query)
            unit = embeddings / embeddings.norm(dim=1, keepdim=True)
            selection = super().select(embeddings, query)
            return vtc.Selection(selection.keyframes, (unit * query).sum(1).float())


class TestTrustsTimestamps(Defect, vtc.testing.SelectorContract):
    """unknown_timestamps: timestamps=None must work or raise a ValueError that says 'timestamps'"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            timestamps[0]
            return super().select(embeddings, query)


class TestGuessesTheQuery(Defect, vtc.testing.SelectorContract):
    """a_query_is_needed: query=None, as uses_query is True, must raise"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings, embeddings[0] if query is None else query)


class TestPromisesToIgnoreTheQuery(Defect, vtc.testing.SelectorContract):
    """a_query_is_needed: uses_query is False, but the result depends on the query"""

    class broken(Sound):
        uses_query = False

        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings, embeddings[0] if query is None else query)


class TestNeedsAQueryThatItNeverGets(Defect, vtc.testing.SelectorContract):
    """a_query_is_needed: a selector without embeddings gets no query"""

    class broken(Steps):
        uses_query = True


class TestPromisesToIgnoreEmbeddings(Defect, vtc.testing.SelectorContract):
    """embeddings_make_no_difference: uses_embeddings is False, but the result depends"""

    class broken(Steps):
        def select(self, embeddings, query=None, timestamps=None):
            return vtc.Selection(torch.arange(0, len(embeddings), 1 + embeddings.shape[1]), None)


class TestRanksNaN(Defect, vtc.testing.SelectorContract):
    """not_finite: embeddings with a row of nan must raise a ValueError"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings.nan_to_num(), query)


class TestAsksNaN(Defect, vtc.testing.SelectorContract):
    """not_finite: a query of nan must raise a ValueError"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings, None if query is None else query.nan_to_num())


class TestTakesAnyShape(Defect, vtc.testing.SelectorContract):
    """wrong_shapes: embeddings of the shape [1, 40, 16] instead of [N, d]"""

    class broken(Sound):
        def select(self, embeddings, query=None, timestamps=None):
            return super().select(embeddings[0] if embeddings.ndim == 3 else embeddings, query)


class TestTakesNoKeyframes(Defect, vtc.testing.SelectorContract):
    """0_keyframes: the option keyframes=0 must raise a ValueError"""

    class broken(Sound):
        @dataclass(frozen=True, kw_only=True)
        class Config:
            keyframes: int = 4
