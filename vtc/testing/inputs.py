"""Videos and processor inputs for tests of wrapped models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtc.interfaces.prompts import needs_special_tokens


def drifting_video(
    frames: int, seed: int = 0, size: tuple[int, int] = (48, 56)
) -> NDArray[np.uint8]:
    """Return random frames ``[N, H, W, 3]`` uint8 that drift, so that neighbours are similar."""
    rng = np.random.default_rng(seed)
    shape = (*size, 3)
    walk = rng.normal(0, 25, (frames, *shape)).cumsum(0) + rng.integers(0, 255, shape)
    return np.abs(walk % 510 - 255).astype(np.uint8)


def cache_argument(cache: Any) -> dict[str, Any]:
    """Return a cache as a keyword argument of ``forward`` or ``generate``.

    It is called ``cache`` since transformers 5.24, and ``past_key_values`` before.
    """
    from vtc.pipeline.kv_cache import CACHE_NAME

    return {CACHE_NAME: cache}


def stock_inputs(
    processor: Any,
    videos: Sequence[Any],
    questions: Sequence[str],
    images: Any = None,
    **settings: Any,
) -> Any:
    """Run a stock processor on one image, video and question per row, padded to a batch.

    Args:
        **settings: Passed to the processor.
    """
    content = [{"type": "image"}] * bool(images) + [{"type": "video"}] * bool(videos)
    prompts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for question in questions
    ]
    return processor(
        text=prompts,
        videos=list(videos) or None,
        images=images,
        add_special_tokens=needs_special_tokens(processor, prompts[0]),
        padding=True,
        return_tensors="pt",
        do_sample_frames=False,
        **settings,
    )
