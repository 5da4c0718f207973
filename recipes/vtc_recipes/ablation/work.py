"""Workers: claim jobs one by one, run them, and leave results that are whole or not there."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vtc.plugins.discovery import cause
from vtc_recipes.ablation.leases import Lease, claim

POLL_SECONDS = 0.5
"""Between two looks at jobs that others hold."""


@dataclass(frozen=True)
class Job:
    """One thing to do, once, by one worker.

    Attributes:
        name: Unique among all jobs.
        title: For people.
        target: The folder of its results; it is there when, and only when, the job is done.
        needs: Targets of other jobs that must be there before.
        run: Does it in a folder, with a claim.
    """

    name: str
    title: str
    target: Path
    needs: tuple[Path, ...]
    run: Callable[[Path, Lease], None]

    @property
    def done(self) -> bool:
        """Whether the results are there."""
        return self.target.is_dir()


def work(
    jobs: Sequence[Job],
    leases: Path,
    working: Path,
    lease_seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Run jobs until all are done, by this worker or others.

    A job works in ``working/NAME.N``, N being the number of the claim, and its folder becomes the
    target by one rename at the end. Who takes a dead worker's job over renames its folder first,
    and so goes on from what is in it, while the other, should it live on, finds it no more.

    Args:
        leases, working: Folders that all workers share; they must exist.
        lease_seconds: See `leases.claim`.
        progress: Called with the jobs done and the jobs in all.
        tell: Called with what a user would like to read in a worker's log.

    Raises:
        RuntimeError: Jobs failed here; all that could be done without them is done.
    """
    failed: dict[Path, tuple[str, str]] = {}
    while True:
        pending = [job for job in jobs if not job.done]
        progress(len(jobs) - len(pending), len(jobs))
        hopeless = set(failed)
        for job in jobs:  # those that are needed stand before those that need them
            if hopeless & set(job.needs) and not job.done:
                hopeless.add(job.target)
        open_jobs = [job for job in pending if job.target not in hopeless]
        if not open_jobs:
            break
        if not any(_try(job, leases, working, lease_seconds, failed, tell) for job in open_jobs):
            time.sleep(POLL_SECONDS)
    if failed:
        left = len(pending) - len(failed)
        lost = f"; {left} more need them" if left else ""
        reasons: dict[str, list[str]] = {}
        for title, reason in failed.values():
            reasons.setdefault(reason, []).append(title)
        told = (f"{titles[0]}{_more(titles)}: {reason}" for reason, titles in reasons.items())
        raise RuntimeError(f"{len(failed)} failed{lost}: " + "; ".join(told))


def _more(titles: Sequence[str]) -> str:
    return f" and {len(titles) - 1} more" if len(titles) > 1 else ""


def _try(
    job: Job,
    leases: Path,
    working: Path,
    lease_seconds: float,
    failed: dict[Path, tuple[str, str]],
    tell: Callable[[str], None],
) -> bool:
    """Run a job, if it can be claimed; whether it was."""
    if not all(target.is_dir() for target in job.needs):
        return False
    lease = claim(leases, job.name, lease_seconds)
    if lease is None:
        return False
    if job.done:  # since it was looked at
        lease.stop(free=False)
        return True
    folder = working / f"{job.name}.{lease.number}"
    try:
        with lease:
            left = _take_over(working, lease, folder)
            tell(f"{job.title}: begun{', with what another worker left' if left else ''}")
            job.run(folder, lease)
            lease.check()
            _publish(folder, job.target)
        tell(f"{job.title}: done")
    # Whatever a model, a part of a third party or a library may raise, other jobs go on.
    except Exception as error:
        if lease.lost:  # its folder has been taken away, too
            tell(f"{job.title}: taken over by another worker")
        else:
            failed[job.target] = job.title, cause(error)
            with suppress(OSError), (folder / "log.txt").open("a", encoding="utf-8") as lines:
                lines.write(traceback.format_exc())
            tell(f"{job.title}: failed: {cause(error)}")
    return True


def _take_over(working: Path, lease: Lease, folder: Path) -> bool:
    """Make the folder of a claim, of what the latest claim before it left; whether one did."""
    for number in range(lease.number - 1, 0, -1):
        try:
            os.rename(working / f"{lease.name}.{number}", folder)
            return True
        except FileNotFoundError:
            continue
    folder.mkdir()
    return False


def _publish(folder: Path, target: Path) -> None:
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(folder)  # done by another in the meantime, with the same result
