"""The server refuses what it should: foreign files, hosts, keys and fields, in words."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import os
import socket
import time
import zlib
from collections import Counter

import httpx
import pytest
from serving import openai, serving, text, tiny_model, video

import vtc

KEY = "s3cret"
QUESTION = {"role": "user", "content": "What is red?"}
CHAT = {"model": "tiny", "messages": [QUESTION], "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that is served, beside a secret one."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "root" / "sub").mkdir(parents=True)
    (folder / "rooted").mkdir()
    frames = vtc.testing.moving_squares(seconds=3)
    for name in ("root/a.mp4", "root/sub/b.mp4", "rooted/secret.mp4", "secret.mp4"):
        vtc.testing.write_video(folder / name, frames)
    (folder / "root/out.mp4").symlink_to(folder / "secret.mp4")
    (folder / "root/outside").symlink_to(folder)
    (folder / "root/in.mp4").symlink_to(folder / "root/a.mp4")
    (folder / "root/loop.mp4").symlink_to(folder / "root/loop.mp4")
    os.mkfifo(folder / "root/pipe.mp4")
    (folder / "root/text.mp4").write_text("no video")
    (folder / "root/empty.mp4").touch()
    (folder / "root/cut.mp4").write_bytes((folder / "secret.mp4").read_bytes()[:900])
    (folder / "root/list.mp4").write_text(f"ffconcat version 1.0\nfile '{folder}/secret.mp4'\n")
    return folder


@pytest.fixture(scope="module")
def server(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    with serving(*tiny_model(), place / "root", folder, key=KEY) as running:
        running.headers = {"authorization": f"Bearer {KEY}".encode()}
        yield running


def post(server, body, headers=(), path="/v1/chat/completions"):
    """The status and the message of a request that is refused."""
    headers = {**server.headers, "content-type": "application/json", **dict(headers)}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = httpx.post(server.url + path, content=content, headers=headers, timeout=60)
    error = reply.json().get("error")
    if error is not None:
        assert error.keys() == {"message", "type", "param", "code"} and "\n" not in error["message"]
        assert "Traceback" not in error["message"] and reply.status_code >= 400
    return reply.status_code, error["message"] if error else reply.json()


def ask(server, *content, **fields):
    messages = [{"role": "user", "content": [*content, text("What?")]}]
    return post(server, {"model": "tiny", "messages": messages, "max_tokens": 2, **fields})


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "file://{place}/secret.mp4",
        "file://{place}/root/../secret.mp4",
        "file://{place}/root/%2e%2e/secret.mp4",
        "file://{place}/root/%2E%2E%2Fsecret.mp4",
        "file://{place}/root/sub/../../secret.mp4",
        "file://{place}/root/out.mp4",
        "file://{place}/root/outside/secret.mp4",
        "file://{place}/root/loop.mp4",
        "file://{place}/rooted/secret.mp4",
        "file://{place}/nothing.mp4",
        "file://evil.example/{place}/root/a.mp4",
        "file:///proc/self/environ",
        "file:///dev/zero",
        "file://{place}/root/a.mp4%00",
        "file://secret.mp4",
        "file://",
    ],
)
def test_no_file_outside_the_roots_is_read(server, place, url):
    status, message = ask(server, video(url.format(place=place)))
    assert status == 400 and "is not below a folder that this server may read" in message
    assert "no such file" not in message  # which would say what exists


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/a.mp4",
        "https://example.com/a.mp4",
        "ftp://example.com/a.mp4",
        "concat:a.mp4|b.mp4",
        "/etc/passwd",
        "file:/etc/passwd",
        "secret.mp4",
        "",
    ],
)
def test_other_addresses_are_refused(server, url):
    status, message = ask(server, video(url))
    assert status == 400 and "expected a file:// address below a --video-root" in message


def test_files_below_the_roots_are_read_through_links_and_escapes(server, place):
    for url in ("in.mp4", "sub/../a.mp4", "%61.mp4", "sub/b.mp4"):
        status, reply = ask(server, video(f"file://{place}/root/{url}"))
        assert status == 200, reply
    assert ask(server, video(f"FILE://localhost{place}/root/a.mp4"))[0] == 200


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe.mp4", "expected a video file, got a pipe"),
        ("text.mp4", "not a video that FFmpeg can read"),
        ("empty.mp4", "the file is empty"),
        ("cut.mp4", "mp4: "),
        ("list.mp4", "is an ffconcat script, which names other files"),
        ("sub", "expected a video file, got a folder"),
        ("missing.mp4", "there is no such file"),
    ],
)
def test_broken_files_are_refused_in_words(server, place, name, message):
    status, answer = ask(server, video(place / "root" / name))
    assert status == 400 and message in answer
    path = place / "root" / name
    if path.is_file():
        status, answer = ask(server, video(path.read_bytes()))
        assert status == 400 and (message in answer or "mp4" in name)


def picture(width: int, height: int) -> str:
    """A PNG file that only claims its size."""

    def chunk(kind, data):
        head = len(data).to_bytes(4, "big") + kind + data
        return head + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (picture(60_000, 60_000), "expected an image of at most 64,000,000 pixels"),
        (picture(9000, 9000), "expected an image of at most 64,000,000 pixels"),
        (picture(8, 8), "the image is damaged"),
        ("data:image/png;base64,AAAA", "expected an image: JPEG, PNG"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "expected an image"),
        ("data:image/png;base64,AA=A", "invalid base64"),
        ("data:image/png,AAAA", "expected data:image/"),
        ("data:text/html;base64,AAAA", "expected data:image/"),
        ("https://example.com/a.png", "this server downloads nothing"),
        ("file:///etc/hostname", "is not below a folder"),
    ],
)
def test_broken_pictures_are_refused_in_words(server, url, message):
    status, answer = ask(server, {"type": "image_url", "image_url": {"url": url}})
    assert status == 400 and message in answer


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "messages: list should have at least 1 item"),
        ({"messages": "hi"}, "messages: input should be a valid list"),
        ({"messages": None}, "messages: is missing"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]: input tag 'tool'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: is missing"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content: list should have"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content: input should be"),
        ({"messages": [{"role": "user", "content": "  "}]}, "to have some text"),
        ({"messages": [QUESTION, {"role": "assistant", "content": "x"}]}, "the last message"),
        ({"messages": [{**QUESTION, "mood": 1}]}, "messages[0].mood: this server does not know"),
        (
            {"messages": [{"role": "system", "content": [video("file:///a")]}, QUESTION]},
            "messages[0].content[0].type: expected 'text', got \"video_url\"",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "content[0]: input tag"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "with a lone surrogate"),
        ({"messages": [{"role": "user", "content": "<video>"}]}, "expected text to be plain text"),
        ({"messages": [QUESTION] * 300}, "messages: list should have at most 256 items"),
        ({"n": 2}, "n: expected 1, got 2"),
        ({"tools": []}, "tools: this server does not know this field"),
        ({"t\ud800ols": []}, "body: input should be a valid string"),
        ({"x" * 10_000: 1}, "this server does not know"),
        ({"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens: input should be a valid integer"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "give either max_tokens or"),
        ({"temperature": -1}, "temperature: input should be greater than or equal to 0"),
        ({"temperature": "0"}, "temperature: input should be a valid number"),
        ({"top_p": 0}, "top_p: input should be greater than 0"),
        ({"stop": ["a"] * 5}, "stop: list should have at most 4 items"),
        ({"stop": ""}, "stop: string should have at least 1 character"),
        ({"stream": "yes"}, "stream: input should be a valid boolean"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream: true"),
        ({"vtc": {"fps": 0}}, "vtc.fps: input should be greater than 0"),
        ({"vtc": {"keyframes": 3}}, "vtc.keyframes: this server does not know this field"),
        ({"model": "gpt-9"}, "there is no model 'gpt-9' here; this server has 'tiny'"),
        ({"seed": 2**63}, "seed: "),
    ],
)
def test_wrong_fields_are_refused_in_words(server, fields, message):
    body = {"model": "tiny", "messages": [QUESTION], **fields}
    status, answer = post(server, body)
    assert (
        status == (404 if "model" in fields else 400) and message in answer and len(answer) < 2100
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "expected the body to be an object, got list"),
        (b'{"temperature": NaN}', "NaN is not a JSON number"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_bodies_that_are_no_request_are_refused(server, body, message):
    status, answer = post(server, body)
    assert status == 400 and message in answer


def test_null_stands_for_a_field_that_is_left_out(server):
    nulls = ["temperature", "top_p", "stop", "seed", "stream", "stream_options", "n", "tools"]
    nulls += ["response_format", "logprobs", "vtc", "user", "max_completion_tokens"]
    body = {"model": "tiny", "messages": [QUESTION], "max_tokens": 1, **dict.fromkeys(nulls)}
    assert post(server, body)[0] == 200
    neutral = {"n": 1, "logprobs": False, "frequency_penalty": 0.0, "presence_penalty": 0}
    assert post(server, {**body, **neutral, "response_format": {"type": "text"}})[0] == 200


def test_any_text_can_be_asked(server):
    for words in ("héllo ☃ 你好", "\u202e\u0000\x1b[2J", "{{7*7}}"):
        messages = [{"role": "system", "content": words}, {"role": "user", "content": words}]
        assert post(server, {"model": "tiny", "messages": messages, "max_tokens": 1})[0] == 200


@pytest.mark.parametrize(
    "key", ["", "Bearer", "Bearer wrong", "Bearer s3cret x", "Basic s3cret", "Bearer é"]
)
def test_wrong_keys_are_refused(server, key):
    for path in ("/v1/chat/completions", "/metrics", "/v1/models", "/nowhere"):
        headers = {"authorization": key.encode()}
        status, answer = post(server, {}, headers, path)
        assert status == 401 and "Authorization: Bearer KEY" in answer and "s3cret" not in answer
    with pytest.raises(openai.AuthenticationError):
        server.client(key="wrong").models.list()
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:80", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("localhost", 400),
        ("LOCALHOST:8000", 400),
        ("127.0.0.1:1", 400),
        ("[::1]:8000", 400),
        ("192.168.0.7", 400),
    ],
)
def test_foreign_hosts_are_refused(server, host, status):
    assert post(server, {}, {"host": host})[0] == status
    if status == 403:  # without a key too
        assert httpx.get(f"{server.url}/health", headers={"host": host}).status_code == 403


def test_pages_of_other_origins_cannot_ask(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        status, answer = post(server, {}, {"content-type": kind})
        assert status == 415 and "Content-Type: application/json" in answer
    preflight = httpx.options(f"{server.url}/v1/chat/completions", headers=server.headers)
    assert "access-control-allow-origin" not in preflight.headers
    assert preflight.json()["error"]["message"] == "Method Not Allowed"


def test_paths_that_do_not_exist_are_errors_of_the_protocol(server):
    assert post(server, {}, path="/v1/completions") == (404, "Not Found")
    assert post(server, {}, path="/docs")[0] == 404
    assert post(server, {}, path="/v1/models") == (405, "Method Not Allowed")


def raw_request(body: str, length: int | None = None) -> bytes:
    """The bytes that a client sends."""
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"authorization: Bearer {KEY}",
        f"content-length: {length or len(body)}",
        "",
        body,
    ]
    return "\r\n".join(lines).encode()


def test_many_at_once_are_answered_or_told_to_come_again_and_none_is_lost(server, place):
    alone = server.client(key=KEY).chat.completions.create(**CHAT).choices[0].message.content
    patient = server.client(key=KEY, max_retries=100)

    def one(number):
        match number % 8:
            case 0:  # a client that leaves
                with socket.create_connection(("127.0.0.1", server.port)) as client:
                    client.sendall(raw_request(json.dumps(CHAT)))
                    time.sleep(0.02)
                return "left"
            case 1:
                return str(ask(server, video(place / "root/cut.mp4"))[0])
            case 2:
                return str(post(server, CHAT, {"authorization": "Bearer wrong"})[0])
            case 3:  # without patience
                return str(post(server, CHAT)[0])
        answer = patient.chat.completions.create(**CHAT).choices[0].message.content
        return "right" if answer == alone else "wrong"

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        results = Counter(pool.map(one, range(64)))
    assert results["left"] == results["401"] == 8 and results["right"] == 32
    assert results["400"] + results["429"] + results["200"] == 16 and results["429"]
    assert server.idle_after(5) < 5 and ask(server)[0] == 200
    assert b'status="500"' not in server.server.metrics.text()


def test_clients_that_send_slowly_or_stop_sending_block_nobody(server):
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    for each in sockets:
        each.sendall(raw_request("{", length=999))
    try:
        assert ask(server)[0] == 200
    finally:
        for each in sockets:
            each.close()
    assert ask(server)[0] == 200
    assert b'status="500"' not in server.server.metrics.text()
