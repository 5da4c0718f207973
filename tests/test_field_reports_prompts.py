"""Prompts that users reported elsewhere: special tokens in questions, BOS written twice."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES

import vtc
from vtc.interfaces.prompts import media_tokens


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda suite: suite.family)
def family(request):
    """A wrapped tiny model, its processor, and its suite."""
    suite = request.param()
    model, processor = suite.build()
    return vtc.wrap(model, "uniform", processor=processor), processor, suite


def test_a_media_token_in_a_question_is_refused_in_words(family):
    """Every one that the processor knows; they ended in StopIteration or TypeError, or passed."""
    model, processor, suite = family
    tokens = media_tokens(processor)
    video_token = processor.tokenizer.decode([model.vtc.adapter.video_token_id(model)])
    assert video_token in tokens
    for token in tokens:
        with pytest.raises(ValueError, match="expected question to be plain text.*leave it out"):
            vtc.ask(model, processor, suite.video(4), f"What is {token} here?", max_new_tokens=1)


def test_a_lone_surrogate_in_a_question_is_refused_in_words(family):
    model, processor, suite = family
    with pytest.raises(ValueError, match="question.*lone surrogate at character 5"):
        vtc.ask(model, processor, suite.video(4), "What \ud800?", max_new_tokens=1)


def bos_in(processor, ids):
    """How many BOS tokens ids hold; 0 where the tokenizer has none."""
    token = processor.tokenizer.bos_token_id
    return 0 if token is None else int((torch.as_tensor(ids) == token).sum())


def test_a_lazy_prompt_begins_with_bos_as_often_as_the_stock_processors_does(family):
    """Two BOS tokens moved the logits of Gemma 3 and Idefics 3 (huggingface/optimum-intel#1507)."""
    model, processor, suite = family
    stock = suite.inputs(processor, [suite.video(4)], ["What?"])["input_ids"]
    lazy = vtc.prepare_inputs(model, processor, suite.video(4), "What?")["input_ids"]
    assert bos_in(processor, lazy) == bos_in(processor, stock)


def test_a_conversation_for_training_begins_with_bos_as_often_as_a_prompt(family):
    from vtc_recipes.training.batches import Collator
    from vtc_recipes.training.data import Sample
    from vtc_recipes.training.rows import Turn

    model, processor, suite = family
    if not getattr(processor, "chat_template", None):
        pytest.skip("conversations need a chat template")
    turns = [Turn("user", "What?"), Turn("assistant", "Red.")]
    ids, _ = Collator(model, model.vtc, processor).tokenise(
        Sample(None, tuple(turns), None, None), None
    )
    prompt = processor.apply_chat_template(
        [[{"role": "user", "content": [{"type": "text", "text": "What?"}]}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"]
    assert bos_in(processor, ids) == bos_in(processor, prompt)
