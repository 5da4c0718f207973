"""Token counts of the full-size model, on the meta device."""

from __future__ import annotations

import numpy as np
import torch

import vtc


def test_full_size_token_counts_on_the_meta_device():
    """LLaVA-OneVision-7B's own shape: 32*196 + 8160 + 1 tokens for 8,192 frames."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoRequest
    from vtc.pipeline.prepare import prepare

    config = LlavaOnevisionConfig(
        text_config={
            "model_type": "qwen2",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 1,  # the count of tokens does not depend on the depth
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152000,
        }
    )
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(config)
    vtc.wrap(model, vtc.selector("uniform", keyframes=32), "mean_pool")
    model.vtc.chunk_slices = 2048
    model.vtc.adapter.preprocess = lambda processor, frames, total: {
        "pixel_values_videos": torch.empty(len(frames), 3, 384, 384, device="meta")
    }
    ids = torch.tensor([[5, config.video_token_id, 6]])
    source = vtc.VideoSource(np.zeros((8192, 2, 2, 3), np.uint8))
    request = VideoRequest(source, processor=None)
    prepared = prepare(Call(model, model.vtc, {"input_ids": ids, "vtc_videos": [request]}))
    assert prepared.report.tokens_after == 32 * 196 + 8160 + 1
    assert prepared.report.tokens_before == 8192 * 196 + 1
    assert prepared.inputs["input_ids"].shape == (1, 32 * 196 + 8160 + 1 + 2)
    (features,) = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output
    assert features.shape == (32 * 196 + 8160 + 1, 3584)
