"""The interface of adapters: everything that differs between model families."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from vtc.interfaces.part import Part
from vtc.interfaces.renamed import warn_renamed
from vtc.interfaces.tower_saliency import TowerSaliency

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    from vtc.interfaces.video_span import EncodedInput, Layout, SliceFeatures, VideoSpan
    from vtc.video import VideoSource


class VideoAdapter(TowerSaliency, Part, ABC):
    """One family of models; an object without state, registered under ``config.model_type``.

    Like other parts it may have a ``Config``; ``model.vtc.configure(option=value)`` sets it.

    In the methods, ``inputs`` are the keyword arguments of a call to the stock model,
    ``input_ids`` ``[B, L]`` among them. ``pixels`` are the vision tower's inputs for n slices,
    tensors by argument name. N is the number of slices of a video, M the number of a slice's
    placeholders, P the number of patches to merge, D the width of the language model.
    """

    video_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    """The arguments of ``forward`` that carry raw video; a call has video if the first is given."""
    fixed_inputs: ClassVar[tuple[str, ...]] = ()
    """Arguments of ``forward`` that no call may set, as ``encode`` reads the configuration."""
    frames_per_slice: ClassVar[int] = 1
    """How many frames the vision tower turns into one slice."""
    modality: ClassVar[str] = "video"
    """The key of ``mm_encoder_outputs``: ``"image"`` where frames enter as still images."""
    projectors: ClassVar[tuple[str, ...]] = ()
    """The names of the modules between the vision tower and the language model, which a separate
    connector copies; empty if the family has none."""
    vision_towers: ClassVar[tuple[str, ...]] = ()
    """The names of the vision tower's modules, which recipes train at a separate learning rate."""
    causal: ClassVar[bool] = True
    """Whether attention is causal, so that a long prompt may be read in pieces."""
    placeholder_per_slice: ClassVar[bool] = False
    """True: a lazy prompt has one placeholder per slice, with the text that the stock processor
    writes around it. False: one for the whole video."""
    position_state: ClassVar[str | None] = None
    """The attribute in which transformers keeps position offsets on the model; None for none."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED_METHODS.items():
            for members in map(vars, cls.__mro__):
                if new in members:
                    break
                if old in members and not hasattr(members[old], "new_name"):
                    warn_renamed(f"the method {old} of {cls.__name__}", new)
                    setattr(cls, new, members[old])
                    break
            if old not in vars(cls):
                setattr(cls, old, _old_method(cls, old, new))

    # --- the positions of the videos

    @abstractmethod
    def spans(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], start: int = 0
    ) -> list[VideoSpan]:
        """Find the videos of a processor's ``inputs``, in the order of their pixels.

        Args:
            start: The first position of this turn; the cache holds those before it.

        Returns:
            One span for each video, with ``slots`` ``[N, M]``.

        Raises:
            ValueError: The placeholders do not fit the pixels.
        """

    @abstractmethod
    def slice_grid(self, model: PreTrainedModel, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the grid (h, w) of the tokens of each slice of ``pixels``; M is h * w."""

    def video_token_id(self, model: PreTrainedModel) -> int:
        """Return the id of the placeholder token of videos."""
        return int(model.config.video_token_id)

    def frame_text(self, slots: Tensor) -> tuple[Tensor, ...] | None:
        """Locate the text that the processor writes around each slice.

        Args:
            slots: ``[N, M]`` int64, the positions of each slice's placeholders.

        Returns:
            For each slice ``[w_n]`` int64, the positions of its text; None where there is none.
        """
        return None

    def keeps_frame_text(self, is_keyframe: Tensor) -> Tensor:
        """Choose the slices that keep the text around them.

        Args:
            is_keyframe: ``[N]`` bool.

        Returns:
            ``[N]`` bool.
        """
        return torch.ones_like(is_keyframe)

    def wrapping(self, slots: Tensor) -> tuple[Tensor, ...] | None:
        """Deprecated: the old name of `frame_text`."""
        warn_renamed("VideoAdapter.wrapping", "frame_text")
        return VideoAdapter.frame_text(self, slots)

    def keeps_wrapping(self, is_keyframe: Tensor) -> Tensor:
        """Deprecated: the old name of `keeps_frame_text`."""
        warn_renamed("VideoAdapter.keeps_wrapping", "keeps_frame_text")
        return VideoAdapter.keeps_frame_text(self, is_keyframe)

    def tail_length(self) -> int:
        """Return t, the number of placeholders after the last slice."""
        return 0

    # --- from pixels to features

    @abstractmethod
    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        """Select the pixels of some slices of one video from a processor's ``inputs``.

        Args:
            video: ``VideoSpan.number``; if that is None, the index of the video in the batch.
            slices: n indices in 0..N-1, in any order.

        Returns:
            ``pixels`` of these n slices, in this order.
        """

    @abstractmethod
    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        """Make ``pixels`` of frames as the stock processor would.

        Args:
            frames: ``[n, H, W, 3]`` uint8 RGB.
            total: The number of frames of the whole video; some families resize by it.
        """

    def notes(self, processor: Any, source: VideoSource) -> list[str]:
        """Return sentences for the report about how a lazy video is read."""
        return []

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """Write one user turn about a video with the stock processor's chat template.

        Returns:
            Text with one placeholder, or one for each slice with the text around it.

        Raises:
            ValueError: The processor has no chat template.
        """
        return chat_prompt(processor, [{"type": "video"}], question)

    def text_inputs(self, model: PreTrainedModel, ids: Tensor) -> dict[str, Tensor]:
        """Return the stock model's inputs in addition to the ids of prompts made by `prompt`.

        Args:
            ids: ``[B, L]`` int64.

        Returns:
            Tensors ``[B, L]`` by argument name.
        """
        return {}

    def question(self, text: str) -> str:
        """Remove the text that the stock processor wrote around the frames from a user turn."""
        return text

    @abstractmethod
    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        """Undo ``preprocess``, for the frame encoder.

        Returns:
            ``[n, H', W', 3]`` uint8 RGB, one frame for each slice, at the processor's size.
        """

    @abstractmethod
    def encode(self, model: PreTrainedModel, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Run the vision tower and the projector on n slices.

        Returns:
            ``tokens`` ``[n, M, D]``; ``dense`` ``[n, P, D]`` if other features are merged.
        """

    def tower(self, model: PreTrainedModel, pixels: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run the vision tower alone on n slices, so that its output can be cached.

        Returns:
            What `project` takes: tensors ``[n, ...]``, which do not depend on the projector.

        Raises:
            NotImplementedError: The adapter does not separate the tower from the projector.
        """
        raise NotImplementedError(
            f"the adapter {type(self).__name__} does not separate the vision tower from the "
            "projector: it defines no tower() and project()"
        )

    def project(self, model: PreTrainedModel, states: Sequence[Tensor]) -> SliceFeatures:
        """Run the projector on the output of `tower`; the result is `encode`'s without ``hidden``.

        Raises:
            NotImplementedError: See `tower`.
        """
        raise NotImplementedError(f"the adapter {type(self).__name__} defines no project()")

    def tail(self, model: PreTrainedModel) -> Tensor | None:
        """Return the features ``[t, D]`` of the placeholders after the last slice, or None."""
        return None

    # --- into the language model

    def context_length(self, model: PreTrainedModel) -> int | None:
        """Return the number of positions that the language model supports; None if unknown.

        It is ``max_position_embeddings``, or with RoPE scaling the scaled original length.
        """
        config = model.config.get_text_config()
        limit: int | None = getattr(config, "max_position_embeddings", None)
        rope = getattr(config, "rope_parameters", None) or {}
        # Gemma 3 has a mapping for each kind of layer, and its limit includes the scaling.
        if limit is None or rope.get("rope_type", "default") == "default":
            return limit
        original = rope.get("original_max_position_embeddings") or limit
        return max(limit, int(original * (rope.get("factor") or 1)))

    def position_ids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], layout: Layout
    ) -> Tensor | None:
        """Return the positions of the shortened rows; None if the stock model counts tokens.

        Args:
            inputs: The caller's arguments, before anything was shortened.
            layout: The shortened rows.

        Returns:
            int64, in the form that ``generate`` takes if ``layout.generating``, else ``forward``:
            ``[4, B, L']`` and ``[3, B, L']`` for Qwen-VL.
        """
        return None

    def position_offsets(self, positions: Tensor, layout: Layout) -> Tensor | None:
        """Return the offset of positions after the prompt from the number of its tokens.

        Args:
            positions: The result of `position_ids`.

        Returns:
            ``[B, 1]`` int64; None where positions count tokens.
        """
        return None

    def positions_after(self, inputs: Mapping[str, Any], cached: int, offsets: Tensor) -> Tensor:
        """Return the positions of ``input_ids`` ``[B, L]`` that continue from a cache.

        Only called if `position_offsets` returned offsets for the prompt in the cache.

        Args:
            inputs: The arguments of ``forward``.
            cached: The number of tokens in the cache.
            offsets: ``[B, 1]`` int64.

        Raises:
            NotImplementedError: The family has offsets but does not define this method.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no positions_after")

    @abstractmethod
    def pack(self, model: PreTrainedModel, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        """Pack features into the form that the stock model takes.

        Args:
            rows: ``[F, D]`` for each row that has a video: the features of all its videos.
        """

    def encoder_outputs(
        self, model: PreTrainedModel, encoded: Sequence[EncodedInput]
    ) -> BaseModelOutputWithPooling:
        """Return the ``video_outputs`` or ``image_outputs`` of the stock ``forward``.

        Args:
            encoded: The videos and images in the order of their placeholders.

        Returns:
            ``pooler_output`` in the container of the stock model, see `pooled`, and
            ``last_hidden_state`` of the keyframes; None if there are images or it was not kept.
        """
        outputs = self.pack(model, [media.features for media in encoded])
        pooled = self.pooled(encoded)
        if pooled is not None:
            outputs["pooler_output"] = pooled
        hidden = [media.hidden for media in encoded if media.hidden is not None]
        whole = torch.cat(hidden) if len(hidden) == len(encoded) else None
        return type(outputs)(**{**outputs, "last_hidden_state": whole})

    def pooled(self, encoded: Sequence[EncodedInput]) -> Tensor | list[Tensor] | None:
        """Return ``pooler_output`` in the container of the stock model; None: that of `pack`."""
        return None

    def could_be_frames(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
        """Return whether still images of a call may be frames that the caller did not declare.

        Only called if ``modality`` is ``"image"``.
        """
        return False

    def stills(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], layout: Layout
    ) -> list[tuple[int, int, Tensor]]:
        """Encode the still images next to a video, if both enter as ``modality`` ``"image"``.

        Returns:
            For each image the row, the position of its first placeholder, and its features
            ``[F, D]``.
        """
        return []

    def encode_images(
        self, model: PreTrainedModel, inputs: dict[str, Any]
    ) -> BaseModelOutputWithPooling | None:
        """Encode the still images next to a video, as the stock ``generate`` does.

        Removes the arguments of ``get_image_features`` from ``inputs``: the stock ``forward``
        does not accept pixels together with features.

        Returns:
            The stock output of ``get_image_features``; None if there is no image.
        """
        if inputs.get("pixel_values") is None:
            return None
        encoder = model.base_model.get_image_features
        names = [name for name in inspect.signature(encoder).parameters if name in inputs]
        features: BaseModelOutputWithPooling = encoder(
            **{name: inputs.pop(name) for name in names}, return_dict=True
        )
        return features


_RENAMED_METHODS = {"wrapping": "frame_text", "keeps_wrapping": "keeps_frame_text"}


def _old_method(cls: type, old: str, new: str) -> Callable[..., Any]:
    """Return a method for the old name, for callers and for ``super()`` in subclasses."""
    method = getattr(cls, new)

    def deprecated(self: VideoAdapter, *args: Any, **kwargs: Any) -> Any:
        warn_renamed(f"{type(self).__name__}.{old}", new)
        return method(self, *args, **kwargs)

    deprecated.new_name = new  # type: ignore[attr-defined]
    return deprecated


def chat_prompt(processor: Any, content: list[dict[str, str]], question: str) -> str:
    """Write one user turn with the processor's chat template.

    Raises:
        ValueError: The processor has no chat template.
    """
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"this {type(processor).__name__} has no chat_template, so the prompt's form is "
            "unknown; set processor.chat_template to the checkpoint's template"
        )
    turn = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    prompt: str = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    return prompt
