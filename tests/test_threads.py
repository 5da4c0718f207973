"""Many threads call wrapped models at once; every call gets its own answer and report."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import vtc
from vtc.pipeline.kv_cache import returned_cache
from vtc.testing.inputs import stock_inputs
from vtc_selectors.dks import DKS

FRAMES = (9, 12, 15)
CONNECTORS = {
    "llava_onevision": "separate",
    "qwen2_5_vl": "encoder_patches",
    "qwen3_vl": "separate",
}
FORBIDDEN = 25
"""Frames at which the selector of these tests fails; 13 slices in the Qwen families."""


class FailingSelector(DKS):
    def select(self, embeddings, query=None, timestamps=None):
        if len(embeddings) in (FORBIDDEN, 13):
            raise ZeroDivisionError("a fault in a part")
        return super().select(embeddings, query, timestamps)


def _video(frames):
    noise = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (frames, 32, 32, 3), generator=noise, dtype=torch.uint8).numpy()


def _wrapped(family):
    model, processor = vtc.testing.tiny(family)
    encoder = vtc.testing.tiny_encoder()
    vtc.wrap(
        model, FailingSelector(DKS.Config(keyframes=3)), "dfm", processor=processor, encoder=encoder
    )
    if CONNECTORS[family] == "separate":
        model.vtc.separate_connector()
    else:
        with pytest.warns(UserWarning, match="untrained"):
            model.vtc.merge_encoder_patches()
    with torch.no_grad():
        for parameter in model.vtc.connector.parameters():
            parameter.mul_(1.5)  # as training would: no longer the stock projector
    return model, processor


@pytest.fixture(scope="module")
def models():
    return {family: _wrapped(family) for family in CONNECTORS}


class Close(tuple):
    """Numbers that count as equal within the rounding of float32."""

    def __eq__(self, other):
        return len(self) == len(other) and all(
            abs(a - b) <= 1e-6 for a, b in zip(self, other, strict=True)
        )

    __hash__ = None


def _facts(report):
    return [
        (video.frames, video.query, video.tokens_before, video.tokens_after)
        + tuple((frame.index, frame.timestamp) for frame in video.keyframes)
        + (Close(video.relevance), Close(frame.relevance for frame in video.keyframes))
        for video in report.videos
    ]


def _ask(model, processor, frames):
    answer = vtc.ask(model, processor, _video(frames), f"What is in {frames}?", max_new_tokens=3)
    return answer.text, _facts(answer.report), _facts(vtc.last_report(model))


def _ask_without_video(model, processor, frames):
    ids = processor.tokenizer(f"What is {frames}?", return_tensors="pt")["input_ids"]
    written = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    with pytest.raises(ValueError, match="there is no report"):
        vtc.last_report(model)
    return written.tolist()


def _ask_twice(model, processor, frames):
    """Two turns on one cache."""
    inputs = vtc.prepare_inputs(model, processor, _video(frames), "What?")
    settings = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    first = model.generate(**inputs, **settings, vtc_restore_prompt=False)
    report = _facts(vtc.last_report(model))
    more = processor.tokenizer(f"And in {frames}?", return_tensors="pt")["input_ids"]
    prompt = torch.cat([first.sequences, more], dim=1)
    cache = vtc.testing.cache_argument(returned_cache(first))
    second = model.generate(input_ids=prompt, **cache, **settings)
    return second.sequences.tolist(), report


def _ask_the_stock_model(model, processor, frames):
    inputs = stock_inputs(processor, [_video(frames)], [f"What {frames}?"])
    with vtc.disabled(model), torch.no_grad():
        return model(**inputs).logits.argmax(-1).tolist()


KINDS = (_ask, _ask_without_video, _ask_twice, _ask_the_stock_model)


def _run(models, task):
    kind, family, frames = task
    try:
        return kind(*models[family], frames)
    except RuntimeError as error:  # names the selector
        return str(error)


def _state(models):
    return {
        (family, name): value.clone()
        for family, (model, _) in models.items()
        for name, value in model.state_dict().items()
    }


def _check_that_nothing_changed(models, before, modules):
    after = _state(models)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert {family: list(model.modules()) for family, (model, _) in models.items()} == modules
    for model, _ in models.values():
        model.vtc.configure()  # refused while a call counts as running


@pytest.mark.parametrize(
    "interrupted",
    [
        pytest.param(False, id="to the end", marks=pytest.mark.slow),
        pytest.param(True, id="under Ctrl-C"),
    ],
)
def test_200_calls_in_8_threads_equal_single_calls(models, interrupted):
    before = _state(models)
    modules = {family: list(model.modules()) for family, (model, _) in models.items()}
    tasks = [(kind, family, n) for kind in KINDS for family in CONNECTORS for n in FRAMES]
    tasks += [(_ask, family, FORBIDDEN) for family in CONNECTORS]
    expected = {task: _run(models, task) for task in tasks}
    faults = [task for task, result in expected.items() if "a fault in a part" in str(result)]
    assert faults == [(_ask, family, FORBIDDEN) for family in CONNECTORS]

    order = torch.randperm(208, generator=torch.Generator().manual_seed(0)).tolist()
    calls = [tasks[number % len(tasks)] for number in order]
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(_run, models, task) for task in calls]
        if interrupted:
            model, processor = models["llava_onevision"]
            inputs = vtc.prepare_inputs(model, processor, _video(12), "What?")
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt):
                    model.generate(
                        **inputs,
                        max_new_tokens=3,
                        stopping_criteria=[lambda *_: signal.raise_signal(signal.SIGINT)],
                    )
        for task, result in zip(calls, results, strict=True):
            assert result.result() == expected[task], task
    _check_that_nothing_changed(models, before, modules)


def test_disabled_reaches_threads_that_start_inside_and_no_others(models):
    model, processor = models["llava_onevision"]
    inputs = stock_inputs(processor, [_video(9)], ["What?"])

    def length():
        with torch.no_grad():
            return model(**inputs).logits.shape[1]

    with ThreadPoolExecutor(1) as before:
        compressed = before.submit(length).result()
        with vtc.disabled(model), ThreadPoolExecutor(1) as inside:
            assert inside.submit(length).result() == inputs["input_ids"].shape[1] > compressed
            assert before.submit(length).result() == compressed
    assert length() == compressed


def test_the_latest_report_is_that_of_this_thread(models):
    model, processor = models["llava_onevision"]
    _ask(model, processor, 9)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_ask, model, processor, 12).result()
        assert pool.submit(vtc.last_report, model).result().frames == 12
    assert vtc.last_report(model).frames == 9


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.vtc.configure(),
        vtc.unwrap,  # the last test: it takes the toolkit of the model away
    ],
    ids=["configure", "unwrap"],
)
def test_the_toolkit_is_not_changed_while_a_call_runs(models, change):
    model, processor = models["llava_onevision"]
    errors = []

    def progress(stage, done, total):
        if not errors:
            with pytest.raises(RuntimeError, match=r"while 1 call\(s\) of the model are running"):
                change(model)
            errors.append(stage)

    model.vtc.progress = progress
    answer = vtc.ask(model, processor, _video(9), "What?", max_new_tokens=3)
    assert errors and answer.report.frames == 9
    model.vtc.progress = None
    change(model)  # fine once the call has returned
