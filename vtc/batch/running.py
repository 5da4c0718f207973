"""Run a batch: append the lines of answered groups to the file of results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

from vtc.batch.answering import Job
from vtc.batch.results import Line, ResultFile
from vtc.batch.rows import Group, Question


@dataclass(frozen=True)
class Summary:
    """The state of a file of results.

    Attributes:
        out: The file.
        rows: The number of rows of the batch.
        answered: The number of rows with a result.
        errors: The number of rows with an error.
        missing: The number of rows without a line.
        new: The number of lines that this run added.
        seconds: The time of this run.
    """

    out: str
    rows: int
    answered: int
    errors: int
    missing: int
    new: int
    seconds: float


class Run:
    """Fills a file of results."""

    def __init__(self, rows: Sequence[Question], results: ResultFile) -> None:
        self.rows = rows
        self.results = results
        self.new = 0
        self._began = perf_counter()

    @property
    def missing(self) -> list[Question]:
        """The rows that have no line yet."""
        ids = self.results.ids
        return [row for row in self.rows if row.id not in ids]

    def write(self, answered: Iterable[list[Line]], show: Callable[[int], None]) -> None:
        """Append lines as groups are answered.

        Args:
            show: Called after each line with the number of rows that have a line.
        """
        done = len(self.rows) - len(self.missing)
        show(done)
        for lines in answered:
            for line in lines:
                self.results.append(line)
                self.new += 1
                show(done + self.new)

    def summary(self) -> Summary:
        """Return the state of the file."""
        ids = {row.id for row in self.rows}
        lines = [line for line in self.results.lines if line.id in ids]
        errors = sum(line.error is not None for line in lines)
        return Summary(
            out=str(self.results.path),
            rows=len(self.rows),
            answered=len(lines) - errors,
            errors=errors,
            missing=len(self.rows) - len(lines),
            new=self.new,
            seconds=round(perf_counter() - self._began, 3),
        )


def answer_here(groups: Iterable[Group], job: Job) -> Generator[list[Line], None, None]:
    """Yield the lines of each group, answered in this process."""
    yield from map(job.open(), groups)
