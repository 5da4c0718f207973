"""Options of the shipped parts: their ranges, and the arguments that selectors refuse."""

from __future__ import annotations

import math

import pytest
import torch

import vtc
from vtc.plugins.options import options_of
from vtc.plugins.registry import build_part
from vtc.testing import scene_embeddings

SHIPPED = [
    (part.kind, part.name)
    for kind in ("selector", "merger")
    for part in vtc.parts(kind)
    if part.distribution == "video-token-compression"
]
OPTIONS = [
    (kind, name, option, declared.annotation)
    for kind, name in SHIPPED
    for option, declared in options_of(type(build_part(kind, name))).items()
]
WHOLE = [case[:3] for case in OPTIONS if case[3] is int]
NUMBERS = [case[:3] for case in OPTIONS if float in (case[3], *getattr(case[3], "__args__", ()))]
LEAST = {"max_depth": 0, "seed": 0, "window": 2}


@pytest.mark.parametrize(("kind", "name", "option"), WHOLE)
def test_whole_numbers_have_a_least_and_a_most(kind, name, option):
    least = 1 if name == "memory" else LEAST.get(option, 1)
    config = type(build_part(kind, name)).Config
    assert getattr(config(**{option: max(least, 2)}), option) == max(least, 2)
    message = f"expected {option} to be a whole number of at least {least}, got"
    for wrong in (least - 1, -3, True, 2.5, "3", None):
        with pytest.raises(ValueError, match=message):
            config(**{option: wrong})
    for wrong in (2**31, 10**30):
        with pytest.raises(ValueError, match=rf"expected {option} to be .* below 2\*\*31, got"):
            config(**{option: wrong})


@pytest.mark.parametrize(("kind", "name", "option"), NUMBERS)
def test_numbers_are_finite_and_within_what_float32_holds(kind, name, option):
    config = type(build_part(kind, name)).Config
    for wrong in (math.nan, math.inf, -math.inf, 1e39, 10**400, True, "1"):
        with pytest.raises(ValueError, match=rf"expected {option} to be a number in \["):
            config(**{option: wrong})


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("selector", "aks", {"score_threshold": -0.1}, r"score_threshold .* \[0, 1\], got -0\.1"),
        ("selector", "dks", {"similarity_threshold": 1.01}, r"\[-1, 1\], got 1\.01"),
        ("selector", "dks", {"fill": "gap"}, "expected fill to be 'none' or 'gaps', got 'gap'"),
        (
            "selector",
            "dks",
            {"relevance_threshold": -2},
            r"relevance_threshold .* got -2",
        ),
        ("selector", "mdp3", {"segment": 1025}, "expected segment to be at most 1024, got 1025"),
        ("selector", "mmr", {"relevance_weight": 1.5}, r"relevance_weight .* \[0, 1\], got 1\.5"),
        ("selector", "scene_change", {"least_change": 2.1}, r"least_change .* \[0, 2\], got 2\.1"),
        (
            "selector",
            "dino_diff",
            {"encoder": ""},
            "encoder to be the name or folder of a frame",
        ),
        ("merger", "dfm", {"redundancy_weight": -0.1}, r"redundancy_weight .*, got -0\.1"),
        ("merger", "dfm", {"temperature": 0}, "temperature .*, got 0"),
        ("merger", "dfm", {"temperature": 1e-45}, "expected temperature to be a number in .*1e-45"),
        ("merger", "dfm", {"redundancy_weight": 1e38}, "redundancy_weight .*, got 1e.38"),
        ("merger", "dfm", {"redundancy_weight": 1e37}, r"\(1 \+ redundancy_weight\) / temperature"),
        ("merger", "dfm", {"reference": "next"}, "reference to be 'preceding' or 'released'"),
        ("merger", "dfm", {"projection": "linear"}, "projection to be 'none' or 'learned'"),
        ("merger", "memory", {"window": 3, "frames": 4}, "frames .* of at most window=3, got 4"),
        ("merger", "similarity_prune", {"similarity_threshold": 1.1}, r"\[-1, 1\], got 1\.1"),
        ("merger", "spatial_pool", {"rows": 0}, "expected rows to be a whole number .*, got 0"),
    ],
)
def test_values_out_of_range_are_named(kind, name, options, message):
    with pytest.raises(ValueError, match=message):
        type(build_part(kind, name)).Config(**options)
    with pytest.raises(ValueError, match=rf"^{kind} '{name}': .*{message}"):
        build_part(kind, {"name": name, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.2e-38 * 2**5},
        {"temperature": 3.4e38},
        {"redundancy_weight": 8e37, "temperature": 1.0},
        {"redundancy_weight": 8e37, "temperature": 3e38},
        {"redundancy_weight": 8e30, "temperature": 1e-7},
        {"redundancy_weight": 0, "temperature": 1e-6},
    ],
)
def test_dfm_gives_finite_tokens_and_gradients_at_the_ends_of_its_ranges(options):
    generator = torch.Generator().manual_seed(0)
    patches, reference = torch.randn(2, 5, 9, 16, generator=generator)
    patches = torch.cat([patches, torch.zeros_like(patches), reference]).requires_grad_()
    merger = vtc.merger("dfm", **options)
    tokens = merger(patches, reference.repeat(3, 1, 1), torch.ones(15).bool(), patches[0, 0])
    tokens.square().sum().backward()
    assert tokens.isfinite().all() and patches.grad.isfinite().all()


QUERY_AWARE = ["aks", "bolt", "dks", "dks_next", "mdp3", "mmr", "qframe", "query_guided"]
FRAMES_ONLY = ["dino_diff", "kmeans", "scene_change"]


@pytest.mark.parametrize("name", [*QUERY_AWARE, *FRAMES_ONLY])
def test_selectors_name_the_argument_that_they_refuse(name):
    embeddings, query = scene_embeddings(5, dim=4, seed=0)
    selector = vtc.selector(name)
    for wrong, shape in ((embeddings[0], r"\[4\]"), (embeddings[:0], r"\[0, 4\]")):
        with pytest.raises(ValueError, match=rf"'{name}': expected embeddings .* got {shape}$"):
            selector.select(wrong, query)
    with pytest.raises(ValueError, match=rf"'{name}': expected embeddings .* got \[5, 0\]"):
        selector.select(embeddings[:, :0], query[:0])
    with pytest.raises(TypeError, match=rf"'{name}': expected floating-point .* got torch\.int64"):
        selector.select(embeddings.long(), query)
    for bad in (math.nan, math.inf):
        broken = embeddings.clone()
        broken[3, 1] = broken[4, 0] = bad
        with pytest.raises(ValueError, match=f"'{name}': .* the embedding of frame 3 holds NaN"):
            selector.select(broken, query)


@pytest.mark.parametrize("name", QUERY_AWARE)
def test_selectors_name_a_query_that_they_refuse(name):
    embeddings, query = scene_embeddings(5, dim=4, seed=0)
    selector = vtc.selector(name)
    with pytest.raises(ValueError, match=f"selector '{name}' needs a query, got None.* vtc_query"):
        selector.select(embeddings)
    for wrong in (query[:3], query[None]):
        with pytest.raises(ValueError, match=rf"'{name}': expected .* and a query \[d\] of one fr"):
            selector.select(embeddings, wrong)
    query[0] = math.nan
    with pytest.raises(ValueError, match=f"'{name}': .* the query embedding holds NaN"):
        selector.select(embeddings, query)


@pytest.mark.parametrize("name", ["none", "random", "uniform"])
def test_selectors_without_embeddings_need_frames(name):
    with pytest.raises(ValueError, match=rf"'{name}': expected embeddings .* got \[0, 0\]"):
        vtc.selector(name).select(torch.empty(0, 0))
