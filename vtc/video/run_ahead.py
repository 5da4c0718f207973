"""Run a generator ahead in a thread, with bounded memory."""

from __future__ import annotations

from collections.abc import Generator
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar, cast

T = TypeVar("T")

_POLL = 0.05  # seconds between checks whether the consumer has closed


def run_ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """Run a generator in a daemon thread, at most ``depth`` items ahead of the consumer.

    The thread starts immediately, so that several generators can run before the first is read.
    Including the item being made and the one being used, ``depth + 2`` items are alive. An error
    in the thread is raised in the consumer. Closing the generator ends the thread.

    Args:
        items: A generator; it runs and closes in the thread.
        depth: The maximum number of waiting items; 0 runs ``items`` in the caller's thread.
    """
    if depth == 0:
        return items
    ahead = _ahead(items, depth)
    next(ahead)
    return cast("Generator[T, None, None]", ahead)


def _ahead(items: Generator[T, None, None], depth: int) -> Generator[T | None, None, None]:
    """Start the thread and yield None; then yield its items."""
    queue: Queue[tuple[T] | BaseException | None] = Queue(maxsize=depth)
    closed = Event()
    thread = Thread(target=_run, args=(items, queue, closed), name="vtc-prefetch", daemon=True)
    thread.start()
    try:
        yield None
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
            del item  # otherwise it stays alive while the next one is made
    finally:
        closed.set()
        thread.join()


def _run(
    items: Generator[T, None, None], queue: Queue[tuple[T] | BaseException | None], closed: Event
) -> None:
    end: BaseException | None = None
    try:
        for item in items:
            if not _put(queue, (item,), closed):
                break
            del item
    except BaseException as error:  # raised in the consumer
        end = error
    finally:
        items.close()
    _put(queue, end, closed)


def _put(
    queue: Queue[tuple[T] | BaseException | None],
    item: tuple[T] | BaseException | None,
    closed: Event,
) -> bool:
    """Wait for room and put an item; return False when the consumer has closed."""
    while not closed.is_set():
        try:
            queue.put(item, timeout=_POLL)
        except Full:
            continue
        return True
    return False
