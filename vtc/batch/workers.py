"""Worker processes on this machine, each with its own model, restarted when they die."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, connection, get_context, parent_process
from typing import Any

from vtc.batch.answering import Answer, Job
from vtc.batch.results import Line
from vtc.batch.rows import Group, RowId
from vtc.plugins.discovery import cause

MAX_DEATHS = 2
"""The number of worker processes that may die on a row before it is set aside."""

_answer: Answer | None = None
"""The function that this worker process answers groups with."""


class LoadingError(RuntimeError):
    """The model of a worker cannot be loaded; no row can be answered."""


def answer_in_workers(
    groups: Sequence[Group], job: Job, count: int
) -> Generator[list[Line], None, None]:
    """Yield the lines of each group when a worker has answered it.

    If a worker dies, the rows of its group are retried one by one. A row whose worker died twice
    gets an error.

    Args:
        count: The number of workers.

    Raises:
        LoadingError: The workers cannot load the model.
    """
    waiting = deque(groups)
    deaths: Counter[RowId] = Counter()
    workers = _Workers(job, min(count, len(groups)))
    try:
        while waiting or workers.busy:
            while waiting and workers.idle:
                if workers.submit(waiting[0]):
                    waiting.popleft()
            for group, future in workers.finished():
                try:
                    yield future.result()
                except BrokenProcessPool:
                    deaths.update(row.id for row in group.rows)
                    dead = [row for row in group.rows if deaths[row.id] >= MAX_DEATHS]
                    waiting.extend(row for row in group.split() if row.rows[0] not in dead)
                    yield [job.failure(row, set_aside(MAX_DEATHS)) for row in dead]
    finally:
        workers.end()


def set_aside(deaths: int) -> str:
    """Return the error of a row whose workers died."""
    return f"set aside, as {deaths} worker processes died while they answered it (out of memory?)"


class _Workers:
    """Pools of one process each, so that a broken pool identifies the group that broke it.

    Attributes:
        idle: The numbers of the workers that have loaded their model and wait for a group.
        busy: Whether a group is being answered.
    """

    def __init__(self, job: Job, count: int) -> None:
        self._job = job
        self._threads = max(1, (os.cpu_count() or 1) // max(1, count))
        self._others = set(active_children())  # started by other code in this process
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._loading: dict[Future[None], int] = {}
        self._running: dict[Future[list[Line]], tuple[int, Group]] = {}
        self._failures = 0
        self.idle: list[int] = []
        for number in range(count):
            self._start(number)

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def submit(self, group: Group) -> bool:
        """Submit a group to an idle worker; if that has died, restart it and return False."""
        number = self.idle.pop()
        try:
            future = self._pools[number].submit(_work, group)
        except BrokenProcessPool:
            self._start(number)
            return False
        self._running[future] = number, group
        return True

    def finished(self) -> list[tuple[Group, Future[list[Line]]]]:
        """Wait for a worker; return the groups that are answered or whose worker has died.

        Raises:
            LoadingError: A model cannot be loaded.
        """
        futures: list[Future[Any]] = [*self._loading, *self._running]
        done = wait(futures, return_when=FIRST_COMPLETED).done
        for loaded in done & self._loading.keys():
            self._finish_loading(loaded)
        answered = []
        for future in done & self._running.keys():
            number, group = self._running.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                self._start(number)
            else:
                self.idle.append(number)
            answered.append((group, future))
        return answered

    def _start(self, number: int) -> None:
        if number in self._pools:
            self._pools[number].shutdown(wait=False)
        self._pools[number] = ProcessPoolExecutor(
            1, get_context("spawn"), _prepare, (self._threads,)
        )
        self._loading[self._pools[number].submit(_load, number, self._job)] = number

    def _finish_loading(self, future: Future[None]) -> None:
        number = self._loading.pop(future)
        try:
            future.result()
        except BrokenProcessPool:
            self._failures += 1
            if self._failures >= MAX_DEATHS:
                raise LoadingError(
                    f"{MAX_DEATHS} worker processes died while they loaded the model (out of "
                    "memory?); use fewer --workers"
                ) from None
            self._start(number)
        else:
            self._failures = 0
            self.idle.append(number)

    def end(self) -> None:
        """Terminate all workers."""
        for process in set(active_children()) - self._others:
            process.terminate()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


def _prepare(threads: int) -> None:
    """Prepare a worker process, before heavy imports."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent terminates this process
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent process dies, even by kill -9."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _load(number: int, job: Job) -> None:
    """Load the model of a worker process."""
    global _answer
    try:
        _answer = job.open(number)
    # A model, a part or a library may raise anything, even unpicklable exceptions.
    except Exception as error:
        raise LoadingError(str(error) if isinstance(error, ValueError) else cause(error)) from None


def _work(group: Group) -> list[Line]:
    """Answer a group in a worker process."""
    assert _answer is not None
    try:
        return _answer(group)
    # Raised only by a GPU that needs a new process; see `answering.Job.open`.
    except Exception as error:
        print(f"vtc: a worker exits: {cause(error)}", file=sys.stderr, flush=True)
        os._exit(1)
