"""Where a released checkpoint comes from: its folder, its settings, its tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

PICKLE_RISK = (
    "a pickle may run code of whoever wrote it when it is opened; with --allow-pickle it is read "
    "by torch's restricted loader (weights_only=True), for sources that you trust"
)
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Stored:
    """A tensor of the checkpoint that has not been read yet."""

    shape: tuple[int, ...]
    bytes: int


class Checkpoint:
    """The tensors of a checkpoint by name; each is read when it is asked for.

    Attributes:
        stored: Shape and size of each, by name.
        shards: How many files hold them.
    """

    def __init__(self, files: Mapping[Path, Any]) -> None:
        self.shards = len(files)
        self.stored: dict[str, Stored] = {}
        self._holder: dict[str, Any] = {}
        for file, holder in files.items():
            for name in list(holder.keys()):
                if name in self._holder:
                    raise ValueError(f"{name} is in {file.name} and in another shard as well")
                self._holder[name] = holder
                self.stored[name] = _stored(file, name, holder)

    def tensor(self, name: str) -> Tensor:
        """A tensor of its own, on the CPU."""
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
            raise ValueError(f"{name} in {file.name} is no floating-point tensor")
        return Stored(tuple(tensor.shape), tensor.numel() * tensor.element_size())
    part = holder.get_slice(name)
    shape, dtype = tuple(part.get_shape()), part.get_dtype()
    if dtype not in _BYTES:
        raise ValueError(
            f"{name} in {file.name} is of dtype {dtype}; allowed are {', '.join(_BYTES)}: "
            "convert the weights as they were released, not quantised ones"
        )
    count = 1
    for size in shape:
        count *= size
    return Stored(shape, count * _BYTES[dtype])


def fetch(source: str, allow_pickle: bool) -> Path:
    """The folder of a checkpoint; one on the hub is downloaded.

    Raises:
        ValueError: It is neither a folder nor of the form OWNER/NAME.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(f"source {source!r} is neither a folder here nor of the form OWNER/NAME")
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    return Path(snapshot_download(source, allow_patterns=wanted + ["*.bin"] * allow_pickle))


def read_settings(folder: Path) -> dict[str, Any]:
    """``config.json`` of a released checkpoint.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of another kind of model, or a setting is not supported.
    """
    settings = read_json(folder / "config.json")
    if (found := settings.get("model_type")) != "llava_qwen":
        raise ValueError(
            f"{folder}/config.json says model_type {found!r}; allowed is 'llava_qwen', the format "
            "of the released ViLAMP (a stock model needs no conversion: see vtc.wrap; what was "
            "converted opens with vtc.from_pretrained)"
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
                f"config.json: {name}={settings[name]!r} is not supported; allowed is {values[0]!r}"
            )
    return settings


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else.
    """
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file.parent} is no folder; give one with a {file.name}")
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} holds no {file.name}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object")
    return content


@contextmanager
def open_checkpoint(folder: Path, allow_pickle: bool) -> Iterator[Checkpoint]:
    """The tensors of a folder while the context lasts; the files are mapped, not read.

    Raises:
        ValueError: There are pickled weights only, and they are not allowed; a shard is missing.
        FileNotFoundError: There are no weights.
    """
    files = _shards(folder, "model.safetensors")
    with ExitStack() as stack:
        if files:
            yield Checkpoint({file: stack.enter_context(_mapped(file)) for file in files})
            return
        pickles = _shards(folder, "pytorch_model.bin")
        if not pickles:
            raise FileNotFoundError(f"{folder} holds no model.safetensors, whole or in shards")
        if not allow_pickle:
            raise ValueError(f"{folder} holds pickled weights ({pickles[0].name}): {PICKLE_RISK}")
        yield Checkpoint({file: _unpickle(file) for file in pickles})


def _mapped(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        raise ValueError(f"{file} is no whole safetensors file: {error}") from error


def _unpickle(file: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"{file} holds something else than tensors, or is not whole, and was not read further: "
            f"{str(error).splitlines()[-1]}"
        ) from error
    if not isinstance(tensors, dict):
        raise ValueError(f"{file} holds a {type(tensors).__name__}; allowed is a dict of tensors")
    return tensors


def _shards(folder: Path, whole: str) -> list[Path]:
    """The files of the weights: those of the index, or the single one; none where neither is."""
    index = folder / f"{whole}.index.json"
    stem, suffix = whole.rsplit(".", 1)
    if not index.is_file() and (found := sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))):
        raise ValueError(f"{folder} holds {found[0].name} and lacks {index.name}: download it too")
    names: Iterable[str] = [whole] if (folder / whole).is_file() else []
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which {index.name} names")
    return [folder / name for name in names]
