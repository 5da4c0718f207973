"""The toolkit on tensors that claim to be on cuda:0: no mixed devices, and the CPU's keyframes.

`pretend_gpu` lies beside the project and is not distributed.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import vtc
import vtc.pipeline.report
from vtc.interfaces.token_budget import FrameStatistics, VideoPatches

FILE = Path(__file__).resolve().parents[2] / "shared" / "tools" / "pretend_gpu.py"
QUERY = "Where is the red square?"
FAMILIES = ["qwen2_5_vl", "qwen3_vl", "internvl"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def gpu():
    if not FILE.is_file():
        pytest.skip(f"needs {FILE}, which is not distributed")
    spec = importlib.util.spec_from_file_location("pretend_gpu", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pretend_gpu"] = module
    spec.loader.exec_module(module)
    # It notes the stages of a report by a module that lies elsewhere by now.
    sys.modules["vtc.report"] = vtc.pipeline.report
    yield module
    del sys.modules["vtc.report"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A file, so that frames are decoded and resized as in use."""
    path = tmp_path_factory.mktemp("gpu") / "video.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=12))
    return path


def keep_inputs(module):
    """The tensors that a module is called with from now on, on the CPU."""
    seen = []

    def keep(_, args, kwargs):
        values = (*args, *kwargs.values())
        seen.extend(value.cpu() for value in values if isinstance(value, torch.Tensor))

    module.register_forward_pre_hook(keep, with_kwargs=True)
    return seen


@pytest.fixture(scope="module")
def both(gpu):
    """A tiny model on the CPU and its copy that claims to be on cuda:0, with their processor."""
    model, processor = vtc.testing.tiny("llava_onevision")
    with gpu.pretend_gpu():
        return (model, gpu.to_pretend(copy.deepcopy(model))), processor


def ask_both(gpu, both, video, **parts):
    """Wrap each of two models, ask it, and unwrap it."""
    models, processor = both
    answers = []
    for model in models:
        torch.manual_seed(0)
        with gpu.pretend_gpu() as found:
            vtc.wrap(model, processor=processor, **parts)
            answers.append(vtc.ask(model, processor, video, QUERY, max_new_tokens=2))
            vtc.unwrap(model)
        assert not found.mixups, found
    return answers


def keyframes_of(answer):
    return [frame.index for frame in answer.report.keyframes]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_answers_as_on_the_cpu(gpu, family, video, clip_folder):
    model, processor = vtc.testing.tiny(family)
    with gpu.pretend_gpu():
        both = (model, gpu.to_pretend(copy.deepcopy(model))), processor
    selector = vtc.selector("mmr", keyframes=4)
    one, other = ask_both(gpu, both, video, selector=selector, encoder=str(clip_folder))
    assert one.text == other.text and keyframes_of(one) == keyframes_of(other)


@pytest.mark.parametrize("part", vtc.parts("merger"), ids=lambda part: part.name)
def test_a_merger_mixes_no_devices(gpu, part, video, clip_folder, both):
    selector = vtc.selector("uniform", keyframes=3)
    parts = {"selector": selector, "merger": part.name, "encoder": str(clip_folder)}
    one, other = ask_both(gpu, both, video, **parts)
    assert one.text == other.text


def test_encoder_and_tower_are_given_the_pixels_of_the_cpu(gpu, video, clip_folder, both):
    """A resize on the device differs by up to 7 levels of 255, and other keyframes are chosen."""
    models, processor = both
    given = []
    for model in models:
        with gpu.pretend_gpu():
            encoder = vtc.LazyEncoder(clip_folder)
            selector = vtc.selector("mmr", keyframes=4)
            vtc.wrap(model, selector, "drop", processor=processor, encoder=encoder)
            towers = (encoder.load()._model.vision_model, model.model.vision_tower)
            given.append([keep_inputs(tower) for tower in towers])
            vtc.ask(model, processor, video, QUERY, max_new_tokens=1)
            vtc.unwrap(model)
    for on_cpu, on_gpu in zip(*given, strict=True):
        assert len(on_cpu) == len(on_gpu) > 0
        assert all(torch.equal(one, other) for one, other in zip(on_cpu, on_gpu, strict=True))


@pytest.fixture(scope="module")
def embeddings(gpu, video, clip_folder):
    """Embeddings of frames and of the query by an encoder on the CPU and on "cuda:0"."""
    frames = vtc.VideoSource(video, fps=5).frames()
    with gpu.pretend_gpu():
        encoders = [vtc.LazyEncoder(clip_folder, device=device) for device in ("cpu", "cuda:0")]
        return [(each.encode_frames(frames), each.encode_text(QUERY)) for each in encoders]


@pytest.mark.parametrize("part", vtc.parts("selector"), ids=lambda part: part.name)
def test_a_selector_chooses_the_keyframes_of_the_cpu(gpu, part, embeddings):
    times = torch.arange(len(embeddings[0][0]), dtype=torch.float64) / 5
    chosen = []
    for frames, query in embeddings:
        with gpu.pretend_gpu() as found:
            selector = vtc.selector(part.name)
            selection = selector.select(frames, query, times.to(frames.device))
            chosen.append(selection.keyframes.tolist())
        assert not found.mixups, found
    assert chosen[0] == chosen[1]


def test_an_encoder_with_a_device_of_its_own_works_beside_a_model_elsewhere(
    gpu, video, clip_folder, both
):
    encoder = vtc.LazyEncoder(clip_folder, device="cpu")
    selector = vtc.selector("dks", keyframes=4)
    one, other = ask_both(gpu, both, video, selector=selector, encoder=encoder)
    assert keyframes_of(one) == keyframes_of(other) != []
    assert encoder.device == torch.device("cpu")


def test_the_check_finds_a_mixed_device(gpu):
    with gpu.pretend_gpu() as found:
        ids = gpu.to_pretend(torch.arange(3))
        with pytest.raises(gpu.MixedDevices):
            ids + torch.arange(3)
    assert found.mixups


SURVEYS = [
    *(part for part in vtc.parts("budget") if part.name not in ("even", "foveated")),
    *(part for part in vtc.parts("merger") if part.name in ("vidcom2", "fastvid", "flashvid")),
]


@pytest.mark.parametrize("part", SURVEYS, ids=lambda part: f"{part.kind} {part.name}")
def test_a_survey_waits_for_the_gpu_as_often_for_any_number_of_frames(gpu, part):
    """A copy for each frame would stop the vision tower as often."""
    waits = []
    for frames in (12, 24):
        video = torch.randn(frames, 9, 16, generator=torch.Generator().manual_seed(0))
        with gpu.pretend_gpu() as found:
            chunks = torch.split(gpu.to_pretend(video), 12)
            patches = VideoPatches(lambda chunks=chunks: iter(chunks))
            if part.kind == "budget":
                none = torch.empty(0, dtype=torch.int64)
                statistics = FrameStatistics(none, 9, frames, patches=patches)
                vtc.budget(part.name).allocate(statistics, 40)
            else:
                vtc.merger(part.name).survey(patches)
        assert not found.mixups, found
        waits.append(sum(found.waits.values()))
    passes = {"evs": 1}.get(part.name, 0)  # its candidates are sorted chunk by chunk
    assert waits[1] - waits[0] <= passes, found
