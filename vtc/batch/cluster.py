"""Answer the groups of a batch in Ray tasks, on one machine or a cluster."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from vtc.batch.answering import Answer, Job
from vtc.batch.results import Line
from vtc.batch.rows import Group
from vtc.batch.workers import MAX_DEATHS, LoadingError, set_aside
from vtc.plugins.discovery import cause

LOCAL = "local"
_MAX_LOST = 3
"""The run fails after this many lost groups if none has been answered."""
_AHEAD = 2
"""The number of tasks that are submitted per processor of the cluster."""

_answers: dict[str, Answer] = {}
"""The function that this Ray worker process answers groups with, by run."""


@dataclass(frozen=True)
class Resources:
    """The resources of a task.

    Attributes:
        cpus: The number of processors.
        gpus: The number of GPUs, may be a fraction; None for one GPU if the cluster has any.
    """

    cpus: float = 1.0
    gpus: float | None = None


def connect(address: str) -> Any:
    """Join a Ray cluster, or start one on this machine; return the module ``ray``.

    Args:
        address: The address for ``ray.init``; ``"local"`` starts Ray on 127.0.0.1.

    Raises:
        ImportError: Ray is not installed.
        OSError: There is no cluster at the address, or Ray does not start.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "--ray needs Ray: pip install 'video-token-compression[cluster]'"
        ) from error
    if ray.is_initialized():
        return ray
    quiet = logging.ERROR
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": quiet}
    if address == LOCAL:
        logging.getLogger("ray").setLevel(quiet)
        # Without a limit, Ray would retry a task that takes too much memory forever.
        settings |= {"_system_config": {"task_oom_retries": MAX_DEATHS - 1}}
        settings |= {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**settings)
    # Ray raises many kinds of errors, among them a bare Exception if it starts too slowly.
    except Exception as error:
        raise OSError(f"cannot join a Ray cluster at {address}: {cause(error)}") from error
    finally:
        signal.signal(signal.SIGTERM, stop)  # Ray replaces the handler
    return ray


def task_options(ray: Any, resources: Resources) -> dict[str, Any]:
    """Return the options of a task that loads a model."""
    gpus = resources.gpus
    if gpus is None:
        gpus = min(1, ray.cluster_resources().get("GPU", 0))
    return {"num_cpus": resources.cpus, "num_gpus": gpus, "max_retries": MAX_DEATHS - 1}


def deaths(ray: Any) -> tuple[type[Exception], ...]:
    """Return the exceptions of a task whose process or machine has died too often."""
    errors = ray.exceptions
    return (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError)


def answer_on_cluster(
    groups: Sequence[Group], job: Job, address: str, resources: Resources
) -> Generator[list[Line], None, None]:
    """Yield the lines of each group when its Ray task ends.

    Ray retries a task whose process has died. If that dies too, the rows of the group are retried
    one by one, and a row whose process dies again gets an error.

    Raises:
        ImportError, OSError: As for `connect`.
        LoadingError: A task cannot load the model, or the processes of the first tasks died.
    """
    ray = connect(address)
    options = task_options(ray, resources)
    task = ray.remote(**options)(_work)
    shared = (uuid4().hex, os.getcwd(), ray.put(job))
    waiting = deque((group, options["max_retries"]) for group in groups)
    most = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, Group] = {}
    answered = lost = 0
    try:
        while waiting or running:
            while waiting and len(running) < most:
                group, retries = waiting.popleft()
                ref = task.options(max_retries=retries).remote(*shared, group)
                running[ref] = group
            [ref], _ = ray.wait(list(running), num_returns=1)
            group = running.pop(ref)
            try:
                result = ray.get(ref)
            except deaths(ray):
                lost += 1
                if lost >= _MAX_LOST and not answered:
                    raise LoadingError(
                        f"the processes of the first {lost} tasks died (out of memory?); run "
                        "fewer tasks per machine with a larger --ray-cpus"
                    ) from None
                if len(group.rows) == 1:
                    yield [job.failure(group.rows[0], set_aside(MAX_DEATHS))]
                else:
                    waiting.extend((row, 0) for row in group.split())
                continue
            if isinstance(result, str):
                raise LoadingError(result)
            answered += 1
            yield result
    finally:
        for ref in running:
            ray.cancel(ref, force=True)
        if address == LOCAL:
            ray.shutdown()


def _work(run: str, folder: str, job: Job, group: Group) -> list[Line] | str:
    """Answer a group in a Ray process, which keeps its model for the next group.

    Args:
        folder: The folder that paths in the job are relative to.

    Returns:
        The lines; or the reason why the model cannot be loaded.
    """
    if run not in _answers:
        _answers.clear()
        try:
            os.chdir(folder)
            _answers[run] = job.open()
        # A model, a part or a library may raise anything, even unpicklable exceptions.
        except Exception as error:
            return str(error) if isinstance(error, ValueError) else cause(error)
    try:
        return _answers[run](group)
    # Raised only by a GPU that needs a new process; see `answering.Job.open`.
    except Exception as error:
        print(f"vtc: a worker exits: {cause(error)}", file=sys.stderr, flush=True)
        os._exit(1)
