"""Rows of a batch: every error at once, groups of one video, shards."""

import json

import pytest
from batch_jobs import question
from hypothesis import given
from hypothesis import strategies as st

from vtc.batch.rows import Shard, group_rows, read_rows


def written(path, lines):
    path.write_text(
        "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines)
    )
    return path


def test_rows_are_read_in_order_and_other_fields_are_ignored(tmp_path):
    lines = [
        {"id": "a", "video": "x.mp4", "question": "Wer geht\u2028vorbei?", "label": 3},
        "",
        {"id": 7, "video": "y.mp4", "question": "Why?"},
    ]
    rows = read_rows(written(tmp_path / "rows.jsonl", lines))
    assert [(row.id, row.video) for row in rows] == [("a", "x.mp4"), (7, "y.mp4")]
    assert rows[0].question == "Wer geht\u2028vorbei?"


def test_all_errors_are_named_at_once(tmp_path):
    lines = [
        {"id": "a", "video": "x.mp4", "question": "Why?"},
        {"id": "a", "video": "y.mp4", "question": "Why?"},
        "{broken",
        {"id": "c", "video": "x.mp4"},
        {"id": 1.5, "video": " ", "question": 3},
        [1],
    ]
    with pytest.raises(ValueError, match="has 7 errors") as caught:
        read_rows(written(tmp_path / "rows.jsonl", lines))
    text = str(caught.value)
    for line in (
        "line 2 repeats id 'a' of line 1",
        "line 3 is not valid JSON",
        "line 4.question is missing",
        "line 5.id: expected a text or a whole number, got 1.5",
        "line 5.video: expected some text, got ' '",
        "line 5.question: expected a string, got 3",
        "line 6: expected",
    ):
        assert line in text


def test_a_file_of_broken_lines_names_fifty_and_counts_the_others(tmp_path):
    with pytest.raises(ValueError, match="and 30 more") as caught:
        read_rows(written(tmp_path / "rows.jsonl", ["{"] * 80))
    assert len(caught.value.problems) == 51


@pytest.mark.parametrize(
    ("content", "message"), [("\n\n", "holds no row"), (None, "cannot be read")]
)
def test_files_without_rows_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "rows.jsonl")


ROWS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=30).map(
    lambda videos: [question(number, video) for number, video in enumerate(videos)]
)


@given(ROWS, st.integers(1, 5))
def test_groups_hold_every_row_once_and_one_video_each(rows, most):
    groups = group_rows(rows, most)
    assert sorted(row.id for group in groups for row in group.rows) == [row.id for row in rows]
    for group in groups:
        assert {row.video for row in group.rows} == {group.video}
        assert len(group.rows) <= most
    full = [sum(len(group.rows) == most for group in groups if group.video == v) for v in "abcde"]
    assert full == [sum(row.video == v for row in rows) // most for v in "abcde"]


@given(ROWS, st.integers(1, 6))
def test_shards_share_the_rows_by_video(rows, count):
    shards = [Shard(number, count).rows(rows) for number in range(1, count + 1)]
    assert sorted(row.id for shard in shards for row in shard) == [row.id for row in rows]
    videos = [{row.video for row in shard} for shard in shards]
    assert sum(map(len, videos)) == len(set.union(*videos))
    assert max(map(len, videos)) - min(map(len, videos)) <= 1


def test_shards_are_numbered_from_one():
    assert Shard.read("2/8") == Shard(2, 8)
    for text in ("0/8", "9/8", "2", "a/b", "-1/3", "1/0", "²/8"):
        with pytest.raises(ValueError, match="expected --shard i/n"):
            Shard.read(text)
