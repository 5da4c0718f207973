"""Read a released checkpoint: its folder, settings and tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

PICKLE_RISK = (
    "a pickle may run arbitrary code; if you trust the source, --allow-pickle reads it "
    "with torch's restricted loader (weights_only=True)"
)
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Stored:
    """Shape and number of bytes of a tensor in the checkpoint."""

    shape: tuple[int, ...]
    bytes: int


class Checkpoint:
    """The tensors of a checkpoint by name, read one by one.

    Attributes:
        stored: The shape and size of each tensor, by name.
        shards: Number of files.
    """

    def __init__(self, files: Mapping[Path, Any]) -> None:
        self.shards = len(files)
        self.stored: dict[str, Stored] = {}
        self._holder: dict[str, Any] = {}
        for file, holder in files.items():
            for name in list(holder.keys()):
                if name in self._holder:
                    raise ValueError(f"{name} is in {file.name} and in another shard")
                self._holder[name] = holder
                self.stored[name] = _stored(file, name, holder)

    def tensor(self, name: str) -> Tensor:
        """Return a copy of a tensor on the CPU."""
        holder = self._holder[name]
        if isinstance(holder, dict):
            copy: Tensor = holder[name].detach().clone()
            return copy
        tensor: Tensor = holder.get_tensor(name)
        return tensor


def _stored(file: Path, name: str, holder: Any) -> Stored:
    import torch

    if isinstance(holder, dict):
        tensor = holder[name]
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise ValueError(f"expected {name} in {file.name} to be a floating-point tensor")
        return Stored(tuple(tensor.shape), tensor.numel() * tensor.element_size())
    part = holder.get_slice(name)
    shape, dtype = tuple(part.get_shape()), part.get_dtype()
    if dtype not in _BYTES:
        raise ValueError(
            f"expected {name} in {file.name} to have one of the dtypes {', '.join(_BYTES)}, got "
            f"{dtype}; convert the released weights, not quantised ones"
        )
    count = 1
    for size in shape:
        count *= size
    return Stored(shape, count * _BYTES[dtype])


def fetch(source: str, allow_pickle: bool) -> Path:
    """Return the folder of a checkpoint, after downloading it from the hub if necessary.

    Raises:
        ValueError: The source is neither a folder nor of the form OWNER/NAME.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(f"expected source to be a folder or OWNER/NAME on the hub, got {source!r}")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    return Path(snapshot_download(source, allow_patterns=patterns + ["*.bin"] * allow_pickle))


def read_settings(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a released checkpoint.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It describes another kind of model, or a setting is not supported.
    """
    settings = read_json(folder / "config.json")
    if (kind := settings.get("model_type")) != "llava_qwen":
        raise ValueError(
            f"{folder}/config.json: expected model_type 'llava_qwen', the released ViLAMP, got "
            f"{kind!r}; wrap a stock model with vtc.wrap, open a converted one with "
            "vtc.from_pretrained"
        )
    allowed: dict[str, tuple[Any, ...]] = {
        "activate_frame_selector": (True,),
        "frame_selector_type": ("SeqFrameSelector",),
        "activate_pre_fusion": (False,),
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_spatial_pool_mode": ("bilinear",),
        "mm_patch_merge_type": ("spatial_unpad",),
    }
    for name, values in allowed.items():
        if name in settings and settings[name] not in values:
            raise ValueError(
                f"config.json: expected {name} to be {values[0]!r}, got {settings[name]!r}"
            )
    return settings


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no JSON object; the message names it.
    """
    if not file.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {file.parent}; give one with {file.name}")
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} has no {file.name}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected {file} to hold a JSON object, got {type(content).__name__}")
    return content


@contextmanager
def open_checkpoint(folder: Path, allow_pickle: bool) -> Iterator[Checkpoint]:
    """Open the tensors of a folder; safetensors files are mapped, not read.

    Raises:
        ValueError: All weights are pickled and ``allow_pickle`` is False, or a shard is missing.
        FileNotFoundError: There are no weights.
    """
    files = _shards(folder, "model.safetensors")
    with ExitStack() as stack:
        if files:
            yield Checkpoint({file: stack.enter_context(_mapped(file)) for file in files})
            return
        pickles = _shards(folder, "pytorch_model.bin")
        if not pickles:
            raise FileNotFoundError(f"{folder} has no model.safetensors, whole or in shards")
        if not allow_pickle:
            raise ValueError(f"{pickles[0]} is pickled; {PICKLE_RISK}")
        yield Checkpoint({file: _unpickle(file) for file in pickles})


def _mapped(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        raise ValueError(f"{file} is not a complete safetensors file: {error}") from error


def _unpickle(file: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"{file} is incomplete or holds objects other than tensors: "
            f"{str(error).splitlines()[-1]}"
        ) from error
    if not isinstance(tensors, dict):
        raise ValueError(f"expected {file} to hold a dict of tensors, got {type(tensors).__name__}")
    return tensors


def _shards(folder: Path, whole: str) -> list[Path]:
    """Return the weights files: those in the index, or the single file, or none.

    Raises:
        ValueError: The index is missing or broken, or names a file that is missing or outside the
            folder.
    """
    index = folder / f"{whole}.index.json"
    stem, suffix = whole.rsplit(".", 1)
    if not index.is_file() and (shards := sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))):
        raise ValueError(f"{folder} has {shards[0].name} but no {index.name}: download it too")
    names = [whole] if (folder / whole).is_file() else []
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{index}: expected weight_map to be an object of file names")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if name != Path(name).name or name in ("", ".."):
                raise ValueError(
                    f"{index}: weight_map names {name!r}; expected a file in the same folder"
                )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, listed in {index.name}")
    return [folder / name for name in names]
