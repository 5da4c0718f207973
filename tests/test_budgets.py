"""Token budgets: held to the token in every family, equal to a slow reference, refused in words."""

from __future__ import annotations

import functools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from family_models import CONTRACTS
from hypothesis import given, settings
from torch import Tensor

import vtc
from vtc.interfaces.token_budget import SHARED, FrameStatistics, TokenBudget
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare

FRAMES = 24
PRUNERS = ["divprune", "cdpruner", "random", "similarity_prune"]
KEYFRAMES = vtc.selector("dks", keyframes=3, similarity_threshold=1.0)


class TestEven(vtc.testing.BudgetContract):
    part = vtc.budget("even", max_tokens=100)


class TestFoveated(vtc.testing.BudgetContract):
    part = vtc.budget("foveated", max_tokens=100)


class NeedsEmbeddings(vtc.TokenBudget):
    """Gives one token to frames that differ from the frame before."""

    def allocate(self, statistics, total):
        if statistics.previous_similarity is None:
            raise ValueError("the budget needs embeddings; choose a selector that uses them")
        tokens = torch.zeros(statistics.count, dtype=torch.int64)
        tokens[statistics.previous_similarity.argsort()[:total]] = 1
        return tokens


class TestNeedsEmbeddings(vtc.testing.BudgetContract):
    part = NeedsEmbeddings()
    test_registered_name_and_options_make_it_again = None


@functools.cache
def family_case(family: str):
    """A wrapped model with inputs of two videos, and the logits of the stock model."""
    contract = CONTRACTS[family]
    model, processor = vtc.testing.tiny(family)
    videos = [contract.video(FRAMES, seed) for seed in (1, 2)]
    inputs = contract.inputs(processor, videos, ["What is red?", "Where is the cat?"])
    with torch.no_grad():
        stock = model(**{name: one for name, one in inputs.items() if name != "vtc_frames"}).logits
    encoder = vtc.testing.tiny_encoder()
    vtc.wrap(model, KEYFRAMES, "dfm", processor=processor, encoder=encoder)
    return model, inputs, stock


def prepared_within(model, inputs, budget, merger="dfm"):
    model.vtc.merger = vtc.merger(merger) if isinstance(merger, str) else merger
    model.vtc.budget = budget
    with torch.no_grad():
        return prepare(Call(model, model.vtc, inputs))


@pytest.mark.parametrize("family", sorted(CONTRACTS))
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_the_budget_is_held_to_the_token(family, data):
    model, inputs, _ = family_case(family)
    most = prepared_within(model, inputs, None).report.videos[0].tokens_before
    total = data.draw(st.integers(2, most))
    name = data.draw(st.sampled_from(["even", "foveated"]))
    merger = data.draw(st.sampled_from(["dfm", *PRUNERS]))
    report = prepared_within(model, inputs, vtc.budget(name, max_tokens=total), merger).report
    assert [video.tokens_after for video in report.videos] == [total, total]
    counts = dict(report.videos[0].budget)
    slices = -(-FRAMES // report.videos[0].frames_per_slice)
    assert counts.pop("limit") == total and counts.pop("groups") <= counts["shared"]
    assert sum(counts.values()) == slices


def test_slices_of_a_single_token_share_it():
    """A video of 28 x 28 pixels has one token a slice, so one token is all that a slice has."""
    model, processor = vtc.testing.tiny("qwen2_vl")
    selector = vtc.selector("uniform", keyframes=1)
    vtc.wrap(model, selector, "dfm", processor=processor, budget=4)
    video = np.random.default_rng(0).integers(0, 255, (24, 28, 28, 3), dtype=np.uint8)
    (report,) = vtc.ask(model, processor, video, "What?", max_new_tokens=1).report.videos
    assert (report.tokens_before, report.tokens_after) == (12, 4)
    assert report.budget["whole"] == 1 and report.budget["shared"] == 11


@pytest.mark.parametrize("family", sorted(CONTRACTS))
def test_a_large_budget_gives_the_stock_logits(family):
    model, inputs, stock = family_case(family)
    model.vtc.budget = 10**6
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.testing.assert_close(logits, stock, atol=1e-5, rtol=0)
    assert any("nothing was compressed" in one for one in vtc.last_report(model).warnings)


class Fixed(TokenBudget):
    """Gives what a test says; ``max_tokens`` leaves room for all."""

    max_tokens = 10**6  # type: ignore[assignment]

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def allocate(self, statistics, total):
        self.seen = statistics, total
        return self.tokens(statistics) if callable(self.tokens) else self.tokens


def weighted(patches: Tensor, references: list[Tensor | None], query: Tensor) -> Tensor:
    """Eq. 7 to 10 of ViLAMP over any patches, one by one in float64.

    Args:
        patches: ``[n, D]``; ``references``: for each the patch at its place in the keyframe.
    """
    cosine = functools.partial(torch.nn.functional.cosine_similarity, dim=0)
    scores = [
        cosine(patch, query) - (0.0 if other is None else cosine(patch, other))
        for patch, other in zip(patches, references, strict=True)
    ]
    weights = torch.softmax(torch.stack(scores) / 0.5, dim=0)
    return sum(weight * patch for weight, patch in zip(weights, patches, strict=True))


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
def test_several_tokens_and_groups_equal_a_slow_reference(family, chunk):
    """Keyframe 2; frames 0 and 1 share a token, 3 gets two, 4 one, 5 to 7 share, 8 gets none."""
    contract = CONTRACTS[family]
    model, processor = vtc.testing.tiny(family)
    model.double()
    slices = torch.tensor([1, SHARED, 0, 2, 1, 1, SHARED, SHARED, 0])
    inputs = contract.inputs(processor, [contract.video(9 * (2 if "qwen" in family else 1))], ["?"])
    inputs = {
        name: one.double() if isinstance(one, Tensor) and one.is_floating_point() else one
        for name, one in inputs.items()
    }

    class Second(vtc.FrameSelector):
        uses_query = uses_embeddings = False

        def select(self, embeddings, query=None, timestamps=None):
            return vtc.Selection(torch.tensor([2]), None)

    merger = vtc.merger("dfm", temperature=0.5)
    with pytest.warns(UserWarning, match="not registered"):
        vtc.wrap(model, Second(), merger, processor=processor, budget=Fixed(slices))
    model.vtc.chunk_slices = chunk
    prepared = prepared_within(model, inputs, model.vtc.budget, merger)
    (rows,) = prepared.inputs["mm_encoder_outputs"][model.vtc.adapter.modality].pooler_output
    with torch.no_grad():
        kept, dense, tail = contract.reference(model, inputs, 0)[:3]
        ids = processor.tokenizer("?", return_tensors="pt")["input_ids"][0]
        query = model.get_input_embeddings()(ids).mean(0)
    width = kept.shape[-1]
    key = dense[2]
    count, grid = dense.shape[1], prepared.encoded[0].slices
    cells = torch.arange(count).view({9: (3, 3), 6: (2, 3)}[count])
    halves = [cells[:, :2].flatten(), cells[:, 2:].flatten()]  # 3 columns in two
    expected = [weighted(torch.cat([dense[0], dense[1]]), [None] * 2 * count, query)]
    expected += list(kept[2])
    expected += [weighted(dense[3][half], list(key[half]), query) for half in halves]
    expected += [weighted(dense[4], list(key), query)]
    expected += [weighted(dense[5:8].flatten(0, 1), list(key) * 3, query)]
    expected = torch.cat([torch.stack(expected), tail.reshape(-1, width)])
    torch.testing.assert_close(rows[:, :width], expected, atol=1e-6, rtol=1e-6)
    assert [len(one) for one in grid] == [1, 0, len(kept[2]), 2, 1, 1, 0, 0, 0]


def statistics(count=20, keyframes=(3, 12), **known):
    return FrameStatistics(torch.tensor(keyframes, dtype=torch.int64), 4, count, **known)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_token_is_given(data):
    """No frame gets more than M, and the total is used up unless all frames have M."""
    count = data.draw(st.integers(1, 120))
    keyframes = sorted(data.draw(st.sets(st.integers(0, count - 1), max_size=8)))
    total = data.draw(st.integers(0, 5 * count))
    relevance = torch.rand(count) if data.draw(st.booleans()) else None
    case = statistics(count, keyframes, relevance=relevance)
    other = torch.ones(count, dtype=torch.bool)
    other[keyframes] = False
    for name in ("even", "foveated"):
        tokens = vtc.budget(name).allocate(case, total)[other]
        assert int(tokens.clamp(min=0).sum()) == min(total, 4 * len(tokens))
        assert not len(tokens) or int(tokens.max()) <= 4


def test_foveated_gives_frames_beside_a_keyframe_more_and_far_ones_share():
    tokens = vtc.budget("foveated", reach=1.0).allocate(statistics(60, (30,)), 40)
    assert tokens[29] > 1 and tokens[31] > 1
    assert (tokens[:15] == SHARED).any() and (tokens[45:] == SHARED).any()
    even = vtc.budget("even").allocate(statistics(60, (30,)), 59 * 2)
    assert (even[torch.arange(60) != 30] == 2).all()


def test_even_groups_differ_by_one_frame():
    tokens = vtc.budget("even").allocate(statistics(100, ()), 30)
    starts = (tokens == 1).nonzero().flatten().tolist()
    sizes = {end - start for start, end in zip(starts, [*starts[1:], 100], strict=True)}
    assert sizes == {3, 4}


def test_a_budget_sees_what_the_first_pass_found():
    model, inputs, _ = family_case("llava_onevision")
    budget = Fixed(lambda known: torch.ones(known.count, dtype=torch.int64))
    report = prepared_within(model, inputs, budget).report
    known, total = budget.seen
    assert known.count == FRAMES and known.keyframes.tolist() == [
        one.index for one in report.videos[1].keyframes
    ]
    assert total == 10**6 - 1 - 3 * known.tokens_per_frame  # without the newline and keyframes
    assert known.relevance.tolist() == pytest.approx(report.videos[1].relevance)
    previous, nearest = known.previous_similarity, known.keyframe_similarity
    assert previous[0] == 0
    assert previous[1:].mean() > 0.3 and previous.abs().max() <= 1 + 1e-6
    first = int(known.keyframes[0])
    assert (nearest[:first] == 0).all() and nearest[first].item() == pytest.approx(1, abs=1e-6)


def test_keyframes_give_way_last_and_with_a_warning():
    model, inputs, _ = family_case("llava_onevision")
    whole = prepared_within(model, inputs, None).report.videos[0]
    ranked = sorted(whole.keyframes, key=lambda one: -one.relevance)
    report = prepared_within(model, inputs, 10).report  # 2 keyframes of 4 tokens, the newline
    assert {one.index for one in report.videos[0].keyframes} == {one.index for one in ranked[:2]}
    assert any("holds 2 of the 3 keyframes" in one for one in report.warnings)
    assert report.videos[0].tokens_after == 10


def test_auto_fits_the_context_with_the_answer():
    model, inputs, _ = family_case("qwen2_vl")
    text = model.config.get_text_config()
    length = text.max_position_embeddings
    try:
        text.max_position_embeddings = 64
        model.vtc.budget = "auto"
        with torch.no_grad():
            model.generate(**inputs, max_new_tokens=9, do_sample=False)
        report = vtc.last_report(model)
        lengths = inputs["attention_mask"].sum(1).tolist()
        for length_before, video in zip(lengths, report.videos, strict=True):
            assert length_before - video.tokens_before + video.tokens_after + 9 == 64
        text.max_position_embeddings = 20
        with pytest.raises(ValueError, match="of the 20 tokens of the model's context"):
            model.generate(**inputs, max_new_tokens=9)
    finally:
        text.max_position_embeddings = length


@pytest.mark.parametrize("context", [150, 300])
@pytest.mark.parametrize("frame_text", ["all", "keyframes"])
def test_auto_leaves_room_for_the_text_around_frames(frame_text, context, monkeypatch):
    """The text of all 40 frames alone is 302 tokens, so not every frame can have its own."""
    model, processor = vtc.testing.tiny("qwen3_vl")
    selector = vtc.selector("uniform", keyframes=2)
    vtc.wrap(model, selector, "dfm", processor=processor, budget="auto")
    model.vtc.configure(frame_text=frame_text)
    monkeypatch.setattr(model.config.get_text_config(), "max_position_embeddings", context)
    video = np.random.default_rng(0).integers(0, 255, (40, 64, 48, 3), dtype=np.uint8)
    report = vtc.ask(model, processor, video, "What?", max_new_tokens=5).report
    (read,) = report.videos
    assert read.tokens_after + read.text_after < context
    assert read.tokens_after == min(read.budget["limit"], read.tokens_before)
    assert not any("keyframes of" in one for one in report.warnings)  # both fit


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.ones(5), r"to return \[24\] int64, got '\(5,\) torch.float32'"),
        (None, r"to return \[24\] int64, got None"),
        (torch.full((24,), 99), "from -1 to 4 tokens"),
        (torch.full((24,), -2), "from -1 to 4 tokens"),
        (torch.full((24,), SHARED), "-1 only after a frame with one token"),
        (torch.full((24,), 10**6), "to give at most"),
    ],
)
def test_a_budget_that_gives_nonsense_is_named(tokens, message):
    model, inputs, _ = family_case("llava_onevision")
    with pytest.raises(ValueError, match=message) as error:
        prepared_within(model, inputs, Fixed(tokens))
    assert "budget 'Fixed'" in str(error.value)


class Several(type(vtc.merger("mean_pool"))):
    """Defines ``log_mass``, but makes two tokens of a frame."""

    tokens_per_frame = 2


def test_what_cannot_work_is_refused_in_words(encoder):
    model, processor = vtc.testing.tiny()
    with pytest.raises(ValueError, match=r"merger 'tome'.* cannot work with a budget"):
        vtc.wrap(model, "uniform", "tome", budget=64, processor=processor)
    several = Several()
    with pytest.raises(ValueError, match="'Several' cannot work with a budget"):
        vtc.wrap(model, "uniform", several, budget=64, processor=processor)
    assert not vtc.is_wrapped(model)
    for wrong in (0, -1, 2**40):
        with pytest.raises(ValueError, match="expected max_tokens to be a whole number"):
            vtc.wrap(model, "uniform", budget=wrong)
    for wrong in (True, 2.5, [64]):
        with pytest.raises(TypeError, match="expected budget to be a name"):
            vtc.wrap(model, "uniform", budget=wrong)
    with pytest.raises(ValueError, match="unknown budget 'evne'; known: even, evs, fastvid, "):
        vtc.wrap(model, "uniform", budget="evne")
    vtc.wrap(model, "uniform", "dfm", budget=1, processor=processor)
    video = np.zeros((8, 42, 42, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="a budget of 1 visual tokens leaves none .*at least 2"):
        vtc.ask(model, processor, video, "What?")


def test_a_budget_is_saved_with_the_model(tmp_path, encoder):
    model, processor = vtc.testing.tiny()
    vtc.wrap(model, "uniform", budget=vtc.budget("foveated", max_tokens=77), processor=processor)
    assert "budget 77 tokens" in str(report_of(model, processor))
    vtc.save_pretrained(model, tmp_path)
    processor.save_pretrained(tmp_path)
    again = vtc.from_pretrained(tmp_path)
    assert again.vtc.budget.config == model.vtc.budget.config
    assert report_of(again, processor).tokens_after == 77
    assert vtc.from_pretrained(tmp_path, budget=50).vtc.budget.max_tokens == 50
    assert {part.name for part in vtc.parts("budget")} == {
        "even",
        "evs",
        "fastvid",
        "foveated",
        "holitom",
        "vcast",
        "vidcom2",
    }


def report_of(model, processor):
    video = np.random.default_rng(0).integers(0, 255, (40, 42, 42, 3), dtype=np.uint8)
    return vtc.ask(model, processor, video, "What?", max_new_tokens=1).report


def test_merged_encoder_patches_keep_the_budget(clip_folder):
    model, processor = vtc.testing.tiny()
    vtc.wrap(model, KEYFRAMES, "dfm", processor=processor, encoder=clip_folder, budget=60)
    with pytest.warns(UserWarning, match="untrained"):
        model.vtc.merge_encoder_patches()
    report = report_of(model, processor)
    assert report.tokens_after == 60
