"""What every adapter must pass; an author subclasses `AdapterContract` and names the family.

    import vtc

    class TestMyFamily(vtc.testing.AdapterContract):
        family = "my_model_type"

The model comes from `vtc.testing.tiny`, or from an overridden `build`. What an adapter makes of
pixels is compared with `reference`, which an author writes from the stock model's own methods.
"""

from __future__ import annotations

import copy
import functools
import math
import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from packaging import version
from torch import Tensor
from transformers import __version__ as transformers_version

import vtc
from vtc.pipeline.kv_cache import returned_cache
from vtc.testing.encoders import tiny_encoder
from vtc.testing.inputs import cache_argument, drifting_video, stock_inputs
from vtc.testing.models import tiny

QUESTIONS = ("What is red?", "How many people walk by, and when do they leave the room?")


class AdapterContract:
    """The conformance suite of one family of models.

    Attributes:
        family: The ``model_type``, a name of `vtc.testing.tiny`.
        frame: The (height, width) of frames that the processor does not resize, so that every
            path sees the same pixels.
        mixes_images: Whether the processor takes still images beside a video.
        later_type: What ``token_type_ids`` says of the text after an answer.
        marks: How many tokens stand right before and right after a slice's placeholders, where
            the processor writes text around each; None where it writes none.
        tolerance: Of the largest logit: padding shifts positions, and RoPE rounds in float32.
        since: The first version of transformers whose stock model of this family is a measure.
        beams_since: The first version of transformers known to repeat the features of several
            videos rightly for beams; before it, the stock model is no measure.
    """

    family: ClassVar[str]
    frame: ClassVar[tuple[int, int]] = (42, 42)
    mixes_images: ClassVar[bool] = True
    later_type: ClassVar[int] = 0
    marks: ClassVar[tuple[int, int] | None] = None
    since: ClassVar[str] = "5.18"
    beams_since: ClassVar[str] = "5.18"
    tolerance: ClassVar[float] = 5e-6

    # --- what a family may override

    def build(self) -> tuple[Any, Any]:
        """A tiny stock model with random weights that react to errors, and its processor."""
        return tiny(self.family)

    def reference(self, model: Any, inputs: Any, video: int) -> tuple[Tensor, Tensor, Tensor]:
        """By the stock model's own methods: what one video gives, slice by slice.

        Returns:
            What a keyframe contributes ``[N, M, D]``, what is merged ``[N, P, D]``, and the
            features after the last slice ``[t, D]``.
        """
        raise NotImplementedError("write what the stock model makes of a video, slice by slice")

    def deepstack(self, model: Any, inputs: Any, video: int) -> list[Tensor]:
        """Further features ``[N, M, D]`` of the same tokens, which later layers take."""
        return []

    def run(
        self, model: Any, embeds: Tensor, where: Tensor | None, visual: Tensor, deep: list[Tensor]
    ) -> Tensor:
        """The stock language model's last states ``[1, L, D]``.

        Args:
            embeds: ``[1, L, D]``, text and features in place.
            where: ``[3, 1, L]``, see `positions`.
            visual: ``[1, L]`` bool, which of them are features of a video.
            deep: ``[F, D]`` for each layer of `deepstack`.
        """
        states: Tensor = model.base_model.language_model(
            inputs_embeds=embeds, position_ids=where
        ).last_hidden_state
        return states

    def positions(self, model: Any, inputs: Any, row: int) -> Tensor | None:
        """The stock positions ``[3, L]`` of a row, unpadded; None where tokens are counted."""
        return None

    def merged_slot(self, slots: Tensor) -> Tensor:
        """Which of a slice's placeholders ``[M]`` a merged token stands for."""
        return slots[:1]

    # --- fixtures

    @pytest.fixture
    def stock(self) -> tuple[Any, Any]:
        if _older_than(self.since):
            pytest.skip(f"the stock {self.family} is no measure before transformers {self.since}")
        suite: Any = type(self)
        return _built(suite)

    @pytest.fixture
    def model(self, stock: tuple[Any, Any]) -> Any:
        return copy.deepcopy(stock[0])

    @pytest.fixture
    def processor(self, stock: tuple[Any, Any]) -> Any:
        return stock[1]

    @pytest.fixture
    def encoder(self) -> Any:
        return _encoder()

    @pytest.fixture
    def wrapped(self, model: Any, processor: Any, encoder: Any) -> Any:
        selector = vtc.selector("dks", keyframes=3)
        return vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder)

    @pytest.fixture
    def whole(self, model: Any, processor: Any, encoder: Any) -> Any:
        """Wrapped with every slice as a keyframe, to be compared with ``stock``."""
        selector = vtc.selector("uniform", keyframes=64)
        return vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder)

    def video(self, frames: int, seed: int = 0) -> NDArray[np.uint8]:
        """Random frames ``[N, H, W, 3]`` that drift."""
        return drifting_video(frames, seed, self.frame)

    def still(self, frames: int, seed: int = 0) -> NDArray[np.uint8]:
        """One frame again and again, of which dks keeps one."""
        return self.video(1, seed).repeat(frames, axis=0)

    def inputs(
        self, processor: Any, videos: Any, questions: Any, images: Any = None
    ) -> dict[str, Any]:
        """What the stock processor makes of one video, image and question a row."""
        return dict(stock_inputs(processor, videos, questions, images))

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
        if "num_beams" in settings and _older_than(self.beams_since):
            pytest.skip(f"the stock model mixes up videos with beams before {self.beams_since}")
        inputs = self.inputs(processor, [self.video(6, 1), self.video(6, 2)], QUESTIONS)
        bare = copy.deepcopy(stock[0])
        with torch.no_grad():
            assert _apart(whole(**inputs).logits, bare(**_bare(inputs)).logits) <= 1e-5
            arguments = {**inputs, "max_new_tokens": 5, "do_sample": False, **settings}
            try:
                expected = bare.generate(**_bare(arguments))
            except RuntimeError as error:  # of Qwen-VL's chunked prefill in transformers 5.18
                pytest.skip(f"the stock model itself fails here: {error}")
            assert torch.equal(whole.generate(**arguments), expected)

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
            pytest.skip(f"{self.family} takes no image beside a video")
        picture = self.video(1, 3)[0]
        inputs = self.inputs(processor, [self.video(6, 1)], ["Compare."], images=[picture])
        bare = copy.deepcopy(stock[0])
        with torch.no_grad():
            assert _apart(whole(**inputs).logits, bare(**_bare(inputs)).logits) <= 1e-5
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
        wrapped.double()  # a temperature of 0.01 enlarges the rounding of cosines
        inputs = {
            name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in inputs.items()
        }
        with torch.no_grad():
            logits = wrapped(**inputs).logits
            reports = vtc.last_report(wrapped).videos
            counts = [len(report.keyframes) for report in reports]
            assert counts[0] == 3 and counts[1] == 1, "the rows must differ in length"
            each = wrapped.vtc.adapter.frames_per_slice
            for row, report in enumerate(reports):
                keys = [frame.index // each for frame in report.keyframes]
                with vtc.disabled(wrapped):
                    expected = self._row_by_hand(wrapped, processor, inputs, row, keys)
                assert _apart(logits[row, -len(expected) :], expected) < self.tolerance

    def _row_by_hand(
        self, model: Any, processor: Any, inputs: Any, row: int, keys: list[int]
    ) -> Tensor:
        """The logits of one compressed row, put together from the stock model's own modules."""
        tokens, patches, tail = self.reference(model, inputs, row)
        deep = self.deepstack(model, inputs, row)
        asked = processor.tokenizer(QUESTIONS[row], add_special_tokens=False)["input_ids"]
        table = model.get_input_embeddings()
        query = table(torch.tensor(asked)).mean(0).double()
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        places = (ids == model.vtc.adapter.video_token_id(model)).nonzero().flatten()
        slots = places[: len(places) - len(tail)].view(len(tokens), -1)
        embedded, visual = table(ids), torch.zeros(len(ids), dtype=torch.bool)
        kept = torch.ones(len(ids), dtype=torch.bool)
        pieces: dict[int, Tensor] = {}
        layers: list[list[Tensor]] = [[] for _ in deep]
        key = None
        for n, own in enumerate(slots):
            kept[own] = False
            if n in keys:
                pieces.update(zip(own.tolist(), tokens[n], strict=True))
                key = patches[n].double()
                weights = torch.eye(len(own)).double()
            else:
                (place,) = self.merged_slot(own).tolist()
                weights = _dfm(patches[n].double(), key, query)[None]
                pieces[place] = (weights @ patches[n].double())[0].to(tokens)
                kept[self._around(slots, n)] = False
            for found, layer in zip(layers, deep, strict=True):
                found.append(weights @ layer[n].double())
        pieces.update(zip(places[len(places) - len(tail) :].tolist(), tail, strict=True))
        for place, feature in pieces.items():
            embedded[place], visual[place], kept[place] = feature, True, True
        positions = self.positions(model, inputs, row)
        where = None if positions is None else positions[:, None, kept]
        states = self.run(
            model,
            embedded[None, kept],
            where,
            visual[None, kept],
            [torch.cat(found).to(tokens) for found in layers],
        )
        logits: Tensor = model.lm_head(states)[0]
        return logits

    def _around(self, slots: Tensor, n: int) -> list[int]:
        """The text around slice n that goes with it: up to the slice before, and its end mark."""
        if self.marks is None:
            return []
        opening, closing = self.marks
        first, last = int(slots[n, 0]), int(slots[n, -1])
        begin = first - opening if n == 0 else int(slots[n - 1, -1]) + 1 + closing
        return [*range(begin, first), *range(last + 1, last + 1 + closing)]

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
        wrapped.vtc.selector = vtc.selector("uniform", keyframes=3)
        video = self.video(10, 1)
        lazy = vtc.prepare_inputs(wrapped, processor, video, "What?", fps=1.0)
        stock = self.inputs(processor, [video], ["What?"])
        if "second_per_grid_ts" in stock:  # the time from slice to slice, of two frames
            stock["second_per_grid_ts"] = torch.tensor([2.0])
        token = wrapped.vtc.adapter.video_token_id(wrapped)
        slices = 1 if self.marks is None else -(-10 // wrapped.vtc.adapter.frames_per_slice)
        assert (lazy["input_ids"] == token).sum() == slices
        with torch.no_grad():
            expected = wrapped(**stock).logits
            for wrapped.vtc.chunk_slices in (1, 3, 16):
                assert _apart(wrapped(**lazy).logits, expected) < self.tolerance
                assert _apart(wrapped(**stock).logits, expected) < self.tolerance

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

    def test_several_turns_on_one_cache(self, wrapped: Any, processor: Any) -> None:
        from transformers import DynamicCache

        inputs = self.inputs(processor, [self.video(8, 1)], ["What is it?"])
        settings = {"max_new_tokens": 4, "do_sample": False}
        cache = DynamicCache(config=wrapped.config.get_text_config())
        first = wrapped.generate(
            **inputs, **cache_argument(cache), vtc_restore_prompt=False, **settings
        )
        with torch.no_grad():  # a loop of one's own writes the same
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
            assert torch.allclose(plain, gradients[1][name], atol=1e-5), name
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
        with torch.no_grad():
            logits = wrapped(**inputs).logits
            assert torch.equal(twin(**inputs).logits, logits)
            assert torch.equal(loaded(**inputs).logits, logits)

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
            assert _apart(logits, fresh(**inputs).logits) > 1e-3
            tuned.save_pretrained(tmp_path)
            loaded = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
            assert torch.equal(loaded(**inputs).logits, logits)
            assert _apart(loaded.merge_and_unload()(**inputs).logits, logits) < 1e-4

    def test_raw_video_past_the_wrapper_raises(self, wrapped: Any, processor: Any) -> None:
        inputs = _bare(self.inputs(processor, [self.video(6, 1)], ["What?"]))
        if wrapped.vtc.adapter.modality == "image":  # frames that nobody said are frames
            with pytest.warns(UserWarning, match="nothing was compressed"):
                wrapped(**inputs)
            return
        with pytest.raises(RuntimeError, match="nothing was compressed"):
            wrapped.base_model(**inputs)


def _older_than(least: str) -> bool:
    return version.parse(transformers_version) < version.parse(least)


@functools.cache
def _built(suite: Any) -> tuple[Any, Any]:
    built: tuple[Any, Any] = suite().build()
    return built


@functools.cache
def _encoder() -> Any:
    return tiny_encoder()


def _dfm(patches: Tensor, reference: Tensor | None, query: Tensor) -> Tensor:
    """The weights ``[M]`` of Eq. 5-10 of ViLAMP for one frame, patch by patch, in float64."""

    def cos(a: Tensor, b: Tensor) -> float:
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    saliency = [
        cos(patch, query) - (0.0 if reference is None else cos(patch, reference[m]))
        for m, patch in enumerate(patches)
    ]
    weights = patches.new_tensor([math.exp((s - max(saliency)) / 0.01) for s in saliency])
    return weights / weights.sum()


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    if one.shape != other.shape:
        raise AssertionError(f"shapes differ: {tuple(one.shape)} and {tuple(other.shape)}")
    return float((one - other).abs().max() / other.abs().max())


def _bare(inputs: dict[str, Any]) -> dict[str, Any]:
    """What the stock model takes of a call of the wrapped one."""
    return {name: value for name, value in inputs.items() if not name.startswith("vtc_")}


def _new(result: Tensor, inputs: Any) -> list[list[int]]:
    """The tokens after the caller's prompt."""
    written: list[list[int]] = result[:, inputs["input_ids"].shape[1] :].tolist()
    return written
