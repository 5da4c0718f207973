"""A request whose client leaves, whose time is over or whose server stops ends soon."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from serving import openai, serving, text, tiny_model, video

import vtc
from vtc.wrapped.access import toolkit_of

STAGES = ["decoding", "vision tower", "language model"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    frames = vtc.testing.moving_squares(seconds=60, size=(48, 64))
    vtc.testing.write_video(folder / "a.mp4", frames)
    return folder


@pytest.fixture(params=STAGES)
def slow(request, monkeypatch):
    """A model with a stage that would take a minute, and an event that is set when it starts."""
    model, processor = tiny_model()
    begun = threading.Event()

    def wait(*_):
        begun.set()
        time.sleep(0.2)

    if request.param == "decoding":
        watched = vtc.VideoSource.watched

        def slowly(source, check):
            return watched(source, lambda: (wait(), check()))

        monkeypatch.setattr(vtc.VideoSource, "watched", slowly)
    elif request.param == "vision tower":
        model.model.vision_tower.register_forward_pre_hook(wait)
        toolkit_of(model).chunk_slices = 1
    else:
        model.model.language_model.register_forward_pre_hook(wait)
    return model, processor, begun


def request_of(root, **fields) -> bytes:
    """The bytes that a client sends."""
    content = [video(root / "a.mp4"), text("What?")]
    messages = [{"role": "user", "content": content}]
    body = json.dumps({"model": "tiny", "messages": messages, "max_tokens": 400, **fields})
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@pytest.mark.parametrize("stream", [False, True])
def test_the_model_stops_soon_after_its_client_has_left(slow, root, tmp_path, stream):
    model, processor, begun = slow
    with serving(model, processor, root, tmp_path) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(request_of(root, stream=stream))
        assert begun.wait(30)
        time.sleep(0.3)
        assert server.worker.running
        client.close()
        assert server.idle_after(5) < 2
        assert "vtc_disconnects_total 1.0" in server.server.metrics.text().decode()


@pytest.fixture
def writes_slowly():
    """A model that writes a token each 0.05 seconds."""
    model, processor = tiny_model()
    model.model.language_model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    return model, processor


def in_thread(function):
    results = []

    def run():
        try:
            results.append(function())
        except openai.APIError as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def test_a_request_whose_time_is_over_ends_with_an_error(writes_slowly, root, tmp_path):
    with serving(*writes_slowly, root, tmp_path, timeout=1) as server:
        began = time.monotonic()
        with pytest.raises(openai.InternalServerError, match="longer than this server allows"):
            server.ask(video(root / "a.mp4"), text("What?"), max_tokens=400)
        assert 1 < time.monotonic() - began < 4


def test_an_error_in_the_middle_of_a_stream_reaches_the_client(writes_slowly, root, tmp_path):
    with serving(*writes_slowly, root, tmp_path, timeout=1.5) as server:
        stream = server.ask(text("What?"), max_tokens=400, stream=True)
        with pytest.raises(openai.APIError, match="longer than this server allows"):
            assert len(list(stream)) > 3


def test_a_client_that_leaves_the_queue_makes_room(writes_slowly, root, tmp_path):
    with serving(*writes_slowly, root, tmp_path, queue=1) as server:
        clients = []
        for waiting in (0, 1):
            client = socket.create_connection(("127.0.0.1", server.port))
            client.sendall(request_of(root))
            clients.append(client)
            while server.worker.running < 1 or server.worker.waiting < waiting:
                time.sleep(0.01)
        with pytest.raises(openai.RateLimitError, match="1 requests are waiting"):
            server.ask(text("What?"))
        clients[1].close()
        time.sleep(0.3)
        assert server.worker.waiting == 0 and server.worker.running == 1
        thread, results = in_thread(lambda: server.ask(text("What?"), max_tokens=2))
        clients[0].close()
        thread.join(10)
        assert results[0].usage.completion_tokens == 2


def test_a_failing_model_is_an_error_and_the_next_request_is_answered(root, tmp_path, caplog):
    model, processor = tiny_model()
    with serving(model, processor, root, tmp_path) as server:
        for error, status in (
            (RuntimeError("secret of the model"), 500),
            (SystemExit(3), 500),
            (MemoryError(), 503),
        ):

            def fail(*_, error=error):
                raise error

            hook = model.model.language_model.register_forward_pre_hook(fail)
            with pytest.raises(openai.InternalServerError) as raised:
                server.ask(text("What?"))
            assert raised.value.status_code == status and "secret" not in str(raised.value)
            hook.remove()
            assert server.ask(text("What?")).usage.completion_tokens == 4
    assert "secret of the model" in caplog.text


def test_a_stopping_server_finishes_the_answer_and_refuses_those_that_wait(
    writes_slowly, root, tmp_path
):
    with serving(*writes_slowly, root, tmp_path, grace=20) as server:
        runs, running = in_thread(lambda: server.ask(text("What?"), max_tokens=30))
        while not server.worker.running:
            time.sleep(0.01)
        waits, waiting = in_thread(lambda: server.ask(text("What?"), max_tokens=30))
        while not server.worker.waiting:
            time.sleep(0.01)
        server.graceful.should_exit = True
        runs.join(20), waits.join(20)
    assert running[0].usage.completion_tokens == 30
    assert waiting[0].status_code == 503 and "the server is stopping" in str(waiting[0])


def test_an_answer_that_outlasts_the_grace_ends_with_an_error(writes_slowly, root, tmp_path):
    with serving(*writes_slowly, root, tmp_path, grace=1) as server:
        runs, running = in_thread(lambda: server.ask(text("What?"), max_tokens=400))
        while not server.worker.running:
            time.sleep(0.01)
        began = time.monotonic()
        server.graceful.should_exit = True
        runs.join(20)
        assert time.monotonic() - began < 4
    assert running[0].status_code == 503 and "the server is stopping" in str(running[0])


@pytest.mark.slow
def test_sigterm_ends_the_command_after_the_running_answer(root, tmp_path):
    words = ["-m", "vtc.cli", "serve", "--model", "tiny:llava_onevision", "--port", "0"]
    words += ["--encoder", str(tmp_path / "clip"), "--selector", "uniform"]
    vtc.testing.save_tiny_clip(tmp_path / "clip")
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = next(line for line in process.stderr if "answers at" in line)
        url = line.split()[-1]
        while True:
            try:
                assert httpx.get(url.removesuffix("/v1") + "/health").status_code == 200
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        client = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
        stream = client.chat.completions.create(
            model="tiny:llava_onevision",
            messages=[{"role": "user", "content": "What?"}],
            max_tokens=300,
            stream=True,
        )
        next(iter(stream))
        process.send_signal(signal.SIGTERM)
        reasons = [event.choices[0].finish_reason for event in stream if event.choices]
        assert reasons[-1] in ("length", "stop")
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert not list(folder.iterdir())
    finally:
        process.kill()
