"""Labels, loss and gradients of a wrapped model, and peft on top of it."""

from __future__ import annotations

import peft
import pytest
import torch

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare


def learned(merger: str):
    return {"name": "dfm", "projection": "learned"} if merger == "dfm" else merger


@pytest.fixture
def batch(make_inputs, make_video):
    """Two rows, one of them padded, with the last twelve ids of each to be learned."""
    inputs = make_inputs([make_video(8, 1), make_video(8, 2)], ["What?", "What is it, then?"])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -12:] = inputs["input_ids"][:, -12:]
    return {**inputs, "labels": labels, "vtc_query": ["What?", "What is it, then?"]}


def wrapped(model, processor, encoder, merger="dfm"):
    selector = vtc.selector("dks", keyframes=3)
    return vtc.wrap(model, selector, learned(merger), processor=processor, encoder=encoder)


def checkpoint_activations(model):
    """Gradient checkpointing, by its new name where transformers has it."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)()


pytestmark = pytest.mark.filterwarnings("ignore:merger .* has untrained parameters")


def test_the_loss_is_that_of_the_answers_only(model, processor, encoder, batch):
    wrapped(model, processor, encoder)
    with torch.no_grad():
        given = model(**batch)
        everything = model(**{**batch, "labels": batch["input_ids"].clone()})
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    rows = [
        torch.nn.functional.cross_entropy(logits[row, -13:-1], batch["labels"][row, -12:])
        for row in range(2)
    ]
    assert given.loss.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-5)
    # Labels that are a copy of the ids learn the text, but never a placeholder.
    video = model.config.video_token_id
    short = prepare(Call(model, model.vtc, batch | {"labels": batch["input_ids"]})).inputs
    assert bool((short["labels"][short["input_ids"] == video] == -100).all())
    assert bool((short["labels"][short["input_ids"] != video] != -100).any())
    assert torch.isfinite(everything.loss)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("merger", ["dfm", "q_former"])
def test_a_gradient_reaches_every_trainable_parameter(
    model, processor, encoder, batch, merger, checkpointing
):
    wrapped(model, processor, encoder, merger)
    model.train()
    if checkpointing:
        checkpoint_activations(model)
    model(**batch).loss.backward()
    parameters = dict(model.vtc.merger.named_parameters())
    assert parameters
    for name, parameter in parameters.items():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), name
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().max() > 0
    assert model.model.vision_tower.embeddings.patch_embedding.weight.grad.abs().max() > 0


def test_gradient_checkpointing_changes_no_gradient(model, processor, encoder, batch):
    wrapped(model, processor, encoder)
    model.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model)
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for plain, saved in zip(*gradients, strict=True):
        assert torch.allclose(plain, saved, atol=1e-5)


def test_a_few_steps_lower_the_loss(model, processor, encoder, batch):
    wrapped(model, processor, encoder)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(**batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_an_untrained_merger_says_so(model, processor, encoder):
    with pytest.warns(UserWarning, match="merger 'q_former' has untrained parameters"):
        wrapped(model, processor, encoder, "q_former")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # read by peft
@pytest.mark.parametrize("saved", [["merger"], ["vtc"]])
def test_lora_on_top_saves_loads_and_merges(model, processor, encoder, batch, tmp_path, saved):
    import copy

    wrapped(model, processor, encoder)
    fresh = copy.deepcopy(model)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=saved)
    tuned = peft.get_peft_model(model, config)
    assert vtc.is_wrapped(tuned)
    tuned.train()
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        tuned(**batch).loss.backward()
        optimizer.step()
    merger = vtc.wrapped.access.toolkit_of(tuned)
    assert any(p.requires_grad for p in merger.parameters())
    tuned.eval()
    with torch.no_grad():
        trained = tuned(**batch).logits
        untrained = fresh(**batch).logits
    assert vtc.last_report(tuned).tokens_after < vtc.last_report(tuned).tokens_before
    tuned.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
    with torch.no_grad():
        assert (trained - untrained).abs().max() > 1e-2
        assert torch.equal(loaded(**batch).logits, trained)
        with vtc.disabled(loaded):
            stock = loaded(**{k: v for k, v in batch.items() if k != "vtc_query"})
            assert stock.logits.shape[1] == batch["input_ids"].shape[1]
        merged = loaded.merge_and_unload()
        assert vtc.is_wrapped(merged)
        assert (merged(**batch).logits - trained).abs().max() < 1e-4


def test_the_trainer_resumes_exactly(model, processor, encoder, batch, tmp_path):
    """Two steps, a checkpoint, two more; or four at once: the same weights, the merger's too."""
    import copy

    from transformers import Trainer, TrainingArguments

    wrapped(model, processor, encoder)
    rows = [
        {name: value[row] for name, value in batch.items() if name != "vtc_query"}
        for row in range(2)
    ] * 2

    def train(model, folder, steps, resume=None):
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            save_steps=2,
            per_device_train_batch_size=1,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            seed=0,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        return model

    fresh = copy.deepcopy(model)
    straight = train(copy.deepcopy(model), tmp_path / "straight", 4).state_dict()
    train(model, tmp_path / "parts", 2)
    checkpoint = tmp_path / "parts" / "checkpoint-2"
    assert (checkpoint / "vtc.json").is_file()
    resumed = train(fresh, tmp_path / "parts", 4, resume=str(checkpoint)).state_dict()
    assert any("vtc.merger" in name for name in straight)
    for name, value in straight.items():
        assert torch.equal(resumed[name], value), name


def test_labels_that_the_trainer_counted_must_not_teach_placeholders(
    model, processor, encoder, batch
):
    wrapped(model, processor, encoder)
    model.train()
    model(**batch, num_items_in_batch=24)
    with pytest.raises(ValueError, match="the labels include 66 video placeholders"):
        model(**{**batch, "labels": batch["input_ids"]}, num_items_in_batch=24)


def test_the_trainer_keeps_our_columns(model, processor, encoder):
    import inspect

    wrapped(model, processor, encoder)
    assert {"vtc_query", "vtc_videos", "pixel_values_videos"} <= set(
        inspect.signature(model.forward).parameters
    )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # read by peft
def test_disabled_adapters_use_the_untrained_merger(model, processor, encoder, batch):
    wrapped(model, processor, encoder, "q_former")
    with torch.no_grad():
        before = model(**batch).logits
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["merger"])
    tuned = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
        assert (tuned(**batch).logits - before).abs().max() > 1e-2
        with tuned.disable_adapter():
            assert torch.equal(tuned(**batch).logits, before)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # read by peft
def test_an_adapter_that_saves_no_module_of_ours_uses_the_original(
    model, processor, encoder, batch
):
    wrapped(model, processor, encoder)
    with torch.no_grad():
        expected = model(**batch).logits
    own = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["merger"])
    tuned = peft.get_peft_model(model, own)
    tuned.add_adapter("plain", peft.LoraConfig(target_modules=["q_proj"]))
    tuned.set_adapter("plain")
    assert vtc.is_wrapped(tuned)
    with torch.no_grad():
        torch.testing.assert_close(tuned.eval()(**batch).logits, expected)
