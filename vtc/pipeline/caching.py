"""Read a video's tensors from the cache, or store them after computing."""

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
        kind: The kind of tensors, see `vtc.cache.video`.
        key: Everything the tensors depend on except the frames; a string gives the reason when
            that is unknown.
        recorder: Takes warnings and seconds.
        mapped: Map the tensors into memory and read them on demand.

    Attributes:
        tensors: The cached tensors, on the CPU; None if they must be computed.
        use: The outcome so far, for the report.
    """

    def __init__(
        self,
        source: VideoSource,
        kind: str,
        key: Key | str,
        recorder: Recorder,
        mapped: bool = False,
    ) -> None:
        self._source, self._kind, self._recorder = source, kind, recorder
        self._cache = _cache_of(source)
        if kind not in self._cache.kinds:
            key = f"the cache of {source.name} does not hold {kind}"
        self._key = None if isinstance(key, str) else key
        self.tensors: Mapping[str, Tensor] | None = None
        if isinstance(key, str):
            self.use = CacheUse(kind, False, f"not cached: {key}")
            return
        with recorder.stage("cache") as stage:
            lookup = self._cache.find(kind, key, mapped)
            if lookup.tensors is not None:
                self.tensors = lookup.tensors
                read = () if mapped else lookup.tensors.values()
                stage.bytes += sum(tensor.nbytes for tensor in read)
        self.use = CacheUse(kind, self.tensors is not None, lookup.reason)
        if lookup.is_damaged:
            recorder.warn(f"{source.name}: {lookup.reason}")
        recorder.warn(*lookup.warnings)

    @property
    def is_possible(self) -> bool:
        """Whether the tensors can be cached: everything they depend on is known."""
        return self._key is not None

    def store(self, tensors: Mapping[str, Tensor]) -> None:
        """Store computed tensors; warn if the cache cannot be written."""
        try:
            self.write(tensors)
        except CacheError as error:  # a full disk is no reason to give no answer
            self._recorder.warn(str(error))
            self.use = CacheUse(self._kind, False, NOT_STORED)

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Store computed tensors.

        Raises:
            CacheError: The cache cannot be written.
        """
        if self._key is None:
            return
        with self._recorder.stage("cache") as stage:
            plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            warned = self._source.warnings
            stage.bytes += self._cache.store(self._kind, self._key, plain, warned)
        note = f"computed and stored, since {self.use.note}"
        self.use = CacheUse(self._kind, False, note)


class StoredEmbeddings(StoredTensors):
    """The frame embeddings of one video in a cache, and the encoder's patches if they are merged.

    Args:
        source: The video.
        encoder: The frame encoder.
        stride: Embed every ``stride``-th frame.
        recorder: Takes warnings and seconds.
        patches: Holds the patches that are stored too; filled from the cache if they are in it.

    Attributes:
        embeddings: ``[N, d]`` float32; None if they must be computed.
    """

    def __init__(
        self,
        source: VideoSource,
        encoder: FrameEncoder,
        stride: int,
        recorder: Recorder,
        patches: PatchKeeper | None = None,
    ) -> None:
        key: Key | str = f"the weights of encoder {encoder.name} are unknown"
        fingerprint = encoder.fingerprint()
        if fingerprint is not None:
            key = {**fingerprint, "every": stride}
            if patches is not None:
                key["patches"] = str(patches.dtype).removeprefix("torch.")
        kind = FRAME_EMBEDDINGS if patches is None else ENCODER_PATCHES
        super().__init__(source, kind, key, recorder, mapped=patches is not None)
        self._patches = patches
        self.embeddings: Tensor | None = None
        if self.tensors is not None and fingerprint is not None:
            self.embeddings = self.tensors["embeddings"].to(fingerprint["device"])
            if patches is not None:
                patches.restore(self.tensors["patches"])
            self.tensors = {}  # free the originals; the copies are on the device

    def store_embeddings(self, embeddings: Tensor) -> None:
        """Store computed embeddings, together with the patches."""
        self.store({"embeddings": embeddings} | self._of_patches())

    def _of_patches(self) -> dict[str, Tensor]:
        if self._patches is None:
            return {}
        return {"patches": self._patches.all()}


def _cache_of(source: VideoSource) -> VideoCache:
    if source.cache is None:
        raise ValueError("expected a VideoSource with cache=FOLDER, got one without")
    return source.cache
