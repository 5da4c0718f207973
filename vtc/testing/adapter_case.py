"""The properties of a family for the contract of adapters, and the slow reference."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from packaging import version
from torch import Tensor
from transformers import __version__ as transformers_version

import vtc
from vtc.encoders.tiny import tiny_encoder
from vtc.testing.inputs import drifting_video, stock_inputs
from vtc.testing.models import redraw, tiny

QUESTIONS = ("What is red?", "How many people walk by, and when do they leave the room?")


class AdapterCase:
    """One family: its tiny model, its inputs, and a reference made from its stock features.

    Attributes:
        family: The ``model_type``, a name of `vtc.testing.tiny`.
        frame: The (height, width) of frames that the processor does not resize, so that every
            path sees the same pixels.
        mixes_images: Whether the processor takes still images together with a video.
        later_type: The ``token_type_ids`` of text after an answer.
        marks: The numbers of tokens directly before and after a slice's placeholders, if the
            processor writes text around each slice; None if it writes none.
        vision_layers: Values of ``config.vision_feature_layer`` to test, a tuple for a list of
            layers; empty if the configuration has none.
        tolerance: The tolerance relative to the largest logit, in float64: some models keep norms
            and softmax in float32.
        since: The first version of transformers whose stock model of this family is a valid
            reference.
        beams_since: The first version of transformers that repeats the features of several videos
            correctly for beams, so that the stock model is a valid reference.
        chunks_since: The first version of transformers whose stock model reads a video's prompt in
            chunks (``prefill_chunk_size``).
    """

    family: ClassVar[str]
    frame: ClassVar[tuple[int, int]] = (42, 42)
    mixes_images: ClassVar[bool] = True
    later_type: ClassVar[int] = 0
    marks: ClassVar[tuple[int, int] | None] = None
    vision_layers: ClassVar[tuple[int | tuple[int, ...], ...]] = ()
    since: ClassVar[str] = "5.18"
    beams_since: ClassVar[str] = "5.18"
    chunks_since: ClassVar[str] = "5.18"
    tolerance: ClassVar[float] = 1e-6

    # --- methods that a family may override

    def build(self) -> tuple[Any, Any]:
        """Return a tiny stock model with random weights that react to errors, and its processor."""
        return tiny(self.family)

    def build_with_layers(self, layers: int | tuple[int, ...]) -> Any:
        """Return a model of the same sizes with vision features from other layers of the tower."""
        model, _ = self.build()
        config = copy.deepcopy(model.config)
        config.vision_feature_layer = layers if isinstance(layers, int) else list(layers)
        other = type(model)(config).eval()
        redraw(other)
        return other

    def reference(self, model: Any, inputs: Any, video: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the features of one video with the stock model's methods, slice by slice.

        Returns:
            The tokens of each slice as a keyframe ``[N, M, D]``, the patches to merge
            ``[N, P, D]``, and the features after the last slice ``[t, D]``.
        """
        raise NotImplementedError("compute the stock model's features of a video, slice by slice")

    def deepstack(self, model: Any, inputs: Any, video: int) -> list[Tensor]:
        """Return further features ``[N, M, D]`` of the same tokens, which later layers take."""
        return []

    def run(
        self, model: Any, embeds: Tensor, where: Tensor | None, visual: Tensor, deep: list[Tensor]
    ) -> Tensor:
        """Return the stock language model's last states ``[1, L, D]``.

        Args:
            embeds: ``[1, L, D]``, the embeddings of text and features.
            where: ``[3, 1, L]``, see `positions`.
            visual: ``[1, L]`` bool, True for the features of a video.
            deep: ``[F, D]`` for each layer of `deepstack`.
        """
        states: Tensor = model.base_model.language_model(
            inputs_embeds=embeds, position_ids=where
        ).last_hidden_state
        return states

    def positions(self, model: Any, inputs: Any, row: int) -> Tensor | None:
        """Return the stock positions ``[3, L]`` of a row, unpadded; None if they count tokens."""
        return None

    def merged_slot(self, slots: Tensor) -> Tensor:
        """Return which of a slice's placeholders ``[M]`` a merged token replaces."""
        return slots[:1]

    # --- fixtures

    @pytest.fixture
    def stock(self) -> tuple[Any, Any]:
        if older_than(self.since):
            pytest.skip(f"the stock {self.family} is no reference before transformers {self.since}")
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
        """A model wrapped with every slice as a keyframe, to compare with ``stock``."""
        selector = vtc.selector("uniform", keyframes=64)
        return vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder)

    def video(self, frames: int, seed: int = 0) -> NDArray[np.uint8]:
        """Return random frames ``[N, H, W, 3]`` that drift."""
        return drifting_video(frames, seed, self.frame)

    def still(self, frames: int, seed: int = 0) -> NDArray[np.uint8]:
        """Return copies of one frame, of which dks keeps one."""
        return self.video(1, seed).repeat(frames, axis=0)

    def inputs(
        self, processor: Any, videos: Any, questions: Any, images: Any = None
    ) -> dict[str, Any]:
        """Run the stock processor on one video, image and question per row."""
        return dict(stock_inputs(processor, videos, questions, images))

    def row_by_hand(
        self, model: Any, processor: Any, inputs: Any, row: int, keys: list[int]
    ) -> Tensor:
        """Return the logits of one compressed row, computed with the stock model's modules."""
        tokens, patches, tail = self.reference(model, inputs, row)
        deep = self.deepstack(model, inputs, row)
        question = processor.tokenizer(QUESTIONS[row], add_special_tokens=False)["input_ids"]
        table = model.get_input_embeddings()
        query = table(torch.tensor(question)).mean(0).double()
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
            for merged, layer in zip(layers, deep, strict=True):
                merged.append(weights @ layer[n].double())
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
            [torch.cat(merged).to(tokens) for merged in layers],
        )
        logits: Tensor = model.lm_head(states)[0]
        return logits

    def _around(self, slots: Tensor, n: int) -> list[int]:
        """Return the positions of the text around slice n, after the end mark of the one before."""
        if self.marks is None:
            return []
        opening, closing = self.marks
        first, last = int(slots[n, 0]), int(slots[n, -1])
        begin = first - opening if n == 0 else int(slots[n - 1, -1]) + 1 + closing
        return [*range(begin, first), *range(last + 1, last + 1 + closing)]


def older_than(least: str) -> bool:
    return version.parse(transformers_version) < version.parse(least)


@functools.cache
def _built(suite: Any) -> tuple[Any, Any]:
    built: tuple[Any, Any] = suite().build()
    return built


@functools.cache
def _encoder() -> Any:
    return tiny_encoder()


def _dfm(patches: Tensor, reference: Tensor | None, query: Tensor) -> Tensor:
    """Return the weights ``[M]`` of Eq. 5-10 of ViLAMP for one frame, in float64, with loops."""

    def cos(a: Tensor, b: Tensor) -> float:
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    saliency = [
        cos(patch, query) - (0.0 if reference is None else cos(patch, reference[m]))
        for m, patch in enumerate(patches)
    ]
    weights = patches.new_tensor([math.exp((s - max(saliency)) / 0.01) for s in saliency])
    return weights / weights.sum()


def relative_error(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, relative to the largest value of ``other``."""
    if one.shape != other.shape:
        raise AssertionError(f"shapes differ: {tuple(one.shape)} and {tuple(other.shape)}")
    return float((one - other).abs().max() / other.abs().max())


def in_float64(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a processor's inputs with their floating-point tensors in float64."""
    return {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def shift_rounding(length: int, unpadded: int) -> float:
    """Bound the effect of float32 rounding of RoPE's angles when padding shifts positions.

    An angle at position ``length`` is rounded by up to ``length * 2**-24``, up or down.
    """
    return length * 2.0**-23 if length > unpadded else 0.0
