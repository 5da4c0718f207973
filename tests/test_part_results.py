"""What selectors and mergers return is checked, and what they lose is reported."""

from __future__ import annotations

import pytest
import torch

import vtc
from vtc.testing.adapter_case import in_float64


def test_what_parts_return_is_checked(model, processor, encoder, make_video, make_inputs):
    class Bad(vtc.FrameSelector):
        result: object = [0]

        def select(self, embeddings, query=None, timestamps=None):
            return self.result

    class Odd(vtc.TokenMerger):
        def forward(self, patches, reference, has_reference, query):
            return patches[:, 0]

    bad = Bad()
    inputs = make_inputs([make_video(6)], ["What?"])
    with pytest.warns(UserWarning, match="is not registered"):
        vtc.wrap(model, bad, "mean_pool", processor=processor, encoder=encoder)
    for result, error, message in [
        ([0], TypeError, r"selector 'Bad' to return a vtc.Selection of tensors, got \[0\]"),
        (vtc.Selection(torch.tensor([1, 1]), None), ValueError, "ascending, unique"),
        (vtc.Selection(torch.tensor([0, 6]), None), ValueError, "from 0 to 5"),
        (vtc.Selection(torch.tensor([0.0]), None), TypeError, "to return int64 keyframes"),
        (
            vtc.Selection(torch.tensor([0]), torch.zeros(2)),
            ValueError,
            "each of the 6 frames",
        ),
    ]:
        bad.result = result
        with pytest.raises(error, match=message):
            model(**inputs)
    vtc.unwrap(model)
    with pytest.warns(UserWarning, match="is not registered"):
        vtc.wrap(model, vtc.selector("uniform", keyframes=2), Odd(), processor=processor)
    with pytest.raises(ValueError, match=r"a list of 4 tensors \[T_i, 32\], got \(4, 32\)"):
        model(**inputs)
    model.vtc.merger.forward = lambda patches, *rest: patches[:, :1]
    for frames in ([0, 0, 0, 6], [-2, 0, 0, 0], [0, 0, 0], [0.0] * 4):
        model.vtc.merger.reference_frames = lambda *_, frames=frames: torch.tensor(frames)
        with pytest.raises(ValueError, match="to return 4 reference frames, int64 from 0 to 5"):
            model(**inputs)


@pytest.mark.parametrize("connector", ["stock", "separate"])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_merger_names_the_frames_that_it_compares_with(
    model, processor, make_video, make_inputs, connector, size
):
    class Last(vtc.TokenMerger):
        query_source = None
        seen: list = []

        def reference_frames(self, frames, keyframes):
            return torch.where(frames == 4, -1, (frames * 5) % 9)

        def forward(self, patches, reference, has_reference, query):
            self.seen += list(zip(patches, reference, has_reference.tolist(), strict=True))
            return patches[:, :1]

    inputs = in_float64(make_inputs([make_video(9)], ["What?"]))
    model.double()
    dense = model.model.multi_modal_projector(
        model.model.vision_tower(
            inputs["pixel_values_videos"][0], output_hidden_states=True
        ).hidden_states[-1]
    )
    with pytest.warns(UserWarning, match="is not registered"):
        vtc.wrap(model, vtc.selector("uniform", keyframes=2), Last(), processor=processor)
    if connector == "separate":
        model.vtc.separate_connector()
        for weight in model.vtc.connector.parameters():
            weight.data *= 2
    model.vtc.chunk_slices = size
    model.vtc.merger.seen.clear()
    with torch.no_grad():
        model(**inputs)
    rest = [n for n in range(9) if n not in (2, 6)]
    for n, (patches, reference, known) in zip(rest, model.vtc.merger.seen, strict=True):
        assert known == (n != 4)
        if connector == "stock":
            torch.testing.assert_close(patches, dense[n], rtol=0, atol=1e-9)
        if known and connector == "stock":
            torch.testing.assert_close(reference, dense[n * 5 % 9], rtol=0, atol=1e-9)
        if known and n * 5 % 9 in rest:  # through the same projector as the frame itself
            its_own = model.vtc.merger.seen[rest.index(n * 5 % 9)][0]
            torch.testing.assert_close(reference, its_own, rtol=0, atol=1e-9)


def test_no_keyframe_and_no_compression_are_noted(
    model, processor, encoder, make_video, make_inputs
):
    inputs = make_inputs([make_video(6)], ["What?"])
    vtc.wrap(model, vtc.selector("uniform", keyframes=6), processor=processor, encoder=encoder)
    model(**inputs)
    assert any("nothing was compressed" in note for note in vtc.last_report(model).warnings)
    model.vtc.selector = vtc.selector("dks", relevance_threshold=1.0)
    model(**inputs)
    assert any("the selector chose no keyframe" in note for note in vtc.last_report(model).warnings)
    model.vtc.selector = vtc.selector("none")  # none was asked for
    model(**inputs)
    assert not any("no keyframe" in note for note in vtc.last_report(model).warnings)
    model.vtc.merger = vtc.merger("drop")
    with pytest.raises(ValueError, match="nothing is left of video 0"):
        model(**inputs)


def test_merged_tokens_do_not_keep_the_patches_alive(
    model, processor, encoder, make_video, make_inputs
):
    from vtc.pipeline.merge import checked_tokens

    patches = torch.zeros(4, 9, 32)
    rows = checked_tokens(patches[:, :1], patches, "view")
    assert all(row.untyped_storage().nbytes() <= 2 * 4 * 32 * 4 for row in rows)
