"""``vtc serve``: answer requests in the OpenAI protocol."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import typer

from vtc.cli import options
from vtc.cli.models import ModelOptions

MAX_FRAMES = 10_000
"""The default of ``--max-frames``."""


@options.grouped
def serve(
    model_options: ModelOptions,
    frames: options.ModelFrameOptions,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    video_root: Annotated[
        list[Path],
        typer.Option(help="A folder whose files requests may name as file://; repeatable."),
    ] = [],  # noqa: B006 - typer copies it
    api_key_env: Annotated[
        options.Text, typer.Option(help="The environment variable with the API key.")
    ] = None,
    allowed_host: Annotated[
        list[str], typer.Option(help="A host name of the server; repeatable.")
    ] = [],  # noqa: B006
    served_name: Annotated[
        options.Text, typer.Option(help="The model's name in requests. (default: as --model)")
    ] = None,
    queue: Annotated[int, typer.Option(min=0, help="The maximum number of waiting requests.")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="The time limit of a request, s.")] = 600,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that the running request gets on shutdown.")
    ] = 30,
    max_upload: Annotated[int, typer.Option(min=1, help="MiB of a request at most.")] = 64,
    max_new_tokens: options.MaxNewTokens = 1024,
) -> None:
    """Serve a model to programs that speak the OpenAI protocol.

    Listens on this machine only, unless --host says otherwise.
    """
    try:
        from vtc.serve.app import MEBIBYTE, Server, Settings
        from vtc.serve.media import Media
        from vtc.serve.run import bind, is_loopback, run
        from vtc.serve.worker import Worker
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "vtc":
            raise
        raise ImportError(
            f"vtc serve needs {error.name}: pip install 'video-token-compression[serve]'"
        ) from error
    import numpy as np

    from vtc.video import VideoSource

    key = _key(api_key_env)
    most = MAX_FRAMES if frames.max_frames is None else frames.max_frames
    # Report wrong options now, not with the first request.
    blank = np.zeros((1, 1, 1, 3), dtype=np.uint8)
    VideoSource(blank, fps=frames.fps, max_frames=most, reader=frames.reader)
    folder = tempfile.TemporaryDirectory(prefix="vtc-serve-", ignore_cleanup_errors=True)
    media = Media(video_root, Path(folder.name))
    bound = bind(host, port)  # fail before the model is loaded
    if key is None and not is_loopback(host):
        warnings.warn(
            f"anyone who can reach {host} can send requests; set a key with --api-key-env VAR",
            stacklevel=2,
        )
    model, processor = model_options.open()

    from vtc.serve.answer import Answerer, Limits

    worker = Worker(queue, timeout)
    limits = Limits(frames.fps, most, max_new_tokens)
    cache = frames.cache or Path(folder.name) / "cache"
    opener = functools.partial(
        VideoSource, reader=frames.reader, cache=cache, cache_tower=frames.cache_tower
    )
    answerer = Answerer(model, processor, limits, worker.check, opener)
    settings = Settings(
        model=served_name or _name(model_options.model),
        max_upload=max_upload * MEBIBYTE,
        hosts=[host, *allowed_host],
        key=key,
    )
    server = Server(answerer, worker, media, settings)
    where = f"[{host}]" if ":" in host else host
    address = f"http://{where}:{bound.getsockname()[1]}/v1"
    print(f"vtc: {settings.model} answers at {address}", file=sys.stderr, flush=True)
    run(server.app, bound, worker, grace, on_end=folder.cleanup)


def _key(variable: str | None) -> str | None:
    """Return the key in an environment variable.

    Raises:
        ValueError: The variable is not set, or empty.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise ValueError(
            f"expected the environment variable {variable} to hold the key, but it is empty"
        )
    return key


def _name(model: str) -> str:
    """Return a model's name without its local path."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model
