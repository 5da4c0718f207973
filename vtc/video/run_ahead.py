"""Working ahead in a thread, with bounded memory."""

from __future__ import annotations

from collections.abc import Generator
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar, cast

T = TypeVar("T")

_POLL = 0.05  # seconds between two looks at whether the consumer has gone


def run_ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """Run a generator in a daemon thread, at most ``depth`` items ahead of the consumer.

    The thread begins at once, so that several can be at work before the first of them is read.
    With the item being made and the one being used, ``depth + 2`` items are alive. An error in
    the thread is raised in the consumer in its place. Closing the generator ends the thread.

    Args:
        items: A generator; it is run and closed in the thread.
        depth: How many finished items may wait; 0 runs ``items`` in the caller's thread.
    """
    if depth == 0:
        return items
    ahead = _ahead(items, depth)
    next(ahead)
    return cast("Generator[T, None, None]", ahead)


def _ahead(items: Generator[T, None, None], depth: int) -> Generator[T | None, None, None]:
    """What the thread makes, after a first None by which it has begun."""
    queue: Queue[tuple[T] | BaseException | None] = Queue(maxsize=depth)
    gone = Event()
    thread = Thread(target=_run, args=(items, queue, gone), name="vtc-prefetch", daemon=True)
    thread.start()
    try:
        yield None
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
            del item  # or it would stay alive while the next one is waited for
    finally:
        gone.set()
        thread.join()


def _run(
    items: Generator[T, None, None], queue: Queue[tuple[T] | BaseException | None], gone: Event
) -> None:
    end: BaseException | None = None
    try:
        for item in items:
            if not _put(queue, (item,), gone):
                break
            del item
    except BaseException as error:  # handed to the consumer, whatever it is
        end = error
    finally:
        items.close()
    _put(queue, end, gone)


def _put(
    queue: Queue[tuple[T] | BaseException | None],
    item: tuple[T] | BaseException | None,
    gone: Event,
) -> bool:
    """Wait for room; False when the consumer has gone."""
    while not gone.is_set():
        try:
            queue.put(item, timeout=_POLL)
        except Full:
            continue
        return True
    return False
