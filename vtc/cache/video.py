"""The cache entries of one video with one sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vtc.cache.entry import Key
from vtc.cache.folder import CacheFolder, Lookup, user_folder
from vtc.cache.reading import DATA
from vtc.cache.writing import CacheError, RowFile, UnfinishedFolder, writes_to

if TYPE_CHECKING:
    from torch import Tensor

FRAME_EMBEDDINGS = "frame embeddings"
ENCODER_PATCHES = "encoder patches"
MERGED_TOKENS = "merged tokens"
TOWER_OUTPUT = "vision tower output"


@dataclass(frozen=True)
class VideoCache:
    """The entries of one video.

    Attributes:
        folder: The cache.
        path: The video file.
        frames: The part of the key that identifies the frames: the hash of their timestamps, and
            the reader.
        sampling: The sampling options of the frames, for messages.
        tower: Whether the vision tower's output is cached too.
        kinds: The kinds of tensors that may be cached.
    """

    kinds: ClassVar[frozenset[str]] = frozenset(
        (FRAME_EMBEDDINGS, ENCODER_PATCHES, MERGED_TOKENS, TOWER_OUTPUT)
    )
    folder: CacheFolder
    path: Path
    frames: Key = field(repr=False)
    sampling: Key
    tower: bool = False

    def find(self, kind: str, key: Key, mapped: bool = False) -> Lookup:
        """Look up the tensors of a kind.

        Args:
            key: Everything they depend on except the frames.
            mapped: See `CacheFolder.find`.

        Raises:
            OSError: The video file cannot be read.
        """
        return self.folder.find(self.path, kind, {**self.frames, **key}, self.sampling, mapped)

    def store(
        self, kind: str, key: Key, tensors: dict[str, Tensor], warned: Sequence[str] = ()
    ) -> int:
        """Write the tensors of a kind; return their bytes.

        Args:
            kind, key: As for `find`.
            tensors: The tensors by name.
            warned: Warnings from reading the video.

        Raises:
            CacheError: They cannot be written.
            OSError: The video file cannot be read.
        """
        return self.folder.store(tensors, **self._entry(kind, key), warned=warned)

    def _entry(self, kind: str, key: Key) -> dict[str, Any]:
        whole_key = {**self.frames, **key}
        return {"path": self.path, "kind": kind, "key": whole_key, "sampling": self.sampling}


class EntryWriter:
    """Writes bfloat16 tensors of a video in blocks of rows; `finish` makes them an entry.

    Args:
        cache: The entries of the video.
        kind, key: As for `VideoCache.find`.
        shapes: The shape of each tensor by name; all have the same number of rows.

    Raises:
        CacheError: They cannot be written, or do not fit.
    """

    def __init__(
        self, cache: VideoCache, kind: str, key: Key, shapes: Mapping[str, Sequence[int]]
    ) -> None:
        self._root, self._cache = cache.folder.path, cache
        self._entry = cache._entry(kind, key)
        cache.folder.check_size(sum(2 * prod(shape) for shape in shapes.values()))
        self._folder = UnfinishedFolder(self._root)
        try:
            with writes_to(self._root):
                self._file = RowFile(self._folder.path / DATA, shapes)
        except CacheError:
            self._folder.remove()
            raise

    def write(self, first: int, rows: Mapping[str, Tensor]) -> None:
        """Write rows ``[n, ...]`` of each tensor, starting at row ``first``.

        Raises:
            CacheError: They cannot be written.
        """
        with writes_to(self._root):
            self._file.write(first, rows)

    def finish(self, warned: Sequence[str] = ()) -> int:
        """Make the rows an entry; return its bytes.

        Raises:
            CacheError: It cannot be written.
            OSError: The video file cannot be read.
        """
        with writes_to(self._root):
            self._file.close()
        return self._cache.folder.finish(self._folder.path, **self._entry, warned=warned)

    def discard(self) -> None:
        """Remove the rows, unless they are an entry."""
        with suppress(OSError):
            self._file.close()
        self._folder.remove()


def cache_folder(cache: object) -> CacheFolder:
    """Return the folder that ``VideoSource(cache=...)`` names.

    Raises:
        TypeError: It is neither a folder nor True.
        ValueError: The path is not a folder.
    """
    if cache is True:
        return CacheFolder(user_folder())
    if isinstance(cache, (str, Path)) and str(cache):
        return CacheFolder(Path(cache).expanduser())
    raise TypeError(
        f"expected cache to be a folder, True for the user's cache folder, or None, got {cache!r}"
    )
