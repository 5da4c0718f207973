"""Map the tensors of the release to their names in the stock classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtc.interfaces.token_merger import TokenMerger
    from vtc_recipes.vilamp.source import Stored

MODEL, ENCODER, OPTION = "model", "encoder", "option"
EMBEDDINGS, HEAD, NEWLINE = "model.embed_tokens.weight", "lm_head.weight", "model.image_newline"
TEMPERATURE = "model.composer_projector.tau"
CLIP_PREFIX, MERGER_PREFIX = "model.frame_selector.model.", "model.composer_projector."
_VISION = "model.vision_tower.vision_tower.vision_model."
# Names in memory (transformers 5), in the release, and on disk. The names on disk are those of the
# published LLaVA-OneVision checkpoints, which every version of transformers reads.
_PARTS = (
    ("model.language_model.", "model.", "language_model.model."),
    ("lm_head.", "lm_head.", "language_model.lm_head."),
    ("model.image_newline", "model.image_newline", "image_newline"),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0.",
     "multi_modal_projector.linear_1."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2.",
     "multi_modal_projector.linear_2."),
    ("model.vision_tower.vision_model.", _VISION, "vision_tower.vision_model."),
    ("model.vision_tower.", _VISION, "vision_tower.vision_model."),
)  # fmt: skip
_BUFFERS = (".position_ids", ".rotary_emb.inv_freq")
_SHOWN = 20


@dataclass(frozen=True)
class Place:
    """Where a tensor of the release goes.

    Attributes:
        target: `MODEL`, `ENCODER` (the frame encoder), or `OPTION` of the merger.
        name: The name in the target.
        shape: The expected shape.
    """

    target: str
    name: str
    shape: tuple[int, ...]


def tensor_places(config: Any, clip: Any, merger: TokenMerger) -> dict[str, Place]:
    """Return the place of every tensor of a released checkpoint, by released name.

    Args:
        config: The ``LlavaOnevisionConfig``, with the vocabulary of the release.
        clip: The ``CLIPConfig`` of the frame encoder.
        merger: The merger; this function builds it.
    """
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.LlavaOnevisionForConditionalGeneration(config)
        encoder = transformers.CLIPModel(clip)
        merger.build(config.text_config.hidden_size, clip.projection_dim)
    places = {}
    for name, tensor in model.state_dict().items():
        released, on_disk = _names(name)
        places[released] = Place(MODEL, on_disk, tuple(tensor.shape))
    for name, tensor in encoder.state_dict().items():
        places[CLIP_PREFIX + name] = Place(ENCODER, name, tuple(tensor.shape))
    for name, tensor in merger.state_dict().items():
        places[MERGER_PREFIX + name] = Place(MODEL, f"vtc.merger.{name}", tuple(tensor.shape))
    if any(True for _ in merger.parameters()):  # the release stores it with the learned merger
        places[TEMPERATURE] = Place(OPTION, "temperature", ())
    return places


def _names(name: str) -> tuple[str, str]:
    for in_memory, released, on_disk in _PARTS:
        if name.startswith(in_memory):
            rest = name.removeprefix(in_memory)
            return released + rest, on_disk + rest
    raise RuntimeError(f"this version of transformers has an unknown tensor {name}")


def check(stored: Mapping[str, Stored], places: Mapping[str, Place], tied: bool) -> list[str]:
    """Compare the tensors of a checkpoint with those of the release.

    Args:
        stored: The checkpoint's tensors.
        places: The places from `tensor_places`.
        tied: Whether the output head may be missing because it equals the embeddings.

    Returns:
        Names of tensors to skip: buffers that transformers computes itself.

    Raises:
        ValueError: Tensors are missing, unexpected or have another shape; all are listed.
    """
    left_out = [name for name in stored if name not in places and name.endswith(_BUFFERS)]
    missing = places.keys() - stored.keys() - ({HEAD} if tied else set())
    unexpected = stored.keys() - places.keys() - set(left_out)
    misshapen = [
        f"{name} {list(stored[name].shape)} instead of {list(places[name].shape)}"
        for name in sorted(places.keys() & stored.keys())
        if stored[name].shape != places[name].shape
    ]
    problems = [
        _listed("missing", sorted(missing)),
        _listed("unexpected", sorted(unexpected)),
        _listed("with another shape", misshapen),
    ]
    if any(problems):
        raise ValueError(
            "the tensors do not match the release with these towers; "
            + "; ".join(filter(None, problems))
            + _advice([*missing, *unexpected, *misshapen])
        )
    return left_out


def _advice(names: list[str]) -> str:
    if any(name.startswith((_VISION, CLIP_PREFIX)) for name in names):
        return (
            ". If the towers are not SigLIP-so400m-patch14-384 and CLIP ViT-B/32, describe them "
            "with --vision-config (with the last layer, which the release lacks) and --clip-config"
        )
    return ". The download may be incomplete, or this may be another model"


def _listed(problem: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {problem}: {', '.join(names[:_SHOWN])}{more}"


def in_shards(sizes: Mapping[str, int], limit: int) -> Iterator[list[str]]:
    """Yield groups of names of at most ``limit`` bytes; a larger tensor gets its own group.

    >>> list(in_shards({"a": 3, "b": 4, "c": 9}, 8))
    [['a', 'b'], ['c']]
    """
    shard: list[str] = []
    total = 0
    for name, size in sizes.items():
        if shard and total + size > limit:
            yield shard
            shard, total = [], 0
        shard.append(name)
        total += size
    if shard:
        yield shard
