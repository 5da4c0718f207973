"""What a cache holds of a video: found before the work begins, or stored after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vtc.cache.video import ENCODER_PATCHES, FRAME_EMBEDDINGS
from vtc.cache.writing import CacheError
from vtc.encoders.encoder_patches import PatchKeeper
from vtc.pipeline.report import CacheUse, Recorder

if TYPE_CHECKING:
    from torch import Tensor

    from vtc.cache.entry import Key
    from vtc.cache.video import VideoCache
    from vtc.encoders.base import FrameEncoder
    from vtc.video import VideoSource

NOT_STORED = "computed and not stored"
"""The note of a `CacheUse` where the cache cannot be written."""


class StoredTensors:
    """Tensors of one video in a cache.

    Args:
        source: The video.
        kind: What the tensors are.
        made_by: What they depend on besides the frames; a text says why that is unknown.
        recorder: Takes warnings and seconds.
        mapped: Whether they are mapped into memory, and read when they are needed.

    Attributes:
        tensors: What was found, on the CPU; None if it must be computed.
        use: What the cache did so far.
    """

    def __init__(
        self,
        source: VideoSource,
        kind: str,
        made_by: Key | str,
        recorder: Recorder,
        mapped: bool = False,
    ) -> None:
        self._source, self._kind, self._recorder = source, kind, recorder
        self._cache = _cache_of(source)
        if kind not in self._cache.kinds:
            made_by = f"the cache of {source.name} does not hold {kind}"
        self._made_by = None if isinstance(made_by, str) else made_by
        self.tensors: Mapping[str, Tensor] | None = None
        if isinstance(made_by, str):
            self.use = CacheUse(kind, False, f"not cached: {made_by}")
            return
        with recorder.stage("cache") as stage:
            found = self._cache.find(kind, made_by, mapped)
            if found.tensors is not None:
                self.tensors = found.tensors
                read = () if mapped else found.tensors.values()
                stage.bytes += sum(tensor.nbytes for tensor in read)
        self.use = CacheUse(kind, self.tensors is not None, found.reason)
        if found.is_damaged:
            recorder.warn(f"{source.name}: {found.reason}")
        recorder.warn(*found.warnings)

    @property
    def is_possible(self) -> bool:
        """Whether all is known that the tensors depend on."""
        return self._made_by is not None

    def store(self, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors that were computed; warn where the cache cannot be written."""
        try:
            self.write(tensors)
        except CacheError as error:  # a full disk is no reason to give no answer
            self._recorder.warn(str(error))
            self.use = CacheUse(self._kind, False, NOT_STORED)

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors that were computed.

        Raises:
            CacheError: The cache cannot be written.
        """
        if self._made_by is None:
            return
        with self._recorder.stage("cache") as stage:
            plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            warned = self._source.warnings
            stage.bytes += self._cache.store(self._kind, self._made_by, plain, warned)
        note = f"computed and stored, since {self.use.note}"
        self.use = CacheUse(self._kind, False, note)


class StoredEmbeddings(StoredTensors):
    """The frame embeddings of one video in a cache, and the patches, as one encoder computes them.

    Args:
        source: The video.
        encoder: The frame encoder.
        every: Which frames: each, each second one, ...
        recorder: Takes warnings and seconds.
        patches: Where the patches are kept that are stored too; they are put there if found.

    Attributes:
        embeddings: ``[N, d]`` float32; None if they must be computed.
    """

    def __init__(
        self,
        source: VideoSource,
        encoder: FrameEncoder,
        every: int,
        recorder: Recorder,
        patches: PatchKeeper | None = None,
    ) -> None:
        made_by: Key | str = f"the weights of encoder {encoder.name} are unknown"
        fingerprint = encoder.fingerprint()
        if fingerprint is not None:
            made_by = {**fingerprint, "every": every}
            if patches is not None:
                made_by["patches"] = str(patches.dtype).removeprefix("torch.")
        kind = FRAME_EMBEDDINGS if patches is None else ENCODER_PATCHES
        super().__init__(source, kind, made_by, recorder, mapped=patches is not None)
        self._patches = patches
        self.embeddings: Tensor | None = None
        if self.tensors is not None and fingerprint is not None:
            self.embeddings = self.tensors["embeddings"].to(fingerprint["device"])
            if patches is not None:
                patches.restore(self.tensors["patches"])
            self.tensors = {}  # what is needed of them is in its place

    def store_embeddings(self, embeddings: Tensor) -> None:
        """Store embeddings that were computed, with the patches that were kept meanwhile."""
        self.store({"embeddings": embeddings} | self._of_patches())

    def _of_patches(self) -> dict[str, Tensor]:
        if self._patches is None:
            return {}
        return {"patches": self._patches.all()}


def _cache_of(source: VideoSource) -> VideoCache:
    if source.cache is None:
        raise ValueError("expected a VideoSource with cache=FOLDER, got one without")
    return source.cache
