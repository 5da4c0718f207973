"""Several questions about one video share a pass, and are answered as one by one."""

import pytest
import torch
from transformers import GenerationConfig

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare
from vtc.testing.inputs import drifting_video

QUESTIONS = ["What is red?", "Who walks by, and when?", "Where?"]


@pytest.fixture(params=["stock", "separate", "encoder_patches"])
def wrapped(request):
    model, processor = vtc.testing.tiny("llava_onevision")
    encoder = vtc.testing.tiny_encoder()
    selector = vtc.selector("dks", keyframes=3, similarity_threshold=1.0)
    vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder)
    if request.param == "separate":
        model.vtc.separate_connector()
    elif request.param == "encoder_patches":
        with pytest.warns(UserWarning, match="untrained"):
            model.vtc.merge_encoder_patches()
    return model, processor


def tokens(model, inputs):
    with torch.no_grad():
        prepared = prepare(Call(model, model.vtc, inputs, generating=True))
    return prepared.inputs["mm_encoder_outputs"]["video"].pooler_output, prepared.report.videos


@pytest.mark.parametrize("chunk", [2, 16])
def test_tokens_and_keyframes_equal_those_of_one_question_at_a_time(wrapped, chunk):
    model, processor = wrapped
    model.vtc.chunk_slices = chunk
    video = drifting_video(17)
    together, reports = tokens(model, vtc.prepare_inputs(model, processor, [video] * 3, QUESTIONS))
    chosen = [[frame.index for frame in report.keyframes] for report in reports]
    assert len(set(map(tuple, chosen))) > 1  # or nothing is tested
    for row, question in enumerate(QUESTIONS):
        (alone,), (report,) = tokens(model, vtc.prepare_inputs(model, processor, video, question))
        assert [frame.index for frame in report.keyframes] == chosen[row]
        assert report.query == question == reports[row].query
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-6)


def test_each_frame_is_embedded_and_encoded_once(wrapped, monkeypatch):
    model, processor = wrapped
    encoder, adapter = model.vtc.encoder, model.vtc.adapter
    embedded, encoded = [], []
    embed, patches, encode = encoder.encode_frames, encoder.encode_patches, adapter.encode
    monkeypatch.setattr(encoder, "encode_frames", lambda x: embedded.append(len(x)) or embed(x))
    monkeypatch.setattr(encoder, "encode_patches", lambda x: embedded.append(len(x)) or patches(x))

    def counting(model, pixels):
        features = encode(model, pixels)
        encoded.append(len(features.tokens))
        return features

    monkeypatch.setattr(adapter, "encode", counting)
    video = drifting_video(17)
    tokens(model, vtc.prepare_inputs(model, processor, video, QUESTIONS[0]))
    of_one = sum(encoded)
    embedded.clear(), encoded.clear()
    tokens(model, vtc.prepare_inputs(model, processor, [video] * 3, QUESTIONS))
    assert sum(embedded) == 17
    if model.vtc.connector_kind == "stock":
        # Keyframes of one question are merged for another, so some frames are encoded twice.
        assert of_one == 17 and sum(encoded) <= 17 + 3 * 3


def test_ask_takes_several_questions(wrapped):
    model, processor = wrapped
    video = drifting_video(17)
    answers = vtc.ask(model, processor, video, QUESTIONS, max_new_tokens=3)
    assert len(answers) == 3
    for question, answer in zip(QUESTIONS, answers, strict=True):
        alone = vtc.ask(model, processor, video, question, max_new_tokens=3)
        assert answer.text == alone.text == answer.report.answer
        assert [f.index for f in answer.report.keyframes] == [
            f.index for f in alone.report.keyframes
        ]
        assert answer.report.videos[0].query == question


def test_rows_of_several_videos_keep_their_order(wrapped):
    model, processor = wrapped
    one, two = drifting_video(9, 1), drifting_video(12, 2)
    rows = [one, two, one]
    together, reports = tokens(model, vtc.prepare_inputs(model, processor, rows, QUESTIONS))
    assert [report.frames for report in reports] == [9, 12, 9]
    for row, (video, question) in enumerate(zip(rows, QUESTIONS, strict=True)):
        (alone,), _ = tokens(model, vtc.prepare_inputs(model, processor, video, question))
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-6)


def test_bad_questions_are_refused(wrapped):
    model, processor = wrapped
    with pytest.raises(TypeError, match="a text or a list of texts, got int"):
        vtc.ask(model, processor, drifting_video(4), 3)
    with pytest.raises(ValueError, match="to be some text"):
        vtc.ask(model, processor, drifting_video(4), [])
    with pytest.raises(ValueError, match="one question at a time"):
        vtc.ask(
            model, processor, drifting_video(4), ["a", "b"], num_beams=2, num_return_sequences=2
        )


@pytest.mark.parametrize("wrapped", ["stock"], indirect=True)
def test_each_question_gets_its_own_answer_where_settings_return_several(wrapped):
    """The second answer to the first question was given as that to the second question."""
    model, processor = wrapped
    settings = {"num_beams": 2, "max_new_tokens": 4, "do_sample": False}
    several = GenerationConfig(num_return_sequences=2, **settings)
    texts = []
    for more in (settings, {"generation_config": several}):
        answers = vtc.ask(model, processor, drifting_video(4), QUESTIONS, **more)
        texts.append([answer.text for answer in answers])
    assert texts[0] == texts[1] and len(set(texts[0])) > 1
