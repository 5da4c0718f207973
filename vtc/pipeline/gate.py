"""Let any number of calls use a model at once, and refuse changes of its toolkit meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Counts the running calls of one model.

    Attributes:
        stock_state: A lock for the few values that transformers itself keeps on a model while it
            computes the positions of a prompt.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self.stock_state = threading.RLock()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Run a call inside; waits while the toolkit is being changed."""
        with self._lock:
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    @contextmanager
    def change(self, action: str) -> Iterator[None]:
        """Change the toolkit inside; calls that start meanwhile wait.

        Raises:
            RuntimeError: A call is running.
        """
        with self._lock:
            if self._calls:
                raise RuntimeError(
                    f"cannot {action} while {self._calls} call(s) of the model are running; wait "
                    "until they have returned"
                )
            yield
