"""Many threads call one wrapped model at once; every call gets its own answer and report."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import vtc

FRAMES = (9, 12, 15, 18)


def _video(frames: int) -> object:
    noise = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (frames, 32, 32, 3), generator=noise, dtype=torch.uint8).numpy()


def _ask(model, processor, frames):
    return vtc.ask(model, processor, _video(frames), f"What is in {frames}?", max_new_tokens=4)


@pytest.fixture
def model_and_processor():
    model, processor = vtc.testing.tiny("llava_onevision")
    encoder = vtc.testing.tiny_encoder()
    vtc.wrap(model, vtc.selector("dks", keyframes=3), "dfm", processor=processor, encoder=encoder)
    model.vtc.separate_connector()
    with torch.no_grad():
        for parameter in model.vtc.connector.parameters():
            parameter.mul_(1.5)  # as training would: no longer the stock projector
    return model, processor


def test_threads_get_the_answers_and_reports_of_single_calls(model_and_processor):
    model, processor = model_and_processor
    before = {name: value.clone() for name, value in model.state_dict().items()}
    projector = model.model.multi_modal_projector
    alone = {frames: _ask(model, processor, frames) for frames in FRAMES}

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda frames: _ask(model, processor, frames), FRAMES * 6))

    for frames, answer in zip(FRAMES * 6, answers, strict=True):
        assert answer.text == alone[frames].text
        assert answer.report.videos == alone[frames].report.videos
    assert model.model.multi_modal_projector is projector
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_latest_report_is_that_of_this_thread(model_and_processor):
    model, processor = model_and_processor
    _ask(model, processor, 9)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_ask, model, processor, 12).result()
        assert pool.submit(vtc.last_report, model).result().frames == 12
    assert vtc.last_report(model).frames == 9


@pytest.mark.parametrize(
    "change",
    [
        vtc.unwrap,
        lambda model: model.vtc.configure(),
    ],
    ids=["unwrap", "configure"],
)
def test_the_toolkit_is_not_changed_while_a_call_runs(model_and_processor, change):
    model, processor = model_and_processor
    errors = []

    def progress(stage, done, total):
        if not errors:
            with pytest.raises(RuntimeError, match=r"while 1 call\(s\) of the model are running"):
                change(model)
            errors.append(stage)

    model.vtc.progress = progress
    answer = _ask(model, processor, 9)
    assert errors and answer.report.frames == 9
    model.vtc.progress = None
    change(model)  # fine once the call has returned
