"""Warn if a prompt and its answer need more positions than the model has."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vtc.pipeline.call import Call

_log = logging.getLogger(__name__)


def warn_beyond_context(
    call: Call, mask: Tensor, offsets: Tensor | None, new_tokens: int = 0
) -> None:
    """Warn in the report, and before ``generate`` in the log, if the context is exceeded.

    Args:
        mask: ``[B, L]``, the attention mask of the prompt, cached tokens included.
        offsets: ``[B, 1]`` int64, the offset of positions after the prompt from the number of its
            tokens; None if positions count tokens.
        new_tokens: The maximum number of tokens of the answer.
    """
    limit = call.adapter.context_length(call.model)
    if limit is None:
        return
    lengths = mask.sum(-1, keepdim=True)
    tokens = int(lengths.max())
    positions = int((lengths if offsets is None else lengths + offsets.to(mask.device)).max())
    if positions + new_tokens <= limit:
        return
    answer = f" and an answer of up to {new_tokens:,}" if new_tokens else ""
    needs = "" if positions == tokens else f", which take {positions + new_tokens:,} positions,"
    message = (
        f"a prompt of {tokens:,} tokens{answer}{needs} is more than the model's context of "
        f"{limit:,}, so the answer may be wrong; keep fewer keyframes, or read fewer frames (fps, "
        "max_frames)"
    )
    call.recorder.warn(message)
    if call.generating:
        _log.warning(message)
