"""TRL's SFTTrainer trains the compressed model: its loss is the wrapped model's own.

https://github.com/huggingface/trl/issues/5943
"""

import copy

import pytest
import torch

import vtc
from vtc.testing.inputs import drifting_video, stock_inputs

trl = pytest.importorskip("trl", reason="trl is not installed (pip install 'vtc[dev]')")
datasets = pytest.importorskip("datasets")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # between trl and transformers
@pytest.mark.parametrize("kind", ["eager", "lazy"])
@pytest.mark.parametrize("setting", ["loss", "label smoothing", "LoRA"])
def test_sft_trainer_trains_on_compressed_videos(tmp_path, kind, setting):
    model, processor = vtc.testing.tiny("llava_onevision")
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), "mean_pool", processor=processor)
    rows = []
    for seed in range(2):
        video = drifting_video(8, seed)
        if kind == "eager":
            inputs = dict(stock_inputs(processor, [video], ["What is red?"]))
        else:
            inputs = dict(vtc.prepare_inputs(model, processor, video, "What is red?"))
        visual = inputs["input_ids"] == model.config.video_token_id
        rows.append({**inputs, "labels": inputs["input_ids"].masked_fill(visual, -100)})
    with torch.no_grad():
        expected = [float(model(**row).loss) for row in rows]
    args = trl.SFTConfig(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=1,
        learning_rate=0.0,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=False,
        label_smoothing_factor=0.1 if setting == "label smoothing" else 0.0,
    )
    peft_config = None
    if setting == "LoRA":
        peft = pytest.importorskip("peft")
        peft_config = peft.LoraConfig(target_modules=["q_proj", "v_proj"])
    trainer = trl.SFTTrainer(
        model,
        args,
        train_dataset=datasets.Dataset.from_dict({"row": [0, 1], "input_ids": [[0], [0]]}),
        processing_class=processor,
        data_collator=lambda batch: copy.copy(rows[batch[0]["row"]]),
        peft_config=peft_config,
    )
    trainer.train()
    assert vtc.last_report(model).videos[0].tokens_after < 100
    logged = sorted(row["loss"] for row in trainer.state.log_history if "loss" in row)
    assert len(logged) == 2
    if setting != "label smoothing":
        assert logged == pytest.approx(sorted(expected), rel=1e-3)
