"""What parts say of their costs is what is counted while they run."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import vtc
from vtc.interfaces.costs import Sizes, cost
from vtc.plugins.registry import build_part
from vtc.testing import LiveNumbers, MultiplyAccumulates

FACTOR = 1.5
"""How far a count may be from its formula, which has leading terms only. Most are within 1.1;
other versions of torch may decompose or free otherwise."""

PATCHES = [(256, 64), (400, 128), (100, 512)]  # M, D: M > D, M > D, D > M
FRAMES = [(2048, 256), (20000, 32)]  # N, d: blocks outweigh what is held of each frame, and not
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "dfm": [{}, {"projection": "learned"}],
    # Few enough iterations that frames still move; many clusters, and few.
    "kmeans": [{"iterations": 3, "keyframes": 128}, {"iterations": 3, "keyframes": 8}],
    "hico": [{}, {"frames": 2, "tokens": 64}],
    "memory": [{}, {"window": 8, "frames": 1}],
    "mdp3": [{"keyframes": 16, "segment": 16}],
    "perceiver": [{}, {"tokens": 32, "layers": 1}],
    "q_former": [{}, {"tokens": 32}],
    "spatial_pool": [{}, {"side": 8}],
    "tome": [{}, {"tokens": 64}],
}


def specs(kind: str) -> list[dict[str, Any]]:
    shipped = [p for p in vtc.parts(kind) if p.distribution == "video-token-compression"]
    return [{"name": p.name, **options} for p in shipped for options in VARIANTS.get(p.name, [{}])]


def title(spec: dict[str, Any]) -> str:
    return "-".join(str(value) for value in spec.values())


def check(counted: float, expected: float, least: float = 0.0) -> None:
    """Within the factor, or both below ``least``."""
    close = expected / FACTOR <= counted <= expected * FACTOR
    assert close or max(counted, expected) <= least, f"{counted:.4g}, said {expected:.4g}"


def frames_to_merge(name: str, n: int, patches: int, dim: int) -> Tensor:
    """Random patches ``[n, M, D]``; for ``memory`` pairs of like frames, its greatest memory."""
    if name != "memory":
        return torch.randn(n, patches, dim)
    pairs = torch.randn(n // 2, patches, dim).repeat_interleave(2, 0)
    return pairs + 0.01 * torch.randn(n, patches, dim)


@pytest.mark.parametrize(("patches", "dim"), PATCHES)
@pytest.mark.parametrize("spec", specs("merger"), ids=title)
@torch.no_grad()
def test_mergers_cost_what_they_say(spec, patches, dim):
    torch.manual_seed(0)
    merger = build_part("merger", spec)
    n, query_dim = max(2, merger.frames_together), 32
    merger.build(dim, query_dim)
    frames, reference = frames_to_merge(spec["name"], n, patches, dim), torch.randn(n, patches, dim)
    query = torch.randn(query_dim if merger.query_source == "frame_encoder" else dim)
    arguments = frames, reference, torch.ones(n, dtype=torch.bool), query
    run = functools.partial(merger, *arguments)
    if isinstance(merger, vtc.SegmentMerger):
        n = 8
        segment = torch.randn(n, patches, dim), torch.rand(n, patches)
        run = functools.partial(merger.merge_segment, *segment, None)
    with MultiplyAccumulates() as macs:
        merged = run()
    held = sum(tokens.numel() for tokens in merged)
    with LiveNumbers() as live:
        run()
    sizes = Sizes(n=n, M=patches, D=dim, Dq=query_dim)
    check(macs.count, n * merger.macs(sizes))
    check(live.peak - held, merger.extra_memory(sizes), least=2 * patches)


def video(name: str, keyframes: int, frames: int, dim: int) -> tuple[Tensor, Tensor]:
    """Embeddings and a query; for ``dks`` the worst case, in which no frame is the last to take.

    ``dks_next`` has half as many keyframes of ``dks``.

    The most relevant frames differ from one another and are one too few; all others are like the
    most relevant one only, with which they are compared last.
    """
    if name not in ("dks", "dks_next"):
        return torch.randn(frames, dim), torch.randn(dim)
    keyframes = keyframes if name == "dks" else (keyframes + 1) // 2
    scenes = torch.eye(dim)[:keyframes]
    relevance = torch.cat([torch.tensor([1.0]), torch.linspace(0.95, 0.9, keyframes - 2)])
    like = 0.87 * scenes[:1] + 0.49 * scenes[-1:]
    return torch.cat([scenes[:-1], like.repeat(frames - keyframes + 1, 1)]), relevance @ scenes[:-1]


@pytest.mark.parametrize(("frames", "dim"), FRAMES)
@pytest.mark.parametrize("spec", specs("selector"), ids=title)
def test_selectors_cost_what_they_say(spec, frames, dim):
    torch.manual_seed(0)
    selector = build_part("selector", spec)
    if spec["name"] == "mdp3":
        frames = min(frames, 800)  # many small steps, which are slow to count
    keyframes = getattr(selector.config, "keyframes", 0)
    arguments = video(spec["name"], keyframes, frames, dim)
    with MultiplyAccumulates() as macs:
        selector.select(*arguments)
    with LiveNumbers() as live:
        selection = selector.select(*arguments)
    relevance = selection.relevance
    held = len(selection.keyframes) + (0 if relevance is None else len(relevance))
    sizes = Sizes(N=frames, d=dim)
    check(macs.count, frames * selector.macs(sizes))
    check(max(live.peak - held, 0), selector.extra_memory(sizes))


# --- the counters


def test_a_dot_product_counts_the_same_however_it_is_written():
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    column = b[:, :1].T
    for product in (
        lambda: a @ b[:, 0],
        lambda: a @ b[:, :1],
        lambda: (a * column).sum(-1),
        lambda: torch.addmm(torch.zeros(1), a, b[:, :1]),
        lambda: a[None] @ b[None, :, :1],
        lambda: torch.nn.functional.linear(a, column),
    ):
        with MultiplyAccumulates() as macs:
            product()
        assert macs.count == 5 * 7


@torch.no_grad()
def test_what_else_is_counted():
    a = torch.randn(2, 5, 8)
    for expected, operation in (
        (2 * 3 * 5 * (8 + 8), lambda: torch.nn.functional.scaled_dot_product_attention(
            a[:, None, :3], a[:, None], a[:, None]
        )),
        (80, lambda: a.norm(dim=-1)),
        (40, lambda: a.mean(dim=1)),
        (40, lambda: a / 2),
        (40, lambda: a.square()),
        (40, lambda: a.clone().mul_(2)),
        (0, lambda: (a + a, a.sort(), a.exp(), a.transpose(0, 1))),
    ):  # fmt: skip
        with MultiplyAccumulates() as macs:
            operation()
        assert macs.count == expected


def test_live_numbers_are_the_most_at_once():
    given = torch.randn(10, 10)
    with LiveNumbers() as live:
        given.T.mul_(2)  # neither a view nor an operation in place makes numbers
    assert live.peak == 0
    with LiveNumbers() as live:
        for _ in range(3):
            (given + 1).sum()
    assert live.peak == 101
    with LiveNumbers() as live:
        kept = [(given + i)[:1] for i in range(3)]  # a view keeps all of its numbers alive
    assert live.peak == 300 and len(kept) == 3
    with LiveNumbers() as live:
        given.double()
    assert live.peak == 100


# --- sizes


def test_sizes_are_above_0():
    with pytest.raises(ValueError, match="expected M to be a number above 0, got 0"):
        Sizes(M=0)


def test_the_strings_of_the_first_version_are_ignored_with_a_warning():
    class Old(vtc.FrameSelector):
        macs = "9 * N"

        def select(self, embeddings, query=None, timestamps=None):
            raise NotImplementedError

    with pytest.warns(DeprecationWarning, match=r"Old\.macs = '9 \* N' is ignored: write a method"):
        assert cost(Old(), "macs", Sizes()) is None
    assert cost(Old(), "extra_memory", Sizes()) is None
