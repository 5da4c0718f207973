"""Converted checkpoints against a slow float64 transcription of what the release computes."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from transformers import CLIPModel, LlavaOnevisionForConditionalGeneration
from vilamp_release import CLIP_DIM, DIM, QUESTION, Release, prompt, scenes

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare
from vtc_adapters.tiny.tokenizer import byte_tokenizer
from vtc_recipes.vilamp import convert as converting


@pytest.fixture(scope="module")
def opened(converted):
    model = vtc.from_pretrained(converted, dtype=torch.float64)
    model.vtc.encoder.to(dtype=torch.float64)  # its rounding counts 1 / temperature times
    return model


def ask_inputs(model, frames, question=QUESTION):
    return vtc.prepare_inputs(model, model.vtc.processor, frames, question)


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_selection_sequence_and_logits_are_those_of_the_release(release, opened, seed):
    frames = scenes(17, seed)
    inputs = ask_inputs(opened, frames)
    expected, keys = release.sequence(frames, QUESTION)
    prepared = prepare(Call(opened, opened.vtc, inputs))
    found = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output[0]
    assert [frame.index for frame in prepared.report.videos[0].keyframes] == keys
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    logits = opened(**inputs).logits[0]
    reference = release.logits(frames, QUESTION)
    vocabulary = reference.shape[1]
    assert reference.std() > 1
    torch.testing.assert_close(logits[:, :vocabulary], reference, rtol=0, atol=1e-3)
    assert (logits[:, vocabulary:] < logits[:, :vocabulary].amax(1, keepdim=True)).all()


@pytest.mark.parametrize(
    "options",
    [
        {"max_frame_num": 1},
        {"max_frame_num": 7, "f2f_thrd": 0.5},
        {"max_frame_num": 6, "f2t_thrd": 0.99},  # no frame is relevant: all by the gaps
        {"max_frame_num": 9, "f2t_thrd": -1.0, "f2f_thrd": 0.99},
        {"max_frame_num": 40},
    ],
    ids=str,
)
@torch.no_grad()
def test_selection_at_other_settings(release, opened, monkeypatch, options):
    frames = scenes(23, seed=5)
    monkeypatch.setattr(release, "settings", release.settings | options)
    names = {
        "max_frame_num": "keyframes",
        "f2f_thrd": "similarity_threshold",
        "f2t_thrd": "relevance_threshold",
    }
    chosen = {names[name]: value for name, value in options.items()}
    base = {"fill": "gaps", "similarity_threshold": 0.85, "relevance_threshold": 0.2}
    monkeypatch.setattr(opened.vtc, "selector", vtc.selector("dks", **base | chosen))
    expected, keys = release.sequence(frames, QUESTION)
    prepared = prepare(Call(opened, opened.vtc, ask_inputs(opened, frames)))
    found = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output[0]
    assert [frame.index for frame in prepared.report.videos[0].keyframes] == keys
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_prompt_and_the_settings_are_those_of_the_release(converted, opened):
    ids = ask_inputs(opened, scenes(3))["input_ids"][0]
    assert opened.vtc.processor.tokenizer.decode(ids) == prompt(QUESTION)
    saved = json.loads((converted / "vtc.json").read_text())
    assert saved["selector"] == {
        "name": "dks",
        "keyframes": 5,
        "similarity_threshold": 0.85,
        "fill": "gaps",
        "relevance_threshold": 0.2,
    }
    # Saving an opened model writes the same file.
    vtc.save_pretrained(opened, converted.with_name("saved again"))
    assert saved == json.loads((converted.with_name("saved again") / "vtc.json").read_text())
    assert saved["merger"] == {
        "name": "dfm",
        "redundancy_weight": 1.0,
        "temperature": pytest.approx(0.03),
        "projection": "learned",
        "reference": "released",
        "normalise_query": False,
    }
    config = json.loads((converted / "config.json").read_text())
    assert config["text_config"]["rope_parameters"] == {
        "rope_theta": 5000.0,
        "rope_type": "default",
    }
    assert config["vision_config"]["num_hidden_layers"] == 2
    generation = json.loads((converted / "generation_config.json").read_text())
    assert generation["do_sample"] is False
    assert generation["eos_token_id"] == [opened.vtc.processor.tokenizer.eos_token_id]


def test_the_stock_class_opens_it_alone(converted):
    model, report = LlavaOnevisionForConditionalGeneration.from_pretrained(
        converted, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert all(key.startswith("vtc.merger.") for key in report["unexpected_keys"])
    assert model.config.text_config.vocab_size == len(byte_tokenizer()) + 2


@torch.no_grad()
def test_saved_again_it_is_the_same_and_moves_with_its_frame_encoder(
    release, opened, converted, tmp_path
):
    vtc.save_pretrained(opened, tmp_path / "again")
    (tmp_path / "again").rename(tmp_path / "moved")
    again = vtc.from_pretrained(tmp_path / "moved", dtype=torch.float64)
    again.vtc.encoder.to(dtype=torch.float64)
    assert again.vtc.encoder.name == str(tmp_path / "moved" / "frame_encoder")
    assert again.vtc.encoder.long_text == opened.vtc.encoder.long_text == "truncate"
    frames = scenes(12)
    inputs = ask_inputs(opened, frames)
    logits = again(**ask_inputs(again, frames)).logits
    torch.testing.assert_close(logits, opened(**inputs).logits, rtol=0, atol=1e-12)
    vtc.save_pretrained(again, tmp_path / "moved")  # onto itself: the encoder is there already
    assert vtc.from_pretrained(tmp_path / "moved").vtc.encoder.dim == CLIP_DIM


@torch.no_grad()
def test_the_papers_reference_is_one_option_away(release, converted):
    saved = json.loads((converted / "vtc.json").read_text())["merger"]
    model = vtc.from_pretrained(
        converted, merger={**saved, "reference": "preceding"}, dtype=torch.float64
    )
    model.vtc.encoder.to(dtype=torch.float64)
    frames = scenes(17)
    _, keys = release.sequence(frames, QUESTION)
    dense, text = release.dense(frames), release.text_features(QUESTION)
    prepared = prepare(Call(model, model.vtc, ask_inputs(model, frames)))
    found = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output[0]
    at, compared = 0, 0
    for n in range(len(frames)):
        before = [key for key in keys if key < n]
        if n not in keys and before:
            expected = release.slow_merge(dense[n], dense[before[-1]], text)
            torch.testing.assert_close(found[at], expected, rtol=0, atol=1e-5)
            compared += 1
        at += 4 if n in keys else 1
    assert compared > 3


@torch.no_grad()
def test_average_pooling_is_the_mean_of_all_patches(tmp_path):
    release = Release(tmp_path, composer_type="average_pooling")
    tensors = {k: v for k, v in release.tensors().items() if "composer_projector" not in k}
    release.write(tensors)
    assert release.convert(tmp_path / "out").merger == {"name": "mean_pool"}
    model = vtc.from_pretrained(tmp_path / "out", dtype=torch.float64)
    frames = scenes(8)
    prepared = prepare(Call(model, model.vtc, ask_inputs(model, frames)))
    found = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output[0]
    keys = [frame.index for frame in prepared.report.videos[0].keyframes]
    means = [m.mean(0) for n, m in enumerate(release.dense(frames)) if n not in keys]
    at = [n + 3 * sum(key < n for key in keys) for n in range(8) if n not in keys]
    torch.testing.assert_close(found[at], torch.stack(means), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_tied_head_is_written_apart(tmp_path):
    release = Release(tmp_path, tie_word_embeddings=True)
    tensors = release.tensors()
    del tensors["lm_head.weight"]
    release.write(tensors)
    release.convert(tmp_path / "out")
    model = vtc.from_pretrained(tmp_path / "out")
    rows = len(byte_tokenizer())
    embeddings = model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, embeddings)
    assert torch.equal(embeddings[:rows], tensors["model.embed_tokens.weight"])


def test_small_files_are_written_one_at_a_time(release, converted, tmp_path, monkeypatch):
    limit = 20_000
    largest = []
    plain = safetensors.torch.save_file

    def watched(tensors, *args, **kwargs):
        largest.append(sum(t.nbytes for t in tensors.values()) if len(tensors) > 1 else 0)
        plain(tensors, *args, **kwargs)

    monkeypatch.setattr(safetensors.torch, "save_file", watched)
    monkeypatch.setattr(converting, "SHARD_BYTES", limit)
    result = release.convert(tmp_path / "out")
    # The embeddings get two rows more than they had when the files were planned.
    assert len(result.files) > 5 and max(largest) <= limit + 2 * DIM * 4
    whole, shards = vtc.from_pretrained(converted), vtc.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, shards.state_dict()[k]) for k, a in whole.state_dict().items())
    kept = tmp_path / "out" / "frame_encoder"
    one = CLIPModel.from_pretrained(kept).state_dict()
    two = CLIPModel.from_pretrained(converted / "frame_encoder").state_dict()
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())


def test_half_precision_stays_as_it_is(tmp_path):
    release = Release(tmp_path)
    release.write({name: tensor.half() for name, tensor in release.tensors().items()})
    result = release.convert(tmp_path / "out")
    assert result.merger["temperature"] == torch.tensor(0.03).half().item()
    model = vtc.from_pretrained(tmp_path / "out", dtype="auto")
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}


def test_a_source_without_a_tokenizer_needs_one_for_its_processor(tmp_path):
    release = Release(tmp_path)
    for file in release.folder.glob("*token*"):
        file.rename(tmp_path / "c" / f"language_{file.name}")
    result = release.convert(tmp_path / "out")
    assert "the source has no tokenizer, so the folder has no processor" in result.notes[0]
    assert not result.has_processor
    model = vtc.from_pretrained(tmp_path / "out")
    assert model.vtc.processor is None
    assert model.config.video_token_id == len(byte_tokenizer()) + 1
    with pytest.raises(ValueError, match="siglip has neither tokenizer.json nor vocab.json"):
        release.convert(tmp_path / "other", tokenizer=tmp_path / "siglip")
    byte_tokenizer().save_pretrained(tmp_path / "language")
    release.convert(tmp_path / "other", tokenizer=tmp_path / "language")
    assert vtc.from_pretrained(tmp_path / "other").vtc.processor is not None
