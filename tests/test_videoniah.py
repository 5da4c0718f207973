"""VideoNIAH: questions, cases, haystacks joined from files, controls, runs that resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import vtc
from vtc.encoders.lazy import LazyEncoder
from vtc.plugins.sections import SectionError
from vtc.video import VideoSource
from vtc_recipes.evaluation.videoniah.asking import Asker, settings_of
from vtc_recipes.evaluation.videoniah.cases import make_cases, write_cases
from vtc_recipes.evaluation.videoniah.choices import chosen_letter
from vtc_recipes.evaluation.videoniah.haystack import Haystacks
from vtc_recipes.evaluation.videoniah.questions import ClipQuestion, read_questions
from vtc_recipes.evaluation.videoniah.results import lines_of, notes_of, write_results
from vtc_recipes.evaluation.videoniah.running import all_records, run

SIZE = (32, 32)
SECONDS = {"needle.mp4": 6, "a.mp4": 9, "b.mp4": 14}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three short files; one lies in a folder below."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "long").mkdir()
    for number, (name, seconds) in enumerate(SECONDS.items()):
        path = folder / ("long" if name == "b.mp4" else "") / name
        frames = vtc.testing.drifting_video(seconds, number)
        vtc.testing.write_video(path, np.asarray(frames), fps=1)
    return folder


def questions_file(folder, rows):
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


OWN = {"video": "a.mp4", "question": "What?", "options": ["red", "blue"], "answer": "blue"}
VIDEO_MME = {
    "video_id": "001",
    "duration": "short",
    "videoID": "needle",
    "question_id": "001-1",
    "task_type": "Counting Problem",
    "question": "How many?",
    "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."],
    "answer": "D",
}


def test_own_questions_and_those_of_video_mme_are_read(videos, tmp_path):
    rows = [OWN, VIDEO_MME, {**OWN, "video": "long/b.mp4", "start": 2, "end": 5, "kind": "k"}]
    read = read_questions(questions_file(tmp_path, rows), videos)
    assert read == [
        ClipQuestion("a.mp4", "What?", ("red", "blue"), "B", "question"),
        ClipQuestion("needle.mp4", "How many?", ("1.", "2.", "3.", "4."), "D", "Counting Problem"),
        ClipQuestion("long/b.mp4", "What?", ("red", "blue"), "B", "k", 2, 5),
    ]


def test_questions_of_parquet_are_read(videos, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    file = tmp_path / "test-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([VIDEO_MME]), file)
    [question] = read_questions(file, videos)
    assert (question.video, question.answer) == ("needle.mp4", "D")
    file.write_bytes(b"PAR1 cut off")
    with pytest.raises(ValueError, match=r"parquet cannot be read"):
        read_questions(file, videos)


def test_all_errors_in_questions_come_at_once(videos, tmp_path):
    rows = [
        {**OWN, "video": "c.mp4"},
        {**OWN, "answer": "green"},
        {**OWN, "options": ["red"]},
        {**OWN, "start": 3, "end": 3},
        {"question": "What?", "options": ["x", "y"], "answer": "A"},
        {**OWN, "options": "red"},
    ]
    with pytest.raises(SectionError) as error:
        read_questions(questions_file(tmp_path, rows), videos)
    for line, words in enumerate(
        ["there is no video 'c.mp4'", "answer to be one of A, B or an option, got 'green'"]
        + ["2 to 26 options, got 1", "end > start, got 3", "video is missing", "options: expected"],
        1,
    ):
        assert any(f"line {line}" in one and words in one for one in error.value.problems), words


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b.", None),
        ("(C) a dog", "C"),
        ("C. a dog", "C"),
        ("The best answer is: D", "D"),
        ("The answer is B because the car is red.", "B"),
        ("Option A", "A"),
        ("A dog.", "C"),
        ("It shows a red car", "A"),
        ("A cat sleeps", None),
        ("B or C", None),
        ("E", None),
        ("", None),
        ("a red car and a dog", None),
    ],
)
def test_the_chosen_letter_of_an_answer(text, letter):
    assert chosen_letter(text, ["a red car", "a house", "a dog", "nothing"]) == letter


def small_cases(each=1, **options):
    """Cases of 20 frames with a needle of 6 from the three files."""
    rows = [ClipQuestion("needle.mp4", "What moves?", ("red", "blue"), "A", "k")]
    frames = {"needle.mp4": 6, "a.mp4": 9, "long/b.mp4": 14}
    settings = {"lengths": (20,), "depths": 3, "needle_seconds": (5.0, 9.0), "spread": 0.0}
    return make_cases(rows, frames, each=each, haystack_seconds=7.0, **{**settings, **options})


def test_the_video_of_a_case_is_the_clips_one_after_another(videos):
    for case in small_cases():
        hay = [VideoSource(videos / clip.video).frames()[: clip.frames] for clip in case.haystack]
        joined = np.concatenate(hay)
        needle = VideoSource(videos / "needle.mp4").frames()
        whole = np.concatenate([joined[: case.start], needle, joined[case.start :]])
        source = Haystacks(videos, whole.shape[1:3]).video(case)
        assert len(source) == 20
        np.testing.assert_array_equal(source.frames(), whole)
        np.testing.assert_array_equal(source.frames([3, 8, 19]), whole[[3, 8, 19]])


def test_frames_of_another_shape_get_black_bars(videos):
    plain = VideoSource(videos / "needle.mp4")
    width = 20 * plain.width // plain.height
    frames = Haystacks(videos, (20, 100)).video(small_cases()[0]).frames()
    bars = [(frames[:, :, : 49 - width // 2]), frames[:, :, 51 + width // 2 :]]
    assert frames.shape == (20, 20, 100, 3) and not any(bar.any() for bar in bars)
    assert frames[:, :, 52 - width // 2 : 48 + width // 2].mean() > 20


def test_a_file_that_became_shorter_is_refused(videos):
    case = small_cases()[0]
    needle = case.needle.model_copy(update={"first": 4})
    with pytest.raises(ValueError, match=r"expected frames 4 to 9 in needle.mp4, which has 6"):
        Haystacks(videos, SIZE).video(case.model_copy(update={"needle": needle}))


def test_cached_embeddings_are_those_of_the_joined_frames(videos, tmp_path, encoder, decoded):
    lazy = LazyEncoder(encoder)
    for case in small_cases():
        haystacks = Haystacks(videos, SIZE, str(tmp_path))
        source = haystacks.video(case)
        key = {**lazy.fingerprint(), "every": 2}
        haystacks.embed(case, lazy)
        lookup = source.cache.find("frame embeddings", key)
        plain = lazy.encode_frames(torch.from_numpy(source.frames()[::2]))
        torch.testing.assert_close(lookup.tensors["embeddings"], plain, atol=1e-6, rtol=0)
    decoded.clear()
    Haystacks(videos, SIZE, str(tmp_path)).embed(case, lazy)
    assert not decoded
    other = Haystacks(videos, (16, 16), str(tmp_path)).video(case)
    assert "size='32x32' instead of '16x16'" in other.cache.find("frame embeddings", key).reason


@pytest.fixture
def asker(model, processor, encoder, videos):
    selector = vtc.selector("dks", keyframes=2, similarity_threshold=1.0)
    vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder)
    return Asker(model, processor, Haystacks(videos, SIZE), max_new_tokens=3)


SETTINGS = {"model": "tiny", "selector": {"name": "dks"}, "merger": {"name": "dfm"}}
NAMES = settings_of("uniform,random,downsampled,no_video")


def test_keyframes_are_selected_for_the_question_alone(asker, model, monkeypatch):
    case, generate, queries = small_cases()[1], model.generate, []
    monkeypatch.setattr(
        model,
        "generate",
        lambda **inputs: queries.append(inputs["vtc_query"]) or generate(**inputs),
    )
    asker.ask(case, "model", None)
    assert queries == [[case.question]] and case.options[0] not in case.question


def test_controls_see_as_much_as_the_model_and_leave_it_as_it_was(asker, model):
    case = small_cases()[1]
    own = model.vtc.selector, model.vtc.merger, model.vtc.connector
    first = asker.ask(case, "model", None)
    records = {name: asker.ask(case, name, first) for name in NAMES}
    assert (model.vtc.selector, model.vtc.merger, model.vtc.connector) == own
    assert records["model"]["text"] == first["text"]
    sees = {name: (record["keyframes"], record["tokens"]) for name, record in records.items()}
    assert sees["uniform"] == sees["random"] == sees["model"] == (2, first["tokens"])
    frames, tokens = sees["downsampled"]
    each = (first["tokens_before"] - 1) / 20
    assert tokens == frames * each + 1 and abs(tokens - first["tokens"]) <= each / 2 + 1
    assert sees["no_video"] == (0, 0)
    uniform = {name for name in records if records[name]["in_needle"]}
    assert {"uniform", "downsampled"} >= uniform - {"model", "random"}


def test_a_run_resumes_after_a_torn_line(asker, tmp_path, monkeypatch):
    cases = small_cases()
    lost = run(cases, NAMES, asker, tmp_path, SETTINGS)
    assert lost == []
    records = all_records(tmp_path)
    assert [(one["case"], one["setting"]) for one in records] == [
        (case.id, name) for case in cases for name in NAMES
    ]
    file = tmp_path / "records-1-of-1.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:7]) + lines[7][:20])
    asked = []
    ask = asker.ask
    monkeypatch.setattr(asker, "ask", lambda *words: asked.append(words[:2]) or ask(*words))
    run(cases, NAMES, asker, tmp_path, SETTINGS)
    assert len(asked) == 8
    again = all_records(tmp_path)
    for one in (*records, *again):
        one.pop("seconds")
    assert again == records
    with pytest.raises(ValueError, match=r"holds results with another model; choose another"):
        run(cases, NAMES, asker, tmp_path, {**SETTINGS, "model": "other"})


def test_shards_share_a_folder(asker, tmp_path):
    cases = small_cases()
    for number in (1, 2):
        run(cases, ["model", "no_video"], asker, tmp_path, SETTINGS, (number, 2))
    done = {(one["case"], one["setting"]) for one in all_records(tmp_path)}
    assert done == {(case.id, name) for case in cases for name in ("model", "no_video")}
    assert len((tmp_path / "records-2-of-2.jsonl").read_text().splitlines()) == 2


def test_a_broken_video_stops_no_other_case(asker, tmp_path, videos):
    cases = small_cases()
    broken = cases[1].needle.model_copy(update={"video": "gone.mp4"})
    cases[1] = cases[1].model_copy(update={"needle": broken})
    lost = run(cases, ["model"], asker, tmp_path, SETTINGS)
    assert len(lost) == 1 and lost[0].startswith(f"{cases[1].id}: gone.mp4: there is no such file")
    assert [one["case"] for one in all_records(tmp_path)] == [cases[0].id, cases[2].id]


def record(case, setting, **values):
    base = {"case": case.id, "setting": setting, "length": case.length, "depth": case.depth}
    base |= {"kind": "k", "choice": "A", "score": 1.0, "chance": 0.5, "keyframes": 2}
    return {**base, "in_needle": 1, "tokens": 30, "seconds": 1.0, **values}


def test_results_are_counted_by_hand(tmp_path):
    cases = small_cases(each=2, repeat=True, lengths=(20, 40))
    records = [
        *(record(case, "model", score=float(case.length == 20)) for case in cases),
        *(record(case, "no_video", score=0.0, choice=None, in_needle=0) for case in cases[:-1]),
    ]
    summary = write_results(tmp_path, cases, records, ["model", "uniform", "no_video"], SETTINGS)
    assert set(summary) == {"model", "no_video"}
    assert summary["model"]["accuracy"] == 0.5 and summary["model"]["in_needle"] == 1.0
    assert summary["model"]["lengths"]["20"]["accuracy"] == 1.0
    assert summary["no_video"]["unclear"] == 11
    assert [row[:3] for row in lines_of(summary, SETTINGS)[1:]] == [
        ["dks + dfm", "12", "50.0"],
        ["no video", "11", "0.0"],
    ]
    notes = " ".join(notes_of(cases, summary, {**SETTINGS, "model": "shipped"}))
    for words in ("6 of 12 haystacks repeat", "synthetic video", "1, in 12", "11 of 11 (no video)"):
        assert words in notes
    assert "1 answers are missing" in notes
    page = (tmp_path / "results.md").read_text()
    assert "| dks + dfm | 12 | 50.0 |" in page and "58.15 %" in page
    assert json.loads((tmp_path / "results.json").read_text())["results"] == summary
    assert (tmp_path / "heatmap.png").stat().st_size > 1000


def test_the_commands_make_cases_and_ask_about_them(command, videos, tmp_path):
    rows = [{**VIDEO_MME, "options": ["red", "blue"], "answer": "A"}]
    file, out = tmp_path / "cases.jsonl", tmp_path / "out"
    words = ["evaluate", "videoniah", "make", "--questions", questions_file(tmp_path, rows)]
    words += ["--videos", videos, "--out", file, "--lengths", "16,20", "--depths", "2"]
    words += ["--cases", "1", "--needle-seconds", "5,9", "--haystack-seconds", "7", "--json"]
    code, text, _ = command(*words)
    assert code == 0 and json.loads(text)["cases"] == 4
    words = ["evaluate", "videoniah", "run", file, "--videos", videos, "--out", out]
    words += ["--model", "shipped", "--keyframes", "2", "--size", "32x32", "--prompt", "{question}"]
    words += ["--cache", tmp_path / "cache", "--controls", "random,no_video"]
    code, text, errors = command(*words, "--limit", "2", "--json")
    assert code == 0, errors
    results = json.loads(text)["results"]
    assert {name: one["cases"] for name, one in results.items()} == {
        "model": 2,
        "random": 2,
        "no_video": 2,
    }
    records = all_records(out)
    assert [one["cached"] for one in records if one["setting"] == "model"] == [
        ["frame embeddings"],
        ["frame embeddings"],
    ]
    code, _, errors = command(*words, "--json")
    assert code == 1 and "holds results with another cases;" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--controls", "all"], "controls to be none or some of uniform, random, downsampled"),
        (["--size", "640"], "--size to be WIDTHxHEIGHT in pixels, got '640'"),
        (["--prompt", "{choices}"], "only {question}, {options} and {letters} in the braces"),
        (["--prompt", "What?"], "expected {question} in the prompt"),
        (["--shard", "3/2"], "--shard i/n with 1 <= i <= n"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(
    command, tmp_path, videos, words, message
):
    file = tmp_path / "cases.jsonl"
    write_cases(file, small_cases())
    base = ["evaluate", "videoniah", "run", file, "--videos", videos, "--out", tmp_path / "out"]
    code, _, errors = command(*base, *words)
    assert code == 1 and message in errors, errors
    code, _, errors = command(*base[:-1], file)
    assert code == 1 and f"expected --out to be a folder, got the file {file}" in errors
    code, _, errors = command(*base[:4], "--videos", tmp_path, *base[6:])
    assert code == 1 and "3 of 3 videos of the cases are not in" in errors
