"""Jobs that answer rows without a model, for the tests of batches."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from vtc.batch.answering import Job
from vtc.batch.rows import Question


def question(id: str | int, video: str = "a.mp4", text: str = "What?") -> Question:
    return Question(id=id, video=video, question=text)


@dataclass(frozen=True, kw_only=True)
class EchoJob(Job):
    """Answers with the question in capitals. Questions may kill the process:

    ``die`` always, ``die once`` if the file ``died`` is not there yet, ``die in line`` after half
    of the line of its answer is written.
    """

    out: Path | None = None
    broken: str = ""
    empty = {"answer": None}

    def load(self):
        raise NotImplementedError

    def open(self, worker=None):
        if self.broken == "dies":
            kill()
        if self.broken:
            raise ValueError(self.broken)
        return lambda group: [self.answer(row) for row in group.rows]

    def answer(self, row):
        died = self.root / "died"
        if row.question == "die" or (row.question == "die once" and not died.exists()):
            died.touch()
            kill()
        if row.question == "die in line" and not died.exists():
            died.touch()
            with self.out.open("a") as file:
                file.write(f'{{"id": "{row.id}", "vid')
            kill()
        with (self.root / "asked").open("a") as file:
            file.write(f"{row.id}\n")
        start = {"id": row.id, "video": row.video, "question": row.question}
        return {**start, "answer": row.question.upper(), "error": None, "report": None}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class SleepJob(EchoJob):
    """Answers the first row of each worker at once, and never the second."""

    def open(self, worker=None):
        answered = []

        def answer(group):
            if answered:
                time.sleep(600)
            answered.append(group)
            return [self.answer(row) for row in group.rows]

        return answer
