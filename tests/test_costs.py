"""What parts say of their costs is what is counted while they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vtc
from vtc.interfaces.costs import evaluate, symbols
from vtc.plugins.registry import build_part
from vtc.testing import LiveNumbers, MultiplyAccumulates

FACTOR = 1.5
"""How far a count may be from its expression, which has leading terms only. Most are within 1.1:
the rest is for what other versions of torch may decompose or free otherwise."""

PATCHES = [(256, 64), (400, 128), (100, 512)]  # M, D: M > D, M > D, D > M
FRAMES = [(2048, 256), (20000, 32)]  # N, d: blocks outweigh what is held of each frame, and not
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "dfm": [{}, {"projection": "learned"}],
    # Few enough iterations that frames still move; many clusters, and few.
    "kmeans": [{"iterations": 3, "keyframes": 128}, {"iterations": 3, "keyframes": 8}],
    "memory": [{}, {"window": 8, "frames": 1}],
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
    with MultiplyAccumulates() as macs:
        merged = merger(*arguments)
    held = sum(tokens.numel() for tokens in merged)
    with LiveNumbers() as live:
        merger(*arguments)
    values = symbols(merger, {"n": n, "M": patches, "D": dim, "Dq": query_dim})
    check(macs.count, n * evaluate(merger.macs, values))
    check(live.peak - held, evaluate(merger.extra_memory, values), least=2 * patches)


def video(name: str, keyframes: int, frames: int, dim: int) -> tuple[Tensor, Tensor]:
    """Embeddings and a query; for ``dks`` the worst case, in which no frame is the last to take.

    The most relevant frames differ from one another and are one too few; all others are copies
    of the last of them, so each is compared with them all.
    """
    if name != "dks":
        return torch.randn(frames, dim), torch.randn(dim)
    scenes = torch.eye(dim)[: keyframes - 1]
    relevance = torch.linspace(1, 0.1, keyframes - 1)
    return torch.cat([scenes, scenes[-1:].repeat(frames - keyframes + 1, 1)]), relevance @ scenes


@pytest.mark.parametrize(("frames", "dim"), FRAMES)
@pytest.mark.parametrize("spec", specs("selector"), ids=title)
def test_selectors_cost_what_they_say(spec, frames, dim):
    torch.manual_seed(0)
    selector = build_part("selector", spec)
    arguments = video(spec["name"], selector.config.keyframes, frames, dim)
    with MultiplyAccumulates() as macs:
        selector.select(*arguments)
    with LiveNumbers() as live:
        selection = selector.select(*arguments)
    relevance = selection.relevance
    held = len(selection.keyframes) + (0 if relevance is None else len(relevance))
    values = symbols(selector, {"N": frames, "d": dim})
    check(macs.count, frames * evaluate(selector.macs, values))
    check(max(live.peak - held, 0), evaluate(selector.extra_memory, values))


@pytest.mark.parametrize("spec", [*specs("selector"), *specs("merger")], ids=title)
def test_shipped_parts_say_everything(spec):
    kind = "selector" if spec in specs("selector") else "merger"
    part = build_part(kind, spec)
    assert part.source and part.macs and part.extra_memory


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
    for cost, operation in (
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
        assert macs.count == cost


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


# --- expressions


def test_expressions_are_python():
    values = {"M": 9.0, "D": 4.0, "layers": 3.0}
    for text in ("M * D / 2", "layers * (2 * M - 1) + D**2", "min(M, D, 5) * max(1, D)", "7 / 3"):
        assert evaluate(text, values) == eval(
            text, {"__builtins__": {}, "min": min, "max": max}, values
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("M * X", r"'M \* X': X has no value; those known are: D, M"),
        ("M *", r"'M \*' is no expression"),
        ("M.real", r"M\.real is not allowed; allowed are numbers, symbols, \+ - \* / \*\*"),
        ("abs(M)", r"abs\(M\) is not allowed"),
        ("M % 2", "M % 2 is not allowed"),
        ("'M'", "'M' is not allowed"),
    ],
)
def test_other_expressions_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        evaluate(text, {"M": 2, "D": 3})


def test_symbols_of_a_part():
    found = symbols(vtc.merger("spatial_pool", side=3), {"M": 81})
    assert found == {"side": 3, "T": 9, "M": 81}  # rows=None is no number
    assert symbols(vtc.selector("dks", keyframes=7), {})["K"] == 7
    assert symbols(vtc.merger("drop"), {}) == {"T": 0}


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"'T' is no size; allowed are N \(frames of the video\)"):
        symbols(vtc.merger("drop"), {"T": 3})
    with pytest.raises(ValueError, match="M=0: allowed is a number above 0"):
        symbols(vtc.merger("drop"), {"M": 0})
