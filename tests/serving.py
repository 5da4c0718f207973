"""A server of the tiny model in a thread, for tests."""

from __future__ import annotations

import asyncio
import base64
import copy
import functools
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import vtc

openai = pytest.importorskip("openai", reason="the tests of the server need the extra dev")
pytest.importorskip("fastapi", reason="the tests of the server need the extra serve")
pytest.importorskip("prometheus_client", reason="the tests of the server need the extra serve")

import uvicorn  # noqa: E402

from vtc.serve.answer import Answerer, Limits  # noqa: E402
from vtc.serve.app import Server, Settings  # noqa: E402
from vtc.serve.media import Media  # noqa: E402
from vtc.serve.run import GracefulServer, bind  # noqa: E402
from vtc.serve.worker import Worker  # noqa: E402


class Running:
    """A server that runs: its address, its parts and clients."""

    def __init__(self, port, server, graceful):
        self.port, self.server, self.graceful = port, server, graceful
        self.worker = server.worker
        self.url = f"http://127.0.0.1:{port}"

    def client(self, key="x", **options):
        options = {"max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **options)

    def ask(self, *content, **options):
        messages = [{"role": "user", "content": [*content]}]
        return self.client().chat.completions.create(
            **{"model": "tiny", "messages": messages, "max_tokens": 4, **options}
        )

    def idle_after(self, seconds: float) -> float:
        """Wait until nothing runs or waits; the seconds that it took, at most as many as given."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if not self.worker.running and not self.worker.waiting:
                break
            time.sleep(0.01)
        return time.monotonic() - began


@contextmanager
def serving(
    model, processor, root, folder, *, queue=4, timeout=60, grace=5, limits=None, cache=None, **more
):
    worker = Worker(queue, timeout)
    opener = functools.partial(vtc.VideoSource, cache=cache)
    limits = limits or Limits(max_new_tokens=512)
    answerer = Answerer(model, processor, limits, worker.check, opener)
    server = Server(answerer, worker, Media([root], folder), Settings(model="tiny", **more))
    bound = bind("127.0.0.1", 0)
    graceful = GracefulServer(uvicorn.Config(server.app(), log_level="error"), worker, grace)
    thread = threading.Thread(
        target=lambda: asyncio.run(graceful.serve(sockets=[bound])), daemon=True
    )
    thread.start()
    while not graceful.started:
        time.sleep(0.01)
    try:
        yield Running(bound.getsockname()[1], server, graceful)
    finally:
        graceful.should_exit = True
        thread.join(20)
        worker.join()
        assert not list(folder.iterdir())  # uploads are gone


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def video(place) -> dict:
    """A part with a file, an address, or the content of a file."""
    if isinstance(place, bytes):
        place = f"data:video/mp4;base64,{base64.b64encode(place).decode()}"
    elif isinstance(place, Path):
        place = place.as_uri()
    return {"type": "video_url", "video_url": {"url": place}}


def image(content: bytes) -> dict:
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


_stock = functools.cache(lambda: vtc.testing.tiny("llava_onevision"))


def tiny_model():
    """A wrapped model that writes until it is stopped."""
    model, processor = copy.deepcopy(_stock()[0]), _stock()[1]
    selector = vtc.selector("dks", keyframes=3)
    vtc.wrap(model, selector, "dfm", processor=processor, encoder=vtc.testing.tiny_encoder())
    model.generation_config.eos_token_id = None
    return model, processor
