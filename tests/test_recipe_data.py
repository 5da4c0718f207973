"""Data of recipes: both formats, exact labels in every family, errors before training starts."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import vtc
from vtc_recipes.training.batches import Collator, conversation
from vtc_recipes.training.config import Source
from vtc_recipes.training.data import Sample, load_samples
from vtc_recipes.training.rows import Turn

FAMILIES = ("llava_onevision", "qwen2_vl", "qwen3_vl", "internvl", "smolvlm", "gemma3")
SOURCE = Source(name="clips")
DIALOGUE = (
    Turn("user", "What is red?"),
    Turn("assistant", "The square."),
    Turn("user", "And blue?"),
    Turn("assistant", "Nothing at all."),
)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "clip.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=6, fps=2, size=(48, 64)), 2)
    return path


@pytest.fixture(scope="session", params=FAMILIES)
def collator(request):
    model, processor = vtc.testing.tiny(request.param)
    selector = vtc.selector("uniform", keyframes=2)
    encoder = vtc.testing.tiny_encoder()
    vtc.wrap(model, selector, "mean_pool", processor=processor, encoder=encoder)
    return Collator(model, model.vtc, processor)


@pytest.fixture(scope="session")
def onevision():
    model, processor = vtc.testing.tiny("llava_onevision")
    vtc.wrap(model, "uniform", "mean_pool", processor=processor)
    return Collator(model, model.vtc, processor)


def write(path, entries):
    path.write_text(json.dumps(entries))
    return path


def read(path, **settings):
    return load_samples([Source(name="clips", path=str(path), **settings)], seed=0)


def llava(video="clip.mp4", *texts, **more):
    texts = texts or ("<video>\nWhat is red?", "The square.")
    speakers = ("human", "gpt")
    turns = [{"from": speakers[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"video": video, "conversations": turns, **more}


# --- formats


@pytest.mark.parametrize(
    "text",
    ["<video>\nWhat is red?", "What is red? <video>", "<image>\nWhat is red?", "What is red?"],
)
def test_llava_json(clip, tmp_path, text):
    path = write(tmp_path / "a.json", [llava(clip.name, text, "The square.", query="red")])
    (sample,) = read(path, video_folder=str(clip.parent))
    assert (sample.video, sample.query) == (clip, "red")
    assert sample.turns == DIALOGUE[:2]


def test_messages_as_json_lines(clip):
    content = [{"type": "video", "video": clip.name}, {"type": "text", "text": "What is red?"}]
    answer = [{"type": "text", "text": "The square."}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    plain = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel\u2028lo"}]
    path = clip.parent / "b.jsonl"
    path.write_text(
        "\n\n".join(json.dumps({"messages": one}, ensure_ascii=False) for one in (messages, plain)),
        encoding="utf-8",
    )
    first, second = read(path, format="messages")
    assert first.turns == DIALOGUE[:2] and first.video == clip
    assert second.video is None and second.turns[0] == Turn("user", "Hi")


def test_a_share_is_drawn_by_the_seed(clip):
    entries = [llava(clip.name, "<video>Q", str(n)) for n in range(20)]
    path = str(write(clip.parent / "c.json", entries))

    def answers(share, seed):
        source = Source(name="clips", path=path, share=share)
        return [s.turns[1].text for s in load_samples([source], seed)]

    assert len(answers(0.25, 0)) == 5 and answers(0.25, 0) == answers(0.25, 0)
    assert answers(0.25, 0) != answers(0.25, 1)
    assert answers(1.0, 3) == [str(n) for n in range(20)]
    both = [Source(name="a", path=path), Source(name="b", share=0)]
    assert len(load_samples(both, 0)) == 20


# --- errors


def test_all_bad_samples_are_named_with_their_places(clip):
    entries = [
        llava(clip.name),
        llava("missing.mp4"),
        llava(clip.name, "Q?", "A", "Q?"),
        llava(clip.name, "<video> <video> Q?", "A"),
        llava(clip.name, "Q?", "A <video>"),
        llava(clip.name, "Q?", " "),
        {"video": clip.name},
        {"conversations": llava()["conversations"]},
        {"video": 3, "conversations": llava("x", "Q?", "A")["conversations"]},
        {"conversations": [{"from": "bot", "value": "A"}]},
        7,
    ]
    path = write(clip.parent / "d.json", entries)
    with pytest.raises(ValueError, match="the data have 10 errors") as caught:
        read(path)
    for text in (
        f"{path}, entry 1: there is no file {clip.parent / 'missing.mp4'}",
        "entry 2: expected pairs of question and answer, got 3 turns",
        "entry 3: expected at most one <video>, in the first turn",
        "entry 4: expected at most one <video>, in the first turn",
        "entry 5: turn 1 (assistant) has no text",
        "entry 6: conversations is missing",
        "entry 7: the text has a <video>, but the sample names no video",
        "entry 8: video: expected a string, got 3",
        "entry 9: conversations.0.from: expected 'human' or 'gpt', got 'bot'",
        "entry 10: expected a mapping, got 7",
    ):
        assert text in str(caught.value), text


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        (
            [{"role": "system", "content": "Be kind."}],
            "messages.0.role: expected 'user' or",
        ),
        (
            [{"role": "user", "content": [{"type": "audio"}]}],
            "content.0.type: expected 'video', 'image' or",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "video"}]}],
            "messages.0.content.1: expected one video, before the text of the first",
        ),
        ([{"role": "assistant", "content": "A"}] * 2, "turn 0: expected role user, got assistant"),
    ],
)
def test_bad_messages_are_named(tmp_path, messages, error):
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps({"messages": messages}))
    with pytest.raises(ValueError, match=error):
        read(path, format="messages")


def test_a_list_is_read_whatever_the_ending_of_its_file(clip):
    path = write(clip.parent / "list.txt", [llava(clip.name)])
    assert len(read(path)) == 1


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "f.jsonl").write_text('{"messages": []}\n{"mess\n[')
    with pytest.raises(ValueError, match="the data have 3 errors") as caught:
        read(tmp_path / "f.jsonl", format="messages")
    for text in (
        "line 1: expected pairs of question and answer",
        "line 2 is not valid JSON",
        "line 3 is not valid",
    ):
        assert f"f.jsonl, {text}" in str(caught.value)
    with pytest.raises(ValueError, match=r"none.json cannot be read"):
        read(tmp_path / "none.json")
    with pytest.raises(ValueError, match="g.json: expected a list, got dict"):
        read(write(tmp_path / "g.json", {}))
    with pytest.raises(ValueError, match=r"no file is set for data.sources.1.path \(b\); give"):
        load_samples([Source(name="a", share=0), Source(name="b")], 0)
    with pytest.raises(ValueError, match="the data sources hold no sample"):
        load_samples([Source(name="a", share=0)], 0)


# --- labels


def learned(collator, batch, row=0):
    labels = batch["labels"][row]
    return collator._processor.tokenizer.decode(labels[labels != -100])


def test_labels_are_the_answers_and_nothing_else(collator, clip):
    short = Sample(clip, DIALOGUE[:2], None, SOURCE)
    batch = collator([Sample(clip, DIALOGUE, None, SOURCE), short])
    processor = collator._processor
    spoken = learned(collator, batch)
    first, rest = spoken.split("The square.")
    assert first == "" and rest.endswith(rest.split("Nothing at all.")[1])
    end = rest.split("Nothing at all.")[0]
    assert end and spoken == f"The square.{end}Nothing at all.{end}"
    assert set(processor.tokenizer(end, add_special_tokens=False)["input_ids"]) <= set(
        processor.tokenizer.all_special_ids
    )
    ids, labels, mask = (batch[name] for name in ("input_ids", "labels", "attention_mask"))
    assert torch.equal(ids[labels != -100], labels[labels != -100])
    placeholder = collator._toolkit.adapter.video_token_id(collator._model)
    assert not bool((labels == placeholder).any()) and bool((ids == placeholder).any())
    assert bool((labels[mask == 0] == -100).all())
    assert learned(collator, batch, row=1) == f"The square.{end}"
    assert batch["vtc_query"] == ["And blue?", "What is red?"]


def test_the_prompt_is_the_one_of_asking(collator, clip):
    batch = collator([Sample(clip, DIALOGUE[:2], None, SOURCE)])
    asked = vtc.prepare_inputs(
        collator._model, collator._processor, str(clip), "What is red?", fps=1.0
    )
    prompt = batch["input_ids"][0][: int((batch["labels"][0] == -100).sum())]
    assert torch.equal(prompt, asked["input_ids"][0])
    assert len(batch["vtc_videos"]) == 1


def test_the_loss_is_that_of_the_answers(collator, clip):
    """Against the logits of the same call, and rows of different kinds in one batch."""
    batch = collator(
        [
            Sample(clip, DIALOGUE, None, SOURCE),
            Sample(None, DIALOGUE[:2], None, SOURCE),
        ]
    )
    with torch.no_grad():
        output = collator._model(**batch)
        expected = []
        for row in range(2):
            taught = batch["labels"][row]
            taught = taught[int((taught == -100).long().argmin()) :]  # from the first answer on
            logits = output.logits[row, -len(taught) - 1 : -1].double()
            chosen = torch.log_softmax(logits, -1).gather(1, taught.clamp(min=0)[:, None])[:, 0]
            expected.append(-chosen[taught != -100])
    assert output.loss.item() == pytest.approx(torch.cat(expected).mean().item(), abs=1e-4)


def test_a_still_image_is_a_video_of_one_frame(onevision, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 48), "red").save(tmp_path / "still.png")
    batch = onevision([Sample(tmp_path / "still.png", DIALOGUE[:2], None, SOURCE)])
    assert len(batch["vtc_videos"][0].source) == 1


def test_training_on_videos_of_one_frame_warns_once(onevision, tmp_path):
    vtc.testing.write_video(tmp_path / "short.mp4", vtc.testing.moving_squares(seconds=1, fps=2), 2)
    sample = Sample(tmp_path / "short.mp4", DIALOGUE[:2], None, Source(name="clips", fps=0.1))
    onevision._warned = False
    with pytest.warns(UserWarning, match=r"short.mp4 has 1 frame at fps=0.1, .* raise fps of the"):
        onevision([sample])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onevision([sample])


words = st.text(st.characters(codec="ascii", exclude_characters="<>|\x00"), min_size=1)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(words.filter(str.strip), min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0))
@example(["0", "r"])
def test_any_answers_can_be_told_from_the_rest(onevision, texts):
    turns = [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]
    pieces = conversation(onevision._processor, turns)
    spoken = [piece.text for piece in pieces if piece.is_answer]
    answers = texts[1::2]
    assert [text.removesuffix("<|im_end|>") for text in spoken] == answers
    ids, labels = onevision.tokenise(Sample(None, tuple(turns), None, SOURCE), None)
    decode = onevision._processor.tokenizer.decode
    assert decode(labels[labels != -100]) == "".join(f"{answer}<|im_end|>" for answer in answers)
    assert decode(ids) == "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages | length }}", "cannot locate the answer in the chat template's output"),
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content[0].text | upper }}{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}",
            "expected 'The square.', got ",
        ),
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content[0].text }}{% endfor %}"
            "{% if add_generation_prompt %}[assistant]<think>{% endif %}",
            r"'\[assistant\]<think>' before the answer, got '\[assistant\]'",
        ),
        (None, "has no chat_template"),
    ],
)
def test_templates_that_hide_the_answers_are_refused(onevision, template, message):
    import copy

    processor = copy.copy(onevision._processor)
    processor.chat_template = template
    with pytest.raises(ValueError, match=message):
        conversation(processor, DIALOGUE)
