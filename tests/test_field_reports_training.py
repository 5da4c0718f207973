"""Reports from the field about training frameworks: the loss is that of the compressed video."""

import copy

import pytest
import torch
from torch.nn import functional
from transformers import Trainer, TrainingArguments

import vtc
from vtc.testing.inputs import drifting_video, stock_inputs

QUESTIONS = ["What is red?", "And what is green here?"]
FAMILIES = ["llava_onevision", "qwen2_5_vl"]


@pytest.fixture(params=FAMILIES)
def wrapped(request):
    model, processor = vtc.testing.tiny(request.param)
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), "mean_pool", processor=processor)
    return model, processor


def batches(model, processor, kind):
    """One row a batch, labels on all that is no video."""
    rows = []
    for seed, question in enumerate(QUESTIONS):
        video = drifting_video(8, seed)
        if kind == "eager":
            inputs = dict(stock_inputs(processor, [video], [question]))
        else:
            inputs = dict(vtc.prepare_inputs(model, processor, video, question))
        visual = inputs["input_ids"] == model.config.video_token_id
        inputs["labels"] = inputs["input_ids"].masked_fill(visual, -100)
        rows.append(inputs)
    return rows


def expected_loss(model, inputs):
    """The loss that the wrapped model's own forward computes."""
    with torch.no_grad():
        return float(model(**inputs).loss)


@pytest.mark.parametrize("kind", ["eager", "lazy"])
def test_calls_of_the_inner_model_are_compressed(wrapped, kind):
    """As a trainer with a fused loss does: the inner model, the head, the caller's labels.

    https://github.com/huggingface/trl/issues/5943
    """
    model, processor = wrapped
    for inputs in batches(model, processor, kind):
        expected = expected_loss(model, inputs)
        report = vtc.last_report(model).videos
        labels = inputs.pop("labels")
        hidden = model.model(**inputs).last_hidden_state
        assert vtc.last_report(model).videos == report
        assert hidden.shape[:2] == labels.shape
        logits = model.lm_head(hidden)[:, :-1].flatten(0, 1)
        loss = functional.cross_entropy(logits, labels[:, 1:].flatten())
        assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["eager", "lazy"])
@pytest.mark.parametrize("setting", ["label smoothing", "compute_loss_func", "evaluation"])
def test_the_trainer_may_compute_the_loss_itself(wrapped, kind, setting, tmp_path):
    model, processor = wrapped
    data = batches(model, processor, kind)
    losses = []

    def compute_loss(outputs, labels, num_items_in_batch=None):
        logits = outputs.logits[:, :-1].flatten(0, 1)
        loss = functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
        losses.append(float(loss / (labels[:, 1:] != -100).sum()))
        return loss / num_items_in_batch

    def metrics(prediction):
        predicted = torch.as_tensor(prediction.predictions[0]).argmax(-1)[:, :-1]
        labels = torch.as_tensor(prediction.label_ids)[:, 1:]
        return {"right": float((predicted == labels)[labels != -100].float().mean())}

    args = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        learning_rate=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        label_smoothing_factor=0.1 if setting == "label smoothing" else 0.0,
        logging_steps=1,
    )
    trainer = Trainer(
        model,
        args,
        train_dataset=data,
        eval_dataset=data[:1],
        data_collator=lambda rows: copy.copy(rows[0]),
        compute_loss_func=compute_loss if setting == "compute_loss_func" else None,
        compute_metrics=metrics if setting == "evaluation" else None,
    )
    if setting == "evaluation":
        with torch.no_grad():
            output = model.eval()(**data[0])
        values = trainer.evaluate()
        assert values["eval_loss"] == pytest.approx(float(output.loss), rel=1e-4)
        labels = data[0]["labels"]
        text = (labels != -100)[0].nonzero().flatten()[1:]
        logits = output.logits[0]
        assert values["eval_right"] == pytest.approx(
            float((logits[text - 1].argmax(-1) == labels[0][text]).float().mean())
        )
        return
    expected = sorted(expected_loss(model, inputs) for inputs in data)
    trainer.train()
    if setting == "compute_loss_func":
        assert sorted(losses) == pytest.approx(expected, rel=1e-4)
    else:
        logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        assert len(logged) == 2 and all(0 < loss < 20 for loss in logged)
