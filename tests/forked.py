"""Run Python code in a process of its own that need not import torch and transformers anew.

A server that has imported them forks for each run (the ``forkserver`` of multiprocessing). Tests
of what a fresh interpreter does (encodings, closed streams, imports) start one instead.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

PRELOADED = [
    "av",
    "torch",
    "torchvision.transforms.v2.functional",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "vtc.wrapped.wrapping",
]
COMMAND = "import vtc.cli; vtc.cli.main()"
"""What the script ``vtc`` runs."""
PYTEST = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
"""What the script ``pytest`` runs."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def run_code(
    code: str, *words: object, folder: Path | None = None, merged: bool = False, **environment: str
) -> CompletedProcess[str]:
    """Run ``python -c CODE WORDS...`` and return its exit status and what it printed.

    Args:
        code: Python code.
        words: ``sys.argv`` after the name of the program.
        folder: The current folder; None for that of this process.
        merged: Whether errors go to the output.
        environment: Variables beside those of this process; ``PYTHONPATH`` counts.
    """
    arguments = ["-c", *map(str, words)]
    with TemporaryDirectory() as temporary:
        names = ("stdout", "stdout" if merged else "stderr")
        streams = [os.path.join(temporary, name) for name in names]
        variables = {**os.environ, **environment}
        process = _context.Process(
            target=_run, args=(code, arguments, str(folder or Path.cwd()), variables, streams)
        )
        process.start()
        process.join()
        texts = [Path(stream).read_text("utf-8") for stream in streams]
    return CompletedProcess(arguments, process.exitcode or 0, *texts)


def run_vtc(
    *words: object, folder: Path | None = None, merged: bool = False, **environment: str
) -> CompletedProcess[str]:
    """Run ``vtc WORDS...``, see `run_code`."""
    return run_code(COMMAND, *words, folder=folder, merged=merged, **environment)


def _run(
    code: str, arguments: list[str], folder: str, variables: dict[str, str], streams: list[str]
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = arguments
    paths = ["", *variables.get("PYTHONPATH", "").split(os.pathsep)]
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
    importlib.invalidate_caches()
    for number, (name, stream) in enumerate(zip(("stdout", "stderr"), streams, strict=True), 1):
        file = os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
        setattr(sys, name, open(number, "w", encoding="utf-8", buffering=1, closefd=False))
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
