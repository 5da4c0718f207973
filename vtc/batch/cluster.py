"""The groups of a batch as tasks of Ray, on one machine or a cluster."""

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
"""Groups that may be lost before any is answered."""
_AHEAD = 2
"""Tasks that are submitted for each processor of the cluster."""

_answers: dict[str, Answer] = {}
"""What this worker process of Ray answers with, by run."""


@dataclass(frozen=True)
class Resources:
    """What a task takes.

    Attributes:
        cpus: Processors.
        gpus: GPUs, also a part of one; None for one where the cluster has any.
    """

    cpus: float = 1.0
    gpus: float | None = None


def connect(address: str) -> Any:
    """Join a cluster of Ray, or start one on this machine; return the module ``ray``.

    Args:
        address: As ``ray.init`` takes it; ``"local"`` starts Ray on 127.0.0.1.

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
        # Without a limit, Ray would run a task that takes too much memory again for ever.
        settings |= {"_system_config": {"task_oom_retries": MAX_DEATHS - 1}}
        settings |= {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**settings)
    # Ray raises errors of many kinds, a bare Exception for a slow start among them.
    except Exception as error:
        raise OSError(f"cannot join a cluster of Ray at {address}: {cause(error)}") from error
    finally:
        signal.signal(signal.SIGTERM, stop)  # Ray sets its own
    return ray


def task_options(ray: Any, resources: Resources) -> dict[str, Any]:
    """Return the options of a task that loads a model."""
    gpus = resources.gpus
    if gpus is None:
        gpus = min(1, ray.cluster_resources().get("GPU", 0))
    return {"num_cpus": resources.cpus, "num_gpus": gpus, "max_retries": MAX_DEATHS - 1}


def deaths(ray: Any) -> tuple[type[Exception], ...]:
    """Return the errors of a task whose process or machine has died too often."""
    errors = ray.exceptions
    return (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError)


def answer_on_cluster(
    groups: Sequence[Group], job: Job, address: str, resources: Resources
) -> Generator[list[Line], None, None]:
    """Yield the lines of each group as a task of Ray has answered it.

    Ray runs a task again whose process has died. If that dies too, the rows of the group are asked
    one by one, and a row that takes down its process again gets an error.

    Raises:
        ImportError, OSError: As `connect`.
        LoadingError: A task cannot load the model, or none of the first has lived.
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
                        f"the processes of the first {lost} tasks died (out of memory?); give "
                        "each more of a machine with --ray-cpus"
                    ) from None
                if len(group.rows) == 1:
                    yield [job.failure(group.rows[0], set_aside(MAX_DEATHS))]
                else:
                    waiting.extend((each, 0) for each in group.split())
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
    """Answer a group in a process of Ray, which keeps its model for the next.

    Args:
        folder: The folder that paths in the job are relative to.

    Returns:
        The lines; or why the model cannot be loaded.
    """
    if run not in _answers:
        _answers.clear()
        try:
            os.chdir(folder)
            _answers[run] = job.open()
        # A model, a part or a library may raise anything, also what cannot be sent.
        except Exception as error:
            return str(error) if isinstance(error, ValueError) else cause(error)
    try:
        return _answers[run](group)
    # Only a GPU that needs a new process ends up here; see `answering.Job.open`.
    except Exception as error:
        print(f"vtc: a worker ends: {cause(error)}", file=sys.stderr, flush=True)
        os._exit(1)
