"""Run the cells and trainings of a grid as Ray tasks on machines that share a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vtc.batch.cluster import LOCAL, Resources, connect, deaths, task_options
from vtc_recipes.ablation.grid import Grid, parse_grid
from vtc_recipes.ablation.plan import jobs_of
from vtc_recipes.ablation.work import MAX_DEATHS, JobsError, work

_BLOCKED = "blocked"
"""The result of a task whose job needs a failed one."""


def work_on_cluster(
    grid: Grid,
    values: Mapping[str, Any],
    runs: Path,
    device: str,
    address: str,
    resources: Resources,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Run the jobs of a grid as Ray tasks, each after the jobs that it needs.

    A task claims its job like a worker, so workers can share the folder. If the process of a task
    dies, Ray retries it once, and the job resumes from the files in its folder.

    Args:
        values: The plain values of the grid, from which the tasks rebuild it.
        device: The device of the models, or ``auto``.
        address: The address of the cluster; see `connect`.
        progress: Called with the number of finished jobs and of all jobs.

    Raises:
        JobsError: Jobs failed; all jobs that do not need them are done.
        ImportError, OSError: See `connect`.
    """
    ray = connect(address)
    task = ray.remote(**task_options(ray, resources))(_run_job)
    jobs = jobs_of(grid, runs, device, _silent)
    place = (os.getcwd(), dict(values), grid.name, runs.resolve(), device)
    refs: dict[Path, Any] = {}
    for job in jobs:  # jobs come after the ones that they need
        if not job.done:
            needs = [refs[target] for target in job.needs if target in refs]
            refs[job.target] = task.remote(job.name, *place, *needs)
    pending = {refs[job.target]: job for job in jobs if job.target in refs}
    failed: list[tuple[str, str]] = []
    blocked = 0
    try:
        while pending:
            progress(len(jobs) - len(pending), len(jobs))
            [ref], _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ref)
            try:
                reason = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, ray.exceptions.RayError):
                    raise
                reason = _BLOCKED  # the task of a job it needs has died
            except deaths(ray):
                reason = f"{MAX_DEATHS} processes died while running it (out of memory?)"
            if reason == _BLOCKED:
                blocked += 1
            elif reason is not None:
                failed.append((job.title, reason))
        progress(len(jobs), len(jobs))
    finally:
        for ref in pending:
            ray.cancel(ref, force=True)
        if address == LOCAL:
            ray.shutdown()
    if failed:
        raise JobsError(failed, blocked)


def _run_job(
    name: str,
    folder: str,
    values: Mapping[str, Any],
    grid_name: str,
    runs: Path,
    device: str,
    *needs: None,
) -> str | None:
    """Run a job in a Ray process; return the reason if it failed.

    Args:
        name: The name of the job.
        folder: The folder to which paths in the grid are relative.
        needs: The results of the tasks that must end before this one starts.
    """
    import transformers

    from vtc.encoders.device import pick_device

    os.chdir(folder)
    transformers.utils.logging.disable_progress_bar()
    grid = parse_grid(values, grid_name)
    [job] = [job for job in jobs_of(grid, runs, pick_device(device), _silent) if job.name == name]
    if not all(target.is_dir() for target in job.needs):
        return _BLOCKED
    try:
        work([job], runs / "locks", runs / "working")
    except JobsError as error:
        return error.failed[0][1]
    return None


def _silent(stage: str, done: int, total: int) -> None:
    """Show no progress, because the output of a task is discarded."""
