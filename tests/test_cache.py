"""What a model computes of a file is kept on disk, found again, and never taken for another."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import vtc
from vtc.cache.folder import DEFAULT_LIMIT, CacheFolder, user_folder
from vtc.cache.hashing import module_hash
from vtc.cache.writing import CacheError, UnfinishedFolder
from vtc.pipeline.indexing import index_video

HIT = "frame embeddings read from the cache"


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=12))
    return path


@pytest.fixture
def file(squares, tmp_path):
    path = Path(shutil.copy(squares, tmp_path))
    os.utime(path, (1_700_000_000, 1_700_000_000))  # not written a moment ago
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def index(file, folder, encoder):
    """Index the file, and return what the report says of the cache."""

    def run(by=encoder, path=file, every=1, **options):
        lazy = vtc.LazyEncoder(by)
        return str(index_video(vtc.VideoSource(path, cache=folder, **options), lazy, every))

    return run


def data_files(folder):
    return sorted(folder.glob("entries/*/*/data.safetensors"))


def test_what_was_stored_is_read(index):
    assert index() == "frame embeddings computed and stored, since they were not in the cache"
    assert index() == HIT


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"fps": 2.0}, "fps=1.0 instead of 2.0"),
        ({"fps": None}, "fps=1.0 instead of None"),
        ({"max_frames": 5}, "max_frames=None instead of 5"),
        ({"frames": 5, "fps": None}, "frames=None instead of 5"),
        ({"reader": "decord"}, "reader='pyav' instead of 'decord'"),
        ({"every": 2}, "every=1 instead of 2"),
    ],
)
def test_other_frames_are_a_miss_that_says_why(index, options, difference):
    if options.get("reader") == "decord":
        pytest.importorskip("decord", reason="needs decord, which has no wheel here")
    index()
    message = index(**options)
    assert message.startswith("frame embeddings computed and stored, since the cache has them for")
    assert difference in message
    assert index() == index(**options) == HIT


def test_options_that_choose_the_same_frames_are_a_hit(index):
    index()
    assert index(max_frames=1000) == HIT


def test_another_encoder_is_a_miss_that_says_why(index):
    index()
    assert "encoder=" in index(vtc.testing.tiny_encoder(seed=1))
    encoder = vtc.testing.tiny_encoder()
    assert index(encoder) == HIT
    encoder.to("cpu", torch.bfloat16)
    assert "dtype='float32' instead of 'bfloat16'" in index(encoder)


def test_changed_weights_are_a_miss(index):
    encoder = vtc.testing.tiny_encoder()
    index(encoder)
    with torch.no_grad():
        next(encoder._model.parameters()).flatten()[0] += 1e-3
    assert "other weights" in index(encoder)


def test_other_preprocessing_is_a_miss(index):
    encoder = vtc.testing.tiny_encoder()
    index(encoder)
    encoder._image_processor.image_mean = [0.1, 0.2, 0.3]
    assert "other preprocessing of frames" in index(encoder)


def test_the_hash_of_a_module_follows_its_weights():
    module = torch.nn.Linear(3, 2)
    before = module_hash(module)
    assert module_hash(module) == before
    with torch.no_grad():
        module.bias[1] += 1
    assert module_hash(module) != before
    assert module_hash(torch.nn.Linear(3, 2, device="meta")) is None


def test_an_encoder_of_unknown_weights_is_not_cached(index):
    class Own:
        name = "own"

        def encode_frames(self, frames):
            return torch.ones(len(frames), 4)

        def encode_text(self, text):
            return torch.ones(4)

    with pytest.raises(ValueError, match="the weights of encoder own are unknown"):
        index(Own())


def test_a_file_is_known_by_its_content(index, file, tmp_path):
    index()
    os.utime(file, (1_600_000_000, 1_600_000_000))
    assert index() == HIT
    copy = shutil.copy(file, tmp_path / "copy.mp4")
    assert index(path=copy) == HIT


def test_a_changed_file_is_a_miss_that_says_why(index, file):
    index()
    vtc.testing.write_video(file, vtc.testing.moving_squares(seconds=11))
    os.utime(file, (1_700_000_001, 1_700_000_001))
    assert "since the file was changed since it was cached" in index()
    assert index() == HIT


def test_a_file_that_was_just_written_is_read_again(index, file):
    """A second change within a tick of the clock would not show."""
    os.utime(file)
    index()
    state = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert index() != HIT


def truncate(data: Path):
    data.write_bytes(data.read_bytes()[:-10])


def flip(data: Path):
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)


def tear_json(data: Path):
    entry = data.with_name("entry.json")
    entry.write_text(entry.read_text()[:100])


def lose_json(data: Path):
    data.with_name("entry.json").unlink()


def lose_data(data: Path):
    data.unlink()


def swap_key(data: Path):
    entry = data.with_name("entry.json")
    values = json.loads(entry.read_text())
    values["key"]["encoder"] = "another"
    entry.write_text(json.dumps(values))


@pytest.mark.parametrize("damage", [truncate, flip, tear_json, lose_json, lose_data, swap_key])
def test_a_damaged_entry_is_thrown_away_and_computed_again(index, folder, damage):
    index()
    [data] = data_files(folder)
    good = data.read_bytes()
    damage(data)
    with pytest.warns(RuntimeWarning, match="squares.mp4: its entry .* damaged and has been"):
        assert "computed and stored, since its entry" in index()
    assert index() == HIT
    [data] = data_files(folder)
    assert data.read_bytes() == good


def test_an_entry_of_another_version_is_not_read(index, folder):
    index()
    entry = data_files(folder)[0].with_name("entry.json")
    entry.write_text(entry.read_text().replace('"format": 1', '"format": 7'))
    with pytest.warns(RuntimeWarning, match="format=7 instead of 1"):
        index()
    assert index() == HIT


def test_the_oldest_entries_go_first(index, folder):
    cache = CacheFolder(folder)
    for fps in (1.0, 2.0, 3.0):
        index(fps=fps)
        os.utime(cache.entries()[-1].folder / "entry.json", (fps, fps))
    index(fps=1.0)  # used last
    sizes = [one.bytes for one in cache.entries()]
    cache.set_limit(sum(sizes) - 1)
    left = [one.entry.sampling["fps"] for one in cache.entries()]
    assert left == [3.0, 1.0]
    cache.set_limit(sizes[-1])
    assert [one.entry.sampling["fps"] for one in cache.entries()] == [1.0]
    assert not list(folder.glob("unfinished/*"))


def test_what_is_larger_than_the_limit_is_not_stored(index, folder):
    CacheFolder(folder).set_limit(100)
    with pytest.raises(CacheError, match="may hold .* set its limit with vtc cache --limit"):
        index()
    assert not data_files(folder)


def test_a_cache_that_cannot_be_written_gives_an_answer(model, processor, encoder, file, folder):
    vtc.wrap(model, vtc.selector("dks", keyframes=2), processor=processor, encoder=encoder)
    folder.write_text("in the way")
    source = vtc.VideoSource(file, cache=folder / "cache")
    report = vtc.ask(model, processor, source, "Where?", max_new_tokens=1).report
    assert str(report.videos[0].cache[0]) == "frame embeddings computed and not stored"
    assert any("cannot write to the cache" in warning for warning in report.warnings)


def test_only_entries_are_cleared(index, folder):
    index()
    (folder / "entries" / "mine").mkdir()
    (folder / "entries" / "mine" / "notes.txt").write_text("keep")
    count, size = CacheFolder(folder).clear()
    assert count == 1 and size > 0
    assert (folder / "entries" / "mine" / "notes.txt").exists()
    assert not CacheFolder(folder).entries()
    assert "not in the cache" in index()


def test_the_folder_of_the_user(monkeypatch, tmp_path, file):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert vtc.VideoSource(file, cache=True).cache.folder.path == tmp_path / "vtc"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification ignores
    assert user_folder() == Path.home() / ".cache" / "vtc"
    assert CacheFolder(tmp_path / "none").limit == DEFAULT_LIMIT


def test_impossible_caches_are_refused(file):
    with pytest.raises(TypeError, match="cache to be a folder, True .* or None, got 3"):
        vtc.VideoSource(file, cache=3)
    with pytest.raises(ValueError, match="cache to be a folder, got the file"):
        vtc.VideoSource(file, cache=file)
    with pytest.raises(ValueError, match="expected a file with cache="):
        vtc.VideoSource(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), cache=True)
    with pytest.raises(ValueError, match="keep and cache when it is made"):
        vtc.VideoSource(vtc.VideoSource(file), cache=True)
    assert vtc.VideoSource(file, cache=False).cache is None


def test_a_source_with_a_cache_can_be_sent_to_another_process(file, folder, encoder, index):
    index()
    source = pickle.loads(pickle.dumps(vtc.VideoSource(file, cache=folder)))
    assert index_video(source, vtc.LazyEncoder(encoder)).hit


WRITER = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from vtc.cache.folder import CacheFolder

    folder, file, number, deadly = sys.argv[1:]
    cache, key = CacheFolder(Path(folder)), {{"n": 0}}
    if deadly == "yes":
        CacheFolder._make_room = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    for turn in range(25):
        tensors = {{"x": torch.full((200,), float(turn % 2))}}
        cache.store(tensors, path=Path(file), kind="x", key={{"n": turn % 2}}, sampling={{}})
        found = cache.find(Path(file), "x", {{"n": turn % 2}}, {{}}).tensors
        if found is not None:
            torch.testing.assert_close(found["x"], tensors["x"])
        if turn % 7 == int(number):
            cache.clear()
"""


def start_writer(folder, file, number, deadly="no"):
    code = textwrap.dedent(WRITER.replace("{{", "{").replace("}}", "}"))
    words = [sys.executable, "-W", "error", "-c", code, folder, file, number, deadly]
    return subprocess.Popen([str(word) for word in words], stderr=subprocess.PIPE, text=True)


def test_processes_share_a_cache(folder, file):
    """They write, read and clear the same two entries; every read is whole."""
    for process in [start_writer(folder, file, number) for number in range(2)]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(CacheFolder(folder).entries()) <= 2
    assert not list(folder.glob("unfinished/*"))


def test_a_writer_that_is_killed_leaves_no_entry_and_no_lock(folder, file, index):
    process = start_writer(folder, file, 0, deadly="yes")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    cache = CacheFolder(folder)
    assert cache.entries() == []
    left = [path for path in folder.glob("unfinished/*") if path.is_dir()]
    assert left and list(left[0].iterdir())
    writing = UnfinishedFolder(folder)
    assert "stored" in index()
    assert index() == HIT
    assert [path for path in folder.glob("unfinished/*") if path.is_dir()] == [writing.path]
    writing.remove()
    assert not list(folder.glob("unfinished/*"))
