"""Workers that claim jobs one by one, run them, and publish each result atomically."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from filelock import FileLock, Timeout

from vtc.plugins.discovery import cause

DEATHS = "deaths"
"""File with the number of processes that died while running a job."""
MAX_DEATHS = 2
POLL_SECONDS = 0.5
"""Interval between checks of jobs that other workers hold."""


@dataclass(frozen=True)
class Job:
    """One piece of work, done once, by one worker.

    Attributes:
        name: Unique among all jobs.
        title: A description for people.
        target: The folder of the results; it exists if and only if the job is done.
        needs: Targets of other jobs that must exist before this one starts.
        run: Runs the job in a folder that may hold the files of an interrupted worker.
    """

    name: str
    title: str
    target: Path
    needs: tuple[Path, ...]
    run: Callable[[Path], None]

    @property
    def done(self) -> bool:
        """Whether the results exist."""
        return self.target.is_dir()


class JobsError(RuntimeError):
    """Some jobs failed.

    Attributes:
        failed: The title and reason of each failed job.
    """

    def __init__(self, failed: Sequence[tuple[str, str]], left: int) -> None:
        self.failed = failed
        titles: dict[str, list[str]] = {}
        for title, reason in failed:
            titles.setdefault(reason, []).append(title)
        lines = (f"{names[0]}{_more(names)}: {reason}" for reason, names in titles.items())
        blocked = f"; {left} more need them" if left else ""
        super().__init__(f"{len(failed)} failed{blocked}: " + "; ".join(lines))


def _more(titles: Sequence[str]) -> str:
    return f" and {len(titles) - 1} more" if len(titles) > 1 else ""


def work(
    jobs: Sequence[Job],
    locks: Path,
    working: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[str], None] = lambda text: None,
) -> None:
    """Run jobs until all are done, by this worker or by others on this machine.

    A worker holds the lock of a job while it works in ``working/NAME``; at the end the folder
    becomes the target by one rename. The system frees the locks of a process that dies, and the
    next worker resumes from the folder. A job that killed `MAX_DEATHS` processes is set aside, so
    that it does not take down one worker after another.

    Args:
        locks, working: Folders that all workers share; they must exist.
        progress: Called with the number of finished jobs and of all jobs.
        report: Called with each line of the worker's log.

    Raises:
        JobsError: Jobs failed here; all jobs that do not need them are done.
    """
    failed: dict[Path, tuple[str, str]] = {}
    while True:
        pending = [job for job in jobs if not job.done]
        progress(len(jobs) - len(pending), len(jobs))
        blocked = set(failed)
        for job in jobs:  # jobs come after the ones that they need
            if blocked & set(job.needs) and not job.done:
                blocked.add(job.target)
        open_jobs = [job for job in pending if job.target not in blocked]
        if not open_jobs:
            break
        if not any(_try(job, locks, working, failed, report) for job in open_jobs):
            sleep(POLL_SECONDS)
    if failed:
        raise JobsError([*failed.values()], len(pending) - len(failed))


def _try(
    job: Job,
    locks: Path,
    working: Path,
    failed: dict[Path, tuple[str, str]],
    report: Callable[[str], None],
) -> bool:
    """Run a job unless another worker holds it; return whether this worker held it."""
    if not all(target.is_dir() for target in job.needs):
        return False
    folder = working / job.name
    try:
        lock = FileLock(locks / f"{job.name}.lock").acquire(blocking=False)
    except Timeout:
        return False
    with lock:
        if job.done:  # by another worker, since the check above
            return True
        resumed = folder.is_dir()
        try:
            with _counting_deaths(folder):
                report(f"{job.title}: {'resumed' if resumed else 'started'}")
                job.run(folder)
            (folder / DEATHS).unlink(missing_ok=True)
            os.rename(folder, job.target)
            report(f"{job.title}: done")
        # Models, third-party parts and libraries may raise anything; other jobs can still run.
        except Exception as error:
            failed[job.target] = job.title, cause(error)
            with suppress(OSError), (folder / "log.txt").open("a", encoding="utf-8") as lines:
                lines.write(traceback.format_exc())
            report(f"{job.title}: failed: {cause(error)}")
    return True


@contextmanager
def _counting_deaths(folder: Path) -> Iterator[None]:
    """Count this process as dead in a job's working folder until the context exits.

    Raises:
        RuntimeError: Too many processes died in this folder.
    """
    folder.mkdir(exist_ok=True)
    file = folder / DEATHS
    deaths = int(file.read_text()) if file.is_file() else 0
    if deaths >= MAX_DEATHS:
        raise RuntimeError(
            f"set aside because {deaths} processes died while running it (out of memory?): see "
            f"{folder}; delete {file} to retry"
        )
    file.write_text(f"{deaths + 1}\n")
    try:
        yield
    finally:
        file.write_text(f"{deaths}\n") if deaths else file.unlink()
