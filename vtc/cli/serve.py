"""``vtc serve``: answer requests of the OpenAI protocol."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Optional

import typer

from vtc.cli import options
from vtc.cli.models import load_model, part_choice, read_options

Folder = Optional[Path]  # noqa: UP007, UP045 - typer evaluates it


def serve(
    model: options.Model,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    video_root: Annotated[
        list[Path],
        typer.Option(help="A folder whose files requests may name as file://; several times."),
    ] = [],  # noqa: B006 - typer copies it
    api_key_env: Annotated[
        options.Text, typer.Option(help="The environment variable that holds the key.")
    ] = None,
    allowed_host: Annotated[
        list[str], typer.Option(help="A name under which the server is reached; several times.")
    ] = [],  # noqa: B006
    served_name: Annotated[
        options.Text, typer.Option(help="The model's name in requests. (default: as --model)")
    ] = None,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait.")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a request may run.")] = 600,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that the running request gets at the end.")
    ] = 30,
    max_upload: Annotated[int, typer.Option(min=1, help="MiB of a request.")] = 64,
    max_new_tokens: options.MaxNewTokens = 1024,
    selector: options.Selector = None,
    merger: options.Merger = None,
    keyframes: options.Keyframes = None,
    fps: options.Fps = 1.0,
    max_frames: Annotated[int, typer.Option(min=1, help="The most frames of a video.")] = 10_000,
    reader: options.VideoReader = "pyav",
    encoder: options.Encoder = None,
    selector_option: options.SelectorOption = [],  # noqa: B006
    merger_option: options.MergerOption = [],  # noqa: B006
    adapter_option: options.AdapterOption = [],  # noqa: B006
    attn_implementation: options.AttnImplementation = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
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
    key = _key(api_key_env)
    folder = tempfile.TemporaryDirectory(prefix="vtc-serve-", ignore_cleanup_errors=True)
    media = Media(video_root, Path(folder.name))
    bound = bind(host, port)  # before the model, which takes long to load
    if key is None and not is_loopback(host):
        print(f"vtc: warning: all who reach {host} may ask: no --api-key-env", file=sys.stderr)
    loaded, processor = load_model(
        model,
        part_choice("dks", selector, selector_option, keyframes),
        part_choice("dfm", merger, merger_option),
        encoder,
        device,
        dtype,
        trust_remote_code,
        attn_implementation,
    )

    from vtc.serve.answer import Answerer, Limits
    from vtc.video import VideoSource
    from vtc.wrapped.access import toolkit_of

    toolkit_of(loaded).configure(**read_options(adapter_option))
    worker = Worker(queue, timeout)
    limits = Limits(fps, max_frames, max_new_tokens)
    opener = functools.partial(VideoSource, reader=reader)
    answerer = Answerer(loaded, processor, limits, worker.check, opener)
    settings = Settings(
        model=served_name or _name(model),
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
        raise ValueError(f"expected the key in the environment variable {variable}, which is empty")
    return key


def _name(model: str) -> str:
    """Return a model's name without the folders of this machine."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model
