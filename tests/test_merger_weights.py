"""What mergers say of how much each patch counts, against what they make of the patches."""

from __future__ import annotations

import math

import pytest
import torch

from vtc_mergers.dfm import DFM
from vtc_mergers.drop import Drop
from vtc_mergers.llama_vid import LlamaVid
from vtc_mergers.mean_pool import MeanPool
from vtc_mergers.memory import Memory
from vtc_mergers.perceiver import Perceiver
from vtc_mergers.q_former import QFormer
from vtc_mergers.similarity_prune import SimilarityPrune
from vtc_mergers.spatial_pool import SpatialPool
from vtc_mergers.tome import ToMe

N, PATCHES, DIM = 5, 9, 12  # patches of full rank: only one set of weights gives their tokens
MERGERS = {
    "dfm": DFM,
    "dfm warm": lambda: DFM(DFM.Config(temperature=0.5)),
    "dfm learned": lambda: DFM(DFM.Config(projection="learned", temperature=0.5)),
    "mean_pool": MeanPool,
    "drop": Drop,
    "similarity_prune": lambda: SimilarityPrune(
        SimilarityPrune.Config(similarity_threshold=0.1, tokens=3)
    ),
    "spatial_pool": SpatialPool,
    "spatial_pool one row": lambda: SpatialPool(SpatialPool.Config(rows=1)),
    "tome": lambda: ToMe(ToMe.Config(tokens=4)),
    "tome unchanged": ToMe,
}


def built(name):
    torch.manual_seed(0)
    merger = MERGERS[name]()
    merger.build(DIM, DIM)
    return merger


def frames(dtype=torch.float64, n=N, patches=PATCHES):
    """Arguments of ``forward``; the first two frames have no reference."""
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(*shape, generator=generator) for shape in ((n, patches, DIM),) * 2]
    query = torch.randn(DIM, generator=generator)
    return draw[0].to(dtype), draw[1].to(dtype), torch.arange(n) >= 2, query.to(dtype)


@pytest.mark.parametrize("name", MERGERS)
def test_weighted_patches_are_the_tokens(name):
    merger, inputs = built(name).double(), frames()
    merged, weights = merger(*inputs), merger.weights(*inputs)
    assert len(weights) == N
    for tokens, rows, patches in zip(merged, weights, inputs[0], strict=True):
        assert rows.shape == (len(tokens), PATCHES) and rows.dtype == torch.float64
        torch.testing.assert_close(rows @ patches, tokens)
        assert (rows >= 0).all()
        torch.testing.assert_close(rows.sum(1), torch.ones(len(tokens)).double())


@pytest.mark.parametrize("name", MERGERS)
def test_weights_are_float32_at_least(name):
    merger = built(name).to(torch.bfloat16)
    weights = merger.weights(*frames(torch.bfloat16))
    assert all(rows.dtype == torch.float32 for rows in weights)
    none = merger.weights(*frames(torch.bfloat16, n=0))
    assert len(none) == 0
    if isinstance(none, torch.Tensor):
        assert none.dtype == torch.float32
        assert none.shape[1:] == merger.weights(*frames(torch.bfloat16)).shape[1:]


@pytest.mark.parametrize("name", MERGERS)
def test_weights_of_one_frame_do_not_depend_on_the_others(name):
    merger = built(name)
    patches, reference, known, query = frames(torch.float32)
    reference[~known] = math.nan
    together = merger.weights(patches, reference, known, query)
    for i, rows in enumerate(together):
        own = slice(i, i + 1)
        alone = merger.weights(patches[own], reference[own], known[own], query)
        assert torch.equal(alone[0], rows)


@pytest.mark.parametrize("name", MERGERS)
def test_weights_check_their_arguments_as_forward_does(name):
    patches, *rest = frames()
    with pytest.raises(ValueError, match=r"patches are \[9, 12\]; allowed is \[n, M, D\]"):
        built(name).weights(patches[0], *rest)
    if name.startswith("dfm"):
        with pytest.raises(ValueError, match="needs a query"):
            built(name).weights(patches, *rest[:2], None)


def test_a_gradient_flows_through_the_weights_of_dfm():
    merger, inputs = built("dfm learned").double(), frames()
    merger.weights(*inputs).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in merger.parameters())


@pytest.mark.parametrize("make", [LlamaVid, Memory, Perceiver, QFormer])
def test_tokens_that_are_no_weighted_patches_have_none(make):
    merger = make()
    merger.build(DIM, DIM)
    assert merger.weights(*frames()) is None
