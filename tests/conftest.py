"""Shared fixtures: a tiny stock model, inputs made by its own processor, clips, commands."""

from __future__ import annotations

import copy
import functools
import importlib
import signal
import sys
from pathlib import Path
from textwrap import dedent

import encoder_files
import hypothesis
import pytest
import torch
from families import FAMILIES
from plugin_sources import SELECTOR, registering

import vtc
from vtc.plugins.registry import Registry
from vtc.video.pyav_reader import PyAVReader

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Below a background job of a shell; what tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _stock():
    return vtc.testing.tiny("llava_onevision")


@pytest.fixture
def model(_stock):
    """A stock LLaVA-OneVision with random weights, fresh for each test."""
    return copy.deepcopy(_stock[0])


@pytest.fixture(scope="session")
def processor(_stock):
    return _stock[1]


@pytest.fixture(scope="session")
def encoder():
    return vtc.testing.tiny_encoder()


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    encoder_files.save_open_clip(folder)
    return folder


@pytest.fixture(scope="session")
def open_clip_weights(open_clip_folder) -> str:
    return f"{open_clip_folder}/open_clip_model.safetensors"


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    vtc.testing.save_tiny_clip(folder)
    return folder


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    vtc.testing.save_tiny_siglip(folder)
    return folder


@pytest.fixture(scope="session")
def siglip2_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("siglip2")
    encoder_files.save_siglip2(folder)
    return folder


@pytest.fixture(scope="session")
def blip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    encoder_files.save_blip(folder)
    return folder


@pytest.fixture(scope="session")
def clips() -> Path:
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip(f"needs the video clips of {folder}, which are not distributed")
    return folder


@pytest.fixture(scope="session")
def make_video():
    return vtc.testing.drifting_video


@pytest.fixture(scope="session")
def make_inputs(processor):
    """What the stock processor makes of videos (of one length), images and questions."""
    return functools.partial(vtc.testing.stock_inputs, processor)


@pytest.fixture(params=FAMILIES, ids=lambda suite: suite.family)
def case(request, encoder):
    """A wrapped model of each family, and inputs of its stock processor: six slices, two kept."""
    suite = request.param()
    model, processor = suite.build()
    chosen = vtc.selector("uniform", keyframes=2)
    vtc.wrap(model, chosen, "dfm", processor=processor, encoder=encoder)
    frames = 6 * model.vtc.adapter.frames_per_slice
    return model, suite.inputs(processor, [suite.video(frames, 1)], ["What is red?"])


@pytest.fixture
def command(capfd):
    """Run `vtc ...` in this process; gives exit code, output and error output."""
    from vtc.cli import app

    def run(*words) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            app([str(word) for word in words], prog_name="vtc")
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def install_plugin(tmp_path, monkeypatch):
    """Install plug-ins from source text; their modules are removed after the test."""

    def install(distribution, module, source, name=None, folder="site"):
        site = tmp_path / folder
        info = site / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5")
        (info / "entry_points.txt").write_text(f"[vtc]\n{name or module} = {module}\n")
        (site / f"{module}.py").write_text(dedent(source))
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()

    yield install
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def even(install_plugin):
    """A registry in which the plug-in ``acme`` has the selectors of ``SELECTOR``."""
    names = {"even": "Even", "bare": "Bare", "unfinished": "Unfinished", "stranger": "Stranger"}
    mapping = {name: f"acme:{cls}" for name, cls in names.items()}
    install_plugin("acme-vtc", "acme", SELECTOR + registering(repr(mapping)))
    return Registry()


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """The modules of a tiny release of ViLAMP, and its folder."""
    from vilamp_release import Release

    return Release(tmp_path_factory.mktemp("vilamp"))


@pytest.fixture(scope="session")
def converted(release, tmp_path_factory):
    """The folder that `release` was converted to."""
    target = tmp_path_factory.mktemp("out") / "converted"
    release.convert(target)
    return target


@pytest.fixture
def decoded(monkeypatch):
    """Collect the positions of the frames that are decoded."""
    positions = []
    read = PyAVReader.read

    def watched(self, numbers):
        for picture in read(self, numbers):
            positions.append(picture.position)
            yield picture

    monkeypatch.setattr(PyAVReader, "read", watched)
    return positions
