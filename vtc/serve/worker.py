"""The thread that runs the model, one request at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from time import monotonic
from typing import Any

from vtc.serve.errors import ApiError

log = logging.getLogger("vtc.serve")


class Stopped(Exception):
    """The running request was stopped; ``Job.reason`` has the reason."""


class Job:
    """One request in the worker's queue.

    Args:
        task: Called by the worker, with this job.
        emit: Called in the worker's thread with ``("text", str)`` for each piece of the answer,
            then once with ``("done", result)`` or ``("error", ApiError)``. If a request is stopped
            before it runs, it is called in the thread that stops it.
    """

    def __init__(self, task: Callable[[Job], Any], emit: Callable[[str, Any], None]) -> None:
        self.task, self.emit = task, emit
        self.reason: ApiError | None = None
        self.deadline: float | None = None

    def check(self) -> None:
        """Raise `Stopped` if the request was stopped or has run for too long."""
        if self.reason is None and self.deadline is not None and monotonic() > self.deadline:
            self.reason = ApiError(
                504, "the request took longer than this server allows", code="timeout"
            )
        if self.reason is not None:
            raise Stopped


class Worker:
    """Runs jobs in one thread, in their order.

    Args:
        waiting: The maximum number of waiting jobs.
        seconds: The time limit of a job.
    """

    def __init__(self, waiting: int, seconds: float) -> None:
        self._most, self._seconds = waiting, seconds
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vtc-model")
        self._lock = Lock()
        self._jobs: dict[Job, Future[None]] = {}
        self._current: Job | None = None
        self._closed: ApiError | None = None

    @property
    def running(self) -> int:
        """The number of running jobs: 0 or 1."""
        return int(self._current is not None)

    @property
    def waiting(self) -> int:
        """The number of waiting jobs."""
        return max(0, len(self._jobs) - self.running)

    def check(self) -> None:
        """Raise `Stopped` if the running job was stopped; called from inside the model."""
        if self._current is not None:
            self._current.check()

    def require_room(self) -> None:
        """Raise ApiError if a job would be refused now."""
        if self._closed is not None:
            raise self._closed
        if len(self._jobs) > self._most:
            raise ApiError(
                429,
                f"{self._most} requests are waiting, which is the maximum; try again later",
                code="queue_full",
            )

    def submit(self, job: Job) -> None:
        """Add a job to the queue.

        Raises:
            ApiError: The queue is full, or the server is stopping.
        """
        with self._lock:
            self.require_room()
            self._jobs[job] = self._pool.submit(self._run, job)

    def stop(self, job: Job, reason: ApiError) -> None:
        """Stop a waiting or running job; do nothing if it has ended."""
        with self._lock:
            future = self._jobs.get(job)
            if future is None:
                return
            if job.reason is None:
                job.reason = reason
            if not future.cancel():
                return  # it is running, and will reach a check
            del self._jobs[job]
        job.emit("error", job.reason)

    def close(self, reason: ApiError) -> None:
        """Refuse new jobs and stop the waiting ones; the running one continues."""
        self._closed = reason
        for job in list(self._jobs):
            if job is not self._current:
                self.stop(job, reason)

    def stop_running(self, reason: ApiError) -> None:
        """Stop the running job."""
        job = self._current
        if job is not None:
            self.stop(job, reason)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> None:
        self._current = job
        job.deadline = monotonic() + self._seconds
        try:
            try:
                job.check()
                event = "done", job.task(job)
            finally:
                self._current = None
                with self._lock:
                    self._jobs.pop(job, None)
        except BaseException as error:  # from the model's code; a client waits for an event
            event = "error", job.reason or _as_api_error(error)
        job.emit(*event)


def _as_api_error(error: BaseException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValueError):  # from videos, prompts and options: the client's error
        return ApiError(400, str(error))
    log.error("a request failed", exc_info=error)
    torch_memory = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    if torch_memory:
        return ApiError(
            503, "the request needs more memory than is free; send fewer frames", code="memory"
        )
    return ApiError(500, "the server failed on this request; see its log")
