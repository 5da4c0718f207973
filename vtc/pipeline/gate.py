"""Allow concurrent calls of a model, and block changes of its toolkit while they run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Counts the running calls of one model.

    Attributes:
        stock_state: A lock for the values that transformers stores on a model while it computes
            the positions of a prompt.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self.stock_state = threading.RLock()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Run a call in the ``with`` block; wait while the toolkit is being changed."""
        with self._lock:
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    @contextmanager
    def change(self, action: str) -> Iterator[None]:
        """Change the toolkit in the ``with`` block; calls that start meanwhile wait.

        Raises:
            RuntimeError: A call is running.
        """
        with self._lock:
            if self._calls:
                raise RuntimeError(
                    f"cannot {action} while {self._calls} call(s) of the model are running; wait "
                    "until they return"
                )
            yield
