"""The training path of the tiny models agrees with the toolkit's own."""

from __future__ import annotations

import pytest
import torch

import vtc
from vtc._hf_clip import HFClipEncoder
from vtc.frame_encoder import EncoderOptions
from vtc_recipes.synthetic import make_example
from vtc_recipes.tiny.bank import to_pixels
from vtc_recipes.tiny.models import build_dual_encoder, build_vlm
from vtc_recipes.tiny.pretext import encode_patches
from vtc_recipes.tiny.sequences import Dialogue, forward
from vtc_recipes.tiny.vlm import merger_options


@torch.no_grad()
def test_training_sees_the_logits_that_a_wrapped_model_computes() -> None:
    vlm, processor = build_vlm(seed=1)
    vlm.eval()
    for name, weight in vlm.named_parameters():
        if weight.ndim > 1 and "vision" not in name:
            weight.normal_(std=0.3)  # the default initialisation hardly reacts to anything
    clip, image_processor, clip_tokenizer = build_dual_encoder(seed=1)
    encoder = HFClipEncoder(
        clip, image_processor, clip_tokenizer, name="tiny", options=EncoderOptions()
    )
    examples = [make_example(seed, 16, kind="first") for seed in (3, 4)]
    wrapped = []
    patches, dialogues = [], []
    for number, example in enumerate(examples):
        vtc.wrap(
            vlm,
            vtc.selector("uniform", keyframes=2 + number),
            "dfm",
            processor=processor,
            encoder=encoder,
        )
        inputs = vtc.prepare_inputs(vlm, processor, example.video, example.question.text)
        wrapped.append(vlm(**inputs).logits[0, -1])
        keyframes = [frame.index for frame in vtc.last_report(vlm).videos[0].keyframes]
        vtc.unwrap(vlm)
        frames = torch.from_numpy(example.video.frames(range(16)))
        patches.append(encode_patches(vlm, to_pixels(frames)))
        others = [("What colour is the star?", "red")] * number
        question = (example.question.text, "red")
        dialogues.append(
            Dialogue(
                torch.arange(16) + 16 * number,
                torch.tensor(keyframes),
                example.question.text,
                [*others, question],
            )
        )
    features = torch.cat(patches)
    logits, labels, _ = forward(vlm, processor.tokenizer, features, dialogues, merger_options())
    red = processor.tokenizer.convert_tokens_to_ids("red")
    ours = logits[labels == red]
    torch.testing.assert_close(ours[0], wrapped[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[2], wrapped[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(wrapped[0], wrapped[1], atol=0.01)
    assert ours.std(-1).min() == pytest.approx(ours.std(-1).max(), abs=10)
