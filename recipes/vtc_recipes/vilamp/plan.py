"""Plan a conversion before anything is written: configuration, parts, places of tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtc.plugins import registry
from vtc_recipes.vilamp import layout
from vtc_recipes.vilamp.processor import placeholders
from vtc_recipes.vilamp.source import Checkpoint
from vtc_recipes.vilamp.towers import clip_config, text_config, vision_config

COMPOSERS: dict[str, dict[str, Any]] = {
    "sig_pooling": {
        "name": "dfm",
        "projection": "learned",
        "reference": "released",
        "normalise_query": False,
    },
    "average_pooling": {"name": "mean_pool"},
}
"""The equivalent merger of each ``composer_type``."""
_REFUSED = {
    "single_token": "it computes a frame's token from the frame encoder's embedding, which is not "
    "available to mergers",
}


@dataclass
class Plan:
    """The content of a converted folder.

    Attributes:
        config: The ``LlavaOnevisionConfig``.
        clip: The ``CLIPConfig`` of the frame encoder.
        tokenizer: The language model's tokenizer with the placeholders, or None.
        places: The place of each tensor, by its released name.
        new_rows: Number of rows to add to the embeddings.
        selector, merger: The parts and their options, as in ``vtc.json``.
        left_out: Names of tensors that the stock model does not need.
        notes: Messages for the user.
    """

    config: Any
    clip: Any
    tokenizer: Any
    places: dict[str, layout.Place]
    new_rows: int
    selector: dict[str, Any]
    merger: dict[str, Any]
    left_out: list[str]
    notes: list[str] = field(default_factory=list)


def make_plan(
    checkpoint: Checkpoint,
    settings: dict[str, Any],
    vision: Path | None,
    clip: Path | None,
    tokenizer: Any,
) -> Plan:
    """Check a checkpoint against its settings and towers, and choose the parts.

    Args:
        checkpoint: The released tensors.
        settings: The released ``config.json``.
        vision, clip: See `vtc_recipes.vilamp.convert.convert`.
        tokenizer: The language model's tokenizer with the placeholders, or None.

    Raises:
        ValueError: Tensors are missing, unexpected or misshapen, or a setting is not supported.
    """
    notes: list[str] = []
    embeddings = checkpoint.stored.get(layout.EMBEDDINGS)
    rows: int = settings.get("vocab_size", embeddings.shape[0] if embeddings else 1)
    config, encoder = _stock_config(settings, rows, vision), clip_config(clip)
    merger = _merger(settings, checkpoint, notes)
    places = layout.tensor_places(config, encoder, registry.build_part("merger", merger))
    tied = bool(settings.get("tie_word_embeddings"))
    left_out = layout.check(checkpoint.stored, places, tied)
    if layout.TEMPERATURE in places:
        merger["temperature"] = checkpoint.tensor(layout.TEMPERATURE).item()
    selector = {
        "name": "dks",
        "keyframes": settings.get("max_frame_num", 32),
        "similarity_threshold": settings.get("f2f_thrd", 0.85),
        "fill": "gaps",
        "relevance_threshold": settings.get("f2t_thrd", 0.2),
    }
    if tokenizer is None:
        notes.append(
            "the source has no tokenizer, so the folder has no processor: convert with --tokenizer "
            "FOLDER, or pass processor=... to vtc.from_pretrained"
        )
    image, video = placeholders(tokenizer, rows)
    config.image_token_index, config.video_token_index = image, video
    needed = max(image + 1, video + 1, 0 if tokenizer is None else len(tokenizer))
    config.text_config.vocab_size = max(rows, needed)
    config.dtype = checkpoint.tensor(layout.NEWLINE).dtype
    return Plan(
        config=config,
        clip=encoder,
        tokenizer=tokenizer,
        places=places,
        new_rows=config.text_config.vocab_size - rows,
        selector=registry.spec_of(registry.build_part("selector", selector)),
        merger=registry.spec_of(registry.build_part("merger", merger)),
        left_out=left_out,
        notes=notes,
    )


def _stock_config(settings: dict[str, Any], rows: int, vision: Path | None) -> Any:
    from transformers import LlavaOnevisionConfig

    tower = vision_config(vision)
    side = tower.image_size
    config = LlavaOnevisionConfig(
        text_config=text_config(settings, rows),
        vision_config=tower,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[side * i, side * j] for i in range(1, 7) for j in range(1, 7)],
        tie_word_embeddings=False,
    )
    config.architectures = ["LlavaOnevisionForConditionalGeneration"]
    return config


def _merger(settings: dict[str, Any], checkpoint: Checkpoint, notes: list[str]) -> dict[str, Any]:
    """Return the merger for the released ``composer_type``, without its temperature."""
    composer = settings.get("composer_type")
    if "composer_type" not in settings:
        composer = "sig_pooling" if layout.TEMPERATURE in checkpoint.stored else "single_token"
        notes.append(f"config.json has no composer_type; the tensors match {composer!r}")
    if composer not in COMPOSERS:
        reason = _REFUSED.get(str(composer), "no merger is equivalent")
        raise ValueError(
            f"config.json: expected composer_type to be one of {', '.join(map(repr, COMPOSERS))}, "
            f"got {composer!r}: {reason}"
        )
    return dict(COMPOSERS[composer])
