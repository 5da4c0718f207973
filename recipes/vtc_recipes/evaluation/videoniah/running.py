"""Run cases of VideoNIAH with one record per answer, so that a run resumes after the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from vtc.video import VideoError
from vtc_recipes.evaluation.resuming import append_lines, claim_settings, read_lines
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
    """Ask about cases in all settings, and write each record at once.

    Several processes share a folder if each has a shard of its own.

    Args:
        cases: All cases.
        names: Settings, see `Asker`.
        asker: Asks.
        folder: For ``settings.json`` and ``records-I-of-N.jsonl``; created if missing.
        settings: All that the answers depend on, as plain JSON.
        shard: The i-th of n parts of the cases, from 1.
        progress: Called with the number of answers and of all answers of this shard.

    Returns:
        One line for each case whose video cannot be read; such a case is asked again next time.

    Raises:
        ValueError: The folder holds results of other settings, or another process runs this shard.
    """
    number, count = shard
    mine = cases[number - 1 :: count]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"records-{number}-of-{count}.jsonl"
    lost: list[str] = []
    with _alone(file):
        claim_settings(folder, settings)
        records = all_records(folder)
        of_model = {record["case"]: record for record in records if record["setting"] == MODEL}
        left = unanswered(mine, names, records)
        total = len(mine) * len(names)
        progress(total - len(left), total)
        for done, (case, name) in enumerate(left, total - len(left) + 1):
            try:
                record = asker.ask(case, name, of_model.get(case.id))
            except (VideoError, ValueError) as error:
                if case.id not in {line.partition(":")[0] for line in lost}:
                    lost.append(f"{case.id}: {error}")
                progress(done, total)
                continue
            if name == MODEL:
                of_model[case.id] = record
            append_lines(file, [record])
            progress(done, total)
    return lost


def all_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of all shards, one for each case and setting."""
    records: dict[tuple[str, str], dict[str, Any]] = {}
    for file in sorted(folder.glob("records-*-of-*.jsonl")):
        for record in read_lines(file):
            records.setdefault((record["case"], record["setting"]), record)
    return list(records.values())


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    try:
        lock = FileLock(f"{file}.lock").acquire(blocking=False)
    except Timeout as error:
        raise ValueError(
            f"another run is writing to {file}; wait for its end, or give each run its --shard I/N"
        ) from error
    with lock:
        yield
