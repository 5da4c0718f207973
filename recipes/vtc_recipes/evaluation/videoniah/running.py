"""Run VideoNIAH cases with one record per answer, so that an interrupted run resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from vtc.video import VideoError
from vtc_recipes.evaluation.resuming import append_lines, claim_settings, make_folder, read_lines
from vtc_recipes.evaluation.videoniah.asking import MODEL, Asker, unanswered

if TYPE_CHECKING:
    from vtc_recipes.evaluation.videoniah.cases import NiahCase


def run(
    cases: Sequence[NiahCase],
    names: Sequence[str],
    asker: Asker,
    folder: Path,
    settings: Mapping[str, Any],
    shard: tuple[int, int] = (1, 1),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Ask about cases in all settings, and write each record immediately.

    Several processes can share a folder if each has its own shard.

    Args:
        cases: All cases.
        names: The settings; see `Asker`.
        asker: Asks the model.
        folder: The folder for ``settings.json`` and ``records-I-of-N.jsonl``; created if missing.
        settings: Everything on which the answers depend, as plain JSON.
        shard: Part i of n of the cases, counted from 1.
        progress: Called with the number of answers so far and in total for this shard.

    Returns:
        One line for each case whose video cannot be read; such cases are retried in the next run.

    Raises:
        ValueError: The folder holds results of other settings, or another process is running this
            shard.
    """
    number, count = shard
    own_cases = cases[number - 1 :: count]
    make_folder(folder)
    file = folder / f"records-{number}-of-{count}.jsonl"
    failures: list[str] = []
    with _lock_file(file):
        claim_settings(folder, settings)
        records = all_records(folder)
        of_model = {record["case"]: record for record in records if record["setting"] == MODEL}
        left = unanswered(own_cases, names, records)
        total = len(own_cases) * len(names)
        progress(total - len(left), total)
        for done, (case, name) in enumerate(left, total - len(left) + 1):
            try:
                record = asker.ask(case, name, of_model.get(case.id))
            except (VideoError, ValueError) as error:
                if case.id not in {line.partition(":")[0] for line in failures}:
                    failures.append(f"{case.id}: {error}")
                progress(done, total)
                continue
            if name == MODEL:
                of_model[case.id] = record
            append_lines(file, [record])
            progress(done, total)
    return failures


def all_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of all shards, one per case and setting."""
    records: dict[tuple[str, str], dict[str, Any]] = {}
    for file in sorted(folder.glob("records-*-of-*.jsonl")):
        for record in read_lines(file):
            records.setdefault((record["case"], record["setting"]), record)
    return list(records.values())


@contextmanager
def _lock_file(file: Path) -> Iterator[None]:
    try:
        lock = FileLock(f"{file}.lock").acquire(blocking=False)
    except Timeout as error:
        raise ValueError(
            f"another run is writing to {file}; wait for it, or give each run its own --shard I/N"
        ) from error
    with lock:
        yield
