"""What a cache holds of one video, sampled in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vtc.cache.entry import Key
from vtc.cache.folder import CacheFolder, Lookup, user_folder

if TYPE_CHECKING:
    from torch import Tensor

FRAME_EMBEDDINGS = "frame embeddings"
ENCODER_PATCHES = "encoder patches"
MERGED_TOKENS = "merged tokens"


@dataclass(frozen=True)
class VideoCache:
    """The entries of one video.

    Attributes:
        folder: The cache.
        path: The video file.
        frames: What depends on the frames: the hash of their timestamps, the reader.
        sampling: The options that chose the frames, for messages.
    """

    folder: CacheFolder
    path: Path
    frames: Key = field(repr=False)
    sampling: Key

    def find(self, kind: str, made_by: Key) -> Lookup:
        """Return the tensors of a kind, or why there are none.

        Args:
            made_by: What they depend on besides the frames.

        Raises:
            OSError: The video file cannot be read.
        """
        return self.folder.find(self.path, kind, {**self.frames, **made_by}, self.sampling)

    def store(
        self, kind: str, made_by: Key, tensors: dict[str, Tensor], warned: Sequence[str] = ()
    ) -> int:
        """Write the tensors of a kind; return their bytes.

        Args:
            kind, made_by: As `find` takes them.
            tensors: By their names.
            warned: What was lost while the video was read.

        Raises:
            CacheError: They cannot be written.
            OSError: The video file cannot be read.
        """
        return self.folder.store(
            tensors,
            path=self.path,
            kind=kind,
            key={**self.frames, **made_by},
            sampling=self.sampling,
            warned=warned,
        )


def cache_folder(cache: object) -> CacheFolder:
    """Return the folder that ``VideoSource(cache=...)`` names.

    Raises:
        TypeError: It is neither a folder nor True.
        ValueError: There is something else than a folder at the path.
    """
    if cache is True:
        return CacheFolder(user_folder())
    if isinstance(cache, (str, Path)) and str(cache):
        return CacheFolder(Path(cache).expanduser())
    raise TypeError(
        f"expected cache to be a folder, True for the user's cache folder, or None, got {cache!r}"
    )
