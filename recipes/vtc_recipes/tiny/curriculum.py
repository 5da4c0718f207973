"""From short videos to long ones, as soon as the short ones are understood."""

from __future__ import annotations

import numpy as np

LEVELS = ((8,), (8, 16), (16, 32), (32, 64, 64))
"""Numbers of frames of the videos of each level."""
PASS = 0.8
"""The running accuracy from which a level is left."""
LATEST = (0.15, 0.3, 0.45)
"""The share of a run after which a level is left in any case."""
TOKENS = 1600
"""About how many tokens of videos and questions make a batch."""
_MEMORY = 0.95
_FIRST_STEPS = 20


class Curriculum:
    """How long the videos of the next batch are.

    All ranks of a run are told the same accuracies, so they are on one level.

    Args:
        seed: Draws the lengths of a level.
        level: Where to start, for weights that understand the levels before.
    """

    def __init__(self, seed: int, level: int = 0) -> None:
        self.level, self._seed = level, seed
        self._accuracy, self._steps = 0.0, 0

    def frames(self, step: int) -> int:
        """Frames of the videos of a step."""
        lengths = LEVELS[self.level]
        return lengths[int(np.random.default_rng((self._seed, step)).integers(len(lengths)))]

    def note(self, accuracy: float, done: float) -> None:
        """Take note of a batch's accuracy when a share of the run is over; perhaps go on."""
        self._steps += 1
        memory = min(_MEMORY, 1 - 1 / self._steps)  # a plain mean at first
        self._accuracy = memory * self._accuracy + (1 - memory) * accuracy
        if self.level == len(LEVELS) - 1:
            return
        understood = self._accuracy >= PASS and self._steps >= _FIRST_STEPS
        if understood or done >= LATEST[self.level]:
            self.level, self._accuracy, self._steps = self.level + 1, 0.0, 0


def batch_size(frames: int) -> int:
    """Videos in a batch, so that all batches cost about the same."""
    return max(4, TOKENS // (3 * frames + 30))
