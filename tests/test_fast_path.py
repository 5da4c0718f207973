"""The fast path: other frames are merged from the frame encoder's own patches."""

from __future__ import annotations

import warnings

import pytest
import torch

import vtc
from vtc.encoders.encoder_patches import PatchKeeper
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare
from vtc.testing import tiny_encoder

SLICES = 6


def take(model):
    with pytest.warns(UserWarning, match="connector of .* has untrained parameters"):
        model.vtc.merge_encoder_patches()
    with torch.no_grad():  # the default initialisation hides errors
        for weight in model.vtc.connector.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.25)


def rows(model, inputs):
    """The tokens of the video: ``[F, W]``, and the slices that are keyframes."""
    prepared = prepare(Call(model, model.vtc, inputs))
    output = prepared.inputs["mm_encoder_outputs"][model.vtc.adapter.modality]
    (tokens,) = output.pooler_output
    deep = getattr(output, "deepstack_features", None) or ()
    each = model.vtc.adapter.frames_per_slice
    keyframes = {frame.index // each for frame in prepared.report.videos[0].keyframes}
    return torch.cat([tokens, *(layer[0] for layer in deep)], -1), sorted(keyframes), prepared


def merged_rows(model, tokens, keyframes):
    """The numbers of the rows that are merged tokens, counted by hand."""
    tail = model.vtc.adapter.tail_length()
    each = (len(tokens) - tail - (SLICES - len(keyframes))) // len(keyframes)
    flags = [flag for n in range(SLICES) for flag in ([0] * each if n in keyframes else [1])]
    return torch.tensor([*flags, *[0] * tail]).bool()


def test_merged_tokens_are_those_of_the_encoder_patches(case, encoder):
    """Eq. 5-10 by hand, in float64, on what the encoder and the connector give."""
    model, inputs = case
    before, keyframes, _ = rows(model, inputs)
    take(model)
    tokens, same, prepared = rows(model, inputs)
    merged = merged_rows(model, tokens, keyframes)
    assert same == keyframes and torch.equal(tokens[~merged], before[~merged])

    (feed,) = [*_feeds(model, inputs)]
    frames = torch.cat([*feed.rgb()])
    width = model.get_input_embeddings().weight.shape[-1]
    patches = model.vtc.connector(encoder.encode_patches(frames)[1]).double()
    ids = model.vtc.processor.tokenizer(
        prepared.report.videos[0].query, add_special_tokens=False
    ).input_ids
    query = model.get_input_embeddings()(torch.tensor(ids)).double().mean(0)
    expected = []
    for number in range(SLICES):
        if number in keyframes:
            continue
        score = torch.cosine_similarity(patches[number], query[None], dim=-1)
        earlier = [key for key in keyframes if key < number]
        if earlier:
            score -= torch.cosine_similarity(patches[number], patches[earlier[-1]], dim=-1)
        expected.append((score / 0.01).softmax(0) @ patches[number])
    found = tokens[merged]
    torch.testing.assert_close(
        found[:, :width].double(), torch.stack(expected), atol=2e-4, rtol=2e-4
    )
    assert not found[:, width:].any(), "merged frames have no deepstack features"


def _feeds(model, inputs):
    from vtc.pipeline.feed import TensorFeed

    adapter = model.vtc.adapter
    for number, span in enumerate(adapter.spans(model, inputs)):
        yield TensorFeed(adapter, inputs, span, number, model.vtc.processor)


def test_answers_save_and_open(case, encoder, tmp_path):
    model, inputs = case
    take(model)
    expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    vtc.save_pretrained(model, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*has untrained parameters")
        opened = vtc.from_pretrained(tmp_path, encoder=encoder, processor=model.vtc.processor)
    assert opened.vtc.connector_kind == "encoder_patches"
    answer = opened.eval().generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(answer, expected)


def test_an_untrained_connector_is_told_of_until_it_is_trained(encoder, tmp_path):
    wrapped, processor = vtc.testing.tiny()
    vtc.wrap(wrapped, processor=processor, encoder=encoder)
    video = torch.zeros(6, 32, 32, 3, dtype=torch.uint8)
    inputs = vtc.prepare_inputs(wrapped, processor, video, "What?")

    def told(model):
        with torch.no_grad():
            model(**inputs)
        return [text for text in vtc.last_report(model).warnings if "untrained parameters" in text]

    with pytest.warns(UserWarning, match="has untrained parameters"):
        wrapped.vtc.merge_encoder_patches()
    assert len(told(wrapped)) == 1
    vtc.save_pretrained(wrapped, tmp_path / "new")
    with pytest.warns(UserWarning, match="has untrained parameters"):
        opened = vtc.from_pretrained(tmp_path / "new", encoder=encoder)
    assert len(told(opened)) == 1
    optimiser = torch.optim.SGD(opened.vtc.connector.parameters(), lr=0.1)
    opened(**inputs).logits.square().mean().backward()
    optimiser.step()
    assert told(opened) == []
    vtc.save_pretrained(opened, tmp_path / "trained")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vtc.from_pretrained(tmp_path / "trained", encoder=encoder)
    with pytest.raises(ValueError, match="encoder that was an object; pass the encoder"):
        vtc.from_pretrained(tmp_path / "trained")
    with pytest.raises(ValueError, match=r"already have a connector \(encoder_patches\)"):
        opened.vtc.separate_connector()


def test_gradients_reach_the_connector_and_not_the_encoder(case):
    model, inputs = case
    take(model)
    model.train()
    model(**inputs).logits.square().mean().backward()
    assert all(bool((weight.grad != 0).any()) for weight in model.vtc.connector.parameters())
    stock = dict(model.named_parameters())
    assert any(weight.grad is not None for weight in stock.values())


class Counting:
    """A frame encoder that counts what it is given."""

    def __init__(self):
        self.inner, self.embedded, self.patched = tiny_encoder(), 0, 0

    def encode_frames(self, frames):
        self.embedded += len(frames)
        return self.inner.encode_frames(frames)

    def encode_patches(self, frames):
        self.patched += len(frames)
        return self.inner.encode_patches(frames)

    def encode_text(self, text):
        return self.inner.encode_text(text)


@pytest.mark.parametrize("selector", ["dks", "uniform"])
def test_the_tower_sees_keyframes_and_the_encoder_each_frame_once(
    model, processor, make_inputs, make_video, selector
):
    encoder = Counting()
    chosen = vtc.selector(selector, keyframes=2)
    vtc.wrap(model, chosen, "dfm", processor=processor, encoder=encoder)
    take(model)
    encoder.embedded = encoder.patched = 0
    seen = []
    tower = model.model.vision_tower
    hook = tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0] if args else kwargs["pixel_values"])),
        with_kwargs=True,
    )
    inputs = make_inputs([make_video(12, 1)], ["What is red?"])
    model.generate(**inputs, max_new_tokens=1)
    hook.remove()
    (video,) = vtc.last_report(model).videos
    assert sum(seen) == len(video.keyframes) == 2
    assert (encoder.embedded, encoder.patched) == (0, 12)
    stages = vtc.last_report(model).stages
    assert "vision tower (non-keyframes)" not in stages and "connector (non-keyframes)" in stages


def test_a_selector_that_looks_elsewhere_leaves_the_patches_to_the_encoder(
    model, processor, make_inputs, make_video, tmp_path
):
    from vtc.encoders.tiny import save_tiny_timm

    save_tiny_timm(tmp_path)
    encoder = Counting()
    chosen = vtc.selector("dino_diff", keyframes=2, encoder=f"timm:{tmp_path}")
    vtc.wrap(model, chosen, "mean_pool", processor=processor, encoder=encoder)
    take(model)
    encoder.embedded = encoder.patched = 0
    model.generate(**make_inputs([make_video(12, 1)], ["What is red?"]), max_new_tokens=1)
    assert (encoder.embedded, encoder.patched) == (0, 12)


def test_an_encoder_without_patches_is_refused(model, processor):
    class Bare:
        name = "bare"

        def encode_frames(self, frames):
            return torch.ones(len(frames), 4)

        def encode_text(self, text):
            return torch.ones(4)

    vtc.wrap(model, "uniform", "dfm", processor=processor, encoder=Bare())
    with pytest.raises(ValueError, match="bare has no patches to merge; add a method"):
        model.vtc.merge_encoder_patches()

    class Wrong(Bare):
        def encode_patches(self, frames):
            return self.encode_frames(frames), torch.ones(len(frames), 4)

    vtc.unwrap(model)
    vtc.wrap(model, "uniform", "dfm", processor=processor, encoder=Wrong())
    with pytest.raises(ValueError, match=r"expected patches .* got \[1, 4\]"):
        model.vtc.merge_encoder_patches()


def test_patches_are_there_only_when_all_frames_were_seen():
    keeper = PatchKeeper(tiny_encoder(), 4, torch.float32)
    frames = torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8)
    keeper.encode_frames(frames[:3])
    with pytest.raises(RuntimeError, match="expected 4 encoded frames, got 3"):
        keeper.of(torch.tensor([0]))
    keeper.encode_frames(frames[3:])
    whole = tiny_encoder().encode_patches(frames)[1]
    torch.testing.assert_close(keeper.of(torch.tensor([3, 1])), whole[[3, 1]])


def test_embeddings_with_patches_are_those_without(encoder):
    frames = torch.randint(0, 255, (5, 40, 50, 3), dtype=torch.uint8)
    embeddings, patches = encoder.encode_patches(frames)
    assert torch.equal(embeddings, encoder.encode_frames(frames))
    assert patches.ndim == 3 and len(patches) == 5
    other, _ = encoder.encode_patches(frames.flip(0))
    torch.testing.assert_close(other.flip(0), embeddings)
