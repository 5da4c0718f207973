"""The interface of adapters: what is particular to one family of models."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from vtc.interfaces.part import Part
from vtc.interfaces.renamed import warn_renamed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    from vtc.interfaces.video_span import Layout, SliceFeatures, VideoSpan
    from vtc.video import VideoSource


class VideoAdapter(Part, ABC):
    """One family of models; an object without state, registered under ``config.model_type``.

    Like other parts it may have a ``Config``; ``model.vtc.configure(option=value)`` sets it.
    ``pixels`` below is what this family's vision tower takes for some slices: tensors by name.
    """

    video_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    """The arguments of ``forward`` that carry raw video; the first one decides if there is any."""
    fixed_inputs: ClassVar[tuple[str, ...]] = ()
    """Arguments of ``forward`` that ``encode`` takes from the configuration and not from a call."""
    frames_per_slice: ClassVar[int] = 1
    """How many frames the vision tower turns into one slice."""
    modality: ClassVar[str] = "video"
    """The key of ``mm_encoder_outputs``: ``"image"`` where frames enter as still images."""
    projectors: ClassVar[tuple[str, ...]] = ()
    """The names of the model's modules that map the vision tower's features to the language
    model's, which a separate connector copies; empty where the family has none of its own."""
    vision_towers: ClassVar[tuple[str, ...]] = ()
    """The names of the modules before them, which recipes train at a rate of their own."""
    causal: ClassVar[bool] = True
    """Whether no token attends to later ones, so that a long prompt may be read in pieces."""
    placeholder_per_slice: ClassVar[bool] = False
    """Whether a video that is decoded while it is read has a placeholder for each slice, with the
    text that the stock processor writes around it, rather than one for all."""
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

    # --- where the videos are

    @abstractmethod
    def spans(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], start: int = 0
    ) -> list[VideoSpan]:
        """Find the videos of a processor's ``inputs``, in the order of their pixels.

        Args:
            start: Positions before it belong to earlier turns, which the cache holds already.

        Raises:
            ValueError: The placeholders do not fit the pixels.
        """

    @abstractmethod
    def slice_grid(self, model: PreTrainedModel, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """The grid (h, w) of the tokens of each slice of ``pixels``; M is h * w."""

    def video_token_id(self, model: PreTrainedModel) -> int:
        """The id of the placeholder of videos."""
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
        """t, the number of placeholders after the last slice."""
        return 0

    # --- from pixels to features

    @abstractmethod
    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        """The part of a processor's ``inputs`` that belongs to some slices of one video.

        Args:
            video: ``VideoSpan.number``; where that is None, the video's place among all of them.
        """

    @abstractmethod
    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        """Make ``pixels`` of uint8 RGB frames ``[n, H, W, 3]`` as the stock processor would.

        Args:
            total: The frames of the whole video, by which some families choose their size.
        """

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """One user turn about a video, as the stock processor's chat template writes it.

        It holds one placeholder, or one for each slice with the text around it.
        """
        return chat_prompt(processor, [{"type": "video"}], question)

    def text_inputs(self, model: PreTrainedModel, ids: Tensor) -> dict[str, Tensor]:
        """What the stock model needs beside the ids ``[B, L]`` of prompts made by `prompt`."""
        return {}

    def question(self, text: str) -> str:
        """A user turn without what the stock processor wrote into it around the frames."""
        return text

    @abstractmethod
    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        """Undo ``preprocess``: uint8 RGB frames ``[n, H', W', 3]`` for the frame encoder."""

    @abstractmethod
    def encode(self, model: PreTrainedModel, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Run the vision tower and the projector on some slices."""

    def tail(self, model: PreTrainedModel) -> Tensor | None:
        """``[t, D]``, the features of the placeholders after the last slice, or None."""
        return None

    # --- into the language model

    def position_ids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], layout: Layout
    ) -> Tensor | None:
        """The positions of the shortened rows, or None where the stock model counts tokens.

        Args:
            inputs: The caller's, before anything was shortened.
            layout: What became of each row.
        """
        return None

    def position_offsets(self, positions: Tensor, layout: Layout) -> Tensor | None:
        """Return how far the positions after the prompt differ from the count of its tokens.

        Args:
            positions: What `position_ids` returned.

        Returns:
            ``[B, 1]`` int64; None where positions count tokens.
        """
        return None

    def positions_after(self, inputs: Mapping[str, Any], cached: int, offsets: Tensor) -> Tensor:
        """Return the positions of ``input_ids`` ``[B, L]`` that continue from a cache.

        Called where `position_offsets` returned offsets for the prompt in the cache.

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
        """Put features in the form that the stock model takes.

        Args:
            rows: ``[F, D]`` for each row that has a video, those of all its videos.
        """

    def could_be_frames(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
        """Whether a call's still images may be frames of a video that the caller did not declare.

        Asked where frames enter as still images.
        """
        return False

    def stills(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], layout: Layout
    ) -> list[tuple[int, int, Tensor]]:
        """The still images among the frames, where both enter by the same way.

        Returns:
            The row, the position of the first placeholder, and the features ``[F, D]`` of each.
        """
        return []

    def encode_images(
        self, model: PreTrainedModel, inputs: dict[str, Any]
    ) -> BaseModelOutputWithPooling | None:
        """Encode the still images beside a video, as the stock ``generate`` does.

        Takes the arguments of ``get_image_features`` out of ``inputs``: the stock ``forward``
        refuses pixels beside features that are already there.
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
    """Make a method of the old name, for callers and for ``super()`` in subclasses."""
    method = getattr(cls, new)

    def deprecated(self: VideoAdapter, *args: Any, **kwargs: Any) -> Any:
        warn_renamed(f"{type(self).__name__}.{old}", new)
        return method(self, *args, **kwargs)

    deprecated.new_name = new  # type: ignore[attr-defined]
    return deprecated


def chat_prompt(processor: Any, content: list[dict[str, str]], question: str) -> str:
    """One user turn as the processor's chat template writes it.

    Raises:
        ValueError: The processor has no chat template.
    """
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"this {type(processor).__name__} has no chat_template, so the prompt's form is "
            "unknown; set processor.chat_template to the one of the checkpoint"
        )
    turn = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    prompt: str = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    return prompt
