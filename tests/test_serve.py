"""The server: answers, streams, turns and limits, asked by OpenAI's own client."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image
from serving import Limits, image, openai, serving, text, tiny_model, video

import vtc

QUESTION = "What is red?"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, seed in (("a.mp4", 0), ("ü ß.mp4", 1)):
        frames = vtc.testing.moving_squares(seconds=6 + seed, seed=seed)
        vtc.testing.write_video(folder / name, frames)
    return folder


@pytest.fixture(scope="module")
def tiny():
    return tiny_model()


@pytest.fixture(scope="module")
def server(tiny, root, tmp_path_factory):
    with serving(*tiny, root, tmp_path_factory.mktemp("uploads")) as running:
        yield running


@pytest.fixture
def png():
    file = io.BytesIO()
    Image.fromarray(np.zeros((48, 56, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def pieces(stream) -> str:
    return "".join(e.choices[0].delta.content or "" for e in stream if e.choices)


@pytest.mark.parametrize("length", [1, 7, 40])
def test_an_answer_is_that_of_vtc_ask(server, tiny, root, length):
    file = root / "a.mp4"
    answer = vtc.ask(*tiny, file, QUESTION, max_new_tokens=length)
    reply = server.ask(video(file), text(QUESTION), max_tokens=length)
    [choice] = reply.choices
    assert choice.message.content == answer.text and choice.finish_reason == "length"
    prompt = vtc.prepare_inputs(*tiny, file, QUESTION)["input_ids"].shape[1]
    assert reply.usage.completion_tokens == length
    # One placeholder stands for the whole video, and a newline follows its frames.
    assert reply.usage.prompt_tokens == prompt - 1 + answer.report.tokens_after
    assert reply.vtc["tokens_after"] == answer.report.tokens_after < reply.vtc["tokens_before"]
    keyframes = [frame.index for frame in answer.report.keyframes]
    assert [frame["index"] for frame in reply.vtc["videos"][0]["keyframes"]] == keyframes
    assert reply.vtc["videos"][0]["query"] == QUESTION


def test_a_stream_gives_the_same_text_usage_and_report(server, root):
    parts = video(root / "a.mp4"), text(QUESTION)
    whole = server.ask(*parts, max_tokens=30)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    events = list(server.ask(*parts, max_tokens=30, **options))
    assert pieces(events) == whole.choices[0].message.content
    assert events[0].choices[0].delta.role == "assistant"
    assert sum(bool(e.choices and e.choices[0].delta.content) for e in events) > 10
    *_, end, usage = events
    assert end.choices[0].finish_reason == "length" and usage.choices == []
    assert usage.usage == whole.usage and end.vtc["tokens_after"] == whole.vtc["tokens_after"]
    assert all(event.usage is None for event in events[:-1])


def test_an_upload_is_read_as_the_file(server, root):
    file = root / "a.mp4"
    here = server.ask(video(file), text(QUESTION))
    sent = server.ask(video(file.read_bytes()), text(QUESTION))
    assert sent.choices[0].message.content == here.choices[0].message.content
    assert sent.vtc["tokens_after"] == here.vtc["tokens_after"]


def test_names_of_files_may_hold_anything(server, root):
    assert server.ask(video(root / "ü ß.mp4"), text(QUESTION)).vtc["frames"] == 7
    assert server.ask(video(f"file://{root}/ü ß.mp4"), text(QUESTION)).vtc["frames"] == 7


def test_several_turns_videos_and_pictures(server, root, png):
    first = video(root / "a.mp4"), text(QUESTION)
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [*first]},
        {"role": "assistant", "content": "A dot.", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "Where is it?"},
    ]
    reply = server.client().chat.completions.create(model="tiny", messages=messages, max_tokens=3)
    assert reply.vtc["videos"][0]["query"] == "Where is it?"
    two = server.ask(*first, video(root / "ü ß.mp4"), text("And here?"))
    assert [each["frames"] for each in two.vtc["videos"]] == [6, 7]
    assert two.vtc["videos"][0]["query"] == f"{QUESTION}\nAnd here?"
    beside = server.ask(image(png), *first)
    assert beside.usage.prompt_tokens > server.ask(*first).usage.prompt_tokens
    for parts in ((image(png), text("What?")), (text("What?"),)):
        reply = server.ask(*parts)
        assert reply.usage.completion_tokens == 4 and "vtc" not in reply.model_extra


def test_a_second_question_reads_the_cache(root, tmp_path):
    model, processor = vtc.testing.tiny("llava_onevision")
    clip, uploads = tmp_path / "clip", tmp_path / "uploads"
    vtc.testing.save_tiny_clip(clip)
    uploads.mkdir()
    vtc.wrap(model, processor=processor, encoder=str(clip))
    with serving(model, processor, root, uploads, cache=tmp_path / "cache") as server:
        file = root / "a.mp4"
        first = server.ask(video(file), text(QUESTION)).vtc["videos"][0]["cache"]
        second = server.ask(video(file.read_bytes()), text("Where?")).vtc["videos"][0]["cache"]
    assert [use["hit"] for use in first + second] == [False, True]


def test_a_request_sets_how_its_video_is_read(server, root):
    parts = video(root / "a.mp4"), text(QUESTION)
    reading = {"fps": 4, "max_frames": 10, "query": "a circle", "report": "full"}
    [report] = server.ask(*parts, extra_body={"vtc": reading}).vtc["videos"]
    assert report["frames"] == len(report["relevance"]) == len(report["timestamps"]) == 10
    assert report["query"] == "a circle"
    [report] = server.ask(*parts).vtc["videos"]
    assert report["frames"] == 6 and "relevance" not in report


def test_limits_of_the_server_hold(tiny, root, tmp_path):
    limits = Limits(max_frames=3, max_new_tokens=5, max_pixels=100 * 100)
    with serving(*tiny, root, tmp_path, limits=limits, max_upload=100_000) as server:
        parts = video(root / "a.mp4"), text(QUESTION)
        with pytest.raises(openai.BadRequestError, match="max_tokens: expected at most 5, got 6"):
            server.ask(*parts, max_tokens=6)
        with pytest.raises(openai.APIStatusError, match="expected a body of at most") as error:
            server.ask(video(bytes(10**6)), text(QUESTION))
        assert error.value.status_code == 413
        with pytest.raises(openai.BadRequestError, match="at most 10,000 pixels, got 320x180"):
            server.ask(*parts, extra_body={"vtc": {"max_frames": 100}})
        assert server.ask(text("What?"), max_tokens=None).usage.completion_tokens == 5


def test_sampling_follows_the_request(server):
    def texts(**options):
        return [
            server.ask(text("What?"), max_tokens=20, **options).choices[0].message.content
            for _ in range(3)
        ]

    assert len(set(texts(temperature=0))) == 1
    assert len(set(texts(temperature=2))) == 3
    assert len(set(texts(temperature=2, seed=7))) == 1
    assert len(set(texts(top_p=0.9))) == 3


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(server):
    whole = server.ask(text("What?"), max_tokens=60).choices[0].message.content
    stop = whole[20:23]
    for options in ({"stop": stop}, {"stop": ["\x00", stop]}):
        reply = server.ask(text("What?"), max_tokens=60, **options)
        assert reply.choices[0].message.content == whole[: whole.index(stop)].rstrip()
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.completion_tokens < 60
        stream = server.ask(text("What?"), max_tokens=60, stream=True, **options)
        assert pieces(stream) == reply.choices[0].message.content


def test_models_health_and_metrics(server, root):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here"):
        client.models.retrieve("other")

    def numbers():
        lines = client.get("/../metrics", cast_to=str).splitlines()
        rows = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}

    before = numbers()
    reply = server.ask(video(root / "a.mp4"), text(QUESTION))
    with pytest.raises(openai.BadRequestError):
        server.ask(text(QUESTION), n=2)
    after = numbers()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['vtc_requests_total{status="200"}'] == 1
    assert grown['vtc_requests_total{status="400"}'] == 1
    assert grown['vtc_tokens_total{kind="prompt"}'] == reply.usage.prompt_tokens
    assert grown['vtc_visual_tokens_total{when="after"}'] == reply.vtc["tokens_after"]
    assert grown["vtc_frames_total"] == 6 and grown["vtc_request_seconds_count"] == 2
    assert after["process_resident_memory_bytes"] > 0 and after["vtc_running"] == 0
    health = json.loads(client.get("/../health", cast_to=str))
    assert health == {"status": "ok", "waiting": 0, "running": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--api-key-env", "VTC_NO_KEY"), "the environment variable VTC_NO_KEY to hold the key"),
        (("--video-root", "nowhere"), "expected --video-root to be a folder, got 'nowhere'"),
        (("--host", "203.0.113.1"), "cannot serve on 203.0.113.1:0: "),
        (("--max-frames", "0"), "expected max_frames to be a whole number of at least 1, got 0"),
        (("--reader", "vlc"), "expected reader to be 'pyav' or 'decord', got 'vlc'"),
        (("--model", "nothing"), "nothing"),
    ],
)
def test_the_command_reports_wrong_options_at_once(command, words, message):
    code, _, err = command("serve", "--model", "shipped", "--port", 0, *words)
    assert code == 1 and message in " ".join(err.split()) and err.count("\n") == 1


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_one_line_with_the_command(command, monkeypatch, package):
    for name in [name for name in sys.modules if name.startswith("vtc.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = command("serve", "--model", "shipped")
    wanted = f"vtc serve needs {package}: pip install 'video-token-compression[serve]'"
    assert code == 1 and err == f"vtc: error: {wanted}\n"
