"""The parts keep what vtc relies on, and do what they say."""

import torch
import vtc


class TestChanges(vtc.testing.SelectorContract):
    part = vtc.selector("example_changes", keyframes=4)


class TestContrast(vtc.testing.MergerContract):
    part = vtc.merger("example_contrast", temperature=0.5)


def test_a_cut_is_a_keyframe():
    embeddings = torch.eye(2)[[0, 0, 0, 1, 1]]
    selection = vtc.selector("example_changes", keyframes=2).select(embeddings)
    assert selection.keyframes.tolist() == [0, 3]


def test_what_stands_out_counts_most():
    patches = torch.eye(2)[[0, 0, 0, 1]][None]
    merger = vtc.merger("example_contrast", temperature=0.01)
    token = merger(patches, patches, torch.tensor([True]), None)
    torch.testing.assert_close(token, torch.tensor([[[0.0, 1.0]]]))
