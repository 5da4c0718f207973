"""Adapters with one defect each, run by test_adapter_suite.py; every test here must fail."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from families import InternVLContract as InternVL
from families import LlavaOnevisionContract as Llava
from families import Qwen2VLContract as Qwen
from families import Qwen3VLContract as Qwen3

from vtc.interfaces.video_span import SliceFeatures
from vtc.plugins import registry
from vtc_adapters.internvl import InternVLAdapter
from vtc_adapters.llava_onevision import LlavaOnevisionAdapter
from vtc_adapters.qwen2_vl import Qwen2VLAdapter
from vtc_adapters.qwen3_vl import Qwen3VLAdapter


class _Broken:
    adapter: type

    @pytest.fixture(autouse=True)
    def _break(self, monkeypatch):
        monkeypatch.setattr(registry, "adapter_for", lambda model_type: self.adapter())


class TestBrightTokens(_Broken, Llava):
    """identity_equals_stock"""

    class adapter(LlavaOnevisionAdapter):
        def encode(self, model, pixels):
            features = super().encode(model, pixels)
            return SliceFeatures(features.tokens * 1.01, features.dense)


class TestReadsTheLastLayer(_Broken, Llava):
    """vision_layers_of_any_form"""

    vision_layers = (1,)

    class adapter(LlavaOnevisionAdapter):
        def encode(self, model, pixels):
            config = copy.copy(model.config)
            config.vision_feature_layer = -1
            return super().encode(SimpleNamespace(model=model.model, config=config), pixels)


class TestProjectsTheCachedTowerOtherwise(_Broken, Llava):
    """the_tower_apart"""

    class adapter(LlavaOnevisionAdapter):
        def project(self, model, states):
            features = super().project(model, states)
            return SliceFeatures(features.tokens * 1.01, features.dense)


class TestTakesImagesForVideo(_Broken, Llava):
    """text_and_images_alone"""

    class adapter(LlavaOnevisionAdapter):
        video_inputs = ("pixel_values",)


class TestForgetsImages(_Broken, Llava):
    """an_image_beside_a_video"""

    class adapter(LlavaOnevisionAdapter):
        def encode_images(self, model, inputs):
            inputs.pop("pixel_values", None)


class TestChangesWeights(_Broken, Llava):
    """unwrap_restores"""

    class adapter(LlavaOnevisionAdapter):
        def encode(self, model, pixels):
            model.lm_head.weight.data.mul_(1.001)
            return super().encode(model, pixels)


class TestMergesPooled(_Broken, Llava):
    """compression_equals_the_reference"""

    class adapter(LlavaOnevisionAdapter):
        def encode(self, model, pixels):
            return SliceFeatures(super().encode(model, pixels).tokens)


class TestCornerInsteadOfCentre(_Broken, Qwen):
    """compression_equals_the_reference"""

    class adapter(Qwen2VLAdapter):
        def position_ids(self, model, inputs, layout):
            for video in layout.videos:
                video.cells[video.cells < 0] = 0
            return super().position_ids(model, inputs, layout)


class TestMergesNoDeepstack(_Broken, Qwen3):
    """compression_equals_the_reference"""

    class adapter(Qwen3VLAdapter):
        def encode(self, model, pixels):
            features = super().encode(model, pixels)
            return SliceFeatures(
                features.tokens, extra=tuple(0 * layer for layer in features.extra)
            )


class TestDropsOneMark(_Broken, Qwen3):
    """compression_equals_the_reference"""

    class adapter(Qwen3VLAdapter):
        def frame_text(self, slots):
            return tuple(text[:-1] for text in super().frame_text(slots))


class TestWritesOtherText(_Broken, InternVL):
    """a_lazy_video_in_any_chunks"""

    class adapter(InternVLAdapter):
        def prompt(self, processor, question, source):
            return super().prompt(processor, question, source).replace("Frame1", "Frame0")


class TestSaysNothingOfStills(_Broken, InternVL):
    """raw_video_past_the_wrapper"""

    class adapter(InternVLAdapter):
        def could_be_frames(self, model, inputs):
            return False


class TestMixesUpStills(_Broken, InternVL):
    """an_image_beside_a_video"""

    class adapter(InternVLAdapter):
        def stills(self, model, inputs, layout):
            return [
                (row, 10**6, tokens) for row, _, tokens in super().stills(model, inputs, layout)
            ]


class TestForgetsRaggedRows(_Broken, Llava):
    """a_ragged_batch_writes"""

    class adapter(LlavaOnevisionAdapter):
        def pack(self, model, rows):
            return super().pack(model, sorted(rows, key=len))


class TestDarkPreprocessing(_Broken, Llava):
    """a_lazy_video_in_any_chunks"""

    class adapter(LlavaOnevisionAdapter):
        def preprocess(self, processor, frames, total):
            return super().preprocess(processor, frames // 2, total)


class TestSeesTheChunk(_Broken, Llava):
    """a_lazy_video_in_any_chunks"""

    class adapter(LlavaOnevisionAdapter):
        def encode(self, model, pixels):
            pixels = {name: value - value.mean(0) for name, value in pixels.items()}
            return super().encode(model, pixels)


class TestReversesVideos(_Broken, Llava):
    """two_lazy_videos"""

    class adapter(LlavaOnevisionAdapter):
        def pack(self, model, rows):
            return super().pack(model, rows[::-1])


class TestBlackFrames(_Broken, Llava):
    """frames_are_recovered"""

    class adapter(LlavaOnevisionAdapter):
        def frames(self, processor, pixels):
            return torch.zeros_like(super().frames(processor, pixels))


class TestForgetsDeltas(_Broken, Qwen):
    """several_turns"""

    class adapter(Qwen2VLAdapter):
        def position_offsets(self, positions, layout):
            return torch.zeros_like(super().position_offsets(positions, layout))


class TestCutsGradients(_Broken, Llava):
    """loss_and_gradients"""

    class adapter(LlavaOnevisionAdapter):
        def encode(self, model, pixels):
            with torch.no_grad():
                return super().encode(model, pixels)


class TestHoldsALambda(_Broken, Llava):
    """save_load_and_pickle"""

    class adapter(LlavaOnevisionAdapter):
        def __init__(self):
            self.scale = lambda value: value


class TestRemembersFeatures(_Broken, Llava):
    """lora_on_top"""

    class adapter(LlavaOnevisionAdapter):
        seen: list = []

        def encode(self, model, pixels):
            features = super().encode(model, pixels)
            self.seen.append(None)  # state between calls: every call differs from the last
            return SliceFeatures(features.tokens + len(self.seen), features.dense)


class TestGuardsNothing(_Broken, Llava):
    """raw_video_past_the_wrapper"""

    class adapter(LlavaOnevisionAdapter):
        video_inputs = ("pixels",)
