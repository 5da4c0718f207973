"""The contract of adapters; an author subclasses `AdapterContract` and names the family.

    import vtc

    class TestMyFamily(vtc.testing.AdapterContract):
        family = "my_model_type"

The model comes from `vtc.testing.tiny`, or from an overridden `build`. The features of an adapter
are compared with `reference`, which an author writes with the stock model's methods.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtc
from vtc.pipeline.kv_cache import returned_cache
from vtc.testing.adapter_case import (
    QUESTIONS,
    AdapterCase,
    in_float64,
    older_than,
    relative_error,
    shift_rounding,
)
from vtc.testing.inputs import cache_argument


class AdapterContract(AdapterCase):
    """The contract of the adapter of one family of models.

    `AdapterCase` has the attributes and methods that a family sets. Logits are compared in
    float64.
    """

    # --- all slices kept: the stock model

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"num_beams": 3, "num_return_sequences": 2},
            {"cache_implementation": "static", "disable_compile": True},
            {"prefill_chunk_size": 7},
        ],
        ids=["greedy", "beams", "static-cache", "chunked-prefill"],
    )
    def test_identity_equals_stock(
        self, stock: Any, whole: Any, processor: Any, settings: dict[str, Any]
    ) -> None:
        if "num_beams" in settings and older_than(self.beams_since):
            pytest.skip(f"the stock model mixes up videos with beams before {self.beams_since}")
        inputs = self.inputs(processor, [self.video(6, 1), self.video(6, 2)], QUESTIONS)
        if "prefill_chunk_size" in settings and older_than(self.chunks_since):
            pytest.skip(f"the stock model cannot read in chunks before {self.chunks_since}")
        bare = copy.deepcopy(stock[0])
        with torch.no_grad():
            self.check_identity(whole, bare, inputs)
            arguments = {**inputs, "max_new_tokens": 5, "do_sample": False, **settings}
            expected = bare.generate(**_bare(arguments))
            assert torch.equal(whole.generate(**arguments), expected)

    def check_identity(self, whole: Any, bare: Any, inputs: dict[str, Any]) -> None:
        """Compare the logits of copies in float64."""
        precise = in_float64(inputs)
        logits = copy.deepcopy(whole).double()(**precise).logits
        expected = copy.deepcopy(bare).double()(**_bare(precise)).logits
        assert relative_error(logits, expected) < self.tolerance

    def test_vision_layers_of_any_form_equal_stock(self, processor: Any, encoder: Any) -> None:
        if not self.vision_layers:
            pytest.skip(f"the configuration of {self.family} has no vision_feature_layer")
        inputs = self.inputs(processor, [self.video(6, 1)], ["What?"])
        for layers in self.vision_layers:
            bare = self.build_with_layers(layers)
            whole = copy.deepcopy(bare)
            selector = vtc.selector("uniform", keyframes=64)
            vtc.wrap(whole, selector, "dfm", processor=processor, encoder=encoder)
            with torch.no_grad():
                self.check_identity(whole, bare, inputs)

    def test_text_and_images_alone_are_bit_equal(
        self, stock: Any, wrapped: Any, processor: Any
    ) -> None:
        picture = self.video(1, 3)[0]
        calls = [
            self.inputs(processor, [], ["Hello?"]),
            self.inputs(processor, [], ["What?"], images=[picture]),
        ]
        bare = copy.deepcopy(stock[0])
        with torch.no_grad():
            for inputs in calls:
                assert torch.equal(wrapped(**inputs).logits, bare(**_bare(inputs)).logits)
                arguments = {**inputs, "max_new_tokens": 4, "do_sample": False}
                assert torch.equal(wrapped.generate(**arguments), bare.generate(**_bare(arguments)))

    def test_an_image_beside_a_video_stays_as_it_is(
        self, stock: Any, whole: Any, processor: Any
    ) -> None:
        if not self.mixes_images:
            pytest.skip(f"{self.family} takes no image with a video")
        picture = self.video(1, 3)[0]
        inputs = self.inputs(processor, [self.video(6, 1)], ["Compare."], images=[picture])
        bare = copy.deepcopy(stock[0])
        with torch.no_grad():
            self.check_identity(whole, bare, inputs)
            arguments = {**inputs, "max_new_tokens": 4, "do_sample": False}
            assert torch.equal(whole.generate(**arguments), bare.generate(**_bare(arguments)))

    def test_unwrap_restores_class_and_outputs(
        self, stock: Any, wrapped: Any, processor: Any
    ) -> None:
        inputs = self.inputs(processor, [self.video(6, 1)], ["What?"])
        bare = copy.deepcopy(stock[0])
        with torch.no_grad():
            assert isinstance(wrapped, type(bare))
            short = wrapped(**inputs).logits
            with vtc.disabled(wrapped):
                assert torch.equal(wrapped(**inputs).logits, bare(**_bare(inputs)).logits)
            assert torch.equal(wrapped(**inputs).logits, short)
            vtc.unwrap(wrapped)
            assert type(wrapped) is type(bare)
            assert torch.equal(wrapped(**inputs).logits, bare(**_bare(inputs)).logits)

    # --- some slices merged

    def test_compression_equals_the_reference(self, wrapped: Any, processor: Any) -> None:
        inputs = self.inputs(processor, [self.video(8, 1), self.still(8, 2)], QUESTIONS)
        wrapped.double()
        inputs = in_float64(inputs)
        with torch.no_grad():
            logits = wrapped(**inputs).logits
            reports = vtc.last_report(wrapped).videos
            counts = [len(report.keyframes) for report in reports]
            assert counts[0] == 3 and counts[1] == 1, "the rows must differ in length"
            each = wrapped.vtc.adapter.frames_per_slice
            for row, report in enumerate(reports):
                keys = [frame.index // each for frame in report.keyframes]
                with vtc.disabled(wrapped):
                    expected = self.row_by_hand(wrapped, processor, inputs, row, keys)
                bound = self.tolerance + shift_rounding(logits.shape[1], len(expected))
                assert relative_error(logits[row, -len(expected) :], expected) < bound

    @pytest.mark.parametrize("beams", [1, 3])
    def test_a_ragged_batch_writes_what_its_rows_write_alone(
        self, wrapped: Any, processor: Any, beams: int
    ) -> None:
        videos = [self.video(8, 1), self.still(8, 2)]
        length = {"max_new_tokens": 5, "min_new_tokens": 5}
        settings = {**length, "do_sample": False, "num_beams": beams}
        together = self.inputs(processor, videos, QUESTIONS)
        written = _new(wrapped.generate(**together, **settings), together)
        for row, (video, question) in enumerate(zip(videos, QUESTIONS, strict=True)):
            alone = self.inputs(processor, [video], [question])
            assert written[row] == _new(wrapped.generate(**alone, **settings), alone)[0]

    def test_a_lazy_video_in_any_chunks_equals_the_processors(
        self, wrapped: Any, processor: Any
    ) -> None:
        wrapped.double().vtc.selector = vtc.selector("uniform", keyframes=3)
        video = self.video(10, 1)
        lazy = vtc.prepare_inputs(wrapped, processor, video, "What?", fps=1.0)
        stock = in_float64(self.inputs(processor, [video], ["What?"]))
        if "second_per_grid_ts" in stock:  # the time from slice to slice, of two frames
            stock["second_per_grid_ts"] = torch.tensor([2.0])
        token = wrapped.vtc.adapter.video_token_id(wrapped)
        slices = 1 if self.marks is None else -(-10 // wrapped.vtc.adapter.frames_per_slice)
        assert (lazy["input_ids"] == token).sum() == slices
        with torch.no_grad():
            expected = wrapped(**stock).logits
            for wrapped.vtc.chunk_slices in (1, 3, 16):
                assert relative_error(wrapped(**lazy).logits, expected) < self.tolerance
                assert relative_error(wrapped(**stock).logits, expected) < self.tolerance

    def test_two_lazy_videos_answer_as_one_by_one(self, wrapped: Any, processor: Any) -> None:
        videos = [self.video(9, 1), self.video(4, 2)]
        settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
        together = vtc.prepare_inputs(wrapped, processor, videos, list(QUESTIONS))
        written = _new(wrapped.generate(**together, **settings), together)
        for row, (video, question) in enumerate(zip(videos, QUESTIONS, strict=True)):
            alone = vtc.prepare_inputs(wrapped, processor, video, question)
            assert written[row] == _new(wrapped.generate(**alone, **settings), alone)[0]

    def test_frames_are_recovered_for_the_encoder(self, wrapped: Any, processor: Any) -> None:
        video = self.video(6, 1)
        adapter = wrapped.vtc.adapter
        pixels = adapter.pixels(self.inputs(processor, [video], ["What?"]), 0, [0, 2])
        each = adapter.frames_per_slice
        assert np.array_equal(adapter.frames(processor, pixels).numpy(), video[[0, 2 * each]])

    def test_the_tower_apart_from_the_projector_equals_encode(
        self, wrapped: Any, processor: Any
    ) -> None:
        adapter = wrapped.vtc.adapter
        if type(adapter).tower is vtc.VideoAdapter.tower:
            pytest.skip(f"the adapter of {self.family} does not separate tower and projector")
        wrapped.double()
        inputs = in_float64(self.inputs(processor, [self.video(8, 1)], ["What?"]))
        pixels = adapter.pixels(inputs, 0, [0, 1, 3])
        with torch.no_grad():
            encoded = adapter.encode(wrapped, pixels)
            states = adapter.tower(wrapped, pixels)
            assert all(len(state) == 3 for state in states)
            for number in range(3):  # each slice by itself, as a cache returns it
                alone = adapter.project(wrapped, [state[number, None] for state in states])
                for single, together in zip(
                    (alone.tokens, alone.patches, *alone.extra),
                    (encoded.tokens, encoded.patches, *encoded.extra),
                    strict=True,
                ):
                    assert relative_error(single[0], together[number]) < self.tolerance

    def test_several_turns_on_one_cache(self, wrapped: Any, processor: Any) -> None:
        from transformers import DynamicCache

        inputs = self.inputs(processor, [self.video(8, 1)], ["What is it?"])
        settings = {"max_new_tokens": 4, "do_sample": False}
        cache = DynamicCache(config=wrapped.config.get_text_config())
        first = wrapped.generate(
            **inputs, **cache_argument(cache), vtc_restore_prompt=False, **settings
        )
        with torch.no_grad():  # the caller's own loop generates the same tokens
            step = wrapped(**inputs, use_cache=True)
            for token in first[0, -4:]:
                assert step.logits[0, -1].argmax() == token
                so_far = cache_argument(returned_cache(step))
                step = wrapped(input_ids=token[None, None], **so_far)
        more = processor.tokenizer(" And then? ", return_tensors="pt")["input_ids"]
        talk = torch.cat([first, more], dim=1)
        mask = torch.ones_like(talk)  # the first answer may hold the padding token
        second = wrapped.generate(
            input_ids=talk, attention_mask=mask, **cache_argument(cache), **settings
        )
        at_once = dict(inputs)
        at_once["input_ids"] = torch.cat([inputs["input_ids"], first[:, -4:], more], dim=1)
        extra = at_once["input_ids"].shape[1] - inputs["input_ids"].shape[1]
        for name, value in (
            ("attention_mask", 1),
            ("mm_token_type_ids", 0),
            ("token_type_ids", self.later_type),
        ):
            if name in inputs:
                at_once[name] = torch.nn.functional.pad(inputs[name], (0, extra), value=value)
        again = wrapped.generate(**at_once, vtc_query="What is it?", **settings)
        assert again[0, -4:].tolist() == second[0, -4:].tolist()

    # --- training and files

    @pytest.mark.filterwarnings("ignore:merger 'q_former'")
    def test_loss_and_gradients(self, model: Any, processor: Any, encoder: Any) -> None:
        selector = vtc.selector("uniform", keyframes=2)
        vtc.wrap(model, selector, "q_former", processor=processor, encoder=encoder)
        inputs = self.inputs(processor, [self.video(8, 1)], ["What?"])
        labels = inputs["input_ids"].clone()
        labels[:, :-6] = -100
        model.train()
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                enable = getattr(model, "activation_checkpointing_enable", None)
                (enable or model.gradient_checkpointing_enable)()
            model.zero_grad()
            output = model(**inputs, labels=labels)
            by_hand = torch.nn.functional.cross_entropy(output.logits[0, -7:-1], labels[0, -6:])
            assert output.loss.item() == pytest.approx(by_hand.item(), abs=1e-5)
            output.loss.backward()
            for name, parameter in model.vtc.merger.named_parameters():
                assert parameter.grad is not None and bool((parameter.grad != 0).any()), name
            gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, plain in gradients[0].items():
            # float32's rounding grows with the gradient: up to 140 in hybrid models.
            bound = 1e-5 * max(1.0, float(plain.abs().max()))
            assert torch.allclose(plain, gradients[1][name], atol=bound), name
        words = ("vision", "visual", "tower")
        tower = [name for name in gradients[0] if any(word in name for word in words)]
        assert tower, "no gradient reaches the vision tower"

    def test_save_load_and_pickle(
        self, wrapped: Any, processor: Any, encoder: Any, tmp_path: Any
    ) -> None:
        inputs = self.inputs(processor, [self.video(8, 1)], ["What?"])
        twin = pickle.loads(pickle.dumps(wrapped))
        vtc.save_pretrained(wrapped, tmp_path)
        loaded = vtc.from_pretrained(tmp_path, encoder=encoder)
        for parameter in loaded.parameters():
            # Mapped files are aligned differently from tensors in memory, so products may round
            # differently.
            parameter.data = parameter.data.clone()
        with torch.no_grad():
            logits = wrapped(**inputs).logits
            assert torch.equal(twin(**inputs).logits, logits)
            assert torch.equal(loaded(**inputs).logits, logits)
        saved = loaded.state_dict()
        for name, value in wrapped.state_dict().items():
            assert torch.equal(saved[name], value), name

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # read by peft
    def test_lora_on_top(self, wrapped: Any, processor: Any, tmp_path: Any) -> None:
        import peft

        inputs = self.inputs(processor, [self.video(8, 1)], ["What?"])
        fresh = copy.deepcopy(wrapped)
        config = peft.LoraConfig(target_modules=["q_proj", "v_proj"])
        tuned = peft.get_peft_model(wrapped, config).eval()
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
            logits = tuned(**inputs).logits
            assert relative_error(logits, fresh(**inputs).logits) > 1e-3
            tuned.save_pretrained(tmp_path)
            loaded = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
            assert torch.equal(loaded(**inputs).logits, logits)
            assert relative_error(loaded.merge_and_unload()(**inputs).logits, logits) < 1e-4

    def test_raw_video_past_the_wrapper_is_compressed(self, wrapped: Any, processor: Any) -> None:
        inputs = in_float64(self.inputs(processor, [self.video(8, 1)], ["What?"]))
        wrapped.double()
        with torch.no_grad():
            expected = wrapped(**inputs).logits[:, -1]
            videos = vtc.last_report(wrapped).videos
            states = wrapped.base_model(**inputs).last_hidden_state
            assert vtc.last_report(wrapped).videos == videos
            assert relative_error(wrapped.lm_head(states)[:, -1], expected) < self.tolerance
        if wrapped.vtc.adapter.modality == "image":  # frames that the caller did not declare
            with pytest.warns(UserWarning, match="nothing was compressed"):
                wrapped(**_bare(inputs))


def _bare(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that the stock model takes too."""
    return {name: value for name, value in inputs.items() if not name.startswith("vtc_")}


def _new(result: Tensor, inputs: Any) -> list[list[int]]:
    """Return the tokens after the caller's prompt."""
    written: list[list[int]] = result[:, inputs["input_ids"].shape[1] :].tolist()
    return written
