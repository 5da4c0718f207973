"""Cache keys: everything that cached tensors of a video depend on except its frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vtc.cache.hashing import module_hash, text_hash
from vtc.interfaces.token_pruner import TokenPruner
from vtc.pipeline.positions import places_tokens
from vtc.plugins import registry

if TYPE_CHECKING:
    from torch import nn

    from vtc.cache.entry import Key
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed

_NOT_OF_THE_TOWER = ("text_config", "dtype", "architectures", "transformers_version")
"""Entries of a model's configuration that do not affect the vision tower's output."""


def tokens_key(call: Call, feed: VideoFeed) -> Key | str:
    """Return the key of merged tokens; a string gives the reason when it is unknown."""
    if not registry.is_registered(call.merger):
        return f"the merger {call.merger_name} is not registered by a plug-in"
    features = _features_key(call, feed)
    rounds = feed.source is not None and feed.source.cache is not None and feed.source.cache.tower
    key: Key = {
        **features,
        "rounded": rounds and features["dtype"] != "bfloat16",  # what `StoredTower` returns
        "merger": f"{text_hash(call.report.merger)} {module_hash(call.merger)}",
        "pruner": isinstance(call.merger, TokenPruner),
        "connector": None if call.connector is None else module_hash(call.connector),
    }
    if places_tokens(call):
        key = {**key, "cells": True}
    if call.merges_encoder_patches:
        fingerprint = call.encoder.fingerprint()
        if fingerprint is None:
            return f"the weights of encoder {call.encoder.name} are unknown"
        return {**key, "encoder": text_hash(fingerprint), "every": feed.span.frames_per_slice}
    return _with_tower(call, key)


def tower_key(call: Call, feed: VideoFeed) -> Key | str:
    """Return the key of the vision tower's output; a string gives the reason if it is unknown."""
    projectors = [call.model.get_submodule(name) for name in call.adapter.projectors]
    key = _features_key(call, feed)
    if call.uses_saliency:
        key = {**key, "saliency": call.adapter.saliency_module(call.model)}
    return _with_tower(call, key, projectors)


def _features_key(call: Call, feed: VideoFeed) -> Key:
    settings = (
        getattr(feed.processor, name, None) for name in ("image_processor", "video_processor")
    )
    config: dict[str, Any] = call.model.config.to_dict()
    vision = {name: value for name, value in config.items() if name not in _NOT_OF_THE_TOWER}
    return {
        "family": f"{type(call.adapter).__name__} {call.adapter.config}",
        "processor": text_hash([one and one.to_json_string() for one in settings]),
        "configuration": text_hash(json.dumps(vision, sort_keys=True, default=str)),
        "dtype": str(call.model.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "device": call.device.type,
        "vtc": version("video-token-compression"),
    }


def _with_tower(call: Call, key: Key, without: Sequence[nn.Module] = ()) -> Key | str:
    """Add a hash of the model's weights without the language model and the ``without`` modules."""
    model = call.model
    language = [model.get_decoder(), model.get_output_embeddings(), getattr(model, "vtc", None)]
    left_out = [*without, *(module for module in language if module is not None)]
    tower = module_hash(model, without=left_out)
    if tower is None:
        return "the weights of the tower are not in memory"
    return {**key, "tower": tower}
