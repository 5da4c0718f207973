"""Videos and images of requests: files below the roots, and data: addresses."""

from __future__ import annotations

import base64
import binascii
import io
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vtc.serve.errors import ApiError
from vtc.video import VideoError
from vtc.video.files import as_path

if TYPE_CHECKING:
    from PIL import Image

_PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_MOST_PIXELS = 64_000_000
_DATA = re.compile(r"data:([\w.+-]*/?[\w.+-]*)((?:;[\w.+-]+=[\w.+-]*)*);base64,", re.ASCII)
_PIECE = 4 * 2**18
"""Characters of base64 that are decoded at a time; a multiple of four."""


class Media:
    """Opens the files of requests if these may be read.

    Args:
        roots: Folders whose files requests may name as ``file://``; links are resolved first.
        folder: A private folder, in which each uploaded video gets a separate folder.
    """

    def __init__(self, roots: Sequence[Path], folder: Path) -> None:
        for root in roots:
            if not root.is_dir():
                raise ValueError(f"expected --video-root to be a folder, got {str(root)!r}")
        self._roots = [root.resolve() for root in roots]
        self._folder = folder

    @contextmanager
    def upload_folder(self) -> Iterator[Path]:
        """Make a folder for one request's uploads; remove it at the end."""
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def video(self, url: str, uploads: Path, param: str) -> Path:
        """Return the file of a video; an uploaded video is written to ``uploads``.

        Raises:
            ApiError: The address is neither a ``data:`` video nor a file below the roots.
        """
        if not url.startswith("data:"):
            return self._file(url, param)
        path = Path(tempfile.mkdtemp(dir=uploads)) / "video"
        with path.open("wb") as file:
            _decode(url, ("video/", "application/octet-stream", ""), param, file)
        return path

    def image(self, url: str, param: str) -> Image.Image:
        """Return an image in RGB.

        Raises:
            ApiError: It is not an image, too large, or outside the roots.
        """
        from PIL import Image, ImageOps, UnidentifiedImageError

        if url.startswith("data:"):
            content = io.BytesIO()
            _decode(url, ("image/", "application/octet-stream", ""), param, content)
            content.seek(0)
        else:
            content = io.BytesIO(_content(self._file(url, param), param))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                picture = Image.open(content, formats=_PICTURES)
            if picture.width * picture.height > _MOST_PIXELS:
                raise Image.DecompressionBombError
            return ImageOps.exif_transpose(picture).convert("RGB")
        except UnidentifiedImageError as error:
            allowed = ", ".join(_PICTURES)
            raise ApiError(400, f"{param}: expected an image: {allowed}", param=param) from error
        except Image.DecompressionBombError as error:
            problem = f"expected an image of at most {_MOST_PIXELS:,} pixels"
            raise ApiError(400, f"{param}: {problem}", param=param) from error
        # Pillow's decoders raise any of these for a damaged file.
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise ApiError(400, f"{param}: the image is damaged ({error})", param=param) from error

    def _file(self, url: str, param: str) -> Path:
        scheme = url[:40].partition(":")[0].lower()
        if scheme != "file" or not url[5:].startswith("//"):
            raise ApiError(
                400,
                f"{param}: expected a file:// address below a --video-root of the server, or "
                f"data:...;base64,..., got {url[:60]!r}; this server downloads nothing",
                param=param,
            )
        outside = ApiError(
            400,
            f"{param}: {url[:200]!r} is not below a folder that this server may read "
            "(vtc serve --video-root)",
            param=param,
            code="outside_video_roots",
        )
        try:
            path = as_path(url).resolve()
        except (VideoError, OSError, ValueError, RuntimeError) as error:  # a loop of links
            raise outside from error
        if not any(path.is_relative_to(root) for root in self._roots):
            raise outside
        return path


def _content(path: Path, param: str) -> bytes:
    if not path.is_file():
        raise ApiError(400, f"{param}: there is no such file", param=param)
    if path.stat().st_size > 256 * 2**20:
        raise ApiError(400, f"{param}: the file is too large for an image", param=param)
    return path.read_bytes()


def _decode(url: str, kinds: tuple[str, ...], param: str, target: IO[bytes]) -> None:
    """Write the content of a data: address to ``target``."""
    head = _DATA.match(url)
    kind = head[1].lower() if head else ""
    if head is None or not any(
        kind == prefix or (prefix and kind.startswith(prefix)) for prefix in kinds
    ):
        raise ApiError(
            400,
            f"{param}: expected data:{kinds[0]}...;base64,..., got {url[:60]!r}",
            param=param,
        )
    try:
        for start in range(head.end(), len(url), _PIECE):
            target.write(base64.b64decode(url[start : start + _PIECE], validate=True))
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{param}: invalid base64 ({error})", param=param) from error
