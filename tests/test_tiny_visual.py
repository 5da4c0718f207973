"""Visual tokens of many videos at once are those of the toolkit."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc
from vtc.plugins import registry
from vtc_recipes.tiny.visual import Merges, merge


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), learned=st.booleans(), weight=st.floats(0, 2))
def test_merging_many_frames_is_the_toolkit_s_merging(
    seed: int, learned: bool, weight: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    patches, references = torch.randn(2, 5, 4, 3, generator=draw, dtype=torch.float64)
    queries = torch.randn(2, 3, generator=draw, dtype=torch.float64)
    merges = Merges(
        videos=torch.tensor([0, 0, 0, 1, 1]),
        patches=patches,
        references=references,
        has_reference=torch.rand(5, generator=draw) < 0.6,
        queries=queries,
    )
    spec = vtc.merger(
        "dfm",
        temperature=0.1,
        redundancy_weight=weight,
        projection="learned" if learned else "none",
    )
    merger = registry.build_part("merger", spec)
    merger.build(3, 3)
    merger.double()
    tokens = merge(merger, merges)
    for n, video in enumerate(merges.videos.tolist()):
        one = slice(n, n + 1)
        expected = merger(patches[one], references[one], merges.has_reference[one], queries[video])
        torch.testing.assert_close(tokens[n], expected[0])
