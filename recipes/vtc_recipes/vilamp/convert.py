"""Convert a checkpoint: check every tensor, write to a temporary folder, then rename it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vtc.encoders.lazy import LazyEncoder
from vtc.pipeline.toolkit import Toolkit
from vtc.plugins import registry
from vtc.wrapped.saving import CONFIG_NAME, described
from vtc.wrapped.staging import flush, is_alive
from vtc_recipes.vilamp import layout
from vtc_recipes.vilamp.plan import Plan, make_plan
from vtc_recipes.vilamp.processor import (
    load_clip_tokenizer,
    load_tokenizer,
    make_processor,
    save_clip_preprocessing,
)
from vtc_recipes.vilamp.source import Checkpoint, fetch, open_checkpoint, read_settings

SHARD_BYTES = 2 * 1024**3
"""Maximum size of a weights file, and so of the weights in memory."""
ENCODER_FOLDER = "frame_encoder"


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        target: The folder written.
        tensors: Number of tensors in the source.
        files: The weights files.
        left_out: Names of tensors that the stock model does not need.
        selector, merger: The parts and their options.
        has_processor: Whether the folder has the model's processor.
        notes: Messages for the user.
    """

    target: str
    tensors: int
    files: list[str]
    left_out: list[str]
    selector: dict[str, Any]
    merger: dict[str, Any]
    has_processor: bool
    notes: list[str]


def convert(
    source: str,
    target: str | os.PathLike[str],
    *,
    vision: Path | None = None,
    clip: Path | None = None,
    tokenizer: Path | None = None,
    allow_pickle: bool = False,
    wrote: Callable[[str], object] = lambda file: None,
) -> Converted:
    """Convert a released ViLAMP checkpoint into a folder for ``vtc.from_pretrained``.

    Args:
        source: A folder in the released format, or the name of a repository on the hub.
        target: The folder to write, new or empty. It appears when it is complete.
        vision: A folder with the ``config.json`` of the original SigLIP vision tower, including its
            last layer; None for so400m-patch14-384.
        clip: A folder with the ``config.json`` of the CLIP frame encoder; None for ViT-B/32.
        tokenizer: A folder with the language model's tokenizer; None for the source itself.
        allow_pickle: Read pickled weights if there is no safetensors file.
        wrote: Called with the name of each weights file after it is written.

    Raises:
        ValueError: The checkpoint, a setting or the target is invalid; nothing is written.
        OSError: A file cannot be read or written; the target is not created.
    """
    place = Path(target).expanduser()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"expected target to be a new or empty folder, got {place}")
    folder = fetch(source, allow_pickle)
    settings = read_settings(folder)
    text_tokenizer = load_tokenizer(tokenizer or folder)
    if text_tokenizer is None and tokenizer is not None:
        raise ValueError(f"--tokenizer {tokenizer} has neither tokenizer.json nor vocab.json")
    with open_checkpoint(folder, allow_pickle) as checkpoint:
        plan = make_plan(checkpoint, settings, vision, clip, text_tokenizer)
        clip_words = load_clip_tokenizer(plan.clip, clip)
        files: list[str] = []
        with _atomic_folder(place) as partial:
            for file in _write_weights(plan, checkpoint, partial):
                files.append(file)
                wrote(file)
            _write_settings(plan, settings, partial, clip_words)
        return Converted(
            target=str(place),
            tensors=len(checkpoint.stored),
            files=files,
            left_out=plan.left_out,
            selector=plan.selector,
            merger=plan.merger,
            has_processor=plan.tokenizer is not None,
            notes=plan.notes,
        )


@contextmanager
def _atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to the target; rename it at the end, remove it on an error."""
    _remove_leftovers(target)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        if target.exists():  # an empty folder; some systems cannot rename onto one
            target.rmdir()
        partial.rename(target)
        flush(target.parent)
    except BaseException:  # including KeyboardInterrupt
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _remove_leftovers(target: Path) -> None:
    """Remove the partial folders of conversions whose process is dead.

    Raises:
        ValueError: A live process is converting into the same target.
    """
    for partial in target.parent.glob(f".{target.name}.partial-[0-9]*"):
        process = int(partial.name.rpartition("-")[2])
        if process != os.getpid() and is_alive(process):
            raise ValueError(
                f"process {process} is converting into {target}; wait for it, or remove {partial}"
            )
        shutil.rmtree(partial)


def _write_weights(plan: Plan, checkpoint: Checkpoint, partial: Path) -> Iterator[str]:
    """Write the model with its merger, and the frame encoder, in shards; yield the file names."""
    from safetensors.torch import save_file

    for target, inside in ((layout.MODEL, "."), (layout.ENCODER, ENCODER_FOLDER)):
        folder = partial / inside
        folder.mkdir(exist_ok=True)
        sizes = {
            name: checkpoint.stored[_read_from(name, checkpoint)].bytes
            for name, place in plan.places.items()
            if place.target == target
        }
        shards = list(layout.in_shards(sizes, SHARD_BYTES))
        holder: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            part = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
            file = f"model{part}.safetensors"
            tensors = {plan.places[name].name: _tensor(name, plan, checkpoint) for name in names}
            save_file(tensors, folder / file, metadata={"format": "pt"})
            holder |= dict.fromkeys(tensors, file)
            del tensors  # before the next shard is read
            yield (Path(inside) / file).as_posix()
        if len(shards) > 1:
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": holder}
            _write_json(index, folder / "model.safetensors.index.json")


def _read_from(name: str, checkpoint: Checkpoint) -> str:
    """Return the name of the stored tensor: for a tied output head, that of the embeddings."""
    return name if name in checkpoint.stored else layout.EMBEDDINGS


def _tensor(name: str, plan: Plan, checkpoint: Checkpoint) -> Tensor:
    import torch

    tensor = checkpoint.tensor(_read_from(name, checkpoint))
    if plan.new_rows and name in (layout.EMBEDDINGS, layout.HEAD):
        # In the output head, a mean row gives the mean logit, which is never the largest.
        mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
        tensor = torch.cat([tensor, mean.expand(plan.new_rows, -1)])
    return tensor.contiguous()


def _write_settings(
    plan: Plan, settings: dict[str, Any], partial: Path, clip_tokenizer: Any
) -> None:
    """Write all files except the weights."""
    plan.config.save_pretrained(partial)
    _generation(plan, settings).save_pretrained(partial)
    encoder = partial / ENCODER_FOLDER
    plan.clip.save_pretrained(encoder)
    save_clip_preprocessing(encoder, plan.clip, clip_tokenizer)
    if plan.tokenizer is not None:
        make_processor(plan.tokenizer, plan.config).save_pretrained(partial)
    toolkit = Toolkit(
        registry.build_part("selector", plan.selector),
        registry.build_part("merger", plan.merger),
        registry.adapter_for(plan.config.model_type),
        LazyEncoder(str(encoder), long_text="truncate"),
        None,
    )
    # A relative path, because the folder has a temporary name and may be moved later.
    saved = {**described(toolkit, partial), "encoder": f"./{ENCODER_FOLDER}"}
    _write_json(saved, partial / CONFIG_NAME)


def _generation(plan: Plan, settings: dict[str, Any]) -> Any:
    """Return the config of greedy generation, as in the release, which also stops at turn ends."""
    from transformers import GenerationConfig

    ends = settings.get("eos_token_id")
    ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    padding = settings.get("pad_token_id")
    if plan.tokenizer is not None:
        ends |= {plan.tokenizer.eos_token_id}
        ends |= {plan.tokenizer.get_vocab().get("<|im_end|>")}
        padding = plan.tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        eos_token_id=sorted(ends - {None}) or None,
        pad_token_id=padding,
        bos_token_id=settings.get("bos_token_id"),
    )


def _write_json(content: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
