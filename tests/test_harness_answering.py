"""What the model of lmms-eval answers, with stand-ins for the requests of the harness."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vtc
from vtc.cli.models import ModelOptions
from vtc_recipes.evaluation.harness.answering import Answerer, ReadingOptions
from vtc_recipes.evaluation.harness.requests import (
    PredictionFile,
    Request,
    cut,
    question_of,
    read_generation,
    read_predictions,
)
from vtc_recipes.synthetic import random_video

GENERATION = {"max_new_tokens": 3, "do_sample": False}
TEXTS = ("What is red?", "Who walks by?", "Where is the star, and when?")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    paths = [folder / f"{seed}.mp4" for seed in range(2)]
    for seed, path in enumerate(paths):
        random_video(seed, 20, size=48).write(path, fps=2)
    return [str(path) for path in paths]


@pytest.fixture
def wrapped(encoder):
    model, processor = vtc.testing.tiny("llava_onevision")
    selector = vtc.selector("dks", keyframes=3, similarity_threshold=1.0)
    return vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder), processor


def message(*parts) -> dict:
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": "user", "content": content}


def video(path: str) -> dict:
    return {"type": "video", "url": path}


def request(doc: int, *messages, query=None) -> Request:
    return Request("task", doc, list(messages), GENERATION, query=query)


def about(path: str, text: str, doc: int = 0, query=None) -> Request:
    return request(doc, message(video(path), text), query=query)


def answerer(wrapped, folder=None, **options) -> Answerer:
    return Answerer(*wrapped, ReadingOptions(fps=2.0), PredictionFile(folder), **options)


def ask(wrapped, requests, folder=None, **options):
    return answerer(wrapped, folder, **options).answer(requests, lambda done, total: None)


def test_questions_about_one_video_share_a_pass_and_are_answered_as_one_by_one(
    wrapped, files, decoded
):
    order = [(0, 0), (1, 1), (0, 2)]
    requests = [about(files[f], TEXTS[t], doc) for doc, (f, t) in enumerate(order)]
    together = ask(wrapped, requests)
    frames = len(decoded)
    assert [each.doc for each in together] == [0, 1, 2]
    assert [each.together for each in together] == [2, 1, 2]
    decoded.clear()
    ask(wrapped, [about(files[0], TEXTS[0]), about(files[1], TEXTS[1])])
    assert frames == len(decoded)
    for each, one in zip(together, requests, strict=True):
        [alone] = ask(wrapped, [one])
        assert (alone.text, alone.keyframes, alone.tokens_after) == (
            each.text,
            each.keyframes,
            each.tokens_after,
        )
        model, processor = wrapped
        text, path = one.messages[0]["content"][1]["text"], one.messages[0]["content"][0]["url"]
        answer = vtc.ask(model, processor, path, text, fps=2.0, **GENERATION)
        assert answer.text == each.text and answer.report.tokens_after == each.tokens_after
        assert each.frames == 20 and each.tokens_before == 20 * each.per_frame + 1


def test_keyframes_are_selected_for_the_query(wrapped, files):
    [plain] = ask(wrapped, [about(files[0], TEXTS[0])])
    [other] = ask(wrapped, [about(files[0], "Look. " + TEXTS[0], query=TEXTS[0])])
    [prompt] = ask(wrapped, [about(files[0], "Look. " + TEXTS[0])])
    assert plain.keyframes == other.keyframes != prompt.keyframes


@pytest.mark.filterwarnings("ignore:task. no answer")
def test_a_resumed_run_asks_what_is_missing_and_what_failed(wrapped, files, tmp_path, monkeypatch):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    requests = [about(files[0], TEXTS[0], 0), about(str(broken), TEXTS[1], 1)]
    first = ask(wrapped, requests, tmp_path / "run")
    assert first[0].error is None and "broken.mp4" in first[1].error and first[1].text == ""
    file = tmp_path / "run/predictions-0.jsonl"
    file.write_bytes(file.read_bytes() + b'{"key": "half')  # as of a killed process
    broken.write_bytes(Path(files[1]).read_bytes())
    asked = []
    monkeypatch.setattr(
        ReadingOptions, "open", lambda s, p: asked.append(p) or vtc.VideoSource(p, fps=2)
    )
    requests.append(about(files[1], TEXTS[2], 2))
    second = ask(wrapped, requests, tmp_path / "run")
    assert asked == [str(broken), files[1]]
    assert second[0] == first[0] and second[1].error is None
    assert len(file.read_text().splitlines()) == 4
    assert read_predictions(tmp_path / "run") == {each.key: each for each in second}
    file.write_text('{"key": 1}\n')
    with pytest.raises(ValueError, match="predictions-0.jsonl, line 1 is damaged"):
        read_predictions(tmp_path / "run")


def test_a_second_process_with_the_same_file_is_refused(tmp_path):
    first = PredictionFile(tmp_path)
    with pytest.raises(ValueError, match="another run is writing to .*predictions-0.jsonl"):
        PredictionFile(tmp_path)
    PredictionFile(tmp_path, rank=1)
    del first


def test_conversations_with_a_system_turn_several_videos_and_pictures_are_answered(wrapped, files):
    picture = {"type": "image", "url": Image.fromarray(np.full((40, 40, 3), 90, np.uint8))}
    system = {"role": "system", "content": [{"type": "text", "text": "Answer in one word."}]}
    two, still, told, none = ask(
        wrapped,
        [
            request(0, message(video(files[0]), video(files[1]), TEXTS[0])),
            request(1, message(picture, video(files[0]), TEXTS[0])),
            request(2, system, message(video(files[0]), TEXTS[0])),
            request(3, message(TEXTS[0])),
        ],
    )
    assert two.frames == 40 and len(two.keyframes) == 6
    assert still.frames == told.frames == 20 and none.frames == none.tokens_after == 0


@pytest.mark.filterwarnings("ignore:task. no answer")
def test_a_question_that_fails_does_not_take_the_others_with_it(wrapped, files):
    texts = [TEXTS[0], "What is <video>?", TEXTS[1]]
    requests = [about(files[0], text, doc) for doc, text in enumerate(texts)]
    requests.append(request(3, message({"type": "audio", "url": "a.wav"}, TEXTS[0])))
    first, marked, last, audio = ask(wrapped, requests)
    assert first.error is last.error is None
    assert "<video>" in marked.error and marked.text == ""
    assert audio.error == "expected videos, pictures and text, got audio"
    with pytest.warns(UserWarning, match="task: no answer to row 1: .*<video>"):
        ask(wrapped, requests[1:2])


@pytest.mark.filterwarnings("ignore:task. no answer")
def test_a_folder_of_pictures_is_a_video(wrapped, tmp_path):
    for number in range(5):
        picture = Image.fromarray(np.full((40, 40, 3), 40 * number, np.uint8))
        picture.save(tmp_path / f"{number:03}.jpg")
    [prediction] = ask(wrapped, [about(str(tmp_path), TEXTS[0])])
    assert prediction.frames == 5 and prediction.error is None
    (tmp_path / "empty").mkdir()
    [prediction] = ask(wrapped, [about(str(tmp_path / "empty"), TEXTS[0])])
    assert "holds no picture" in prediction.error


CONTROL_PARTS = {
    "uniform": {"selector": "uniform", "merger": "drop"},
    "downsample": {"selector": "none", "merger": "mean_pool"},
    "random": {"selector": "random", "merger": "dfm"},
}


@pytest.mark.parametrize("control", CONTROL_PARTS)
def test_controls_have_the_tokens_of_the_method(wrapped, files, encoder, control):
    requests = [about(files[0], TEXTS[0], 0), about(files[1], TEXTS[1], 1)]
    method = {each.key: each for each in ask(wrapped, requests)}
    # The method took fewer tokens for the second question.
    second = method[requests[1].key]
    method[second.key] = replace(second, tokens_after=second.tokens_after - 20, keyframes=(0.0,))
    model, processor = vtc.testing.tiny("llava_onevision")
    vtc.wrap(model, **CONTROL_PARTS[control], processor=processor, encoder=encoder)
    for each in ask((model, processor), requests, control=control, method=method):
        like = method[each.key]
        if control == "downsample":
            assert each.tokens_after == like.tokens_after and not each.keyframes
        elif control == "uniform":
            assert abs(each.tokens_after - like.tokens_after) <= like.per_frame / 2 + 1
        else:
            assert len(each.keyframes) == len(like.keyframes)
            assert each.keyframes != like.keyframes


def test_controls_need_an_answer_of_the_method(wrapped, files):
    [each] = ask(wrapped, [about(files[0], TEXTS[0])], control="uniform", method={})
    assert "the method has no answer" in each.error


def test_without_video_the_question_alone_is_asked(wrapped, files):
    requests = [about(path, TEXTS[0], doc) for doc, path in enumerate(files)]
    first, second = ask(wrapped, requests, control="no_video")
    assert first.text == second.text and first.frames == 0
    model, processor = wrapped
    inputs = processor.apply_chat_template(
        [message(TEXTS[0])],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    new = model.generate(**inputs, **GENERATION)[0, inputs["input_ids"].shape[1] :]
    assert first.text == processor.decode(new, skip_special_tokens=True).strip()


def test_keys_tell_questions_apart_and_not_runs(files):
    one = about(files[0], TEXTS[0])
    assert one.key == about(files[0], TEXTS[0]).key
    others = [
        about(files[0], TEXTS[1]),
        about(files[1], TEXTS[0]),
        about(files[0], TEXTS[0], doc=1),
        about(files[0], TEXTS[0], query="Why?"),
        replace(one, generation={"max_new_tokens": 4}),
        replace(one, until=("\n",)),
    ]
    assert len({one.key, *(other.key for other in others)}) == 7
    grey = [Image.new("L", (4, 4), shade) for shade in (1, 2)]
    pictures = [request(0, message({"type": "image", "url": each})) for each in grey]
    assert pictures[0].key != pictures[1].key


def test_options_of_a_harness_become_those_of_generate():
    assert read_generation({"max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0}) == (
        {"max_new_tokens": 16, "do_sample": False},
        (),
    )
    sampled = {"temperature": 0.5, "top_p": 0.9, "until": ["\n", "."], "image_aspect_ratio": "pad"}
    assert read_generation(sampled) == (
        {"temperature": 0.5, "top_p": 0.9, "do_sample": True},
        ("\n", "."),
    )
    assert cut("B. red\nC", ("\n", ".")) == "B" and cut("B", ("\n",)) == "B"


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"question": "What is red?", "options": ["A. star"]}, "What is red?"),
        ({"question": "What is red?\n(A) a star\n(B) a moon"}, "What is red?"),
        ({"input": "What is\nred?\nA. a star\nAnswer."}, "What is\nred?"),
        ({"question": "A red star?"}, "A red star?"),
        ({"prompt": "Why?"}, None),
    ],
)
def test_the_question_of_a_row_has_no_options(row, question):
    assert question_of(row) == question


def test_a_line_of_the_predictions_holds_what_a_researcher_needs(wrapped, files, tmp_path):
    ask(wrapped, [about(files[0], TEXTS[0], 7)], tmp_path)
    line = json.loads((tmp_path / "predictions-0.jsonl").read_text())
    assert line["doc"] == 7 and line["frames"] == 20 and len(line["keyframes"]) == 3
    assert line["tokens_after"] == 3 * 4 + 17 + 1 and line["seconds"] > 0


def test_options_for_the_controls_replace_the_parts():
    pytest.importorskip("lmms_eval")
    from vtc_recipes.evaluation.harness.model import control_options

    options = ModelOptions(model="m", merger="mean_pool", max_tokens="99", keyframes=3)
    assert control_options(options, "random") == replace(options, selector="random", keyframes=None)
    assert control_options(options, "no_video") == options
    assert control_options(options, "downsample").max_tokens is None
