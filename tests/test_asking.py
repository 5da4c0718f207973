"""`ask` and `prepare_inputs`: lazy videos of every kind, without expanding their placeholder."""

from __future__ import annotations

import threading

import pytest
import torch
from PIL import Image

import vtc
from vtc.pipeline.feed import SourceFeed
from vtc.pipeline.kv_cache import returned_cache
from vtc.testing.adapter_case import in_float64, relative_error, shift_rounding


@pytest.fixture
def wrapped(model, processor, encoder):
    return vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)


@pytest.fixture(scope="session")
def video_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=20))
    return path


def test_a_lazy_video_gives_what_the_stock_processor_gives(
    wrapped, processor, make_video, make_inputs
):
    """One placeholder and a source, or N expanded placeholders and a tensor: the same logits."""
    # Frames of the model's own size: the tensor path sees them for selection after resizing.
    video, question = make_video(10, size=(42, 42)), "What is it?"
    wrapped.double()
    lazy = vtc.prepare_inputs(wrapped, processor, video, question)
    stock = in_float64(make_inputs([video], [question]))
    assert (lazy["input_ids"] == wrapped.config.video_token_id).sum() == 1
    with torch.no_grad():
        first = wrapped(**lazy).logits
        report = vtc.last_report(wrapped)
        second = wrapped(**stock).logits
    assert report.tokens_after == vtc.last_report(wrapped).tokens_after < report.tokens_before
    assert [frame.index for frame in report.keyframes] == [
        frame.index for frame in vtc.last_report(wrapped).keyframes
    ]
    assert relative_error(first, second) < 1e-6


def test_ask_reads_a_file(wrapped, processor, video_file):
    answer = vtc.ask(wrapped, processor, video_file, "Where is it?", max_new_tokens=5)
    report = answer.report
    assert report is vtc.last_report(wrapped) and str(answer) == answer.text
    assert report.frames == 20 and 1 <= len(report.keyframes) <= 3
    keys = len(report.keyframes)
    assert report.tokens_before == 20 * 4 + 1
    assert report.tokens_after == keys * 4 + (20 - keys) + 1
    assert [frame.timestamp for frame in report.keyframes] == [
        float(frame.index) for frame in report.keyframes
    ]
    assert report.videos[0].query == "Where is it?" and report.videos[0].name == "squares.mp4"
    for stage in ("decoding", "frame encoder", "vision tower (keyframes)", "language model"):
        assert report.stages[stage].seconds > 0
    assert report.stages["decoding"].bytes > 0
    assert f"{report.tokens_before} -> {report.tokens_after}" in str(report)
    assert report.to_dict()["videos"][0]["keyframes"][0]["index"] == report.keyframes[0].index


def test_arrays_lists_and_sources_are_read_alike(wrapped, processor, make_video):
    frames = make_video(7)
    videos = [
        frames,
        [Image.fromarray(frame) for frame in frames],
        vtc.VideoSource(frames),
    ]
    settings = {"max_new_tokens": 4, "do_sample": False}
    answers = [vtc.ask(wrapped, processor, video, "What?", **settings) for video in videos]
    assert len({answer.text for answer in answers}) == 1
    assert all(answer.report.frames == 7 for answer in answers)


def test_max_frames_and_fps_say_how_much_is_read(wrapped, processor, video_file):
    for sampling, frames in (({"fps": 2.0}, 40), ({"max_frames": 6}, 6), ({"fps": 0.5}, 10)):
        vtc.ask(wrapped, processor, video_file, "What?", max_new_tokens=1, **sampling)
        assert vtc.last_report(wrapped).frames == frames


def test_the_chunk_size_of_a_lazy_video_never_changes_the_result(wrapped, processor, make_video):
    inputs = vtc.prepare_inputs(wrapped.double(), processor, make_video(9), "What?")
    logits = []
    with torch.no_grad():
        for wrapped.vtc.chunk_slices in (1, 4, 16):
            logits.append(wrapped(**inputs).logits)
    for other in logits[1:]:
        assert relative_error(other, logits[0]) < 1e-6


def test_the_vision_tower_sees_one_chunk_and_the_keyframes_first(wrapped, processor, make_video):
    sizes = []
    wrapped.model.vision_tower.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0]))
    )
    wrapped.vtc.chunk_slices = 4
    vtc.ask(wrapped, processor, make_video(30), "What?", max_new_tokens=1)
    keys = len(vtc.last_report(wrapped).keyframes)
    assert sizes[0] == keys and sum(sizes) == 30 and max(sizes) <= 4


def test_only_a_chunk_or_two_of_frames_are_alive_at_a_time(wrapped, processor, make_video):
    import weakref

    alive: list[weakref.ref] = []
    most = 0
    source = vtc.VideoSource(make_video(64))
    chunks = source.chunks

    def watched(indices=None, **options):
        nonlocal most
        for chunk in chunks(indices, **{**options, "size": 4}):
            alive.append(weakref.ref(chunk.frames))
            most = max(most, sum(reference() is not None for reference in alive))
            yield chunk

    source.chunks = watched
    vtc.ask(wrapped, processor, source, "What?", max_new_tokens=1)
    assert len(alive) > 30 and most <= 3


@pytest.mark.slow
def test_ten_thousand_frames_need_no_more_memory_than_their_tokens():
    import json
    import subprocess
    import sys
    from pathlib import Path

    script = Path(__file__).parents[1] / "benchmarks" / "memory.py"
    run = subprocess.run(
        [sys.executable, script, "--json"], check=True, capture_output=True, text=True
    )
    result = json.loads(run.stdout)
    assert [row["frames"] for row in result["runs"]] == [1000, 10000]
    assert result["grown_mb"] <= result["allowed_mb"]


def test_drop_never_encodes_what_it_drops(model, processor, make_video):
    vtc.wrap(model, vtc.selector("uniform", keyframes=4), "drop", processor=processor)
    sizes = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0]))
    )
    vtc.ask(model, processor, make_video(30), "What?", max_new_tokens=1)
    assert sum(sizes) == 4
    assert vtc.last_report(model).tokens_after == 4 * 4 + 1


def test_a_batch_of_lazy_videos_answers_as_one_by_one(wrapped, processor, make_video):
    videos = [make_video(9, 1), make_video(4, 2)]
    questions = ["What is it?", "And who walks by in the second one?"]
    together = vtc.prepare_inputs(wrapped, processor, videos, questions)
    written = wrapped.generate(**together, max_new_tokens=6, do_sample=False)
    for row, (video, question) in enumerate(zip(videos, questions, strict=True)):
        alone = vtc.prepare_inputs(wrapped, processor, video, question)
        expected = wrapped.generate(**alone, max_new_tokens=6, do_sample=False)
        assert written[row, -6:].tolist() == expected[0, -6:].tolist()


def test_bad_arguments_say_what_to_do(model, processor, encoder, make_video):
    with pytest.raises(ValueError, match="is not wrapped; call vtc.wrap"):
        vtc.ask(model, processor, make_video(2), "What?")
    vtc.wrap(model, "uniform", processor=processor, encoder=encoder)
    with pytest.raises(ValueError, match="expected question to be some text, got ''"):
        vtc.ask(model, processor, make_video(2), "")
    with pytest.raises(vtc.VideoError, match=r"no-such\.mp4"):
        vtc.ask(model, processor, "no-such.mp4", "What?")
    with pytest.raises(ValueError, match="expected a list of . videos, one for each"):
        vtc.prepare_inputs(model, processor, make_video(2), ["one", "two"])
    with pytest.raises(ValueError, match="this thread has not called the model yet"):
        vtc.last_report(model)
    inputs = vtc.prepare_inputs(model, processor, make_video(2), "What?")
    with vtc.disabled(model), pytest.raises(ValueError, match="make inputs with the stock proc"):
        model.generate(**inputs)


def test_every_real_clip_is_read(wrapped, processor, clips):
    files = sorted(f for f in (clips / "real").iterdir() if f.suffix != ".json")
    assert files
    for file in files:
        answer = vtc.ask(wrapped, processor, file, "What happens?", max_new_tokens=2)
        times = [frame.timestamp for frame in answer.report.keyframes]
        assert times == sorted(set(times)), file
        assert answer.report.tokens_after <= answer.report.tokens_before


def test_a_long_question_is_split_and_the_report_says_so(wrapped, processor, make_video):
    answer = vtc.ask(wrapped, processor, make_video(5), "word " * 200, max_new_tokens=1)
    assert any("longer than the encoder" in note for note in answer.report.warnings)


def test_a_report_is_of_the_last_call(wrapped, processor, make_inputs, make_video):
    """A call without a video must not leave the report of an earlier one behind."""
    video = make_inputs([make_video(6)], ["What?"])
    text = make_inputs([], ["Hello?"])
    calls = [
        lambda: wrapped.generate(**text, max_new_tokens=1),
        lambda: wrapped(**text),
    ]
    for call in calls:
        wrapped.generate(**video, max_new_tokens=2)
        assert vtc.last_report(wrapped).frames == 6
        call()
        with pytest.raises(ValueError, match="its latest call had no video"):
            vtc.last_report(wrapped)
    with vtc.disabled(wrapped):
        wrapped(**video)
    with pytest.raises(ValueError, match="its latest call had no video"):
        vtc.last_report(wrapped)
    step = wrapped(**video, use_cache=True)
    wrapped(input_ids=torch.tensor([[5]]), **vtc.testing.cache_argument(returned_cache(step)))
    assert vtc.last_report(wrapped).frames == 6  # a step of a loop of one's own


def test_tokens_that_do_not_become_fewer_are_noted(model, processor, encoder, make_video):
    class KeepsAll(vtc.TokenMerger):
        """Every patch is a token."""

        tokens_per_frame = 9

        def forward(self, patches, reference, has_reference, query):
            return patches

    with pytest.warns(UserWarning, match="not registered"):
        vtc.wrap(model, vtc.selector("uniform", keyframes=2), KeepsAll(), processor=processor)
    answer = vtc.ask(model, processor, make_video(6), "What?", max_new_tokens=1)
    assert "25 visual tokens became 45, so nothing was compressed" in str(answer.report)


@pytest.mark.parametrize("kind", ["selector", "merger"])
def test_a_mistake_in_a_part_names_the_part(kind, model, processor, encoder, make_video):
    class Mistaken(vtc.FrameSelector):
        """Has a typing mistake."""

        uses_query = uses_embeddings = False

        def select(self, embeddings, query=None, timestamps=None):
            return embeddings.doubel()

    class Misled(vtc.TokenMerger):
        """Looks for what is not there."""

        def forward(self, patches, reference, has_reference, query):
            return {}["token"]

    selector = Mistaken() if kind == "selector" else vtc.selector("uniform", keyframes=2)
    with pytest.warns(UserWarning, match="not registered"):
        vtc.wrap(model, selector, Misled(), processor=processor)
    name = {"selector": "Mistaken' failed: AttributeError", "merger": "Misled' failed: KeyError"}
    with pytest.raises(RuntimeError, match=name[kind]):
        vtc.ask(model, processor, make_video(6), "What?", max_new_tokens=1)


@pytest.mark.parametrize("size", [0, -3, 2.0, True])
def test_chunks_that_make_no_sense_are_named_at_once(wrapped, size):
    with pytest.raises(
        ValueError, match=f"expected chunk_slices to be a whole number .*got {size}"
    ):
        wrapped.vtc.chunk_slices = size


def test_several_videos_need_several_questions(wrapped, processor, tmp_path):
    with pytest.raises(ValueError, match="2 videos were given with one question"):
        vtc.prepare_inputs(wrapped, processor, ["a.mp4", tmp_path / "b.mp4"], "Where?")


def test_inputs_print_in_a_few_lines(wrapped, processor, make_video):
    inputs = vtc.prepare_inputs(wrapped, processor, make_video(6), "Where?")
    assert len(str(inputs).splitlines()) < 20


def test_the_next_videos_of_a_batch_are_decoded_meanwhile(
    wrapped, processor, tmp_path, monkeypatch
):
    videos, questions = [tmp_path / f"{n}.mp4" for n in range(4)], ["What is red?"] * 4
    for number, video in enumerate(videos):
        squares = vtc.testing.moving_squares(seconds=130 + number, fps=2, size=(48, 64))
        vtc.testing.write_video(video, squares, fps=2)
    at_work = []  # of 32 frames a chunk, one is left when a thread has to wait
    select = wrapped.vtc.selector.select

    def watched(*args):
        threads = [t for t in threading.enumerate() if t.name == "vtc-prefetch"]
        at_work.append(len(threads))
        return select(*args)

    monkeypatch.setattr(wrapped.vtc.selector, "select", watched)
    inputs = vtc.prepare_inputs(wrapped, processor, videos, questions)
    with torch.no_grad():
        together = wrapped.double()(**inputs).logits
        assert at_work == [2, 2, 1, 0]
        for row in (0, 3):
            alone = vtc.prepare_inputs(wrapped, processor, videos[row], questions[0])
            found = wrapped(**alone).logits
            bound = 1e-6 + shift_rounding(together.shape[1], found.shape[1])
            assert relative_error(together[row, -1], found[0, -1]) < bound
        monkeypatch.setattr(wrapped.vtc.selector, "select", lambda *_: 1 / 0)
        with pytest.raises(RuntimeError, match="division by zero"):
            wrapped(**inputs)
    assert "vtc-prefetch" not in {thread.name for thread in threading.enumerate()}


def test_frames_that_no_selector_looks_at_are_not_decoded_ahead(model, processor, make_video):
    vtc.wrap(model, "uniform", "drop", processor=processor)
    videos = [make_video(8, 1), make_video(9, 1)]
    passes = []
    inputs = vtc.prepare_inputs(model, processor, videos, ["What is red?"] * 2)
    for request in inputs["vtc_videos"]:
        chunks = request.source.chunks
        request.source.chunks = lambda *a, chunks=chunks, **k: passes.append(a) or chunks(*a, **k)
    with torch.no_grad():
        model(**inputs)
    assert len(passes) == 2  # the keyframes of each


@pytest.mark.parametrize("ahead", [0, 1], ids=["on the CPU", "as on a GPU"])
def test_chunks_that_do_not_fit_are_halved_aloud(
    wrapped, processor, make_video, monkeypatch, ahead
):
    monkeypatch.setattr("vtc.pipeline.encode.chunks_ahead", lambda device: ahead)
    inputs = vtc.prepare_inputs(wrapped, processor, make_video(20, 1), "What is red?")
    encode, fits, calls = wrapped.vtc.adapter.encode, 3, []

    def with_little_memory(model, pixels):
        (frames,) = pixels.values()
        calls.append(len(frames))
        if len(frames) > fits:
            raise torch.OutOfMemoryError("too much")
        return encode(model, pixels)

    with torch.no_grad():
        expected = wrapped(**inputs).logits
        monkeypatch.setattr(wrapped.vtc.adapter, "encode", with_little_memory)
        wrapped.vtc.chunk_slices = 12
        assert torch.equal(wrapped(**inputs).logits, expected)
    assert 12 in calls and calls.count(3) >= 4
    told = [text for text in vtc.last_report(wrapped).warnings if "ran out of memory" in text]
    assert "12 slices at a time and continues with 6; set model.vtc.chunk_slices = 6" in told[0]
    assert "with 6 slices at a time and continues with 3" in told[1]
    fits = 0
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        wrapped(**inputs)


def test_preparing_a_chunk_ahead_changes_nothing(wrapped, processor, make_video, monkeypatch):
    """As on a GPU: the next chunk is resized in a thread while the vision tower has one."""
    inputs = vtc.prepare_inputs(wrapped, processor, make_video(10, 1), "What is red?")
    wrapped.vtc.chunk_slices = 3
    with torch.no_grad():
        expected = wrapped(**inputs).logits
        threads = []
        pixels = SourceFeed.pixels

        def watched(self, *args):
            for item in pixels(self, *args):
                threads.append(threading.current_thread().name)
                yield item

        monkeypatch.setattr(SourceFeed, "pixels", watched)
        monkeypatch.setattr("vtc.pipeline.encode.chunks_ahead", lambda device: 1)
        assert torch.equal(wrapped(**inputs).logits, expected)
    assert set(threads) == {"vtc-prefetch"}
    monkeypatch.setattr(wrapped.vtc.adapter, "encode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        wrapped(**inputs)
    assert "vtc-prefetch" not in {thread.name for thread in threading.enumerate()}
