"""``generate`` of a wrapped model: shorten the prompt, generate, restore the prompt."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import transformers
from packaging import version
from torch import Tensor

from vtc.pipeline.call import Call
from vtc.pipeline.context import warn_beyond_context
from vtc.pipeline.kv_cache import given_cache, mark_shortened, note_offsets, returned_cache
from vtc.pipeline.prepare import prepare
from vtc.pipeline.report import Recorder
from vtc.wrapped.callers_view import CallersView

if TYPE_CHECKING:
    from vtc.interfaces.video_adapter import VideoAdapter
    from vtc.pipeline.toolkit import Toolkit

_RULE_OUT_CHUNKS = (
    "prefill_chunk_size",  # the caller knows better
    "output_hidden_states",
    "output_attentions",
    "assistant_model",
    "prompt_lookup_num_tokens",
    "cache_implementation",
)
"""Settings that rule out chunked prefill."""
_CHUNKS_FAIL = version.parse(transformers.__version__) < version.parse("5.23")
"""Older versions fail, for some families, on a prompt that is read in chunks."""


def generate_compressed(
    model: Any, stock_generate: Callable[..., Any], toolkit: Toolkit, arguments: dict[str, Any]
) -> Any:
    """Run the stock ``generate`` on compressed videos.

    Args:
        arguments: The arguments of ``generate``, by name. ``vtc_restore_prompt=False`` leaves the
            shortened prompt in the result, as the next turn on the same cache needs it.

    Returns:
        The result of the stock ``generate``, with the caller's prompt in its sequences.
    """
    arguments = dict(arguments)
    restore = arguments.pop("vtc_restore_prompt", True)
    prompt: Any = arguments.get("input_ids")
    if prompt is not None and arguments.get("attention_mask") is None:
        arguments["attention_mask"] = _usual_mask(model, arguments, prompt)
    answer = 0 if prompt is None else _most_new_tokens(model, arguments, prompt.shape[1])
    call = Call(model, toolkit, arguments, generating=True, new_tokens=answer)
    prepared = prepare(call)
    arguments = prepared.inputs
    shortened = arguments["input_ids"]
    _shift_lengths(model, arguments, prompt.shape[1], shortened.shape[1])
    _chunk_prefill(call, arguments, shortened.shape[1])
    new_tokens = _most_new_tokens(model, arguments, shortened.shape[1])
    warn_beyond_context(call, arguments["attention_mask"], prepared.offsets, new_tokens)
    view = CallersView(prompt, shortened.shape[1])

    toolkit.note_report(prepared.report)
    with Recorder(prepared.report).stage("language model"):
        result = stock_generate(model, **view.of_arguments(arguments))
    toolkit.note_report(prepared.report)  # a callback may have called the model meanwhile
    changed = shortened.shape != prompt.shape
    for cache in (given_cache(arguments), returned_cache(result)):
        mark_shortened(cache, prompt if restore and changed else None)
        note_offsets(cache, prepared.offsets)
    if not restore:
        return result
    if isinstance(result, Tensor):
        return view(result)
    result.sequences = view(result.sequences)
    return result


def _usual_mask(model: Any, arguments: Mapping[str, Any], prompt: Tensor) -> Tensor:
    """Return the mask that the stock ``generate`` infers from the padding token."""
    padding = _setting(model, arguments, "pad_token_id", None)
    ends = _setting(model, arguments, "eos_token_id", [])
    ends = ends if isinstance(ends, (list, tuple)) else [ends]
    if padding is None or padding in ends:
        return torch.ones_like(prompt)
    return prompt.ne(padding).to(prompt.dtype)


def _shift_lengths(model: Any, arguments: dict[str, Any], before: int, after: int) -> None:
    """Convert ``max_length`` and ``min_length`` from the caller's prompt to the shortened one.

    Raises:
        ValueError: ``max_length`` leaves no room after the prompt.
    """
    change = after - before
    config = arguments.get("generation_config")
    new_tokens = _setting(model, arguments, "max_new_tokens", None)
    for name in ("max_length", "min_length"):
        if name == "max_length" and new_tokens is not None:
            continue  # the stock generate prefers it
        if name == "max_length" and (_setting(model, arguments, name, before + 1)) <= before:
            raise ValueError(
                f"max_length={_setting(model, arguments, name, None)} leaves no room after the "
                f"prompt of {before} tokens; set max_new_tokens instead"
            )
        if arguments.get(name) is not None:
            arguments[name] += change
        elif config is not None and getattr(config, name, None):
            _set(arguments, name, getattr(config, name) + change)
            config = arguments["generation_config"]
        elif getattr(model.generation_config, name, None):
            arguments[name] = getattr(model.generation_config, name) + change


def _most_new_tokens(model: Any, arguments: Mapping[str, Any], length: int) -> int:
    """Return the maximum number of tokens that the stock ``generate`` adds to ``length`` tokens."""
    new_tokens = _setting(model, arguments, "max_new_tokens", None)
    if new_tokens is None:
        new_tokens = (_setting(model, arguments, "max_length", None) or length) - length
    return max(0, int(new_tokens))


def _chunk_prefill(call: Call, arguments: dict[str, Any], length: int) -> None:
    """Enable chunked prefill unless the caller's settings rule it out.

    The activations of a layer then take memory for one chunk instead of the whole prompt. It stays
    off if tokens attend to later ones, if there is no cache or a static one (for which the stock
    code would compile), and if the outputs of all tokens are requested.
    """
    size, model = call.prefill_chunk, call.model
    if size is None or length <= size or _CHUNKS_FAIL:
        return
    if not chunks_save_memory(model.config.get_text_config(), call.adapter, size):
        return
    if any(_setting(model, arguments, name, None) for name in _RULE_OUT_CHUNKS):
        return
    static = getattr(given_cache(arguments), "is_compileable", False)
    if _setting(model, arguments, "use_cache", True) and not static:
        _set(arguments, "prefill_chunk_size", size)


def chunks_save_memory(config: Any, adapter: VideoAdapter, size: int) -> bool:
    """Return whether a prompt can be read ``size`` tokens at a time, and takes less memory then.

    Each token outside the current chunk saves three rows as wide as a feed-forward layer; each
    chunk but the first takes a row of a mask, ``size`` wide, for each token.

    Args:
        config: Of the language model.
    """
    width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return adapter.causal and 3 * width > 2 * size


def _set(arguments: dict[str, Any], name: str, value: Any) -> None:
    """Set a generation setting at the place that the stock ``generate`` reads first."""
    config = arguments.get("generation_config")
    if config is None:
        arguments[name] = value
    else:
        arguments["generation_config"] = config = copy.deepcopy(config)
        setattr(config, name, value)


def _setting(model: Any, arguments: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return a generation setting as the stock ``generate`` will read it."""
    for source in (arguments, arguments.get("generation_config"), model.generation_config):
        value = source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
        if value is not None:
            return value
    return default
